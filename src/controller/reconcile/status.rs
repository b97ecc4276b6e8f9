//! Writes the status of a VendorToken by server-side apply, and removes leftovers of other writers from our part of it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};

use crate::api::names::{self, condition};
use crate::api::{VendorToken, VendorTokenStatus};
use crate::controller::cluster::objects::slim;
use crate::controller::cluster::references::References;
use crate::controller::context::Context;
use crate::controller::reconcile::error::Error;
use crate::controller::reconcile::events;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::controller::reconcile::vendor_token_calls::VendorTokenCalls;

/// Writes the status. False where the object was deleted, or deleted and made anew.
pub(crate) async fn write_status(
    snapshot: &Snapshot,
    status: &VendorTokenStatus,
    context: &Arc<Context>,
) -> Result<bool, Error> {
    let (namespace, name) = (&snapshot.object.namespace, &snapshot.object.name);
    let calls = VendorTokenCalls::new(&context.client, namespace);
    let patch = json!({
        "apiVersion": "vendortoken.io/v1alpha1",
        "kind": "VendorToken",
        // With the UID, a status never lands on another object of this name.
        "metadata": { "name": name, "uid": snapshot.token.metadata.uid },
        "status": status,
    });
    let parameters = PatchParams::apply(names::STATUS_FIELD_MANAGER).force();
    let mut written = calls.patch_status(name, &parameters, &Patch::Apply(patch)).await;
    if let Ok(applied) = &written
        && let Some(found) = &applied.status
        && let Some(without) = without_leftovers(status, found)
    {
        let patch = json!({
            "metadata": { "uid": applied.metadata.uid, "resourceVersion": applied.metadata.resource_version },
            "status": without,
        });
        match calls
            .patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            // Another writer was quicker: the next look removes the leftovers.
            Err(kube::Error::Api(answer)) if answer.is_conflict() => {}
            removed => written = removed,
        }
    }
    match written {
        Ok(mut written) => {
            slim(&mut written.metadata);
            let edited = was_edited(&snapshot.token, &written);
            context.objects.put(written.clone());
            let now = context.timeline.now().moment;
            if context
                .remembered
                .status_written(&snapshot.object, digest(status), now)
            {
                tracing::warn!(
                    object = %snapshot.object,
                    "somebody else keeps changing the status of this VendorToken, which is written anew after pauses of up \
                     to 5 minutes: look for a second installation of the operator, or for the field manager of the status \
                     in metadata.managedFields"
                );
            }
            if edited {
                // An edit came in between. This answer has shown it, so the watch will bring nothing new.
                let (before, after) = (References::of(&snapshot.token), References::of(&written));
                context
                    .triggers
                    .references_changed(&snapshot.object, &before, &after);
                context.triggers.trigger(snapshot.object.clone());
            }
            events::publish(
                context,
                &snapshot.token,
                events::transitions(snapshot.status(), status),
            );
            Ok(true)
        }
        // Its own event brings the rest.
        Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => Ok(false),
        Err(source) => Err(Error::WriteStatus {
            namespace: namespace.clone(),
            name: name.clone(),
            source,
        }),
    }
}

/// A digest of a status, without the times of its conditions: they follow what others have written before.
pub(crate) fn digest(status: &VendorTokenStatus) -> u64 {
    let mut status = status.clone();
    for found in &mut status.conditions {
        found.last_transition_time.0 = Timestamp::UNIX_EPOCH;
    }
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(&status).ok().hash(&mut hasher);
    hasher.finish()
}

/// True for a change beside the status that a decision may depend on. Both objects are slim.
fn was_edited(before: &VendorToken, after: &VendorToken) -> bool {
    let (before, after) = (&before.metadata, &after.metadata);
    before.generation != after.generation
        || before.annotations != after.annotations
        || before.deletion_timestamp != after.deletion_timestamp
}

/// A merge patch that removes leftovers: members that are `found` after an apply of `wanted` and are not in it. An
/// apply leaves what another writer owns, and a restart would believe it. Conditions of types that are not ours belong
/// to their writers. `None` where there are no leftovers.
fn without_leftovers(wanted: &VendorTokenStatus, found: &VendorTokenStatus) -> Option<Value> {
    let is_leftover = |kind: &str| {
        condition::ALL.contains(&kind) && !wanted.conditions.iter().any(|wanted| wanted.type_ == kind)
    };
    let mut patch = nulls(
        &serde_json::to_value(wanted).ok()?,
        &serde_json::to_value(found).ok()?,
    );
    if found.conditions.iter().any(|found| is_leftover(&found.type_)) {
        let kept = found.conditions.iter().filter(|found| !is_leftover(&found.type_));
        patch.insert(
            "conditions".to_owned(),
            serde_json::to_value(kept.collect::<Vec<_>>()).ok()?,
        );
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// `null` for each member that is found and not wanted, at all depths.
fn nulls(wanted: &Value, found: &Value) -> Map<String, Value> {
    let mut patch = Map::new();
    for (name, found) in found
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, found)| !found.is_null())
    {
        match wanted.get(name).filter(|wanted| !wanted.is_null()) {
            None => {
                patch.insert(name.clone(), Value::Null);
            }
            Some(wanted) => {
                let inner = nulls(wanted, found);
                if !inner.is_empty() {
                    patch.insert(name.clone(), Value::Object(inner));
                }
            }
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(change: Value) -> VendorToken {
        let mut object = json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": "t", "generation": 1, "resourceVersion": "5", "labels": { "a": "b" } },
            "spec": { "vendor": "Mapiq", "credentialsSecretRef": { "name": "c" } },
        });
        object["metadata"]
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let mut token: VendorToken = serde_json::from_value(object).unwrap();
        slim(&mut token.metadata);
        token
    }

    #[test]
    fn an_edit_is_what_a_decision_may_depend_on() {
        let before = edited(json!({}));
        for change in [
            json!({ "generation": 2 }),
            json!({ "annotations": { names::REFRESH_REQUESTED_AT: "now" } }),
            json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" }),
        ] {
            assert!(was_edited(&before, &edited(change.clone())), "{change}");
        }
        for change in [
            json!({ "resourceVersion": "6" }),
            json!({ "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "{}" } }),
        ] {
            assert!(!was_edited(&before, &edited(change.clone())), "{change}");
        }
    }

    fn status(value: Value) -> VendorTokenStatus {
        serde_json::from_value(value).unwrap()
    }

    fn conditions(kinds: &[&str]) -> Value {
        let conditions = kinds.iter().map(|kind| {
            json!({ "type": kind, "status": "True", "reason": "R", "message": "", "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T00:00:00Z" })
        });
        conditions.collect()
    }

    #[test]
    fn leftovers_of_others_are_removed_from_our_part() {
        let failure = json!({ "reason": "RateLimited", "message": "m", "count": 1, "inputs": "i",
            "lastAttemptTime": "2026-01-01T00:00:00Z" });
        let wanted = status(json!({ "conditions": conditions(&["Ready"]), "failure": failure }));
        assert_eq!(without_leftovers(&wanted, &wanted), None);

        let mut left = json!({ "conditions": conditions(&["Ready", "Theirs", "Stalled"]), "failure": failure,
            "binding": { "name": "b" } });
        left["failure"]["nextAttemptTime"] = json!("2027-01-01T00:00:00Z");
        assert_eq!(
            without_leftovers(&wanted, &status(left)),
            Some(json!({
                "conditions": conditions(&["Ready", "Theirs"]), "binding": null, "failure": { "nextAttemptTime": null }
            }))
        );
        let theirs_alone =
            status(json!({ "conditions": conditions(&["Ready", "Theirs"]), "failure": failure }));
        assert_eq!(without_leftovers(&wanted, &theirs_alone), None);
    }
}
