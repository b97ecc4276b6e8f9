//! Attempts with a rejected credential that nobody has changed: early ones where it has replaced another one, one that
//! confirms the rejection of a proven password, and none before the end of an account's lock.

use super::*;
use crate::policy::Hold;

const HOUR: u64 = 3600;

/// The credentials of grant 1 at this vendor, in the place of others.
fn replacement(vendor: Vendor) -> Ask {
    Ask {
        evidence: Evidence {
            is_replacement: true,
            ..Evidence::default()
        },
        ..ask("o", 1, grant_of(vendor))
    }
}

/// A password that has brought the token in the target.
fn proven() -> Ask {
    Ask {
        account: Some(Account::from_bytes([1; 16])),
        evidence: Evidence {
            issued: Some(start() - SignedDuration::from_mins(50)),
            ..Evidence::default()
        },
        ..ask("o", 1, grant_of(Vendor::CheckmarxSca))
    }
}

fn with_failure(ask: Ask, failure: Option<PastFailure>) -> Ask {
    Ask {
        evidence: Evidence {
            failure,
            is_same_credential: true,
            ..ask.evidence
        },
        ..ask
    }
}

impl Bench {
    /// Asks every five seconds, as often as the holds let.
    async fn ask_for(&self, seconds: u64, ask: impl Fn() -> Ask) {
        for _ in 0..seconds / 5 {
            self.ask_as(ask());
            self.pass(5).await;
        }
    }

    /// A new process, begun at the present time of this one.
    fn successor(&self, script: impl FnMut(&Call) -> Answer + Send + 'static) -> Self {
        let successor = bench(script);
        successor
            .clock
            .step(self.clock.now().duration_since(successor.clock.now()));
        successor.grants.start_leading();
        successor
    }
}

/// The waits between the attempts, in seconds, and the bounds that each must keep: jitter adds a fifth, and this test
/// another 5 s.
fn assert_waits(times: &[u64], expected: &[u64]) {
    let waits: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(waits.len(), expected.len(), "{waits:?}");
    for (wait, least) in waits.iter().zip(expected) {
        assert!((*least..=least + least / 5 + 6).contains(wait), "{waits:?}");
    }
}

// edge case 1
#[rstest::rstest]
#[case(Vendor::SixMap)]
#[case(Vendor::SixClicks)]
#[case(Vendor::Mapiq)]
#[case(Vendor::Picus)]
#[tokio::test(start_paused = true)]
async fn a_new_credential_is_tried_after_1_3_and_10_minutes_then_hourly(#[case] vendor: Vendor) {
    let bench = bench(|_| rejected());
    bench.ask_for(10_500, || replacement(vendor)).await;
    assert_waits(&bench.times(), &[60, 120, 420, 3600, 3600]);
}

#[tokio::test(start_paused = true)]
async fn a_first_credential_is_tried_hourly_from_its_first_rejection_on() {
    let bench = bench(|_| rejected());
    bench.ask_for(3 * HOUR, || ask("o", 1, Grant::Mapiq)).await;
    assert_waits(&bench.times(), &[3600, 3600]);
}

#[tokio::test(start_paused = true)]
async fn a_new_credential_that_its_vendor_knows_a_minute_later_is_used_then() {
    let bench = bench(|call| match call.at.as_secs() {
        0..60 => rejected(),
        _ => token("t", 3600),
    });
    bench.ask_for(75, || replacement(Vendor::Mapiq)).await;
    assert_eq!(bench.token("o").as_deref(), Some("t"));
    assert_eq!(bench.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_password_that_may_lock_its_account_is_tried_once() {
    let bench = bench(|_| rejected());
    let account = Some(Account::from_bytes([1; 16]));
    let ask = || Ask {
        account,
        ..replacement(Vendor::CheckmarxSca)
    };
    bench.ask_for(2 * HOUR, ask).await;
    assert_eq!(bench.calls().len(), 1);
    assert_eq!(bench.observe(ask()).hold, Hold::Latched);
}

#[tokio::test(start_paused = true)]
async fn early_attempts_go_on_after_a_restart() {
    let first = bench(|_| rejected());
    first.ask_for(100, || replacement(Vendor::Mapiq)).await;
    assert_eq!(first.calls().len(), 2, "at once, and after a minute");
    let failure = first.facts("o").failure;
    let second = first.successor(|_| rejected());
    second
        .ask_for(2 * HOUR, || {
            with_failure(replacement(Vendor::Mapiq), failure.clone())
        })
        .await;
    let times = second.times();
    assert!(
        (80..=115).contains(&times[0]),
        "three minutes after the first: {times:?}"
    );
    assert_waits(&times, &[420, 3600]);
}

#[tokio::test(start_paused = true)]
async fn trouble_in_between_uses_up_no_early_attempt() {
    let bench = bench(|call| match call.index {
        0 | 2 => unreachable(),
        _ => rejected(),
    });
    bench.ask_for(2 * HOUR, || replacement(Vendor::Mapiq)).await;
    // The back-off of trouble doubles with each failure in a row.
    assert_waits(&bench.times(), &[5, 60, 20, 120, 420, 3600]);
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_is_revoked_after_a_success_has_no_early_attempts() {
    let bench = bench(|call| match call.index {
        0 => token("t", 60),
        _ => rejected(),
    });
    // The target is not written, and goes on showing the token of the credential before.
    bench.ask_for(2 * HOUR, || replacement(Vendor::Mapiq)).await;
    let times = bench.times();
    assert_waits(&times[1..], &[3600]);
}

// edge case 1
#[tokio::test(start_paused = true)]
async fn the_rejection_of_a_proven_password_is_confirmed_once_after_5_minutes() {
    let bench = bench(|_| rejected());
    bench.ask_for(24 * HOUR, proven).await;
    assert_waits(&bench.times(), &[300]);
    assert_eq!(bench.observe(proven()).hold, Hold::Latched);
}

#[tokio::test(start_paused = true)]
async fn a_proven_password_that_was_rejected_by_mistake_brings_a_token_5_minutes_later() {
    let bench = bench(|call| match call.index {
        0 => rejected(),
        _ => token("t", 3600),
    });
    bench.ask_for(380, proven).await;
    assert_eq!(bench.token("o").as_deref(), Some("t"));
    assert_eq!(bench.calls().len(), 2);
    assert_eq!(bench.facts("o").failure, None);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_is_confirmed_after_a_restart_latches() {
    let first = bench(|_| rejected());
    first.ask_for(60, proven).await;
    let failure = first.facts("o").failure.unwrap();
    assert_eq!((failure.count, first.calls().len()), (1, 1));
    let second = first.successor(|_| rejected());
    second
        .ask_for(24 * HOUR, || with_failure(proven(), Some(failure.clone())))
        .await;
    assert_eq!(second.calls().len(), 1, "the one that confirms it");
    let failure = second.facts("o").failure;
    assert_eq!(failure.as_ref().map(|failure| failure.next_attempt), Some(None));
    let third = second.successor(|_| rejected());
    third
        .ask_for(24 * HOUR, || with_failure(proven(), failure.clone()))
        .await;
    assert_eq!(third.calls().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn trouble_at_the_confirming_attempt_gives_no_second_one() {
    let first = bench(|call| match call.index {
        0 | 2 => rejected(),
        _ => unreachable(),
    });
    first.ask_for(24 * HOUR, proven).await;
    assert_waits(&first.times(), &[300, 10]);

    // Nor where a restart comes in between: what the status shows last is the trouble.
    let first = bench(|call| match call.index {
        0 => rejected(),
        _ => unreachable(),
    });
    first.ask_for(330, proven).await;
    let failure = first.facts("o").failure.unwrap();
    assert_eq!((failure.reason, failure.count), (Reason::VendorUnavailable, 2));
    let second = first.successor(|_| rejected());
    second
        .ask_for(24 * HOUR, || with_failure(proven(), Some(failure.clone())))
        .await;
    assert_eq!(second.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_confirming_attempt_is_recorded_and_counts_against_the_account() {
    let bench = bench(|_| rejected());
    bench.ask_for(5, proven).await;
    bench.pass(400).await;
    let shown = || with_failure(proven(), bench.facts("o").failure);
    let Reservation::Permitted(permit) = bench.grants.reserve(&shown().observation(&inputs()), None) else {
        panic!("not permitted");
    };
    let record = permit.attempt_to_record().expect("a record before it is sent");
    assert!(record.is_unanswered() && record.count == 2);
    drop(permit);
    // The rejection counts too, and others have tried two passwords of this user since.
    for number in 2..5 {
        bench.ask_as(Ask {
            evidence: Evidence::default(),
            ..Ask {
                account: proven().account,
                ..ask(&format!("o{number}"), number, proven().grant)
            }
        });
    }
    bench.settle().await;
    assert_eq!(bench.order(), [1, 2, 3]);
    assert!(
        matches!(bench.observe(shown()).hold, Hold::Until(_)),
        "the account is full"
    );
}

fn locked(minutes: u32) -> Answer {
    status(
        423,
        &format!(r#"{{"message":"Account locked. Try again in {minutes} minutes."}}"#),
    )
}

// edge case 1
#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_an_account_is_unlocked_not_even_on_request() {
    let bench = bench(|call| match call.index {
        0 => locked(30),
        _ => token("t", 3600),
    });
    let insisting = || Ask {
        account: Some(Account::from_bytes([1; 16])),
        refresh_request: Some("now".to_owned()),
        ..ask("o", 1, grant_of(Vendor::CheckmarxSca))
    };
    bench.ask_for(1795, insisting).await;
    assert_eq!(bench.calls().len(), 1);
    let failure = bench.facts("o").failure.unwrap();
    assert_eq!(failure.reason, Reason::CredentialsRejected);
    assert!(failure.message.contains("account locked"), "{}", failure.message);
    // And not after a restart.
    let second = bench.successor(|_| token("t", 3600));
    let shown = || with_failure(insisting(), Some(failure.clone()));
    assert!(matches!(second.observe(shown()).hold_on_request, Hold::Until(_)));
    bench.ask_for(60, insisting).await;
    assert_eq!(bench.token("o").as_deref(), Some("t"));
}

#[tokio::test(start_paused = true)]
async fn a_lock_of_a_day_is_kept() {
    let bench = bench(|_| locked(24 * 60));
    bench.ask_for(24 * HOUR - 5, || ask("o", 1, Grant::Mapiq)).await;
    assert_eq!(bench.calls().len(), 1);
    bench.ask_for(60, || ask("o", 1, Grant::Mapiq)).await;
    assert_eq!(bench.calls().len(), 2);
}

/// An object of namespace `b` with another password of the user.
fn of_the_same_user(number: u8) -> Ask {
    Ask {
        account: Some(Account::from_bytes([1; 16])),
        refresh_request: Some("now".to_owned()),
        ..ask(&format!("b/o{number}"), number, grant_of(Vendor::CheckmarxSca))
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_holds_for_every_password_of_its_account() {
    let bench = bench(|call| match call.grant {
        1 => locked(30),
        _ => token("t", 3600),
    });
    bench.ask_as(of_the_same_user(2));
    bench.pass(600).await;
    bench.ask_as(proven());
    bench.settle().await;
    assert_eq!(bench.order(), [2, 1]);
    // A proven one, and one that nobody has tried.
    for _ in 0..359 {
        bench.ask_as(of_the_same_user(2));
        bench.ask_as(of_the_same_user(3));
        bench.pass(5).await;
    }
    let standing = bench.observe(of_the_same_user(3));
    assert!(standing.is_account_locked && standing.hold_on_request != Hold::Free);
    bench.ask_as(Ask {
        account: Some(Account::from_bytes([2; 16])),
        ..of_the_same_user(4)
    });
    bench.settle().await;
    assert_eq!(bench.order(), [2, 1, 4], "another user is not held back");
    bench.pass(60).await;
    bench.ask_as(of_the_same_user(2));
    bench.ask_as(of_the_same_user(3));
    bench.settle().await;
    assert_eq!(bench.order(), [2, 1, 4, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_when_its_account_is_locked_is_not_sent() {
    let mut bench = bench_with(&[(Vendor::CheckmarxSca, 1)], 32, |call| match call.grant {
        1 => locked(30).after(Duration::from_secs(2)),
        _ => token("t", 3600),
    });
    bench.ask_as(of_the_same_user(1));
    bench.ask_as(of_the_same_user(2));
    assert!(bench.grants.waits_since(&object("b/o2")).is_some());
    bench.pass(10).await;
    bench.woken();
    bench.pass(120).await;
    assert_eq!(bench.order(), [1]);
    assert_eq!(bench.woken(), ["b/o2"], "it is decided anew");
    assert!(matches!(
        bench.observe(of_the_same_user(2)).hold_on_request,
        Hold::Until(_)
    ));
}

// Also where the password in the Secret was changed while no operator ran.
#[rstest::rstest]
#[case::of_the_same_password(true)]
#[case::of_another_password(false)]
#[tokio::test(start_paused = true)]
async fn a_lock_in_a_status_holds_for_unproven_passwords_after_a_restart(#[case] is_same_credential: bool) {
    let first = bench(|_| locked(30));
    first.ask_as(of_the_same_user(1));
    first.settle().await;
    let failure = first.facts("b/o1").failure;
    let second = first.successor(|_| token("t", 3600));
    second.observe(Ask {
        evidence: Evidence {
            failure,
            is_same_credential,
            ..Evidence::default()
        },
        ..of_the_same_user(if is_same_credential { 1 } else { 2 })
    });
    second.ask_for(1790, || of_the_same_user(3)).await;
    assert_eq!(second.calls().len(), 0);
    // The status of another one proves nothing against a password whose own target shows its token.
    second.ask_as(Ask {
        refresh_request: None,
        ..Ask {
            number: 4,
            fingerprint: fingerprint(4),
            ..proven()
        }
    });
    second.settle().await;
    assert_eq!(second.order(), [4]);
    second.ask_for(60, || of_the_same_user(3)).await;
    assert_eq!(second.order()[..2], [4, 3]);
}
