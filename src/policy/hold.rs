//! The one rule about when a grant may be asked. A decision waits by it, and a request to the vendor is reserved by it.

use jiff::Timestamp;

use super::past_failure::PastFailure;
use super::token_facts::{GrantToken, Stored};
use crate::api::VendorTokenStatus;
use crate::api::names::Reason;
use crate::failure::FailureClass;
use crate::inputs::Inputs;
use crate::times::whole_seconds_up;

/// The hold of a grant, or its absence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// It may be asked now.
    #[default]
    Free,
    /// It may not be asked before this time.
    Until(Timestamp),
    /// The vendor rejected the credential: only another credential, other vendor settings or a refresh request bring
    /// another attempt.
    Latched,
}

/// The facts of one grant that this process knows itself. Their times are those of the wall clock as it goes now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantFacts {
    /// The last token, while it is usable.
    pub token: Option<GrantToken>,
    /// The last attempt, where it failed.
    pub failure: Option<PastFailure>,
    /// The time at which the last attempt was sent, where it succeeded; also when it brought the same token again.
    pub succeeded: Option<Timestamp>,
    /// The refresh request that the last attempt served for this VendorToken.
    pub completed_request: Option<String>,
    /// The end of the least gap after the last token; `None` where it has passed.
    pub gap_ends: Option<Timestamp>,
    /// The end of the shorter gap that holds for a refresh request; `None` where it has passed.
    pub gap_on_request_ends: Option<Timestamp>,
    /// True when a refresh request may override a back-off or a latch now.
    pub may_override: bool,
    /// The end of the pause of this grant's endpoint, for which the vendor asked.
    pub paused_until: Option<Timestamp>,
    /// True when the credentials have brought a token to this process.
    pub is_proven: bool,
    /// True when the vendor locks accounts after failed attempts.
    pub has_account: bool,
    /// True when the password was rejected since it last brought a token, for whichever grant it was sent.
    pub is_in_doubt: bool,
    /// The earliest time of another attempt with an unproven password of that account; `None`: now.
    pub account_free_at: Option<Timestamp>,
    /// The lock of that account, while it holds.
    pub account_lock: Option<AccountLock>,
    /// True while a request is reserved, queued or in flight.
    pub under_way: bool,
}

/// The lock of an account, of which the vendor has told the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountLock {
    pub until: Timestamp,
    /// True when it is known from a status only: it says nothing against a proven password.
    pub only_from_status: bool,
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
            is_in_doubt: false,
            account_free_at: None,
            account_lock: None,
            under_way: false,
        }
    }
}

/// The evidence of one VendorToken's status and target about its grant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The failure in the status, of whichever credential.
    pub failure: Option<PastFailure>,
    /// True when that failure is of the present credentials.
    pub is_same_credential: bool,
    /// True when the present credentials have replaced others: those that brought the token in the target, or those of
    /// the rejection in the status. Also while the status shows an early attempt after such a change. A first grant is
    /// no change.
    pub is_replacement: bool,
    /// The issue time of the token in the target, where the present credentials brought it.
    pub issued: Option<Timestamp>,
    /// The expiry of the token in the target, where the present credentials brought it, while it is valid.
    pub live_until: Option<Timestamp>,
}

impl Evidence {
    /// Takes a status, the token in a target, and the published inputs of the present credentials. A failure that
    /// cannot be read counts as none, and so do facts that the present key has not sealed.
    pub fn new(status: &VendorTokenStatus, stored: Option<&Stored>, inputs: &Inputs, now: Timestamp) -> Self {
        let failure = status.failure.as_ref().and_then(PastFailure::parse);
        let stored = stored.filter(|stored| stored.is_sealed_by(&inputs.key_id));
        let own = stored.filter(|stored| inputs.is_same_credential(&stored.inputs));
        let replaces = |others: &Inputs| others.key_id == inputs.key_id && !inputs.is_same_credential(others);
        let rejection = failure
            .as_ref()
            .filter(|failure| failure.reason == Reason::CredentialsRejected);
        Self {
            is_replacement: stored.is_some_and(|stored| replaces(&stored.inputs))
                || rejection.is_some_and(|rejection| replaces(&rejection.inputs) || rejection.is_early()),
            is_same_credential: failure
                .as_ref()
                .is_some_and(|failure| inputs.is_same_credential(&failure.inputs)),
            failure,
            issued: own.map(|stored| stored.issued),
            live_until: own
                .filter(|stored| stored.is_valid(now))
                .map(|stored| stored.expires),
        }
    }

    /// The failure in the status, where it is of the present credentials.
    pub fn own_failure(&self) -> Option<&PastFailure> {
        self.failure.as_ref().filter(|_| self.is_same_credential)
    }
}

/// The standing of one grant for one VendorToken: its holds and their reasons, from facts and evidence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The last token, while it is usable.
    pub token: Option<GrantToken>,
    /// The newest failure that no success followed.
    pub failure: Option<PastFailure>,
    /// The hold of a refresh that is due.
    pub hold: Hold,
    /// The hold of a refresh that a person requested.
    pub hold_on_request: Hold,
    /// The refresh request that the last attempt served for this VendorToken.
    pub completed_request: Option<String>,
    /// The end of the pause of this grant's endpoint, for which the vendor asked.
    pub paused_until: Option<Timestamp>,
    /// True when a failed attempt counts against an account: the vendor locks accounts, and the credentials are not
    /// proven.
    pub counts_for_account: bool,
    /// The earliest time of another attempt on that account, in whole seconds; `None`: now.
    pub account_free_at: Option<Timestamp>,
    /// True when it is the lock of the account that ends then.
    pub is_account_locked: bool,
    /// True while a request is reserved, queued or in flight.
    pub under_way: bool,
}

impl Standing {
    /// Merges the facts that this process knows with the evidence of the status and the target.
    pub fn new(facts: GrantFacts, evidence: &Evidence, now: Timestamp) -> Self {
        let failure = newest_failure(&facts, evidence, now);
        // A proven password that was rejected since, for this grant or another one, is in doubt: the next attempt counts
        // against its account as one with an unproven password, and so does one whose answer a crash lost.
        let failure_doubts = failure
            .as_ref()
            .is_some_and(|failure| failure.reason == Reason::CredentialsRejected || failure.is_unanswered());
        let is_in_doubt = facts.is_in_doubt || failure_doubts;
        let is_proven = (facts.is_proven || evidence.issued.is_some()) && !is_in_doubt;
        let account_free_at = facts
            .account_free_at
            .filter(|_| !is_proven)
            .map(whole_seconds_up)
            .filter(|free_at| *free_at > now);
        let locked_until = facts
            .account_lock
            .filter(|lock| !(is_proven && lock.only_from_status))
            .map(|lock| whole_seconds_up(lock.until))
            .filter(|until| *until > now);
        let is_account_locked = locked_until.is_some() && locked_until >= account_free_at;
        let account_free_at = account_free_at.max(locked_until);
        let hold = |requested: bool| {
            let may_override = requested && facts.may_override;
            if let Some(held) = failure
                .as_ref()
                .and_then(|failure| held_by(failure, may_override, now))
            {
                return held;
            }
            if let Some(time) = account_free_at {
                return Hold::Until(time);
            }
            let gap_ends = if requested {
                facts.gap_on_request_ends
            } else {
                facts.gap_ends
            };
            match gap_ends.filter(|end| now < *end) {
                Some(time) => Hold::Until(time),
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
            is_account_locked,
            under_way: facts.under_way,
        }
    }

    /// The hold of a refresh: of a requested one where `requested`, else of one that is due.
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

/// The hold that a failure puts on its grant; `None` where it has ended. A refresh request overrides a back-off or a
/// latch, but never the vendor's own deadline, nor the lock of an account.
fn held_by(failure: &PastFailure, may_override: bool, now: Timestamp) -> Option<Hold> {
    let is_vendors_own = failure.reason == Reason::RateLimited || failure.is_lock();
    if may_override && !is_vendors_own {
        return None;
    }
    match failure.next_attempt {
        None => Some(Hold::Latched),
        Some(time) if failure.holds(now) => Some(Hold::Until(time)),
        Some(_) => None,
    }
}

/// The newest failure of the present credentials that no success followed.
fn newest_failure(facts: &GrantFacts, evidence: &Evidence, now: Timestamp) -> Option<PastFailure> {
    let succeeded = facts.succeeded;
    let token_issued = facts.token.as_ref().map(|token| token.issued);
    // A failure known from the status of another VendorToken alone does not count against credentials that brought a
    // token.
    let in_memory = facts
        .failure
        .as_ref()
        .filter(|failure| !(failure.only_from_other_status && evidence.issued.is_some()));
    let newest = match (in_memory, evidence.own_failure()) {
        // The failure in the status replaces an older one in memory, with three exceptions: one with a time in the
        // future was written by a wrong clock or by somebody else, one that ends sooner must not shorten a hold of this
        // process, and the record of an attempt that is under way is no failure yet.
        (Some(memory), Some(status))
            if status.last_attempt > memory.last_attempt
                && status.last_attempt <= now
                && !(memory.holds(now) && ends_sooner(status, memory))
                && !(facts.under_way && status.is_unanswered()) =>
        {
            status.clone()
        }
        (Some(memory), _) => memory.clone(),
        // The last attempt of this process succeeded: a failure in the future was written by a clock that was ahead, or
        // by somebody else.
        (None, Some(status)) if status.last_attempt > now && succeeded.is_some() => return None,
        (None, status) => status?.clone(),
    };
    no_success_since(&newest, [evidence.issued, token_issued, succeeded], now).then_some(newest)
}

/// True when none of these successes came after the failure. A success in the future does not count: it comes from
/// before a step back of the clock.
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
    // Times are whole seconds: the record of an attempt has the second in which it was sent, and so has the token that
    // it brought.
    failure.last_attempt > succeeded || (failure.last_attempt == succeeded && !failure.is_unanswered())
}

/// True when the hold of `one` ends before that of `other`; a latch does not end.
fn ends_sooner(one: &PastFailure, other: &PastFailure) -> bool {
    match (one.next_attempt, other.next_attempt) {
        (Some(one), Some(other)) => one < other,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use rstest::rstest;

    use super::*;

    fn at(second: i64) -> Timestamp {
        crate::times::later(Timestamp::UNIX_EPOCH, 1_800_000_000 + second)
    }

    fn inputs() -> Inputs {
        Inputs {
            key_id: "0".repeat(8),
            parameters: "1".repeat(32),
            sources: "2".repeat(8),
            fingerprint: "3".repeat(32),
            jitter: 0,
        }
    }

    fn failure(reason: Reason, last_attempt: i64, next_attempt: Option<i64>) -> PastFailure {
        PastFailure {
            reason,
            message: "why".to_owned(),
            count: 1,
            last_attempt: at(last_attempt),
            next_attempt: next_attempt.map(at),
            inputs: inputs(),
            only_from_other_status: false,
        }
    }

    fn lock(last_attempt: i64, next_attempt: i64) -> PastFailure {
        PastFailure {
            message: format!("the account locked: {}", crate::failure::LOCKED_UNTIL),
            ..failure(CredentialsRejected, last_attempt, Some(next_attempt))
        }
    }

    #[test]
    fn only_a_token_that_the_present_credentials_brought_is_live() {
        let stored = |fingerprint: &str, expires| Stored {
            issued: at(0),
            expires: at(expires),
            inputs: Inputs {
                fingerprint: fingerprint.repeat(32),
                ..inputs()
            },
            credentials_version: None,
            refresh_handled: None,
            is_in_place: true,
            is_readable: true,
        };
        let live_until = |stored: &Stored| {
            Evidence::new(&VendorTokenStatus::default(), Some(stored), &inputs(), at(100)).live_until
        };
        assert_eq!(live_until(&stored("3", 300)), Some(at(300)));
        assert_eq!(live_until(&stored("3", 100)), None, "it has ended");
        assert_eq!(
            live_until(&stored("4", 300)),
            None,
            "another credential brought it"
        );
    }

    /// The facts and the evidence at second 100, by default empty.
    fn known(change: impl FnOnce(&mut GrantFacts, &mut Evidence)) -> (GrantFacts, Evidence) {
        let (mut facts, mut evidence) = (GrantFacts::default(), Evidence::default());
        evidence.is_same_credential = true;
        change(&mut facts, &mut evidence);
        (facts, evidence)
    }

    fn until(second: i64) -> Hold {
        Hold::Until(at(second))
    }

    use Reason::{CredentialsRejected, RateLimited, VendorUnavailable};

    #[rstest]
    #[case::nothing_is_known(known(|_, _| ()), Hold::Free, Hold::Free)]
    #[case::a_back_off(
        known(|facts, _| facts.failure = Some(failure(VendorUnavailable, 90, Some(120)))),
        until(120), Hold::Free
    )]
    #[case::a_back_off_that_was_overridden_lately(
        known(|facts, _| {
            facts.failure = Some(failure(VendorUnavailable, 90, Some(120)));
            facts.may_override = false;
        }),
        until(120), until(120)
    )]
    #[case::a_back_off_that_is_over(
        known(|facts, _| facts.failure = Some(failure(VendorUnavailable, 50, Some(100)))), Hold::Free, Hold::Free
    )]
    #[case::a_back_off_in_the_status(
        known(|_, evidence| evidence.failure = Some(failure(VendorUnavailable, 90, Some(120)))),
        until(120), Hold::Free
    )]
    #[case::a_back_off_in_the_status_of_other_credentials(
        known(|_, evidence| {
            evidence.failure = Some(failure(VendorUnavailable, 90, Some(120)));
            evidence.is_same_credential = false;
        }),
        Hold::Free, Hold::Free
    )]
    #[case::a_latch(
        known(|facts, _| facts.failure = Some(failure(CredentialsRejected, 90, None))), Hold::Latched, Hold::Free
    )]
    #[case::a_latch_in_the_status_that_a_token_followed(
        known(|_, evidence| {
            evidence.failure = Some(failure(CredentialsRejected, 90, None));
            evidence.issued = Some(at(95));
        }),
        Hold::Free, Hold::Free
    )]
    #[case::a_latch_in_another_status_against_credentials_that_are_proven(
        known(|facts, evidence| {
            facts.failure = Some(PastFailure { only_from_other_status: true, ..failure(CredentialsRejected, 90, None) });
            evidence.issued = Some(at(50));
        }),
        Hold::Free, Hold::Free
    )]
    #[case::a_throttle_deadline_is_never_overridden(
        known(|facts, _| facts.failure = Some(failure(RateLimited, 90, Some(160)))),
        until(160), until(160)
    )]
    #[case::an_account(
        known(|facts, _| facts.account_free_at = Some(at(500))), until(500), until(500)
    )]
    #[case::an_account_and_credentials_that_are_proven_here(
        known(|facts, _| {
            facts.account_free_at = Some(at(500));
            facts.is_proven = true;
        }),
        Hold::Free, Hold::Free
    )]
    #[case::an_account_and_credentials_that_the_target_proves(
        known(|facts, evidence| {
            facts.account_free_at = Some(at(500));
            evidence.issued = Some(at(50));
        }),
        Hold::Free, Hold::Free
    )]
    #[case::an_account_and_a_proven_password_that_was_rejected_since(
        known(|facts, evidence| {
            facts.failure = Some(failure(CredentialsRejected, 90, Some(100)));
            facts.account_free_at = Some(at(500));
            facts.is_proven = true;
            evidence.issued = Some(at(50));
        }),
        until(500), until(500)
    )]
    #[case::an_account_and_a_proven_password_that_a_crash_left_without_an_answer(
        known(|facts, evidence| {
            evidence.failure = Some(PastFailure::about_to_be_sent(2, at(90), Some(at(95)), inputs()));
            facts.account_free_at = Some(at(500));
            evidence.issued = Some(at(50));
        }),
        until(500), until(500)
    )]
    #[case::an_account_and_a_proven_password_that_another_grant_had_rejected(
        known(|facts, evidence| {
            facts.is_in_doubt = true;
            facts.account_free_at = Some(at(500));
            facts.is_proven = true;
            evidence.issued = Some(at(50));
        }),
        until(500), until(500)
    )]
    #[case::the_lock_of_its_account_and_credentials_that_are_proven(
        known(|facts, evidence| {
            facts.account_lock = Some(AccountLock { until: at(500), only_from_status: false });
            facts.is_proven = true;
            evidence.issued = Some(at(50));
        }),
        until(500), until(500)
    )]
    #[case::a_lock_that_another_status_shows_against_credentials_that_are_proven(
        known(|facts, _| {
            facts.account_lock = Some(AccountLock { until: at(500), only_from_status: true });
            facts.is_proven = true;
        }),
        Hold::Free, Hold::Free
    )]
    #[case::a_lock_that_another_status_shows_against_an_unproven_password(
        known(|facts, _| {
            facts.account_free_at = Some(at(300));
            facts.account_lock = Some(AccountLock { until: at(500), only_from_status: true });
        }),
        until(500), until(500)
    )]
    #[case::the_lock_of_an_account_is_never_overridden(
        known(|_, evidence| evidence.failure = Some(lock(90, 1900))), until(1900), until(1900)
    )]
    #[case::a_lock_of_a_day(
        known(|_, evidence| evidence.failure = Some(lock(90, 86_490))), until(86_490), until(86_490)
    )]
    #[case::a_lock_that_is_over(
        known(|_, evidence| evidence.failure = Some(lock(50, 100))), Hold::Free, Hold::Free
    )]
    #[case::a_record_of_an_attempt_under_way_hides_no_failure(
        known(|facts, evidence| {
            facts.failure = Some(failure(CredentialsRejected, 50, None));
            facts.under_way = true;
            evidence.failure = Some(PastFailure::about_to_be_sent(2, at(90), Some(at(95)), inputs()));
        }),
        Hold::Latched, Hold::Free
    )]
    #[case::the_least_gap(
        known(|facts, _| {
            facts.gap_ends = Some(at(400));
            facts.gap_on_request_ends = Some(at(110));
        }),
        until(400), until(110)
    )]
    #[case::the_failure_comes_before_the_account_and_the_gap(
        known(|facts, _| {
            facts.failure = Some(failure(VendorUnavailable, 90, Some(120)));
            facts.account_free_at = Some(at(500));
            facts.gap_ends = Some(at(400));
        }),
        until(120), until(500)
    )]
    #[case::a_pause_of_the_endpoint_holds_no_grant(
        known(|facts, _| facts.paused_until = Some(at(400))), Hold::Free, Hold::Free
    )]
    fn each_fact_of_a_grant_has_its_hold(
        #[case] (facts, evidence): (GrantFacts, Evidence),
        #[case] because_due: Hold,
        #[case] on_request: Hold,
    ) {
        let standing = Standing::new(facts, &evidence, at(100));
        assert_eq!(standing.hold(false), because_due);
        assert_eq!(standing.hold(true), on_request);
    }

    fn shows(failure: PastFailure) -> VendorTokenStatus {
        VendorTokenStatus {
            failure: Some(crate::api::FailureStatus {
                reason: failure.reason.as_str().to_owned(),
                message: failure.message,
                count: failure.count,
                last_attempt_time: Time(failure.last_attempt),
                next_attempt_time: failure.next_attempt.map(Time),
                inputs: failure.inputs.to_string(),
            }),
            ..VendorTokenStatus::default()
        }
    }

    fn others() -> Inputs {
        Inputs {
            fingerprint: "4".repeat(32),
            ..inputs()
        }
    }

    fn of_another_key() -> Inputs {
        Inputs {
            key_id: "9".repeat(8),
            ..others()
        }
    }

    fn rejection(of: Inputs, next_attempt: Option<i64>) -> Option<PastFailure> {
        Some(PastFailure {
            inputs: of,
            ..failure(CredentialsRejected, 0, next_attempt)
        })
    }

    // edge case 1
    #[rstest]
    #[case::first_grant(None, None, false)]
    #[case::token_of_these(Some(inputs()), None, false)]
    #[case::token_of_others(Some(others()), None, true)]
    #[case::token_of_others_by_a_lost_key(Some(of_another_key()), None, false)]
    #[case::rejection_of_others(None, rejection(others(), None), true)]
    #[case::rejection_of_others_by_a_lost_key(None, rejection(of_another_key(), None), false)]
    #[case::trouble_with_others(
        None, Some(PastFailure { inputs: others(), ..failure(VendorUnavailable, 0, Some(5)) }), false
    )]
    #[case::rejection_of_these(None, rejection(inputs(), Some(3600)), false)]
    #[case::early_rejection_of_these(None, rejection(inputs(), Some(60)), true)]
    #[case::last_early_rejection_of_these(None, rejection(inputs(), Some(504)), true)]
    #[case::latch_of_these(None, rejection(inputs(), None), false)]
    #[case::lock_of_these(None, Some(lock(0, 60)), false)]
    #[case::trouble_with_these(None, Some(failure(VendorUnavailable, 0, Some(5))), false)]
    fn credentials_are_a_replacement_where_others_came_before_them(
        #[case] stored: Option<Inputs>,
        #[case] failure: Option<PastFailure>,
        #[case] expected: bool,
    ) {
        let stored = stored.map(|inputs| Stored {
            issued: at(0),
            expires: at(3600),
            inputs,
            credentials_version: None,
            refresh_handled: None,
            is_in_place: true,
            is_readable: true,
        });
        let status = failure.map(shows).unwrap_or_default();
        let evidence = Evidence::new(&status, stored.as_ref(), &inputs(), at(100));
        assert_eq!(evidence.is_replacement, expected);
    }
}
