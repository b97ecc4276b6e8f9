//! Derives the status that users and tools read from what was observed.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::conditions::{ConditionFacts, Facts, Progress, StoredFacts, conditions, held};
use super::observed::{Credentials, Currency, Observed, Problem, Target};
use super::past_failure::PastFailure;
use super::token_facts::Stored;
use crate::api::names::{Reason, condition};
use crate::api::{Binding, FailureStatus, VendorTokenStatus};
use crate::inputs::Inputs;
use crate::text::first_characters;
use crate::times::recorded;

/// Attempts with unproven passwords count against an account for this long.
pub const ACCOUNT_WINDOW: SignedDuration = SignedDuration::from_mins(15);
/// Days before the end of a credential at which the warning begins or changes.
const CREDENTIAL_WARNING_DAYS: [i64; 3] = [3, 14, 30];

/// The messages of `ClockSkewSuspected`, by its causes.
const CLOCKS_DIFFER: &str = "the vendor's clock and this node's differ, or the vendor's expiry fields disagree; the earlier \
                             time is used: check the time synchronisation of the nodes";
const UNUSUALLY_LONG: &str = "the vendor says that the token lives more than ten times as long as it documents, so it may \
                              end sooner: ask the vendor's support for the unit of its expiry field";

/// The start of the message of `TokenNotYetValid`; the time follows.
const NOT_USABLE_BEFORE: &str = "the token is not usable before ";

/// The end of the message of `Ready` where the owners of the target are not those that the spec wants.
const OWNERS_STAY: &str = "; the owner references of the target stay as they are, since the API server asks for the right to \
                           delete Secrets where they change: delete that Secret, so that it is made anew, or grant the \
                           operator's ServiceAccount delete on it and request a refresh";

/// Bounds of the schema, in characters: the API server refuses a status with a longer message.
const CONDITION_MESSAGE_LIMIT: usize = 2048;
const FAILURE_MESSAGE_LIMIT: usize = 1024;

/// The part of a status that is not observed.
#[derive(Clone, Copy, Debug)]
pub struct StatusContext<'a> {
    /// `metadata.generation` of the object that was observed.
    pub generation: i64,
    pub target_name: &'a str,
    /// The host that is asked; `None` for a spec that cannot be used.
    pub endpoint: Option<&'a str>,
    /// The end of the credential itself, where the user stated it (Picus).
    pub credential_expires: Option<Timestamp>,
    /// The progress towards a token that is missing.
    pub progress: Progress,
}

/// Gives the status of what was observed. It equals the present one, times included, when nothing has changed.
pub fn status(observed: &Observed<'_>, context: &StatusContext<'_>) -> VendorTokenStatus {
    let old = observed.status;
    let stored = observed.stored();
    let held_until = observed.standing.account_free_at;
    let failure = observed.failure().map(|failure| PastFailure {
        next_attempt: failure
            .next_attempt
            .map(|next| held_until.map_or(next, |held| next.max(held))),
        ..failure
    });
    let (problem, denied) = match &observed.credentials {
        Credentials::Unusable(problem) if problem.reason == Reason::ApiDenied => {
            (None, Some(problem.clone()))
        }
        Credentials::Unusable(problem) => (Some(problem.clone()), None),
        Credentials::Unread { .. } | Credentials::Known { .. } => (
            // An attempt that is under way is no failure yet: its record in the status is for the case of a crash.
            failure
                .as_ref()
                .filter(|failure| !(observed.standing.under_way && failure.is_unanswered()))
                .map(
                    |failure| match held_until.filter(|_| failure.next_attempt.is_some()) {
                        // The failure that locked the account says so itself.
                        Some(until) if !failure.is_lock() => {
                            let held = held(until, observed.standing.is_account_locked);
                            Problem::new(failure.reason, format!("{}; {held}", failure.message))
                        }
                        Some(_) | None => Problem::new(failure.reason, failure.message.clone()),
                    },
                ),
            None,
        ),
    };
    let blocked = observed
        .spec_problem
        .clone()
        .or_else(|| match &observed.target {
            Target::Blocked(problem) => Some(problem.clone()),
            Target::Free | Target::Ours { .. } => None,
        })
        .or_else(|| observed.publish_block.as_ref().map(|block| block.problem.clone()))
        .or(denied);
    let facts = Facts {
        target_name: context.target_name,
        suspended: observed.suspended,
        blocked,
        stored: stored.map(|stored| StoredFacts {
            expires: stored.expires,
            valid: observed.is_valid(stored),
            in_place: stored.is_in_place,
            of_present_grant: observed.currency(stored) != Currency::OtherGrant,
        }),
        // Failed calls to the API server hold up the token now; the vendor's last failure is older.
        failure: observed.api_trouble.clone().or(problem),
        progress: context.progress,
    };
    let mut all = conditions(&facts);
    if observed.owners_stay {
        for ready in all.iter_mut().filter(|facts| facts.kind == condition::READY) {
            ready.message.push_str(OWNERS_STAY);
        }
    }
    all.extend(warnings(observed, context, stored));
    if let Some(contest) = &observed.contest {
        let message = contest.message(context.target_name);
        // The token is in memory, and is written with the next repair.
        let waits = stored.is_none_or(|stored| !stored.is_in_place) && observed.standing.token.is_some();
        for facts in all
            .iter_mut()
            .filter(|facts| waits && facts.reason == Reason::Progressing.as_str())
        {
            facts.message.clone_from(&message);
        }
        all.push(ConditionFacts {
            kind: condition::TARGET_CONTESTED,
            status: true,
            reason: condition::TARGET_CONTESTED,
            message,
        });
    }
    let due = stored.map(|stored| stored.due(observed.refresh));
    VendorTokenStatus {
        observed_generation: Some(context.generation),
        conditions: all
            .into_iter()
            .map(|facts| with_times(facts, observed, context.generation))
            .collect(),
        binding: binding(observed, context),
        issued_time: stored.map(|stored| written(stored.issued)),
        expiration_time: stored.map(|stored| written(stored.expires)),
        next_refresh_time: next_refresh(observed, due, failure.as_ref()).map(written),
        last_handled_refresh_request: handled_request(observed)
            .or_else(|| old.last_handled_refresh_request.clone()),
        endpoint: context.endpoint.map(str::to_owned),
        failure: failure
            .map(failure_status)
            .or_else(|| attempt_that_counts(observed)),
    }
}

/// True where `status` says of the spec of this generation that the owner references of the target stay as they are.
pub fn says_that_owners_stay(status: &VendorTokenStatus, generation: Option<i64>) -> bool {
    let ready = status.condition(condition::READY);
    ready.is_some_and(|ready| ready.observed_generation == generation && ready.message.ends_with(OWNERS_STAY))
}

/// The record of the last attempt with another password of the user, while it counts against the account or tells of
/// its lock.
fn attempt_that_counts(observed: &Observed<'_>) -> Option<FailureStatus> {
    if !observed.standing.counts_for_account {
        return None;
    }
    let failure = observed.status.failure.as_ref().and_then(PastFailure::parse)?;
    let is_recent = observed.now.duration_since(failure.last_attempt) < ACCOUNT_WINDOW;
    let counts = is_recent || (failure.is_lock() && failure.holds(observed.now));
    counts.then(|| failure_status(failure))
}

/// Gives the status with the record of an attempt that is about to be sent, so that a crash does not lose it. The
/// conditions stay as they are until the answer is there: a request is no transition.
pub fn status_before_asking(
    observed: &Observed<'_>,
    context: &StatusContext<'_>,
    attempt: PastFailure,
) -> VendorTokenStatus {
    let before = if observed.status.conditions.is_empty() {
        status(observed, context)
    } else {
        // Conditions of other writers stay out of our apply.
        let mut before = observed.status.clone();
        before
            .conditions
            .retain(|found| condition::ALL.contains(&found.type_.as_str()));
        before
    };
    VendorTokenStatus {
        failure: Some(failure_status(attempt)),
        ..before
    }
}

fn failure_status(failure: PastFailure) -> FailureStatus {
    // The jitter is equal among those who share a credential, and nothing reads it here.
    let inputs = Inputs {
        jitter: 0,
        ..failure.inputs
    };
    FailureStatus {
        reason: failure.reason.as_str().to_owned(),
        message: first_characters(&failure.message, FAILURE_MESSAGE_LIMIT).to_owned(),
        count: failure.count,
        last_attempt_time: written(failure.last_attempt),
        next_attempt_time: failure.next_attempt.map(written),
        inputs: inputs.to_string(),
    }
}

/// A time in the form of a status: the API server takes it, and gives it back unchanged.
fn written(time: Timestamp) -> Time {
    Time(recorded(time))
}

/// The Secret that holds the token: the target or, until that is written, the one of the former target name.
fn binding(observed: &Observed<'_>, context: &StatusContext<'_>) -> Option<Binding> {
    if observed.stored().is_some() {
        return Some(Binding {
            name: context.target_name.to_owned(),
        });
    }
    let former = observed.status.binding.as_ref()?;
    (former.name != context.target_name).then(|| former.clone())
}

/// The time at which the vendor is asked next; `None` where only a change brings a request.
fn next_refresh(
    observed: &Observed<'_>,
    due: Option<Timestamp>,
    failure: Option<&PastFailure>,
) -> Option<Timestamp> {
    if observed.suspended
        || observed.spec_problem.is_some()
        || matches!(observed.credentials, Credentials::Unusable(_))
    {
        return None;
    }
    match failure {
        // A failed refresh request brings nothing forward: the token is as fresh as before.
        Some(failure) => {
            let next = failure.next_attempt?;
            Some(
                due.filter(|due| *due > observed.now)
                    .map_or(next, |due| next.max(due)),
            )
        }
        None => due.or(observed.standing.account_free_at),
    }
}

/// The refresh request of the object, once its attempt has ended.
fn handled_request(observed: &Observed<'_>) -> Option<String> {
    let request = observed.refresh_request?;
    observed.pending_request().is_none().then(|| request.to_owned())
}

fn warnings(
    observed: &Observed<'_>,
    context: &StatusContext<'_>,
    stored: Option<&Stored>,
) -> Vec<ConditionFacts> {
    let mut all = Vec::new();
    let mut warn = |kind: &'static str, message: String| {
        all.push(ConditionFacts {
            kind,
            status: true,
            reason: kind,
            message,
        });
    };
    if let Some(stored) = stored {
        let in_memory = observed
            .standing
            .token
            .as_ref()
            .filter(|token| token.issued == stored.issued);
        // After a restart the token is not in memory: the warnings in the status are kept, where they are about this
        // same token.
        let is_in_status = |kind: &str| {
            in_memory.is_none()
                && observed
                    .status
                    .issued_time
                    .as_ref()
                    .is_some_and(|time| time.0 == stored.issued)
                && observed
                    .status
                    .condition(kind)
                    .is_some_and(|old| old.status == "True")
        };
        if in_memory.is_some_and(|token| token.warnings.expiry_assumed)
            || is_in_status(condition::EXPIRY_ASSUMED)
        {
            let message = "the vendor gave no expiry; its documented default life is assumed".to_owned();
            warn(condition::EXPIRY_ASSUMED, message);
        }
        let skew = in_memory.map_or_else(
            || {
                let old = observed.status.condition(condition::CLOCK_SKEW_SUSPECTED);
                let message = &old
                    .filter(|_| is_in_status(condition::CLOCK_SKEW_SUSPECTED))?
                    .message;
                Some((message != UNUSUALLY_LONG, message.ends_with(UNUSUALLY_LONG)))
            },
            |token| {
                let warnings = &token.warnings;
                Some((warnings.clock_skew_suspected, warnings.unusually_long))
            },
        );
        let message = match skew {
            Some((true, true)) => Some(format!("{CLOCKS_DIFFER}; {UNUSUALLY_LONG}")),
            Some((true, false)) => Some(CLOCKS_DIFFER.to_owned()),
            Some((false, true)) => Some(UNUSUALLY_LONG.to_owned()),
            Some((false, false)) | None => None,
        };
        if let Some(message) = message {
            warn(condition::CLOCK_SKEW_SUSPECTED, message);
        }
        let time_in_status = || {
            let old = observed.status.condition(condition::TOKEN_NOT_YET_VALID)?;
            old.message
                .strip_prefix(NOT_USABLE_BEFORE)?
                .parse()
                .ok()
                .map(recorded)
        };
        let not_before = match in_memory {
            Some(token) => token.warnings.not_before,
            None if is_in_status(condition::TOKEN_NOT_YET_VALID) => time_in_status(),
            None => None,
        };
        if let Some(not_before) = not_before.filter(|time| *time > observed.now) {
            warn(
                condition::TOKEN_NOT_YET_VALID,
                format!("{NOT_USABLE_BEFORE}{not_before}"),
            );
        }
    }
    if let Some(expires) = context.credential_expires
        && let Some(message) = credential_warning(expires, observed.now)
    {
        warn(condition::CREDENTIAL_EXPIRING, message);
    }
    all
}

/// The warning about the end of a credential; `None` more than 30 days before it. It has one text for each of three
/// stages, so that the status changes, and an event is published, three times and not daily.
fn credential_warning(expires: Timestamp, now: Timestamp) -> Option<String> {
    let left = expires.duration_since(now);
    if left <= SignedDuration::ZERO {
        return Some(format!(
            "the refresh token expired at {expires}, says the spec: generate a new one in the vendor's console, put it \
             into the credentials Secret and update `spec.picus.refreshTokenExpirationTime`"
        ));
    }
    let days = CREDENTIAL_WARNING_DAYS
        .into_iter()
        .find(|days| left <= SignedDuration::from_hours(24 * days))?;
    Some(format!(
        "the refresh token expires at {expires}, in less than {days} days: generate a new one in the vendor's console, \
         put it into the credentials Secret and update `spec.picus.refreshTokenExpirationTime`"
    ))
}

fn with_times(facts: ConditionFacts, observed: &Observed<'_>, generation: i64) -> Condition {
    let status = if facts.status { "True" } else { "False" };
    let same = observed
        .status
        .condition(facts.kind)
        .filter(|old| old.status == status);
    Condition {
        last_transition_time: same.map_or_else(
            || written(observed.now),
            |old| written(old.last_transition_time.0),
        ),
        message: first_characters(&facts.message, CONDITION_MESSAGE_LIMIT).to_owned(),
        observed_generation: Some(generation),
        reason: facts.reason.to_owned(),
        status: status.to_owned(),
        type_: facts.kind.to_owned(),
    }
}
