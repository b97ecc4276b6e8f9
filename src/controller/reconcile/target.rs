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
use crate::inputs::Inputs;
use crate::policy::Problem;
use crate::policy::ownership::{self, Controller, SecretRecord};
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

/// The facts about the token that are written beside its times.
pub(crate) struct Facts {
    pub(crate) inputs: Inputs,
    pub(crate) credentials_version: Option<String>,
    pub(crate) refresh_handled: Option<String>,
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

/// The owner references that the target should have.
fn desired_owners(
    target: &DesiredTarget,
    owner: &VendorToken,
    seen: Option<&SecretRecord>,
) -> Vec<OwnerReference> {
    let name = owner.metadata.name.as_deref().unwrap_or_default();
    let uid = owner.metadata.uid.as_deref().unwrap_or_default();
    let mut owners = Vec::new();
    if target.delete_with_owner && !ownership::is_adopted(seen, name) {
        owners.push(owner_reference(name, uid, true));
    }
    // A reference that our apply entry does not have cannot be left out. As that of a controller it would forbid ours; the
    // next write leaves it out.
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

/// All that we want to own of the target: token, facts about it, labels, owner.
pub(crate) fn body(
    checked: &ValidatedSpec,
    owner: &VendorToken,
    seen: Option<&SecretRecord>,
    owners: Owners,
    token: &AccessToken,
    facts: &Facts,
) -> Value {
    let target = &checked.target;
    let adopted = ownership::is_adopted(seen, owner.metadata.name.as_deref().unwrap_or_default());
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
    let mut annotate = |key: &str, value: String| annotations.insert(key.to_owned(), value);
    annotate(names::ISSUED_TIME, token.issued.to_string());
    annotate(names::EXPIRATION_TIME, token.expires.to_string());
    annotate(names::INPUTS, facts.inputs.to_string());
    annotate(names::CONTENT, ownership::content(adopted, &target.content));
    annotate(
        names::CREDENTIALS_VERSION,
        facts.credentials_version.clone().unwrap_or_default(),
    );
    if let Some(handled) = &facts.refresh_handled {
        annotate(names::REFRESH_HANDLED, handled.clone());
    }
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
        _ => desired_owners(target, owner, seen),
    };
    if !owners.is_empty() {
        metadata["ownerReferences"] = json!(owners);
    }
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": target.type_, "data": data })
}
