//! The body of the apply that writes the target Secret.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Resource;
use serde_json::{Value, json};

use crate::api::names::Reason;
use crate::api::{VendorToken, names};
use crate::controller::reconcile::validated::{DesiredTarget, ValidatedSpec};
use crate::fingerprint::FingerprintKey;
use crate::inputs::Inputs;
use crate::policy::Problem;
use crate::policy::ownership::{self, SecretRecord};
use crate::seal::{Place, Seal, TokenFacts};
use crate::template;
use crate::token::AccessToken;

/// The resource version of an apply that only creates: it conflicts where the Secret exists.
pub(crate) const CREATE_ONLY: &str = "1";

/// The largest data of a Secret, in bytes of all values together. The API server refuses more.
const LARGEST_DATA: usize = 1024 * 1024;

/// The problem of a target that is too small for its templates with `token`. It is found before anything is rendered:
/// 16 templates full of placeholders can make hundreds of megabytes of a long token.
pub(crate) fn too_large(target: &DesiredTarget, token: &AccessToken) -> Option<Problem> {
    let size = target
        .data
        .values()
        .map(|template| template::rendered_length(template, token))
        .sum::<usize>();
    (size > LARGEST_DATA).then(|| {
        Problem::new(
            Reason::TargetInvalid,
            format!(
                "with this token `spec.target.data` would fill Secret '{}' with {size} bytes, and a Secret holds {LARGEST_DATA} \
                 at most: use fewer keys or placeholders",
                target.name
            ),
        )
    })
}

/// The origin of the token, which is written beside its times.
pub(crate) struct Origin {
    pub(crate) inputs: Inputs,
    pub(crate) credentials_version: Option<Box<str>>,
    pub(crate) refresh_handled: Option<Box<str>>,
    /// The seal of a lost key that stays, because nobody can verify what it covers.
    pub(crate) lost_seal: Option<Seal>,
}

/// All that we want to own of the target: token, facts about it, seal, labels, owner.
pub(crate) fn body(
    checked: &ValidatedSpec,
    key: &FingerprintKey,
    owner: &VendorToken,
    seen: Option<&SecretRecord>,
    token: &AccessToken,
    origin: &Origin,
) -> Value {
    let target = &checked.target;
    let adopted = ownership::is_adopted(seen);
    let data: BTreeMap<&str, String> = target
        .data
        .iter()
        .map(|(key, template)| {
            (
                key.as_str(),
                STANDARD.encode(template::render(template, token).as_bytes()),
            )
        })
        .collect();
    let mut labels = target.labels.clone();
    labels.insert(
        names::MANAGED_BY_LABEL.to_owned(),
        names::FIELD_MANAGER.to_owned(),
    );
    labels.insert(
        names::NAME_LABEL.to_owned(),
        owner.metadata.name.clone().unwrap_or_default(),
    );
    let mut annotations = target.annotations.clone();
    let facts = TokenFacts {
        issued: token.issued,
        expires: token.expires,
        inputs: origin.inputs.clone(),
        content: ownership::content(adopted, &target.content).into(),
        credentials_version: origin.credentials_version.clone(),
        refresh_handled: origin.refresh_handled.clone(),
    };
    annotations.extend(facts.annotations().map(|(key, value)| (key.to_owned(), value)));
    let place = Place {
        namespace: owner.metadata.namespace.as_deref().unwrap_or_default(),
        secret: &target.name,
        vendor_token: owner.metadata.name.as_deref().unwrap_or_default(),
    };
    let seal = origin
        .lost_seal
        .unwrap_or_else(|| Seal::new(key, place, &facts, &token.value));
    annotations.insert(names::SEAL.to_owned(), seal.to_string());
    let mut metadata = json!({
        "name": target.name,
        // The write carries what was seen, so that a race is a conflict and never an overwrite.
        "resourceVersion": seen.map_or(CREATE_ONLY, |record| &record.resource_version),
        "labels": labels,
        "annotations": annotations,
    });
    if let Some(record) = seen {
        metadata["uid"] = json!(record.uid);
    }
    if target.delete_with_owner
        && !adopted
        && let Some(mut reference) = owner.controller_owner_ref(&())
    {
        reference.block_owner_deletion = Some(false);
        metadata["ownerReferences"] = json!([reference]);
    }
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": target.type_, "data": data })
}
