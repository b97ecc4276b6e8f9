//! What to do next for one VendorToken: ordered checks, the first hit wins.

use jiff::Timestamp;

use super::backoff;
use super::observed::{Credentials, Currency, GrantToken, Observed, Stored, Target};
use super::schedule::later;
use crate::api::names::Reason;

/// A token that becomes usable later than this is not published while the old one is good.
const NOT_BEFORE_TOLERANCE_SECONDS: i64 = 300;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The object is being deleted: garbage collection does the rest.
    Nothing,
    /// Nothing before this time, or before something changes.
    Wait { until: Option<Timestamp> },
    /// Read the credentials Secret, then decide again.
    ReadCredentials,
    /// Write the token that is in memory to the target.
    Publish,
    /// Set the owner of the target, and leave the token in it as it is.
    Own,
    /// Ask the vendor for a token.
    Issue,
}

/// Decides what to do next. Equal inputs give equal answers.
pub fn decide(observed: &Observed<'_>) -> Decision {
    let now = observed.now;
    if observed.deleting {
        return Decision::Nothing;
    }
    let expiry = observed.stored().map(|stored| stored.expires);
    if observed.suspended || observed.spec_problem.is_some() {
        return wait(now, [expiry]);
    }
    let (intact, as_desired) = match &observed.target {
        Target::Blocked(_) => return wait(now, [expiry]),
        Target::Free => (false, false),
        Target::Ours {
            intact, as_desired, ..
        } => (*intact, *as_desired),
    };
    if let Some(block) = &observed.publish_block
        && now < block.next_attempt
    {
        return wait(now, [expiry, Some(block.next_attempt)]);
    }
    if matches!(observed.credentials, Credentials::Unusable(_)) {
        return wait(now, [expiry]);
    }

    let stored = observed.stored();
    let due = stored.map(|stored| stored.due(observed.refresh));
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
    if !matches!(observed.credentials, Credentials::Known { .. }) {
        return Decision::ReadCredentials;
    }
    if let Some(token) = &observed.grant.token {
        let repairs = !current || !as_desired;
        if let Some(usable_from) = not_usable_yet(token, stored.filter(|_| current), now) {
            return wait(now, [expiry, Some(usable_from)]);
        }
        if repairs || is_newer(token, stored) {
            return Decision::Publish;
        }
    }
    if current && intact && !as_desired && !is_due && !requested {
        // The token is there and good: a restored backup, say, which is not worth another one.
        return Decision::Own;
    }

    let failure = observed.failure();
    if let Some(failure) = &failure {
        // What a person asks for goes past a back-off or a latch, and never past the vendor's own deadline.
        let passes = requested && observed.grant.may_pass_latch && failure.reason != Reason::RateLimited;
        if !passes {
            match failure.next_attempt {
                None => return wait(now, [expiry]),
                Some(next) if backoff::holds(next, now) => return wait(now, [expiry, Some(next)]),
                Some(_) => {}
            }
        }
    }
    if let Some(free_at) = observed.grant.account_free_at
        && !observed.is_proven()
        && now < free_at
    {
        return wait(now, [expiry, Some(free_at)]);
    }
    let earliest = if requested {
        observed.grant.earliest_on_request
    } else {
        observed.grant.earliest_next
    };
    match earliest {
        Some(earliest) if now < earliest => wait(now, [expiry, Some(earliest)]),
        _ => Decision::Issue,
    }
}

/// A token that another VendorToken's refresh brought is published here too, though this one's is not due.
fn newer_in_memory(observed: &Observed<'_>) -> Option<Decision> {
    let token = observed.grant.token.as_ref()?;
    let stored = observed.stored();
    (is_newer(token, stored) && not_usable_yet(token, stored, observed.now).is_none())
        .then_some(Decision::Publish)
}

fn is_newer(token: &GrantToken, stored: Option<&Stored>) -> bool {
    stored.is_none_or(|stored| token.issued > stored.issued)
}

/// The time from which `token` is usable, where waiting for it costs nothing because the stored one is good. Waits end
/// at the stored one's expiry in any case.
fn not_usable_yet(token: &GrantToken, stored: Option<&Stored>, now: Timestamp) -> Option<Timestamp> {
    let not_before = token.warnings.not_before?;
    stored.filter(|stored| stored.is_valid(now) && token.issued > stored.issued)?;
    (not_before > later(now, NOT_BEFORE_TOLERANCE_SECONDS)).then_some(not_before)
}

/// Waits for the soonest of these times that is still to come.
fn wait<const N: usize>(now: Timestamp, times: [Option<Timestamp>; N]) -> Decision {
    Decision::Wait {
        until: times.into_iter().flatten().filter(|time| *time > now).min(),
    }
}
