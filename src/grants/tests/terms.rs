//! What becomes of the state of a process that stands down and leads again: another one has led meanwhile.

use super::*;
use crate::api::names::Reason;
use crate::fingerprint::Account;
use crate::policy::PastFailure;

#[tokio::test(start_paused = true)]
async fn what_waited_when_the_process_stood_down_is_not_sent_when_it_leads_again() {
    let mut bench = bench_with(&[(Vendor::Mapiq, 6)], 32, |_| token("t", 3600));
    for number in 0..3 {
        bench.ask(&format!("o{number}"), number, Vendor::Mapiq);
    }
    bench.settle().await;
    assert_eq!(bench.calls().len(), 1, "the others wait for their slots");
    bench.grants.stands_down();
    assert_eq!(bench.grants.waits_since(&object("o1")), None);
    // A reconcile that had begun before goes on.
    bench.ask("late", 9, Vendor::Mapiq);
    bench.pass(600).await;
    bench.grants.begins();
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
        bench.grants.ask(Ask {
            account: Some(account),
            ..ask(&format!("o{number}"), number, grant_of(Vendor::CheckmarxSca))
        });
    }
    bench.settle().await;
    assert!(bench.state("o2").account_free_at.is_some());
    bench.grants.stands_down();
    assert_eq!(bench.state("o2").account_free_at, None);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_another_process_has_seen_a_success_after_holds_nothing() {
    let bench = bench(|call| match call.index {
        0 => rejected(),
        _ => token("t", 3600),
    });
    bench.ask("o", 1, Vendor::CheckmarxSca);
    bench.settle().await;
    let asked = |issued: i64| {
        bench.grants.ask(Ask {
            stored_issued: Some(start() + SignedDuration::from_secs(issued)),
            ..ask("o", 1, grant_of(Vendor::CheckmarxSca))
        })
    };
    assert_eq!(asked(60), None, "this process would know of a success");
    bench.grants.stands_down();
    bench.pass(600).await;
    bench.grants.begins();
    assert_eq!(asked(0), None, "the token is not newer than the rejection");
    // The target holds a token that these credentials brought to the process which led meanwhile.
    assert!(asked(60).is_some());
    bench.settle().await;
    assert_eq!(bench.token("o").as_deref(), Some("t"));
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_another_process_met_holds_for_an_endpoint_that_this_one_asked_before() {
    let bench = bench(|_| token("t", 3600));
    bench.ask("o", 1, Vendor::Mapiq);
    bench.settle().await;
    bench.grants.stands_down();
    bench.pass(600).await;
    let told = |last_attempt: i64, until: i64| PastFailure {
        reason: Reason::RateLimited,
        message: String::new(),
        count: 1,
        last_attempt: start() + SignedDuration::from_secs(last_attempt),
        next_attempt: Some(start() + SignedDuration::from_secs(until)),
        inputs: inputs(),
        hearsay: false,
    };
    let recall = |failure: PastFailure| {
        let endpoint = Grant::Mapiq.endpoint();
        bench
            .grants
            .recall(&object("o"), &endpoint, Vendor::Mapiq, &failure);
    };
    bench.grants.begins();
    recall(told(-60, 900));
    assert_eq!(
        bench.state("o").paused_until,
        None,
        "this process has had an answer since"
    );
    recall(told(590, 900));
    assert_eq!(bench.until(bench.state("o").paused_until), Some(300));
    bench.ask("p", 2, Vendor::Mapiq);
    bench.pass(299).await;
    assert_eq!(bench.calls().len(), 1);
    bench.pass(62).await;
    assert_eq!(bench.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_another_process_has_met_last_counts_and_not_what_this_one_met_before() {
    let bench = bench(|_| unreachable());
    let account = Account::from_bytes([1; 16]);
    bench.grants.ask(Ask {
        account: Some(account),
        ..ask("o", 1, grant_of(Vendor::CheckmarxSca))
    });
    bench.settle().await;
    assert_eq!(
        bench.state("o").failure.unwrap().reason,
        Reason::VendorUnavailable
    );
    bench.grants.stands_down();
    bench.pass(3600).await;
    bench.grants.begins();
    let rejected = |last_attempt: i64| PastFailure {
        reason: Reason::CredentialsRejected,
        message: String::new(),
        count: 2,
        last_attempt: start() + SignedDuration::from_secs(last_attempt),
        next_attempt: None,
        inputs: inputs(),
        hearsay: false,
    };
    let recall = |failure: PastFailure| {
        let endpoint = grant_of(Vendor::CheckmarxSca).endpoint();
        bench
            .grants
            .recall(&object("o"), &endpoint, Vendor::CheckmarxSca, &failure);
        bench.state("o").failure.unwrap().reason
    };
    assert_eq!(recall(rejected(-60)), Reason::VendorUnavailable);
    assert_eq!(recall(rejected(7200)), Reason::VendorUnavailable, "nobody met it");
    assert_eq!(recall(rejected(1800)), Reason::CredentialsRejected);
    assert!(
        bench
            .grants
            .holds_back(fingerprint(1), Some(account), None, false)
    );
    assert!(!bench.grants.holds_back(fingerprint(1), None, None, false));
}
