//! The slot of a request, at which its credentials are read; and fairness between endpoints.

use std::time::Duration;

use rstest::rstest;

use super::*;
use crate::policy::Hold;

#[tokio::test(start_paused = true)]
async fn credentials_are_read_when_the_slot_of_the_request_comes() {
    let bench = bench_with(&[(Vendor::Mapiq, 4)], 32, |_| token("t", 3600));
    for number in 0..10 {
        bench.ask_by_reference(ask(&format!("o{number}"), number, Grant::Mapiq));
    }
    bench.pass(50).await;
    let sent = bench.calls().len();
    assert!(sent < 10);
    assert_eq!(bench.secrets.read().len(), sent);
    bench.pass(300).await;
    assert_eq!(bench.calls().len(), 10);
    assert_eq!(bench.secrets.read().len(), 10, "once for each request");
}

#[tokio::test(start_paused = true)]
async fn credentials_at_hand_are_used_where_there_is_a_slot() {
    let bench = bench_with(&[], 2, |_| token("t", 3600).after(Duration::from_secs(1)));
    for number in 0..10 {
        bench.ask(&format!("o{number}"), number, Vendor::SixMap);
    }
    bench.pass(10).await;
    assert_eq!(bench.calls().len(), 10);
    assert_eq!(bench.secrets.read(), Vec::<String>::new());
}

#[rstest]
#[case::a_budget(&[(Vendor::Mapiq, 4)], 0)]
#[case::a_pause(&[], 1)]
#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_its_slot_holds_no_credentials(
    #[case] per_minute: &[(Vendor, u32)],
    #[case] throttles: usize,
) {
    let bench = bench_with(per_minute, 32, move |call| {
        if call.index < throttles {
            throttled(600)
        } else {
            token("t", 3600)
        }
    });
    bench.ask("first", 200, Vendor::Mapiq);
    bench.settle().await;
    for number in 0..100 {
        bench.ask(&format!("o{number}"), number, Vendor::Mapiq);
    }
    bench.settle().await;
    assert!(bench.calls().len() < 10);
    assert_eq!(bench.grants.lock().in_hand.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn credentials_at_hand_are_dropped_when_a_vendor_hangs() {
    let bench = bench_with(&[], 1, |_| hanging().after(Duration::from_secs(100)));
    for number in 0..10 {
        bench.ask(&format!("o{number}"), number, Vendor::SixMap);
    }
    bench.settle().await;
    assert_eq!(bench.grants.lock().in_hand.len(), 9);
    bench.pass(101).await;
    assert_eq!(bench.grants.lock().in_hand.len(), 0);
}

/// The change of a Secret before the slot of a request comes.
#[derive(Clone, Copy, Debug)]
enum Change {
    Rotated,
    Deleted,
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn credentials_that_were_changed_are_not_sent(
    #[values(Change::Rotated, Change::Deleted)] change: Change,
) {
    let mut bench = bench_with(&[(Vendor::Mapiq, 4)], 32, |_| token("t", 3600));
    bench.ask("first", 200, Vendor::Mapiq);
    bench.settle().await;
    bench.ask_by_reference(ask("o", 1, Grant::Mapiq));
    bench.woken();
    match change {
        Change::Rotated => bench.secrets.put(ask("o", 2, Grant::Mapiq)),
        Change::Deleted => bench.secrets.remove("o"),
    }
    bench.pass(120).await;
    assert_eq!(bench.order(), [200]);
    assert_eq!(bench.woken(), ["a/o"], "it is decided anew");
    assert_eq!(bench.grants.waits_since(&object("o")), None);
    // Neither the budget nor a place in flight is taken.
    assert_eq!(bench.grants.lock().in_flight.taken(), 0);
    for number in 3..=4 {
        bench.ask(&format!("o{number}"), number, Vendor::Mapiq);
    }
    bench.pass(30).await;
    assert_eq!(bench.order(), [200, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_not_sent_leaves_its_slot_to_the_next() {
    let bench = bench_with(&[(Vendor::Mapiq, 4)], 32, |_| token("t", 3600));
    bench.ask("first", 200, Vendor::Mapiq);
    bench.settle().await;
    bench.ask_by_reference(ask("o", 1, Grant::Mapiq));
    bench.ask_by_reference(ask("p", 2, Grant::Mapiq));
    bench.secrets.remove("o");
    bench.pass(60).await;
    assert_eq!(bench.order(), [200, 2]);
    assert_eq!(bench.times(), [0, 15]);
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_for_credentials_that_were_changed_are_woken() {
    let mut bench = bench_with(&[(Vendor::Mapiq, 4)], 32, |_| token("t", 3600));
    bench.ask("first", 200, Vendor::Mapiq);
    bench.settle().await;
    bench.woken();
    for name in ["o", "p", "b/q"] {
        bench.ask_by_reference(ask(name, 1, Grant::Mapiq));
    }
    for name in ["o", "p", "b/q"] {
        bench.secrets.remove(name);
    }
    bench.pass(60).await;
    assert_eq!(bench.woken(), ["a/o", "a/p", "b/q"]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_recorded_and_not_sent_stays_counted() {
    let bench = bench(|_| rejected());
    let account = Some(Account::from_bytes([1; 16]));
    let with = |number| Ask {
        account,
        ..ask("o", number, grant_of(Vendor::CheckmarxSca))
    };
    for number in 1..=3 {
        bench.ask_by_reference(with(number));
        bench.secrets.put(with(number + 1));
        bench.settle().await;
    }
    assert_eq!(bench.calls().len(), 0);
    assert!(matches!(bench.observe(with(4)).hold, Hold::Until(_)));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_after_a_step_down_during_the_read() {
    let bench = bench(|_| token("t", 3600));
    *bench.secrets.delay.lock().unwrap() = Duration::from_secs(2);
    bench.ask_by_reference(ask("o", 1, Grant::Mapiq));
    bench.pass(1).await;
    bench.grants.step_down();
    bench.pass(5).await;
    assert_eq!(bench.calls().len(), 0);
    assert_eq!(bench.grants.lock().in_flight.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn regions_that_hang_hold_up_no_refresh_of_one_that_exists() {
    let bench = bench(|call| match call.grant {
        255 => token("t", 3600),
        _ => hanging(),
    });
    for number in 0..250 {
        let region = Grant::six_clicks(format!("r{number}")).unwrap();
        bench.ask_as(ask(&format!("hostile/o{number}"), number, region));
    }
    bench.pass(1).await;
    let region = Grant::six_clicks("au").unwrap();
    bench.ask_as(Ask {
        evidence: Evidence {
            live_until: Some(start() + SignedDuration::from_secs(60)),
            ..Evidence::default()
        },
        ..ask("other/o", 255, region)
    });
    bench.pass(31).await;
    assert!(bench.order().contains(&255), "{:?}", bench.order());
}
