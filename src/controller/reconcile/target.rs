//! The body of the apply that writes the target Secret.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use serde_json::{Value, json};

use crate::api::names::Reason;
use crate::api::{VendorToken, names};
use crate::controller::reconcile::validated::{DesiredTarget, ValidatedSpec};
use crate::fingerprint::FingerprintKey;
use crate::inputs::Inputs;
use crate::policy::Problem;
use crate::policy::ownership::{self, Controller, SecretRecord};
use crate::seal::{Place, Seal, TokenFacts, Verified};
use crate::template;
use crate::token::AccessToken;

/// The resource version of an apply that only creates: it conflicts where the Secret exists.
pub(crate) const CREATE_ONLY: &str = "1";

/// The largest data of a Secret, in bytes of all values together. The API server refuses more.
pub(crate) const LARGEST_DATA: usize = 1024 * 1024;

/// The problem of a target that is too small for its templates with `token`. It is found before anything is rendered:
/// 16 templates full of placeholders can make hundreds of megabytes of a long token.
pub(crate) fn too_large(target: &DesiredTarget, token: &AccessToken) -> Option<Problem> {
    let size = size(target, token);
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

/// The length of what the templates make of `token`, in bytes.
pub(crate) fn size(target: &DesiredTarget, token: &AccessToken) -> usize {
    let lengths = target
        .data
        .values()
        .map(|template| template::rendered_length(template, token));
    lengths.sum()
}

/// The origin of the token, which is written beside its times.
pub(crate) struct Origin {
    pub(crate) inputs: Inputs,
    pub(crate) credentials_version: Option<Box<str>>,
    pub(crate) refresh_handled: Option<Box<str>>,
    /// The seal of a lost key that stays, because nobody can verify what it covers.
    pub(crate) lost_seal: Option<Seal>,
}

/// The owner references of a written target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owners {
    /// As the spec wants them.
    Desired,
    /// Those that stand there: the API server forbids to change them.
    Standing,
}

/// The reference to a VendorToken as the controller of its target.
fn owner_reference(name: &str, uid: &str, controller: bool) -> OwnerReference {
    OwnerReference {
        api_version: VendorToken::api_version(&()).into_owned(),
        kind: VendorToken::kind(&()).into_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(controller),
        block_owner_deletion: Some(false),
    }
}

/// The owner references that our apply entry has to name for them to stay as they are.
pub(crate) fn standing_owners(record: &SecretRecord) -> Vec<OwnerReference> {
    match &record.controller {
        Some(Controller::VendorToken { name, uid }) => vec![owner_reference(name, uid, true)],
        Some(Controller::Other { .. }) | None => Vec::new(),
    }
}

/// The facts on a Secret, where `key` has sealed them for this place.
pub(crate) fn sealed_facts<'a>(
    record: &'a SecretRecord,
    key: &FingerprintKey,
    place: Place<'_>,
) -> Option<&'a TokenFacts> {
    match record.facts.as_ref()?.verify(key, place)? {
        Verified::Sealed(facts) => Some(facts),
        Verified::LostKey(..) => None,
    }
}

/// The owner references that the target should have.
fn desired_owners(
    target: &DesiredTarget,
    owner: &VendorToken,
    seen: Option<&SecretRecord>,
    adopted: bool,
) -> Vec<OwnerReference> {
    let name = owner.metadata.name.as_deref().unwrap_or_default();
    let uid = owner.metadata.uid.as_deref().unwrap_or_default();
    let mut owners = Vec::new();
    if target.delete_with_owner && !adopted {
        owners.push(owner_reference(name, uid, true));
    }
    // An apply cannot remove a reference that our apply entry does not own. As a second controller beside our reference
    // it would be refused, so it is written once as a plain owner; the next write leaves it out.
    if let Some(SecretRecord {
        ours: None,
        controller: Some(Controller::VendorToken { name, uid: other }),
        ..
    }) = seen
        && **other != *uid
    {
        owners.push(owner_reference(name, other, false));
    }
    owners
}

/// All that we want to own of the target: token, facts about it, seal, labels, owner.
pub(crate) fn body(
    checked: &ValidatedSpec,
    key: &FingerprintKey,
    owner: &VendorToken,
    seen: Option<&SecretRecord>,
    owners: Owners,
    token: &AccessToken,
    origin: &Origin,
) -> Value {
    let target = &checked.target;
    let place = Place {
        namespace: owner.metadata.namespace.as_deref().unwrap_or_default(),
        secret: &target.name,
        vendor_token: owner.metadata.name.as_deref().unwrap_or_default(),
    };
    let sealed = seen.and_then(|record| sealed_facts(record, key, place));
    let adopted = ownership::is_adopted(seen, place.vendor_token, sealed);
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
    let seal = origin
        .lost_seal
        .unwrap_or_else(|| Seal::new(key, place, &facts, &token.value));
    annotations.insert(names::SEAL.to_owned(), seal.to_string());
    let mut metadata = json!({
        "name": &*target.name,
        // The write carries what was seen, so that a race is a conflict and never an overwrite.
        "resourceVersion": seen.map_or(CREATE_ONLY, |record| &record.resource_version),
        "labels": labels,
        "annotations": annotations,
    });
    if let Some(record) = seen {
        metadata["uid"] = json!(record.uid);
    }
    let owners = match (owners, seen) {
        (Owners::Standing, Some(record)) => standing_owners(record),
        _ => desired_owners(target, owner, seen, adopted),
    };
    if !owners.is_empty() {
        metadata["ownerReferences"] = json!(owners);
    }
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": target.type_, "data": data })
}
