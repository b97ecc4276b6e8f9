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
use crate::metrics::ObjectLabels;
use crate::policy::{self, Decision, Progress, StatusContext, decide};

/// Timers are checked against the wall clock at least this often: a clock that was stepped, or a machine that slept,
/// moves no timer.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
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
    let outcome = act(&mut view, &context).await?;
    record(&view, &outcome, &context).await
}

async fn act(view: &mut View, context: &Context) -> Result<Outcome, Error> {
    for _ in 0..MOST_STEPS {
        let decision = decide(&view.observed(context));
        tracing::trace!(object = %view.object, ?decision, "decided");
        match decision {
            Decision::Nothing => {
                return Ok(Outcome {
                    until: None,
                    asked: None,
                });
            }
            Decision::Wait { until } => {
                if view.token.spec.suspend || view.checked.is_err() {
                    context.grants.withdraw(&view.object);
                }
                return Ok(Outcome { until, asked: None });
            }
            Decision::ReadCredentials => view.read_credentials(context).await?,
            Decision::Publish => {
                let Some(token) = context.grants.token(&view.object) else {
                    continue;
                };
                let late = due_before(view);
                match publish(view, &token, context).await? {
                    Published::Written => {
                        if let Some(due) = late {
                            let lateness = context.clock.now().duration_since(due);
                            context
                                .metrics
                                .refreshed(Duration::try_from(lateness).unwrap_or_default());
                        }
                    }
                    Published::Conflict | Published::Refused => {}
                }
            }
            Decision::Issue => match ask(view, context) {
                Some(since) => {
                    return Ok(Outcome {
                        until: None,
                        asked: Some(since),
                    });
                }
                None => view.read_credentials(context).await?,
            },
        }
    }
    // Somebody changes the target as fast as we look: let them finish.
    Ok(Outcome {
        until: Some(policy::schedule::later(context.clock.now(), 1)),
        asked: None,
    })
}

/// When the token that is in the target was due.
fn due_before(view: &View) -> Option<Timestamp> {
    let (
        policy::Target::Ours {
            stored: Some(stored), ..
        },
        Ok(checked),
    ) = (&view.target, &view.checked)
    else {
        return None;
    };
    Some(stored.due(checked.refresh))
}

/// Asks for a token; `None` when the credentials must be read first.
fn ask(view: &mut View, context: &Context) -> Option<Instant> {
    let refresh_request = view.observed(context).pending_request().map(str::to_owned);
    let now = context.clock.now();
    let live_until = view.live_until(now);
    let joined = context
        .grants
        .join(&view.object, refresh_request.as_deref(), live_until);
    if joined.is_some() {
        return joined;
    }
    let failures_before = view
        .status()
        .failure
        .as_ref()
        .and_then(policy::PastFailure::from_status)
        .filter(|failure| {
            view.inputs()
                .is_some_and(|inputs| inputs.fingerprint == failure.inputs.fingerprint)
        })
        .map_or(0, |failure| failure.count);
    let checked = view.checked.as_ref().ok()?;
    let fingerprint = view.fingerprint?;
    let credentials = view.values.take()?;
    Some(context.grants.ask(Ask {
        fingerprint,
        grant: checked.grant.clone(),
        endpoint: checked.endpoint.clone(),
        credentials,
        object: view.object.clone(),
        live_until,
        failures_before,
        refresh_request,
    }))
}

async fn record(view: &View, outcome: &Outcome, context: &Arc<Context>) -> Result<Action, Error> {
    let observed = view.observed(context);
    if observed.deleting {
        return Ok(Action::await_change());
    }
    let now = observed.now;
    let progress = match (outcome.asked, observed.grant.paused_until) {
        (Some(_), Some(until)) => Progress::Paused(until),
        (Some(_), None) => Progress::Asked,
        (None, _) => Progress::None,
    };
    let endpoint = view
        .checked
        .as_ref()
        .ok()
        .map(|checked| checked.endpoint.origin.clone());
    let target_name = super::tokens::target_name(&view.token);
    let status = policy::status(
        &observed,
        &StatusContext {
            generation: view.token.metadata.generation.unwrap_or_default(),
            target_name: &target_name,
            endpoint: endpoint
                .as_deref()
                .map(|origin| origin.trim_start_matches("https://")),
            credential_expires: view
                .checked
                .as_ref()
                .ok()
                .and_then(|checked| checked.credential_expires),
            progress,
        },
    );
    let mut wait = outcome
        .until
        .map_or(LONGEST_WAIT, |until| {
            Duration::try_from(until.duration_since(now)).unwrap_or_default()
        })
        .min(LONGEST_WAIT);
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
            _ => write_status(view, &status, context).await?,
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

async fn write_status(view: &View, status: &VendorTokenStatus, context: &Arc<Context>) -> Result<(), Error> {
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
        Ok(written) => {
            context.tokens.put(written);
            events::publish(context, &view.token, events::transitions(view.status(), status));
            Ok(())
        }
        // It was deleted, or deleted and made anew: its own event tells the rest.
        Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => Ok(()),
        Err(source) => Err(Error::WriteStatus {
            namespace: namespace.clone(),
            name: name.clone(),
            source,
        }),
    }
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
