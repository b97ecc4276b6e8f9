//! Gather, decide, act, record: one VendorToken at a time. Never waits for a vendor.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use serde_json::json;
use tokio::time::Instant;

use super::context::Context;
use super::error::Error;
use super::events;
use super::publish::{Published, publish, retire};
use super::view::View;
use crate::api::names::{self, condition};
use crate::api::{VendorToken, VendorTokenStatus};
use crate::error_text::with_causes;
use crate::grants::Ask;
use crate::inputs::Inputs;
use crate::metrics::ObjectLabels;
use crate::policy::{self, Decision, PastFailure, Progress, StatusContext, backoff, decide};

/// A first status waits this long for the token, so that a quick grant costs one status write and not two.
const FIRST_STATUS_AFTER: Duration = Duration::from_secs(2);
/// No object needs more steps in one reconcile: read, publish, look again, wait.
const MOST_STEPS: usize = 6;

/// What the steps of one reconcile came to.
struct Outcome {
    /// When to look again.
    until: Option<Timestamp>,
    /// Since when the object waits for the vendor.
    asked: Option<Instant>,
}

pub(super) async fn reconcile(token: Arc<VendorToken>, context: Arc<Context>) -> Result<Action, Error> {
    let Some(key) = context.key() else {
        return Ok(Action::requeue(Duration::from_secs(1)));
    };
    let mut view = View::gather(token, key, &context).await?;
    match act(&mut view, &context).await {
        Ok(outcome) => record(&view, &outcome, &context).await,
        Err(error) => {
            // What could not be done is tried again; what is known by now is told all the same: a token must not stay
            // Ready past its expiry because the API server does not hand out one Secret.
            let nothing = Outcome {
                until: None,
                asked: None,
            };
            if let Err(error) = record(&view, &nothing, &context).await {
                tracing::debug!(object = %view.object, error = with_causes(&error), "nor could the status be told");
            }
            Err(error)
        }
    }
}

async fn act(view: &mut View, context: &Arc<Context>) -> Result<Outcome, Error> {
    for _ in 0..MOST_STEPS {
        let decision = decide(&view.observed(context));
        tracing::trace!(object = %view.object, ?decision, "decided");
        match decision {
            Decision::Nothing => {
                context.grants.withdraw(&view.object);
                return Ok(Outcome {
                    until: None,
                    asked: None,
                });
            }
            Decision::Wait { until } => {
                let is_blocked = matches!(view.target, policy::Target::Blocked(_));
                if view.token.spec.suspend || view.checked.is_err() || is_blocked {
                    context.grants.withdraw(&view.object);
                }
                // The record of an attempt that is under way makes the decision wait; it is asking all the same.
                let asked = context.grants.waits_since(&view.object);
                return Ok(Outcome { until, asked });
            }
            Decision::ReadCredentials => view.read_credentials(context).await?,
            Decision::Publish => {
                let Some(token) = context.grants.token(&view.object) else {
                    continue;
                };
                let due = due_before(view, token.issued);
                match publish(view, &token, context).await? {
                    Published::Written => {
                        if let Some(due) = due {
                            let lateness = context.clock.now().duration_since(due);
                            context
                                .metrics
                                .refreshed(Duration::try_from(lateness).unwrap_or_default());
                        }
                    }
                    Published::Conflict | Published::Refused => {}
                }
            }
            Decision::Issue => match ask(view, context).await? {
                Asked::Waiting(since) => {
                    return Ok(Outcome {
                        until: None,
                        asked: Some(since),
                    });
                }
                Asked::NeedsCredentials => view.read_credentials(context).await?,
                Asked::Changed => break,
            },
        }
    }
    // Somebody changes the target as fast as we look: let them finish.
    Ok(Outcome {
        until: Some(policy::schedule::later(context.clock.now(), 1)),
        asked: None,
    })
}

/// When the token that is in the target was due, where one that was issued at `issued` refreshes it and is not only
/// written once more.
fn due_before(view: &View, issued: Timestamp) -> Option<Timestamp> {
    let (
        policy::Target::Ours {
            stored: Some(stored), ..
        },
        Ok(checked),
    ) = (&view.target, &view.checked)
    else {
        return None;
    };
    (issued > stored.issued).then(|| stored.due(checked.refresh))
}

/// What became of asking.
enum Asked {
    /// The object waits since then.
    Waiting(Instant),
    /// The credentials must be read first.
    NeedsCredentials,
    /// The object was changed or deleted in between: look again.
    Changed,
}

/// Asks for a token. Where a failed attempt could lock an account, it is recorded before it is sent: no crash may
/// forget it.
async fn ask(view: &mut View, context: &Arc<Context>) -> Result<Asked, Error> {
    let refresh_request = view.observed(context).pending_request().map(str::to_owned);
    let now = context.clock.now();
    let live_until = view.live_until(now);
    let joined = context
        .grants
        .join(&view.object, refresh_request.as_deref(), live_until);
    if let Some(since) = joined {
        return Ok(Asked::Waiting(since));
    }
    let (Some(inputs), Some(fingerprint)) = (view.inputs(), view.fingerprint) else {
        return Ok(Asked::NeedsCredentials);
    };
    if view.values.is_none() {
        return Ok(Asked::NeedsCredentials);
    }
    let proven = view.observed(context).is_proven() || context.grants.is_proven(&view.object);
    let account = view.account.filter(|_| !proven);
    let failures_before = failures_before(view, &inputs, account.is_some(), now);
    if account.is_some() {
        let count = failures_before.saturating_add(1);
        let next = backoff::after_no_answer(count, inputs.jitter, now);
        let attempt = PastFailure::about_to_be_sent(count, now, next, inputs);
        let status = policy::status_before_asking(
            &view.observed(context),
            &status_context(view, Progress::Asked),
            attempt,
        );
        if !write_status(view, &status, context).await? {
            return Ok(Asked::Changed);
        }
        if let Some(written) = context.tokens.get(&view.object) {
            view.token = written;
        }
    }
    let (Ok(checked), Some(credentials)) = (&view.checked, view.values.take()) else {
        return Ok(Asked::NeedsCredentials);
    };
    let asked = context.grants.ask(Ask {
        fingerprint,
        grant: checked.grant.clone(),
        endpoint: checked.endpoint.clone(),
        credentials,
        object: view.object.clone(),
        account,
        live_until,
        failures_before,
        refresh_request,
    });
    Ok(asked.map_or(Asked::Changed, Asked::Waiting))
}

/// Failures in a row that the status tells of: of these same credentials, and where an account could be locked, of any
/// that were tried within the time that counts.
fn failures_before(view: &View, inputs: &Inputs, counts_for_account: bool, now: Timestamp) -> i32 {
    let failure = view.status().failure.as_ref().and_then(PastFailure::from_status);
    let recent = |failure: &PastFailure| now.duration_since(failure.last_attempt) < policy::ACCOUNT_WINDOW;
    failure
        .filter(|failure| {
            failure.inputs.fingerprint == inputs.fingerprint || (counts_for_account && recent(failure))
        })
        .map_or(0, |failure| failure.count)
}

fn status_context(view: &View, progress: Progress) -> StatusContext<'_> {
    let checked = view.checked.as_ref().ok();
    StatusContext {
        generation: view.token.metadata.generation.unwrap_or_default(),
        target_name: &view.target_name,
        endpoint: checked.map(|checked| checked.endpoint.origin.trim_start_matches("https://")),
        credential_expires: checked.and_then(|checked| checked.credential_expires),
        progress,
    }
}

async fn record(view: &View, outcome: &Outcome, context: &Arc<Context>) -> Result<Action, Error> {
    let observed = view.observed(context);
    if observed.deleting {
        return Ok(Action::await_change());
    }
    let now = observed.now;
    let progress = match (
        outcome.asked,
        observed.grant.paused_until,
        observed.grant.account_free_at,
    ) {
        (Some(_), Some(until), _) => Progress::Paused(until),
        (Some(_), None, _) => Progress::Asked,
        (None, _, Some(until)) if !observed.is_proven() => Progress::Held(until),
        (None, _, _) => Progress::None,
    };
    let status = policy::status(&observed, &status_context(view, progress));
    let mut wait = outcome
        .until
        .map_or(Duration::MAX, |until| {
            Duration::try_from(until.duration_since(now)).unwrap_or_default()
        })
        .min(context.settings.longest_wait);
    if let Some(expires) = status
        .expiration_time
        .as_ref()
        .map(|time| time.0)
        .filter(|expires| *expires > now)
    {
        wait = wait.min(Duration::try_from(expires.duration_since(now)).unwrap_or_default());
    }
    let old = view.status();
    if let (Some(former), Some(binding)) = (&old.binding, &status.binding)
        && former.name != binding.name
    {
        retire(view, &former.name, context).await?;
    }
    if differs(&status, old) {
        let told_false = old.expiration_time.as_ref().is_some_and(|time| time.0 <= now) && is_ready(old);
        match outcome
            .asked
            .map(|since| since.elapsed())
            .filter(|waited| *waited < FIRST_STATUS_AFTER)
        {
            Some(waited) if !told_false => wait = wait.min(FIRST_STATUS_AFTER - waited),
            _ => {
                write_status(view, &status, context).await?;
            }
        }
    }
    observe(view, &status, context);
    // Not sooner than a moment from now, whatever the clocks say, so that no object can spin.
    Ok(Action::requeue(wait.max(Duration::from_millis(50))))
}

/// Whether `old` has to be written anew. Conditions of types that are not ours are their writer's, and stay.
fn differs(new: &VendorTokenStatus, old: &VendorTokenStatus) -> bool {
    let mut old = old.clone();
    old.conditions
        .retain(|found| condition::ALL.contains(&found.type_.as_str()));
    *new != old
}

fn is_ready(status: &VendorTokenStatus) -> bool {
    status
        .conditions
        .iter()
        .any(|found| found.type_ == condition::READY && found.status == "True")
}

/// Writes the status; false when the object is another one by now, or gone.
async fn write_status(
    view: &View,
    status: &VendorTokenStatus,
    context: &Arc<Context>,
) -> Result<bool, Error> {
    let (namespace, name) = (&view.object.namespace, &view.object.name);
    let api: Api<VendorToken> = Api::namespaced(context.client.clone(), namespace);
    let patch = json!({
        "apiVersion": "vendortoken.io/v1alpha1",
        "kind": "VendorToken",
        // With the UID, a status never lands on another object of this name.
        "metadata": { "name": name, "uid": view.token.metadata.uid },
        "status": status,
    });
    let parameters = PatchParams::apply(names::STATUS_FIELD_MANAGER).force();
    let mut written = api.patch_status(name, &parameters, &Patch::Apply(patch)).await;
    if let Ok(applied) = &written
        && status.failure.is_none()
        && applied
            .status
            .as_ref()
            .is_some_and(|applied| applied.failure.is_some())
    {
        // Somebody else wrote it, so the apply leaves it: it would be told, and believed after a restart, for ever.
        let nothing =
            json!({ "metadata": { "uid": view.token.metadata.uid }, "status": { "failure": null } });
        written = api
            .patch_status(name, &PatchParams::default(), &Patch::Merge(nothing))
            .await;
    }
    match written {
        Ok(mut written) => {
            use kube::ResourceExt as _;
            written.managed_fields_mut().clear();
            let edited = was_edited(&view.token, &written);
            let (former, target) = (
                super::tokens::target_name(&view.token),
                super::tokens::target_name(&written),
            );
            context.tokens.put(written);
            if edited {
                // The watch has nothing new to tell of an edit that came in between and is known from this answer.
                if former != target {
                    context.trigger_referrers(namespace, &former);
                }
                context.trigger(view.object.clone());
            }
            events::publish(context, &view.token, events::transitions(view.status(), status));
            Ok(true)
        }
        // It was deleted, or deleted and made anew: its own event tells the rest.
        Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => Ok(false),
        Err(source) => Err(Error::WriteStatus {
            namespace: namespace.clone(),
            name: name.clone(),
            source,
        }),
    }
}

/// Whether somebody changed `before`, beside the status, in a way that a decision may depend on.
fn was_edited(before: &VendorToken, after: &VendorToken) -> bool {
    let (before, after) = (&before.metadata, &after.metadata);
    before.generation != after.generation
        || before.annotations != after.annotations
        || before.deletion_timestamp != after.deletion_timestamp
}

fn observe(view: &View, status: &VendorTokenStatus, context: &Context) {
    let labels = ObjectLabels {
        namespace: view.object.namespace.clone(),
        name: view.object.name.clone(),
        vendor: super::checked::vendor(&view.token).as_str(),
    };
    let time = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.as_ref().map(|time| time.0)
    };
    context.metrics.object_observed(
        &labels,
        is_ready(status),
        time(&status.expiration_time),
        time(&status.next_refresh_time),
    );
}

/// What to do after an error: another try soon, and a line in the log.
pub(super) fn after_error(token: &VendorToken, error: &Error) -> Action {
    let object = super::tokens::key_of(token);
    tracing::warn!(%object, error = with_causes(error), "a reconcile failed and is tried again");
    // Spread by name, so that many objects do not return together after an outage.
    let spread = object.to_string().bytes().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    Action::requeue(Duration::from_millis(5000 + spread % 5000))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::fake;
    use super::super::secrets;
    use super::*;

    /// A token in the target that has just expired, and a status that still calls it ready.
    fn expired(context: &Context) -> Arc<VendorToken> {
        let now = context.clock.now();
        let ended = policy::schedule::later(now, -1).to_string();
        let begun = policy::schedule::later(now, -3601).to_string();
        let token: VendorToken = serde_json::from_value(json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": "t", "namespace": "a", "uid": "u", "generation": 1, "resourceVersion": "5" },
            "spec": { "vendor": "Mapiq", "credentialsSecretRef": { "name": "c" } },
            "status": { "observedGeneration": 1, "expirationTime": ended, "conditions": [{ "type": "Ready",
                "status": "True", "reason": "Published", "message": "m", "lastTransitionTime": begun }] },
        }))
        .unwrap();
        let inputs = format!(
            "{}.{}.{}.{}.07",
            "0".repeat(8),
            "1".repeat(32),
            "2".repeat(8),
            "3".repeat(32)
        );
        let secret = |name: &str, rest: Value| {
            let mut metadata = json!({ "name": name, "namespace": "a", "uid": name, "resourceVersion": "4" });
            metadata
                .as_object_mut()
                .unwrap()
                .extend(rest.as_object().unwrap().clone());
            secrets::record(&serde_json::from_value(metadata).unwrap()).unwrap()
        };
        context.secrets.list_begins("");
        context.secrets.put("a", "c", secret("c", json!({})));
        let target = json!({
            "labels": { "vendortoken.io/name": "t" },
            "annotations": { "vendortoken.io/issued-time": begun, "vendortoken.io/expiration-time": ended,
                "vendortoken.io/inputs": inputs },
            "managedFields": [{ "manager": "vendor-token-operator", "operation": "Apply", "apiVersion": "v1",
                "fieldsType": "FieldsV1", "fieldsV1": { "f:metadata": {
                    "f:labels": { "f:vendortoken.io/name": {} },
                    "f:annotations": { "f:vendortoken.io/issued-time": {}, "f:vendortoken.io/expiration-time": {},
                        "f:vendortoken.io/inputs": {} } } } }],
        });
        context.secrets.put("a", "t", secret("t", target));
        context.secrets.list_ends("");
        context.tokens.put(token.clone());
        Arc::new(token)
    }

    #[tokio::test]
    async fn a_token_past_its_expiry_is_not_left_ready_when_its_credentials_cannot_be_read() {
        let (context, writes, mut triggered) = fake::context(|sent| answered(sent, 1));
        let token = expired(&context);
        assert!(matches!(
            reconcile(token, Arc::clone(&context)).await,
            Err(Error::ReadSecret { .. })
        ));
        let writes = writes.lock().unwrap();
        assert_eq!(writes.len(), 1);
        let ready = &writes[0]["conditions"][0];
        assert_eq!(
            (&ready["type"], &ready["status"]),
            (&json!("Ready"), &json!("False"))
        );
        assert_eq!(ready["reason"], "TokenExpired");
        assert!(triggered.try_recv().is_err(), "the answer told nothing new");
    }

    /// The object as it is after the write of a status, with a spec of this generation.
    fn answered(sent: Value, generation: i64) -> Value {
        let mut object = sent;
        object["metadata"]["namespace"] = json!("a");
        object["metadata"]["generation"] = json!(generation);
        object["metadata"]["resourceVersion"] = json!("9");
        object["spec"] = json!({ "vendor": "Mapiq", "credentialsSecretRef": { "name": "other" } });
        object
    }

    #[tokio::test]
    async fn an_edit_that_came_just_before_a_status_write_is_reconciled() {
        let (context, _, mut triggered) = fake::context(|sent| answered(sent, 2));
        let token = expired(&context);
        let object = super::super::tokens::key_of(&token);
        assert!(reconcile(token, Arc::clone(&context)).await.is_err());
        // The watch tells of both changes, and neither is newer than what is known.
        let mut seen = (*context.tokens.get(&object).unwrap()).clone();
        seen.metadata.resource_version = Some("8".to_owned());
        assert!(!context.tokens.put(seen));
        assert_eq!(triggered.try_recv(), Ok(object));
    }

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
        serde_json::from_value(object).unwrap()
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
        assert!(!was_edited(&before, &edited(json!({ "resourceVersion": "6" }))));
    }
}
