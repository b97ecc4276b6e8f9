//! The next step for one VendorToken: ordered checks, the first hit wins.

use jiff::Timestamp;

use super::backoff;
use super::hold::Hold;
use super::observed::{Credentials, Currency, Observed, Problem, Target};
use super::token_facts::{GrantToken, Stored};
use crate::api::names::{Reason, condition};
use crate::times::later;

/// A token that becomes usable later than this, in seconds from now, is not published while the old one is good.
const NOT_BEFORE_TOLERANCE_SECONDS: i64 = 300;

/// The least and the longest wait before another look at a Secret that the API server denies.
const SOONEST_LOOK_SECONDS: i64 = 5;
const LATEST_LOOK_SECONDS: i64 = 300;

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The object is being deleted: garbage collection does the rest.
    Nothing,
    /// Nothing until this time or until a change; `None`: until a change only.
    Wait { until: Option<Timestamp> },
    /// Read the credentials Secret, then decide again.
    ReadCredentials,
    /// Write the token that is in memory to the target.
    Publish,
    /// Write the token that is in the target once more, with the labels and the owner that it should have.
    Repair,
    /// Ask the vendor for a token.
    Issue,
}

/// Takes everything that was observed of one VendorToken, and gives the next step. Equal inputs give equal steps.
pub fn decide(observed: &Observed<'_>) -> Decision {
    match (next_step(observed), &observed.contest) {
        // The condition ends with the contest.
        (Decision::Wait { until }, Some(contest)) => wait(observed.now, [until, Some(contest.over_at)]),
        (decision, _) => decision,
    }
}

fn next_step(observed: &Observed<'_>) -> Decision {
    let now = observed.now;
    if observed.deleting {
        return Decision::Nothing;
    }
    let expiry = observed
        .stored()
        .map(|stored| observed.by_this_clock(stored.expires));
    if observed.suspended || observed.spec_problem.is_some() {
        return wait(now, [expiry]);
    }
    let as_desired = match &observed.target {
        Target::Blocked(problem) => return wait(now, [expiry, denied_until(problem, observed)]),
        Target::Free => false,
        Target::Ours { as_desired, .. } => *as_desired,
    };
    if let Some(block) = &observed.publish_block
        && backoff::holds(block.next_attempt, now)
    {
        return wait(now, [expiry, Some(block.next_attempt)]);
    }
    if let Credentials::Unusable(problem) = &observed.credentials {
        return wait(now, [expiry, denied_until(problem, observed)]);
    }

    let stored = observed.stored();
    let due = stored.map(|stored| observed.by_this_clock(stored.due(observed.refresh)));
    let requested = observed.pending_request().is_some();
    let current = match stored.map(|stored| observed.currency(stored)) {
        Some(Currency::Unknown) => return Decision::ReadCredentials,
        Some(currency) => currency == Currency::Current,
        None => false,
    };
    let is_due = due.is_none_or(|due| now >= due);
    if current && as_desired && !is_due && !requested {
        return newer_in_memory(observed).unwrap_or_else(|| wait(now, [expiry, due]));
    }
    // Also where it is due or a refresh is asked for: the vendor may let us wait.
    if current
        && !as_desired
        && observed.standing.token.is_none()
        && stored.is_some_and(|stored| stored.is_readable && observed.is_valid(stored))
    {
        let held = observed
            .contest
            .as_ref()
            .and_then(|contest| contest.holds_stored(stored, now));
        match held {
            None => return Decision::Repair,
            Some(held) if !is_due && !requested => return wait(now, [expiry, due, Some(held)]),
            Some(_) => {}
        }
    }
    if !matches!(observed.credentials, Credentials::Known { .. }) {
        return Decision::ReadCredentials;
    }
    if let Some(token) = &observed.standing.token {
        let repairs = !current || !as_desired;
        if let Some(usable_from) = not_usable_yet(observed, token, stored.filter(|_| current)) {
            return wait(now, [expiry, Some(usable_from)]);
        }
        if repairs || is_newer(observed, token, stored) {
            // Where a refresh is due, a new token is better than a repair. Without a stored token the due time is not
            // known.
            let may_ask = stored.is_some() && (is_due || requested);
            match observed
                .contest
                .as_ref()
                .and_then(|contest| contest.holds(token.issued, now))
            {
                None => return Decision::Publish,
                Some(held) if !may_ask => return wait(now, [expiry, due, Some(held)]),
                Some(_) => {}
            }
        }
    }

    match observed.standing.hold(requested) {
        Hold::Free => Decision::Issue,
        Hold::Until(time) => wait(now, [expiry, Some(time)]),
        Hold::Latched => wait(now, [expiry]),
    }
}

/// The time of the next look at a Secret that the API server denies; `None` for any other problem. No event announces a
/// new right, and an API server that has just started knows no rights yet: the wait is short at first, and grows with
/// the time that the denial has lasted.
fn denied_until(problem: &Problem, observed: &Observed<'_>) -> Option<Timestamp> {
    let lasted = observed
        .status
        .condition(condition::READY)
        .filter(|ready| ready.reason == Reason::ApiDenied.as_str())
        .map_or(0, |ready| {
            observed
                .now
                .duration_since(ready.last_transition_time.0)
                .as_secs()
        });
    let wait = lasted.clamp(SOONEST_LOOK_SECONDS, LATEST_LOOK_SECONDS);
    (problem.reason == Reason::ApiDenied).then(|| later(observed.now, wait))
}

/// Publishes a token that the refresh of another VendorToken with this grant brought, though the stored one is not due.
fn newer_in_memory(observed: &Observed<'_>) -> Option<Decision> {
    let token = observed.standing.token.as_ref()?;
    let stored = observed.stored();
    (is_newer(observed, token, stored) && not_usable_yet(observed, token, stored).is_none())
        .then_some(Decision::Publish)
}

/// True when `token` was issued after the stored one, by the clock as it goes now.
fn is_newer(observed: &Observed<'_>, token: &GrantToken, stored: Option<&Stored>) -> bool {
    stored.is_none_or(|stored| {
        token.issued != stored.issued && token.issued > observed.by_this_clock(stored.issued)
    })
}

/// The time from which `token` is usable, while waiting for it costs nothing because the stored one is good; `None`
/// where it is published at once. Each wait for it ends at the expiry of the stored one.
fn not_usable_yet(observed: &Observed<'_>, token: &GrantToken, stored: Option<&Stored>) -> Option<Timestamp> {
    let not_before = token.warnings.not_before?;
    stored.filter(|stored| observed.is_valid(stored) && is_newer(observed, token, Some(stored)))?;
    (not_before > later(observed.now, NOT_BEFORE_TOLERANCE_SECONDS)).then_some(not_before)
}

/// Waits for the soonest of these times that lies ahead.
fn wait<const N: usize>(now: Timestamp, times: [Option<Timestamp>; N]) -> Decision {
    Decision::Wait {
        until: times.into_iter().flatten().filter(|time| *time > now).min(),
    }
}
