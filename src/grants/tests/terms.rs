//! The state of a process that steps down and leads again, after another one has led.

use super::*;
use crate::policy::Hold;

#[tokio::test(start_paused = true)]
async fn requests_waiting_at_the_step_down_are_not_sent_in_the_next_term() {
    let mut bench = bench_with(&[(Vendor::Mapiq, 1)], 32, |_| token("t", 3600));
    for number in 0..3 {
        bench.ask(&format!("o{number}"), number, Vendor::Mapiq);
    }
    bench.settle().await;
    assert_eq!(bench.calls().len(), 1, "the others wait for their slots");
    bench.grants.step_down();
    assert_eq!(bench.grants.waits_since(&object("o1")), None);
    // A reconcile that began before goes on.
    bench.ask("late", 9, Vendor::Mapiq);
    bench.pass(600).await;
    bench.grants.start_leading();
    bench.pass(600).await;
    assert_eq!(
        bench.order(),
        [0],
        "another process has asked for them since, or their credentials are others"
    );
    bench.woken();
    bench.ask("o1", 1, Vendor::Mapiq);
    bench.pass(60).await;
    assert_eq!(bench.order(), [0, 1], "what is decided anew is sent");
    assert_eq!(bench.woken(), ["a/o1"]);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_were_not_sent_do_not_count_against_their_account() {
    let bench = bench_with(&[(Vendor::CheckmarxSca, 1)], 32, |_| rejected());
    let account = Account::from_bytes([1; 16]);
    for number in 0..4 {
        bench.ask_as(Ask {
            account: Some(account),
            ..ask(&format!("o{number}"), number, grant_of(Vendor::CheckmarxSca))
        });
    }
    bench.settle().await;
    assert!(bench.facts("o2").account_free_at.is_some());
    bench.grants.step_down();
    assert_eq!(bench.facts("o2").account_free_at, None);
}

#[tokio::test(start_paused = true)]
async fn a_success_of_another_process_ends_a_rejection() {
    let bench = bench(|call| match call.index {
        0 => rejected(),
        _ => token("t", 3600),
    });
    bench.ask("o", 1, Vendor::CheckmarxSca);
    bench.settle().await;
    let asked = |issued: i64| {
        bench.ask_as(Ask {
            evidence: Evidence {
                issued: Some(start() + SignedDuration::from_secs(issued)),
                ..Evidence::default()
            },
            ..ask("o", 1, grant_of(Vendor::CheckmarxSca))
        })
    };
    assert_eq!(asked(60), None, "this process would know of a success");
    bench.grants.step_down();
    bench.pass(600).await;
    bench.grants.start_leading();
    assert_eq!(asked(0), None, "the token is not newer than the rejection");
    // The target holds a token that another process got with these credentials.
    assert!(asked(60).is_some());
    bench.settle().await;
    assert_eq!(bench.token("o").as_deref(), Some("t"));
}

#[tokio::test(start_paused = true)]
async fn a_pause_from_another_process_holds() {
    let bench = bench(|_| token("t", 3600));
    bench.ask("o", 1, Vendor::Mapiq);
    bench.settle().await;
    bench.grants.step_down();
    bench.pass(600).await;
    let observe = |last_attempt: i64, until: i64| {
        bench.observe(Ask {
            evidence: status_shows(Reason::RateLimited, 1, last_attempt, Some(until)),
            ..ask("o", 1, Grant::Mapiq)
        });
    };
    bench.grants.start_leading();
    observe(-60, 900);
    assert_eq!(
        bench.facts("o").paused_until,
        None,
        "this process has had an answer since"
    );
    observe(590, 900);
    assert_eq!(bench.until(bench.facts("o").paused_until), Some(300));
    bench.ask("p", 2, Vendor::Mapiq);
    bench.pass(299).await;
    assert_eq!(bench.calls().len(), 1);
    bench.pass(62).await;
    assert_eq!(bench.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_later_failure_of_another_process_replaces_an_earlier_one() {
    let bench = bench(|_| unreachable());
    let account = Account::from_bytes([1; 16]);
    bench.ask_as(Ask {
        account: Some(account),
        ..ask("o", 1, grant_of(Vendor::CheckmarxSca))
    });
    bench.settle().await;
    assert_eq!(
        bench.facts("o").failure.unwrap().reason,
        Reason::VendorUnavailable
    );
    bench.grants.step_down();
    bench.pass(3600).await;
    bench.grants.start_leading();
    let shows = |last_attempt: i64| Ask {
        account: Some(account),
        evidence: status_shows(Reason::CredentialsRejected, 2, last_attempt, None),
        ..ask("o", 1, grant_of(Vendor::CheckmarxSca))
    };
    let observe = |last_attempt: i64| {
        bench.observe(shows(last_attempt));
        bench.facts("o").failure.unwrap().reason
    };
    assert_eq!(observe(-60), Reason::VendorUnavailable);
    assert_eq!(observe(7200), Reason::VendorUnavailable, "nobody met it");
    assert_eq!(observe(1800), Reason::CredentialsRejected);
    let other = || ask("other", 1, grant_of(Vendor::CheckmarxSca));
    assert_eq!(
        bench.observe(other()).hold,
        Hold::Latched,
        "it holds for all who share it"
    );
    let proven = Ask {
        evidence: Evidence {
            issued: Some(start() + SignedDuration::from_secs(900)),
            ..Evidence::default()
        },
        ..other()
    };
    assert_eq!(
        bench.observe(proven).hold,
        Hold::Free,
        "its own target proves the credential"
    );
}
