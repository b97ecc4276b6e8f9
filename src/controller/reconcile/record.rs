//! Record: writes the status of what was seen and done, where it differs from the one before.

use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::VendorTokenStatus;
use crate::api::names::condition;
use crate::clock::Moment;
use crate::controller::context::Context;
use crate::controller::reconcile::retire::retire;
use crate::controller::reconcile::retry::Failed;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::controller::reconcile::status::{digest, write_status};
use crate::fingerprint::Fingerprint;
use crate::metrics::{Need, ObjectLabels};
use crate::policy::{self, Progress, StatusContext};
use crate::times::recorded;

/// The wait of a first status for the token: a quick grant costs one status write and not two.
const FIRST_STATUS_AFTER: Duration = Duration::from_secs(2);

/// The outcome of the steps of one reconcile.
pub(crate) struct Outcome {
    /// The time of the next look.
    pub(crate) until: Option<Timestamp>,
    /// The moment since which the object waits for the vendor.
    pub(crate) asked: Option<Moment>,
}

/// The part of a status that is not observed.
pub(crate) fn status_context(snapshot: &Snapshot, progress: Progress) -> StatusContext<'_> {
    let checked = snapshot.validated.as_ref().ok();
    StatusContext {
        generation: snapshot.token.metadata.generation.unwrap_or_default(),
        target_name: &snapshot.target_name,
        endpoint: checked.map(|checked| checked.endpoint.origin.trim_start_matches("https://")),
        credential_expires: checked.and_then(|checked| checked.credential_expires),
        progress,
    }
}

/// Writes the status where it differs from the one before, and gives the wait until the next look; `None` where only a
/// change brings one.
///
/// # Errors
/// Where the status cannot be written, or the former target cannot be emptied. The wait is given all the same.
pub(crate) async fn record(
    snapshot: &Snapshot,
    outcome: &Outcome,
    context: &Arc<Context>,
) -> Result<Option<Duration>, Failed> {
    let observed = snapshot.observe(context);
    if observed.deleting {
        return Ok(None);
    }
    let now = observed.now;
    let progress = match (
        outcome.asked,
        observed.standing.paused_until,
        observed.standing.account_free_at,
    ) {
        (Some(_), Some(until), _) => Progress::Paused(until),
        (Some(_), None, _) => Progress::Asked,
        (None, _, Some(until)) => Progress::Held {
            until,
            is_locked: observed.standing.is_account_locked,
        },
        (None, _, _) => Progress::None,
    };
    let mut status = policy::status(&observed, &status_context(snapshot, progress));
    let expires = status.expiration_time.as_ref().map(|time| time.0);
    let mut wait = next_look(now, outcome.until, expires, context.settings.longest_wait);
    let old = snapshot.status();
    let mut retired = Ok(());
    if let (Some(former), Some(binding)) = (&old.binding, &status.binding)
        && former.name != binding.name
    {
        retired = retire(snapshot, &former.name, context).await;
        if retired.is_err() {
            // By this name the next look finds the Secret that is still to be emptied.
            status.binding = Some(former.clone());
        }
    }
    if differs(&status, old) {
        let has_expired = old
            .expiration_time
            .as_ref()
            .is_some_and(|time| recorded(time.0) <= now);
        let is_outdated = has_expired && is_ready(old);
        let moment = context.timeline.now().moment;
        let digest = digest(&status);
        if let Some(held) = context
            .remembered
            .status_held_for(&snapshot.object, digest, moment)
        {
            observe(snapshot, &status, context);
            return Ok(Some(wait.min(held).max(Duration::from_millis(50))));
        }
        match outcome
            .asked
            .map(|since| context.timeline.now().moment.since(since))
            .filter(|waited| *waited < FIRST_STATUS_AFTER)
        {
            Some(waited) if !is_outdated => wait = wait.min(FIRST_STATUS_AFTER - waited),
            _ => {
                let failed = |error| Failed {
                    error,
                    look_within: wait,
                };
                if !write_status(snapshot, &status, context).await.map_err(failed)? {
                    return Ok(Some(context.settings.longest_wait));
                }
            }
        }
    }
    observe(snapshot, &status, context);
    retired.map_err(|error| Failed {
        error,
        look_within: wait,
    })?;
    // Not sooner than a moment from now, whatever the clocks say, so that no object can spin.
    Ok(Some(wait.max(Duration::from_millis(50))))
}

/// The wait until the next look: it ends at `until`, at the token's expiry, and after `longest`, whichever comes first.
fn next_look(
    now: Timestamp,
    until: Option<Timestamp>,
    expires: Option<Timestamp>,
    longest: Duration,
) -> Duration {
    let times = [until, expires.filter(|expires| *expires > now)];
    times
        .into_iter()
        .flatten()
        .map(|time| Duration::try_from(time.duration_since(now)).unwrap_or_default())
        .fold(longest, Duration::min)
}

/// True where `old` has to be replaced. Conditions of types that are not ours belong to their writers, and stay.
fn differs(new: &VendorTokenStatus, old: &VendorTokenStatus) -> bool {
    let mut old = old.clone();
    old.conditions
        .retain(|found| condition::ALL.contains(&found.type_.as_str()));
    *new != old
}

fn is_ready(status: &VendorTokenStatus) -> bool {
    status
        .condition(condition::READY)
        .is_some_and(|ready| ready.status == "True")
}

fn observe(snapshot: &Snapshot, status: &VendorTokenStatus, context: &Context) {
    let labels = ObjectLabels {
        namespace: snapshot.object.namespace.clone(),
        name: snapshot.object.name.clone(),
        vendor: crate::controller::reconcile::validated::vendor(&snapshot.token).as_str(),
    };
    let time = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.as_ref().map(|time| time.0)
    };
    context.metrics.object_observed(
        &labels,
        is_ready(status),
        time(&status.expiration_time),
        time(&status.next_refresh_time),
        need(snapshot),
    );
}

/// The requests that the object needs of its vendor. `None` where it has no token to refresh, or is not to refresh it.
fn need(snapshot: &Snapshot) -> Option<Need> {
    let (Ok(checked), policy::Target::Ours { stored, .. }) = (&snapshot.validated, &snapshot.target) else {
        return None;
    };
    let stored = stored.as_ref()?;
    if snapshot.token.spec.suspend || matches!(snapshot.credentials, policy::Credentials::Unusable(_)) {
        return None;
    }
    let mut endpoint = std::hash::DefaultHasher::new();
    checked.endpoint.origin.hash(&mut endpoint);
    let inputs = snapshot.inputs().unwrap_or(&stored.inputs);
    Some(Need {
        endpoint: endpoint.finish(),
        published: Fingerprint::stand_in(inputs).number(),
        grant: snapshot.fingerprint.map(|fingerprint| fingerprint.number()),
        seconds: stored.refresh_interval(checked.refresh).as_secs(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_time() -> impl Strategy<Value = Timestamp> {
        prop_oneof![
            1 => Just(Timestamp::MIN),
            1 => Just(Timestamp::MAX),
            2 => any::<i64>().prop_map(|second| {
                Timestamp::from_second(second % 253_402_207_200).unwrap_or(Timestamp::MAX)
            }),
            6 => (0..800_000_i64).prop_map(|millisecond| {
                Timestamp::from_millisecond(1_800_000_000_000 + millisecond).unwrap()
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_wait_ends_within_five_minutes_and_at_each_time_that_matters(
            now in any_time(), until in prop::option::of(any_time()), expires in prop::option::of(any_time())
        ) {
            let wait = next_look(now, until, expires, Duration::from_secs(300));
            prop_assert!(wait <= Duration::from_secs(300));
            let looked = now.checked_add(jiff::SignedDuration::try_from(wait).unwrap()).unwrap_or(Timestamp::MAX);
            if let Some(until) = until {
                prop_assert!(looked <= until.max(now));
            }
            if let Some(expires) = expires {
                prop_assert!(looked <= expires || expires <= now);
            }
            // And not for nothing.
            let matters = wait == Duration::from_secs(300)
                || until.is_some_and(|until| looked >= until)
                || expires.is_some_and(|expires| looked == expires);
            prop_assert!(matters, "{wait:?}");
        }
    }
}
