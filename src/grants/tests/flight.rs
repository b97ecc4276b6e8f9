//! Single flight, concurrency, and the order of requests.

use std::time::Duration;

use rstest::rstest;

use super::*;

#[tokio::test(start_paused = true)]
async fn objects_with_one_fingerprint_share_one_request() {
    let mut bench = bench(|_| token("t", 3600).after(Duration::from_secs(2)));
    for index in 0..20 {
        bench.ask(&format!("n{}/o{index:02}", index % 3), 1, Vendor::SixMap);
    }
    bench.pass(1).await;
    bench.ask("late", 1, Vendor::SixMap);
    assert_eq!(bench.woken(), Vec::<String>::new());
    bench.pass(2).await;
    assert_eq!(bench.order(), [1]);
    let woken = bench.woken();
    assert_eq!(woken.len(), 21, "{woken:?}");
    for index in 0..20 {
        assert_eq!(
            bench.token(&format!("n{}/o{index:02}", index % 3)).as_deref(),
            Some("t")
        );
    }
    assert_eq!(bench.token("late").as_deref(), Some("t"));
}

#[tokio::test(start_paused = true)]
async fn asking_again_gives_the_moment_since_which_an_object_waits() {
    let bench = bench(|_| hanging());
    let first = bench.ask_as(ask("o", 1, grant_of(Vendor::SixMap)));
    bench.pass(3).await;
    let again = bench.ask_as(ask("o", 1, grant_of(Vendor::SixMap)));
    let other = bench.ask_as(ask("p", 1, grant_of(Vendor::SixMap)));
    assert_eq!(again, first);
    assert_eq!(other.unwrap().since(first.unwrap()), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn requests_to_one_endpoint_run_side_by_side_up_to_the_bound() {
    let bench = bench_with(&[], 4, |_| token("t", 3600).after(Duration::from_secs(1)));
    for number in 0..10 {
        bench.ask(&format!("o{number}"), number, Vendor::SixMap);
    }
    bench.settle().await;
    assert_eq!(bench.calls().len(), 4);
    bench.pass(10).await;
    assert_eq!(bench.times(), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]);
    assert_eq!(bench.most_in_flight(), 4);
}

#[tokio::test(start_paused = true)]
async fn all_endpoints_together_have_four_times_the_bound_of_one() {
    let bench = bench_with(&[], 2, |_| token("t", 3600).after(Duration::from_secs(1)));
    for (number, vendor) in Vendor::ALL.into_iter().chain(Vendor::ALL).enumerate() {
        bench.ask(&format!("o{number}"), number as u8, vendor);
    }
    bench.settle().await;
    assert_eq!(bench.calls().len(), 8);
    bench.pass(5).await;
    assert_eq!(bench.times(), [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
    assert_eq!(bench.most_in_flight(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_vendor_that_hangs_delays_no_other() {
    let bench = bench_with(&[], 2, |call| match call.grant {
        0..10 => hanging(),
        _ => token("t", 3600),
    });
    for number in 0..6 {
        bench.ask(&format!("o{number}"), number, Vendor::Picus);
    }
    bench.ask("other", 20, Vendor::SixClicks);
    bench.settle().await;
    assert_eq!(bench.token("other").as_deref(), Some("t"));
    assert_eq!(bench.calls().len(), 3);
}

#[rstest]
#[case(1)]
#[case(2)]
#[case(32)]
#[tokio::test(start_paused = true)]
async fn four_vendors_that_hang_do_not_delay_the_fifth(#[case] bound: usize) {
    for last in Vendor::ALL {
        let bench = bench_with(&[], bound, |call| match call.grant {
            0..200 => hanging(),
            _ => token("t", 3600).after(Duration::from_millis(100)),
        });
        let others = Vendor::ALL.into_iter().filter(|vendor| *vendor != last);
        for (number, vendor) in (0..200_u8).zip(others.cycle()) {
            bench.ask(&format!("o{number}"), number, vendor);
        }
        bench.settle().await;
        let hang = bench.calls().len();
        assert_eq!(hang, bound * 4 - if bound == 1 { 0 } else { bound / 2 });
        let asked = Instant::now();
        for number in 200..220_u8 {
            bench.ask(&format!("last{number}"), number, last);
        }
        while (200..220).any(|number| bench.token(&format!("last{number}")).is_none()) {
            bench.settle().await;
        }
        // Twenty requests of a tenth of a second each, as many at a time as the vendor's share.
        let rounds = 20_usize.div_ceil((bound / 2).max(1));
        let most = Duration::from_millis(110 * rounds as u64);
        assert!(asked.elapsed() <= most, "{last}: {:?}", asked.elapsed());
        bench.running.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_sent_in_the_order_of_the_queue() {
    let bench = bench_with(&[], 1, |_| token("t", 3600).after(Duration::from_secs(1)));
    // The first one takes the slot while the others queue.
    bench.ask_live("o", 99, Vendor::SixMap, 5);
    bench.settle().await;
    for (name, number) in [("many/a", 50), ("many/b", 51), ("many/c", 52), ("few/a", 60)] {
        bench.ask(name, number, Vendor::SixMap);
    }
    for number in (1..=8).rev() {
        bench.ask_live(
            &format!("l{number}"),
            number,
            Vendor::SixMap,
            100 * i64::from(number),
        );
    }
    bench.pass(30).await;
    assert_eq!(bench.order(), [99, 1, 2, 3, 50, 4, 5, 6, 7, 60, 8, 51, 52]);
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_token_ends_sooner_brings_its_grant_forward() {
    let bench = bench_with(&[], 1, |_| token("t", 3600).after(Duration::from_secs(1)));
    bench.ask_live("o", 99, Vendor::SixMap, 5);
    bench.settle().await;
    bench.ask("first-time", 1, Vendor::SixMap);
    bench.ask_live("late", 2, Vendor::SixMap, 300);
    bench.ask_live("middle", 3, Vendor::SixMap, 200);
    // Shares the grant of the first-time object, and its token ends before all others do.
    bench.ask_live("joins", 1, Vendor::SixMap, 100);
    bench.ask_live("joins-later", 2, Vendor::SixMap, 150);
    // An object with a later expiry, or with no token, moves nothing back.
    bench.ask_live("relaxed", 3, Vendor::SixMap, 9000);
    bench.ask("tokenless", 3, Vendor::SixMap);
    bench.ask_live("last", 4, Vendor::SixMap, 250);
    bench.pass(10).await;
    assert_eq!(bench.order(), [99, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn withdrawing_cancels_only_requests_without_another_waiter() {
    let mut bench = bench_with(&[], 1, |_| token("t", 3600).after(Duration::from_secs(1)));
    for (name, number) in [("o0", 0), ("o1", 1), ("o2", 2), ("o3", 3), ("shares-o3", 3)] {
        bench.ask(name, number, Vendor::SixMap);
    }
    bench.settle().await;
    // One is in flight and goes on, one is queued and leaves, one is queued and has another waiter.
    for name in ["o0", "o1", "o3"] {
        bench.grants.withdraw(&object(name));
    }
    bench.grants.withdraw(&object("unknown"));
    bench.pass(5).await;
    assert_eq!(bench.order(), [0, 2, 3]);
    assert_eq!(bench.token("o0").as_deref(), Some("t"), "what came is kept");
    assert_eq!(bench.token("o1"), None);
    assert!(bench.woken().contains(&"a/shares-o3".to_owned()));
    // Nothing stops it from asking later.
    bench.ask("o1", 1, Vendor::SixMap);
    bench.pass(5).await;
    assert_eq!(bench.order(), [0, 2, 3, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_fingerprint_gives_up_its_place_in_the_queue() {
    let bench = bench_with(&[], 1, |_| token("t", 3600).after(Duration::from_secs(1)));
    bench.ask("blocker", 9, Vendor::SixMap);
    bench.settle().await;
    bench.ask("o", 1, Vendor::SixMap);
    bench.ask("o", 2, Vendor::SixMap);
    bench.ask("p", 3, Vendor::SixMap);
    bench.uses("p", 4);
    bench.pass(10).await;
    assert_eq!(bench.order(), [9, 2]);
    assert_eq!(bench.token("p"), None);
}

#[tokio::test(start_paused = true)]
async fn a_request_decided_on_before_an_outcome_is_not_sent() {
    let mut bench = bench(|call| match call.grant {
        1 => token("t", 3600),
        2 => rejected(),
        _ => throttled(600),
    });
    for (name, number) in [("o1", 1), ("o2", 2), ("o3", 3)] {
        bench.ask(name, number, Vendor::SixMap);
        bench.settle().await;
    }
    assert_eq!(bench.woken(), ["a/o1", "a/o2", "a/o3"]);
    // Their decisions are older than the outcomes.
    for (name, number) in [("late1", 1), ("late2", 2), ("late3", 3)] {
        let asked = bench.ask_as(ask(name, number, grant_of(Vendor::SixMap)));
        assert_eq!(asked, None, "it is to be decided again");
    }
    bench.settle().await;
    assert_eq!(bench.order(), [1, 2, 3]);
    assert_eq!(bench.token("late1").as_deref(), Some("t"));
    // They do not wait: a later reservation begins a new wait.
    bench.pass(3600 + 720).await;
    let now = bench.grants.timeline.now().moment;
    assert_eq!(bench.ask_as(ask("late2", 2, grant_of(Vendor::SixMap))), Some(now));
}
