//! Whether a grant may be asked now, and if not, until when: the one rule. A decision waits by it, and a request to the
//! vendor is reserved by it.

use jiff::Timestamp;

use super::observed::{GrantToken, PastFailure, Stored};
use super::{backoff, schedule};
use crate::api::VendorTokenStatus;
use crate::api::names::Reason;
use crate::failure::FailureClass;
use crate::inputs::Inputs;

/// Why a grant is not asked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldCause {
    /// The last attempt failed a short while ago.
    Backoff,
    /// The vendor asked this grant to wait.
    Throttled,
    /// Too many passwords of this account were tried lately.
    Account,
    /// The last token came a short while ago.
    LeastGap,
}

/// Whether a grant may be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// It may be asked now.
    #[default]
    Free,
    /// Not before this time.
    Until { time: Timestamp, cause: HoldCause },
    /// Only a change brings another attempt: the vendor rejected the credential.
    Latched,
}

/// What a process knows of one grant itself. Times are as the wall clock shows them now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantFacts {
    /// The last token, while it can be used.
    pub token: Option<GrantToken>,
    /// The last attempt failed.
    pub failure: Option<PastFailure>,
    /// When the last attempt was sent, where it succeeded; also one that brought the same token again.
    pub succeeded: Option<Timestamp>,
    /// The refresh request that the last attempt served.
    pub completed_request: Option<String>,
    /// The end of the least gap after the last token.
    pub gap_ends: Option<Timestamp>,
    /// The end of the gap for a request that a person made.
    pub gap_on_request_ends: Option<Timestamp>,
    /// A refresh request may override a back-off or a latch now.
    pub may_override: bool,
    /// The vendor asked this grant's endpoint to wait.
    pub paused_until: Option<Timestamp>,
    /// The credentials have brought a token to this process.
    pub is_proven: bool,
    /// Failed attempts count against an account that the vendor could lock.
    pub has_account: bool,
    /// Not before this time may another password of that account be tried.
    pub account_free_at: Option<Timestamp>,
    /// A request is reserved, queued or in flight.
    pub under_way: bool,
}

impl Default for GrantFacts {
    fn default() -> Self {
        Self {
            token: None,
            failure: None,
            succeeded: None,
            completed_request: None,
            gap_ends: None,
            gap_on_request_ends: None,
            may_override: true,
            paused_until: None,
            is_proven: false,
            has_account: false,
            account_free_at: None,
            under_way: false,
        }
    }
}

/// What the status and the target of one VendorToken say of its grant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The failure in the status, of whichever credential.
    pub failure: Option<PastFailure>,
    /// The failure is of the present credentials.
    pub is_same_credential: bool,
    /// When the token in the target was issued, where the present credentials brought it.
    pub issued: Option<Timestamp>,
    /// The end of the token in the target, whichever credential brought it, while it is valid.
    pub live_until: Option<Timestamp>,
}

impl Evidence {
    /// Takes a status and what is stored in a target, for the credentials that `inputs` stand for.
    pub fn new(status: &VendorTokenStatus, stored: Option<&Stored>, inputs: &Inputs, now: Timestamp) -> Self {
        let failure = status.failure.as_ref().and_then(PastFailure::from_status);
        Self {
            is_same_credential: failure
                .as_ref()
                .is_some_and(|failure| inputs.is_same_credential(&failure.inputs)),
            failure,
            issued: stored
                .filter(|stored| inputs.is_same_credential(&stored.inputs))
                .map(|stored| stored.issued),
            live_until: stored
                .filter(|stored| stored.is_valid(now))
                .map(|stored| stored.expires),
        }
    }

    /// The failure of the present credentials.
    pub fn own_failure(&self) -> Option<&PastFailure> {
        self.failure.as_ref().filter(|_| self.is_same_credential)
    }
}

/// What holds of one grant for one VendorToken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The last token, while it can be used.
    pub token: Option<GrantToken>,
    /// The newest failure that no success followed.
    pub failure: Option<PastFailure>,
    /// Whether it may be asked because a token is due.
    pub hold: Hold,
    /// Whether it may be asked because a person wants it.
    pub hold_on_request: Hold,
    /// The refresh request that the last attempt served.
    pub completed_request: Option<String>,
    /// The vendor asked this grant's endpoint to wait.
    pub paused_until: Option<Timestamp>,
    /// Failed attempts count against an account that the vendor could lock.
    pub counts_for_account: bool,
    /// Not before this time is another password of that account tried.
    pub account_free_at: Option<Timestamp>,
    /// A request is reserved, queued or in flight.
    pub under_way: bool,
}

impl Standing {
    /// Puts together what this process knows and what the status and the target say.
    pub fn new(facts: GrantFacts, evidence: &Evidence, now: Timestamp) -> Self {
        let is_proven = facts.is_proven || evidence.issued.is_some();
        let account_free_at = facts
            .account_free_at
            .filter(|_| !is_proven)
            .map(schedule::upwards)
            .filter(|free_at| *free_at > now);
        let token_issued = facts.token.as_ref().map(|token| token.issued);
        let failure = newest_failure(facts.failure, evidence, facts.succeeded, token_issued, now);
        let hold = |requested: bool| {
            let may_override = requested && facts.may_override;
            if let Some(held) = failure
                .as_ref()
                .and_then(|failure| held_by(failure, may_override, now))
            {
                return held;
            }
            if let Some(time) = account_free_at {
                let cause = HoldCause::Account;
                return Hold::Until { time, cause };
            }
            let gap_ends = if requested {
                facts.gap_on_request_ends
            } else {
                facts.gap_ends
            };
            match gap_ends.filter(|end| now < *end) {
                Some(time) => Hold::Until {
                    time,
                    cause: HoldCause::LeastGap,
                },
                None => Hold::Free,
            }
        };
        Self {
            hold: hold(false),
            hold_on_request: hold(true),
            token: facts.token,
            failure,
            completed_request: facts.completed_request,
            paused_until: facts.paused_until,
            counts_for_account: facts.has_account && !is_proven,
            account_free_at,
            under_way: facts.under_way,
        }
    }

    /// Whether it may be asked, because a person wants it or because a token is due.
    pub fn hold(&self, requested: bool) -> Hold {
        if requested {
            self.hold_on_request
        } else {
            self.hold
        }
    }
}

/// The reason that users see for a failure class.
pub const fn reason_of(class: FailureClass) -> Reason {
    match class {
        FailureClass::Rejected => Reason::CredentialsRejected,
        FailureClass::Refused => Reason::EndpointRefused,
        FailureClass::Throttled => Reason::RateLimited,
        FailureClass::Transient => Reason::VendorUnavailable,
        FailureClass::Malformed => Reason::InvalidResponse,
    }
}

/// How a failure holds its grant. A refresh request overrides a back-off or a latch, and never the vendor's own deadline.
fn held_by(failure: &PastFailure, may_override: bool, now: Timestamp) -> Option<Hold> {
    let is_throttled = failure.reason == Reason::RateLimited;
    if may_override && !is_throttled {
        return None;
    }
    match failure.next_attempt {
        None => Some(Hold::Latched),
        Some(time) if backoff::holds(time, now) => Some(Hold::Until {
            time,
            cause: if is_throttled {
                HoldCause::Throttled
            } else {
                HoldCause::Backoff
            },
        }),
        Some(_) => None,
    }
}

/// The newest failure of the present credentials that no success followed.
fn newest_failure(
    in_memory: Option<PastFailure>,
    evidence: &Evidence,
    succeeded: Option<Timestamp>,
    token_issued: Option<Timestamp>,
    now: Timestamp,
) -> Option<PastFailure> {
    // A failure that only another VendorToken's status tells of proves nothing against credentials that brought a token.
    let in_memory = in_memory.filter(|failure| !(failure.from_status && evidence.issued.is_some()));
    let newest = match (in_memory, evidence.own_failure()) {
        // A failure in the future is not believed: it must not hide one that this process has seen. Nor does a failure
        // that ends sooner hide one that holds: the reservation would be refused again and again.
        (Some(memory), Some(status))
            if status.last_attempt > memory.last_attempt
                && status.last_attempt <= now
                && !(memory.holds(now) && ends_sooner(status, &memory)) =>
        {
            status.clone()
        }
        (Some(memory), _) => memory,
        // This process has succeeded since: the status was written by a clock that was ahead, or by somebody else.
        (None, Some(status)) if status.last_attempt > now && succeeded.is_some() => return None,
        (None, status) => status?.clone(),
    };
    no_success_since(&newest, [evidence.issued, token_issued, succeeded], now).then_some(newest)
}

/// Whether none of these successes came after the failure. A success in the future is the trace of a clock that was set
/// back, and excuses no failure.
pub(super) fn no_success_since<const N: usize>(
    failure: &PastFailure,
    successes: [Option<Timestamp>; N],
    now: Timestamp,
) -> bool {
    let succeeded = successes
        .into_iter()
        .flatten()
        .filter(|time| *time <= now)
        .max()
        .unwrap_or(Timestamp::MIN);
    // The record of an attempt bears the second in which it was sent, and so does the token that it brought.
    failure.last_attempt > succeeded || (failure.last_attempt == succeeded && !failure.is_unanswered())
}

fn ends_sooner(one: &PastFailure, other: &PastFailure) -> bool {
    match (one.next_attempt, other.next_attempt) {
        (Some(one), Some(other)) => one < other,
        (Some(_), None) => true,
        (None, _) => false,
    }
}
