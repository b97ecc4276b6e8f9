//! The time of the next attempt after a failure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::failure::{Failure, FailureClass};
use crate::times::{later, whole_seconds_up};

/// Interval of the attempts with a rejected credential, at a vendor that locks no accounts: the failure is not expected
/// to pass by itself.
const PROBE_SECONDS: i64 = 3600;

/// Waits before the early attempts with a credential that has replaced another one, so that they come 1, 3 and 10
/// minutes after the rejection: a vendor may take a while to know a new secret.
const EARLY_SECONDS: [i64; 3] = [60, 120, 420];

/// Wait before the confirming attempt with a proven password that may lock its account: a directory under load rejects
/// good passwords, and without that attempt only a person ends the latch.
const CONFIRMING_SECONDS: i64 = 300;

/// The longest lock of an account that is kept, in seconds, and the farthest credible end of a lock: the longest, its
/// jitter and a reserve.
const LONGEST_LOCK_SECONDS: i64 = 24 * 3600;
const FARTHEST_LOCK_SECONDS: i64 = 25 * 3600;

/// The farthest credible deadline, in seconds from now: an hour, its jitter, and a reserve. One beyond it was written
/// by a wrong clock or by somebody else, and would hold a grant for as long as that clock was off.
const FARTHEST_DEADLINE_SECONDS: i64 = 2 * 3600;

/// The longest pause of Kubernetes calls that the API server has not asked for.
const LONGEST_SERVER_PAUSE: Duration = Duration::from_secs(5);
/// The longest wait of an object whose reconciles fail.
const LONGEST_OBJECT_PAUSE: Duration = Duration::from_secs(300);

/// True while `deadline` has not passed at `now` and is credible: at most two hours ahead.
pub fn holds(deadline: Timestamp, now: Timestamp) -> bool {
    now < deadline && deadline <= later(now, FARTHEST_DEADLINE_SECONDS)
}

/// True while the end of an account's lock has not passed at `now` and is credible: a little more than a day ahead at
/// most.
pub fn lock_holds(lock_end: Timestamp, now: Timestamp) -> bool {
    now < lock_end && lock_end <= later(now, FARTHEST_LOCK_SECONDS)
}

/// True where the attempt that follows a rejection comes sooner than the hourly one: it is one of the early attempts.
pub fn is_early(rejected: Timestamp, next_attempt: Timestamp) -> bool {
    next_attempt < later(rejected, PROBE_SECONDS)
}

/// The time of the next attempt after one whose answer a crash lost: that after a transient failure. For `count` and
/// `jitter` see [`next_attempt`].
pub fn after_transient(count: i32, jitter: u8, now: Timestamp) -> Option<Timestamp> {
    let failure = Failure::new(FailureClass::Transient, "");
    next_attempt(&failure, count, Rejections::default(), jitter, now)
}

/// The pause of Kubernetes calls after this many server errors in a row: 1 s doubling to 5 s, so that objects are
/// reconciled soon after the API server is back, and no less than the API server asks for.
pub fn after_server_error(failures: u32, retry_after: Option<Duration>) -> Duration {
    let doublings = failures.saturating_sub(1).min(8);
    Duration::from_secs(1 << doublings)
        .min(LONGEST_SERVER_PAUSE)
        .max(retry_after.unwrap_or_default())
}

/// The wait of one object whose reconcile has failed for this many times in a row while those of others succeeded: 5 s
/// doubling to 5 minutes.
pub fn after_own_error(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(8);
    Duration::from_secs(5 << doublings).min(LONGEST_OBJECT_PAUSE)
}

/// The rejections of one credential. They decide about attempts while nothing has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejections {
    /// The number of rejections since the last success, the present one included.
    pub count: i32,
    /// True where the vendor locks accounts after failed attempts (Checkmarx SCA).
    pub locks_accounts: bool,
    /// True when the credential has brought a token.
    pub is_proven: bool,
    /// True when the credential has replaced another one, and has brought no token yet.
    pub is_replacement: bool,
}

impl Rejections {
    /// The wait before the next attempt, in seconds; `None` where only a change may bring one.
    fn wait(self) -> Option<i64> {
        let earlier = usize::try_from(self.count.max(1) - 1).unwrap_or(usize::MAX);
        if self.locks_accounts {
            return (self.is_proven && earlier == 0).then_some(CONFIRMING_SECONDS);
        }
        let early = EARLY_SECONDS.get(earlier).filter(|_| self.is_replacement);
        Some(early.copied().unwrap_or(PROBE_SECONDS))
    }
}

/// The earliest time of the next attempt, in whole seconds, or `None` when only a change may bring one.
///
/// `count` is the number of failures in a row, this one included. `jitter` (0 to 255) only ever makes the time later. A
/// deadline of the vendor (`Retry-After`, RFC 9110 section 10.2.3, or its own fields) is kept within bounds: no sooner
/// than 1 s, doubled with each failure up to 60 s, and no later than an hour, jitter aside. Of a rejection the deadline
/// is the end of the account's lock: no attempt is made before, and one is made after it, since the vendor has not
/// judged the credential.
pub fn next_attempt(
    failure: &Failure,
    count: i32,
    rejections: Rejections,
    jitter: u8,
    now: Timestamp,
) -> Option<Timestamp> {
    let doublings = count.saturating_sub(1).clamp(0, 16);
    let doubling = |first: i64, most: i64| first.saturating_mul(1 << doublings).min(most);
    let seconds = match failure.class {
        FailureClass::Rejected => {
            let after_lock = failure.not_before.map(|_| doubling(300, 3600));
            rejections.wait().or(after_lock)?
        }
        FailureClass::Refused => doubling(300, 3600),
        FailureClass::Throttled => 60,
        FailureClass::Transient => doubling(5, 300),
        FailureClass::Malformed => doubling(60, 300),
    };
    let (base, spread) = match failure.not_before {
        Some(lock_end) if failure.class == FailureClass::Rejected => {
            let lock_end = lock_end.min(later(now, LONGEST_LOCK_SECONDS));
            (later(now, seconds).max(lock_end), 30)
        }
        // The vendor's deadline plus jitter, so that the grants it turned away do not return in one second.
        Some(deadline) => {
            // The wait grows with each failure even where the vendor always says "now".
            let soonest = later(now, doubling(1, 60));
            let deadline = deadline.max(soonest).min(later(now, 3600));
            (
                deadline,
                (deadline.duration_since(now).as_secs() / 10).clamp(1, 30),
            )
        }
        None => (later(now, seconds), (seconds / 5).max(1)),
    };
    let jitter = SignedDuration::from_millis(spread.saturating_mul(1000) * i64::from(jitter) / 255);
    let exact = base.checked_add(jitter).unwrap_or(base);
    Some(whole_seconds_up(exact))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn wait(class: FailureClass, count: i32, rejections: Rejections, jitter: u8) -> Option<i64> {
        let failure = Failure::new(class, "");
        next_attempt(&failure, count, rejections, jitter, now())
            .map(|time| time.as_second() - now().as_second())
    }

    fn locking() -> Rejections {
        Rejections {
            locks_accounts: true,
            ..Rejections::default()
        }
    }

    #[rstest]
    #[case::transient_starts_at_5_s(FailureClass::Transient, 1, Some(5))]
    #[case::transient_doubles(FailureClass::Transient, 3, Some(20))]
    #[case::transient_ends_at_5_minutes(FailureClass::Transient, 40, Some(300))]
    #[case::malformed_starts_at_a_minute(FailureClass::Malformed, 1, Some(60))]
    #[case::malformed_ends_at_5_minutes(FailureClass::Malformed, 9, Some(300))]
    #[case::refused_starts_at_5_minutes(FailureClass::Refused, 1, Some(300))]
    #[case::refused_ends_at_an_hour(FailureClass::Refused, 9, Some(3600))]
    #[case::rejected_is_probed_hourly(FailureClass::Rejected, 5, Some(3600))]
    #[case::throttled_without_a_deadline_waits_a_minute(FailureClass::Throttled, 7, Some(60))]
    fn each_failure_class_has_its_wait(
        #[case] class: FailureClass,
        #[case] count: i32,
        #[case] expected: Option<i64>,
    ) {
        assert_eq!(wait(class, count, Rejections::default(), 0), expected);
        let spread = wait(class, count, Rejections::default(), 255).unwrap() - expected.unwrap();
        assert!(
            spread > 0 && spread <= expected.unwrap() / 5 + 1,
            "spread {spread}"
        );
    }

    #[test]
    fn a_rejected_checkmarx_password_is_never_tried_again_by_itself() {
        assert_eq!(wait(FailureClass::Rejected, 1, locking(), 0), None);
        assert!(wait(FailureClass::Refused, 1, locking(), 0).is_some());
    }

    // edge case 1
    #[rstest]
    #[case::first_grant(false, false, false, 1, Some(3600))]
    #[case::replacement(false, false, true, 1, Some(60))]
    #[case::replacement_again(false, false, true, 2, Some(120))]
    #[case::replacement_the_third_time(false, false, true, 3, Some(420))]
    #[case::replacement_from_then_on(false, false, true, 4, Some(3600))]
    #[case::replacement_for_ever(false, false, true, i32::MAX, Some(3600))]
    #[case::revoked(false, true, false, 1, Some(3600))]
    #[case::wrong_password(true, false, false, 1, None)]
    #[case::wrong_new_password(true, false, true, 1, None)]
    #[case::proven_password(true, true, false, 1, Some(300))]
    #[case::proven_password_again(true, true, false, 2, None)]
    #[case::proven_password_for_ever(true, true, true, i32::MAX, None)]
    fn each_rejection_has_its_wait(
        #[case] locks_accounts: bool,
        #[case] is_proven: bool,
        #[case] is_replacement: bool,
        #[case] count: i32,
        #[case] expected: Option<i64>,
    ) {
        let rejections = Rejections {
            count,
            locks_accounts,
            is_proven,
            is_replacement,
        };
        // Other failures in between change nothing.
        for failures in [count, count.saturating_add(7)] {
            assert_eq!(wait(FailureClass::Rejected, failures, rejections, 0), expected);
        }
        let early = expected.is_some_and(|wait| is_early(now(), later(now(), wait)));
        assert_eq!(early, expected.is_some_and(|wait| wait < 3600));
    }

    // edge case 1
    #[rstest]
    #[case::unproven(locking(), 1, 1800, 1800)]
    #[case::not_sooner_than_5_minutes(locking(), 1, 1, 300)]
    #[case::later_with_each_lock(locking(), 3, 1, 1200)]
    #[case::of_a_day(locking(), 1, 86_400, 86_400)]
    #[case::proven(Rejections { is_proven: true, count: 1, ..locking() }, 1, 1800, 1800)]
    #[case::where_nobody_is_locked(Rejections::default(), 1, 1800, 3600)]
    #[case::longer_than_an_hour(Rejections::default(), 1, 7200, 7200)]
    #[case::early(Rejections { is_replacement: true, ..Rejections::default() }, 1, 1800, 1800)]
    fn no_attempt_is_made_before_the_end_of_a_lock(
        #[case] rejections: Rejections,
        #[case] count: i32,
        #[case] lock: i64,
        #[case] expected: i64,
    ) {
        let failure = Failure::new(FailureClass::Rejected, "").with_deadline(Some(later(now(), lock)));
        let next = |jitter| next_attempt(&failure, count, rejections, jitter, now()).unwrap();
        assert_eq!(next(0), later(now(), expected));
        assert_eq!(next(255), later(now(), expected + 30));
        assert!(lock_holds(next(255), now()));
    }

    #[test]
    fn the_end_of_a_lock_holds_for_up_to_25_hours() {
        assert!(lock_holds(later(now(), 25 * 3600), now()));
        assert!(!lock_holds(later(now(), 25 * 3600 + 1), now()));
        assert!(!lock_holds(now(), now()));
    }

    #[test]
    fn a_deadline_holds_until_its_time() {
        assert!(!holds(now(), now()));
        assert!(holds(later(now(), 1), now()));
        assert!(holds(later(now(), 7200), now()));
    }

    #[test]
    fn a_deadline_more_than_two_hours_ahead_holds_nothing() {
        assert!(!holds(later(now(), 7201), now()));
        assert!(!holds(Timestamp::MAX, now()));
    }

    #[rstest]
    #[case(1, None, 1)]
    #[case(2, None, 2)]
    #[case(3, None, 4)]
    #[case(4, None, 5)]
    #[case(u32::MAX, None, 5)]
    #[case(1, Some(30), 30)]
    #[case(9, Some(1), 5)]
    fn a_pause_of_kubernetes_calls_grows_and_keeps_to_what_was_asked(
        #[case] failures: u32,
        #[case] asked: Option<u64>,
        #[case] expected: u64,
    ) {
        let pause = after_server_error(failures, asked.map(Duration::from_secs));
        assert_eq!(pause.as_secs(), expected);
    }

    #[test]
    fn an_object_that_fails_alone_is_tried_less_and_less() {
        let waits = [1, 2, 3, 7, u32::MAX].map(|failures| after_own_error(failures).as_secs());
        assert_eq!(waits, [5, 10, 20, 300, 300]);
    }

    #[rstest]
    #[case(1, 1)]
    #[case(4, 8)]
    #[case(40, 60)]
    fn a_vendor_that_always_says_now_is_asked_less_and_less(#[case] count: i32, #[case] expected: i64) {
        for class in [FailureClass::Throttled, FailureClass::Transient] {
            let failure = Failure::new(class, "").with_deadline(Some(now()));
            let next = next_attempt(&failure, count, Rejections::default(), 0, now()).unwrap();
            assert_eq!(next, later(now(), expected));
        }
    }

    #[rstest]
    #[case::as_asked(289, 289)]
    #[case::not_sooner_than_a_second(-5, 1)]
    #[case::not_later_than_an_hour(86_400, 3600)]
    fn the_vendors_deadline_is_kept(#[case] asked: i64, #[case] expected: i64) {
        let deadline = later(now(), asked);
        for class in [FailureClass::Throttled, FailureClass::Transient] {
            let failure = Failure::new(class, "").with_deadline(Some(deadline));
            let next = next_attempt(&failure, 1, Rejections::default(), 0, now()).unwrap();
            assert_eq!(next, later(now(), expected));
        }
    }
}
