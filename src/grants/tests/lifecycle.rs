//! Tokens in memory, gaps between tokens, and the drain at the end.

use std::time::Duration;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_token_is_given_out_until_it_expires() {
    let bench = bench(|_| token("t", 100));
    bench.ask("o", 1, Vendor::SixMap);
    bench.pass(99).await;
    assert_eq!(bench.token("o").as_deref(), Some("t"));
    assert!(bench.facts("o").token.is_some());
    bench.pass(1).await;
    assert_eq!(bench.token("o"), None);
    assert_eq!(bench.facts("o").token, None);
}

#[tokio::test(start_paused = true)]
async fn the_facts_of_a_token_are_those_of_the_answer() {
    let bench = bench(|call| match call.grant {
        1 => token("t", 100),
        _ => status(200, r#"{"accessToken":"opaque"}"#),
    });
    bench.ask("o", 1, Vendor::SixMap);
    bench.ask("p", 2, Vendor::SixClicks);
    bench.settle().await;
    let state = bench.facts("o").token.unwrap();
    assert_eq!(state.issued, start());
    assert_eq!(state.expires, start() + SignedDuration::from_secs(100));
    assert!(!state.warnings.expiry_assumed);
    assert!(bench.facts("p").token.unwrap().warnings.expiry_assumed);
}

#[tokio::test(start_paused = true)]
async fn the_least_gap_is_shorter_for_a_refresh_request() {
    let bench = bench(|call| match call.grant {
        1 => token("t", 3600),
        _ => token("t", 20),
    });
    bench.ask("long", 1, Vendor::SixMap);
    bench.ask("short", 2, Vendor::SixMap);
    bench.settle().await;
    let gaps = |name: &str| {
        let state = bench.facts(name);
        (
            bench.until(state.gap_ends),
            bench.until(state.gap_on_request_ends),
        )
    };
    assert_eq!(gaps("long"), (Some(360), Some(30)));
    assert_eq!(
        gaps("short"),
        (Some(10), Some(10)),
        "30 s, and never more than the gap itself"
    );
    bench.pass(30).await;
    assert_eq!(gaps("long"), (Some(330), None));
    assert_eq!(gaps("short"), (None, None));
    bench.pass(330).await;
    assert_eq!(gaps("long"), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_changes_no_gap() {
    let bench = bench(|_| token("t", 3600));
    bench.ask("o", 1, Vendor::SixMap);
    bench.pass(10).await;
    bench.clock.step(SignedDuration::from_mins(-4));
    assert_eq!(bench.until(bench.facts("o").gap_ends), Some(350));
    bench.clock.step(SignedDuration::from_mins(9));
    assert_eq!(bench.until(bench.facts("o").gap_ends), Some(350));
    bench.clock.sleep(SignedDuration::from_mins(5));
    assert_eq!(bench.until(bench.facts("o").gap_ends), Some(50));
    bench.clock.sleep(SignedDuration::from_hours(1));
    assert_eq!(bench.facts("o").gap_ends, None);
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_issue_lies_ahead_of_the_clock_is_not_published() {
    let bench = bench(|_| token("same", 3600));
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    bench.clock.step(SignedDuration::from_mins(-5));
    assert!(bench.token("o").is_some(), "within what clocks differ by");
    bench.clock.step(SignedDuration::from_mins(-55));
    // A target with this token would count as one without a token, and would be written again and again.
    assert_eq!(bench.token("o"), None);
    assert_eq!(bench.facts("o").token, None);
    bench.pass(360).await;
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    let expires = bench.facts("o").token.unwrap().expires;
    assert_eq!(
        bench.until(Some(expires)),
        Some(3600),
        "the new one, though its value is the same"
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_past_its_end_by_the_wall_clock_is_not_given_out() {
    let bench = bench(|_| token("same", 3600));
    bench.ask("o", 1, Vendor::Mapiq);
    bench.settle().await;
    bench.clock.step(SignedDuration::from_hours(2));
    assert_eq!(bench.token("o"), None);
    bench.pass(600).await;
    bench.ask("o", 1, Vendor::Mapiq);
    bench.settle().await;
    // The vendor's cache gives it again, with the end that it has.
    assert_eq!(bench.token("o").as_deref(), Some("same"));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_lengthens_no_wait() {
    for vendor in [Vendor::SixMap, Vendor::Mapiq] {
        for answer in [throttled as fn(u32) -> Answer, |_| unreachable(), |_| rejected()] {
            let bench = bench(move |_| answer(100));
            bench.ask("o", 1, vendor);
            bench.settle().await;
            let before = bench.facts("o");
            let wait =
                |state: &GrantFacts| bench.until(state.failure.as_ref().unwrap().next_attempt).unwrap();
            let (waits, paused) = (wait(&before), bench.until(before.paused_until));
            for minutes in [-60, -1, -4] {
                bench.clock.step(SignedDuration::from_mins(minutes));
                let state = bench.facts("o");
                assert!(
                    (waits..=waits + 2).contains(&wait(&state)),
                    "{waits} s before, now {}",
                    wait(&state)
                );
                let pause = bench.until(state.paused_until);
                assert!(
                    pause == paused || pause == paused.map(|paused| paused + 1),
                    "{pause:?} for {paused:?}"
                );
            }
            bench.pass(u64::try_from(waits).unwrap() + 2).await;
            assert_eq!(bench.facts("o").paused_until, None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_while_a_vendor_answers_costs_one_more_call() {
    for minutes in [-60, -4, 4, 60, 24 * 60] {
        let bench = bench(|call| token(&format!("t{}", call.index), 60).after(Duration::from_secs(2)));
        bench.ask("o", 1, Vendor::SixMap);
        bench.pass(1).await;
        bench.clock.step(SignedDuration::from_mins(minutes));
        bench.pass(2).await;
        let failure = bench.facts("o").failure.unwrap();
        assert_eq!(bench.token("o"), None, "a step of {minutes} minutes");
        assert_eq!(failure.reason, Reason::VendorUnavailable);
        assert!(bench.until(failure.next_attempt).unwrap() <= 6, "{failure:?}");
        bench.pass(6).await;
        bench.ask("o", 1, Vendor::SixMap);
        bench.pass(3).await;
        assert_eq!(bench.token("o").unwrap(), "t1");
        assert_eq!(bench.calls().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn two_tokens_with_one_issue_time_after_a_step_back_differ() {
    let bench = bench(|call| token(&format!("t{}", call.index), 60));
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    let first = bench.facts("o").token.unwrap().issued;
    bench.pass(30).await;
    bench.clock.step(first.duration_since(bench.clock.now()));
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    assert_eq!(bench.token("o").unwrap(), "t1");
    let second = bench.facts("o").token.unwrap();
    assert_eq!(first.duration_since(second.issued).as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_token_is_no_new_one_until_it_has_expired() {
    let bench = bench(|_| token("cached", 1000));
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    let first = bench.facts("o").token.unwrap();
    bench.pass(800).await;
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    let state = bench.facts("o");
    assert_eq!(bench.calls().len(), 2);
    assert_eq!(state.token.as_ref(), Some(&first));
    assert_eq!(state.succeeded, Some(start() + SignedDuration::from_secs(800)));
    assert_eq!(
        bench.until(state.gap_ends),
        Some(100),
        "it is not asked for again at once"
    );
    bench.pass(250).await;
    assert_eq!(bench.facts("o").token, None);
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    // The vendor gives it still, so it lives longer than was known.
    assert_eq!(bench.token("o").as_deref(), Some("cached"));
    assert!(bench.facts("o").token.unwrap().issued > first.issued);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_token_is_asked_for_again_at_its_expiry() {
    let bench = bench(|call| match call.at.as_secs() {
        at @ 0..1000 => token("cached", 1000 - at as i64),
        _ => token("new", 1000),
    });
    let ask = async || {
        bench.ask("o", 1, Vendor::SixMap);
        bench.settle().await;
        bench.until(bench.facts("o").gap_ends)
    };
    assert_eq!(ask().await, Some(100));
    bench.pass(850).await;
    assert_eq!(ask().await, Some(100));
    bench.pass(100).await;
    assert_eq!(ask().await, Some(50), "it ends before its least gap does");
    bench.pass(40).await;
    // The gap on request holds after a refresh request, too.
    bench.ask_for_refresh("o", 1, Vendor::SixMap, "now");
    bench.settle().await;
    assert_eq!(bench.times(), [0, 850, 950, 990]);
    assert_eq!(bench.until(bench.facts("o").gap_ends), Some(30));
    bench.pass(30).await;
    ask().await;
    assert_eq!(bench.token("o").as_deref(), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_forgotten_with_its_last_user() {
    let bench = bench(|_| token("t", 3600));
    bench.ask("o", 1, Vendor::SixMap);
    bench.uses("p", 1);
    bench.settle().await;
    bench.grants.release(&object("o"));
    assert_eq!(
        bench.token("o"),
        None,
        "a token leaves memory only for those who use its grant"
    );
    assert_eq!(bench.token("p").as_deref(), Some("t"));
    bench.pass(30).await;
    bench.grants.release(&object("p"));
    bench.uses("p", 1);
    assert_eq!(bench.token("p"), None);
    assert_eq!(bench.facts("p").gap_ends, None);
    assert_eq!(bench.grants.lock().grants.len(), 1);
    for name in ["o", "p"] {
        bench.grants.forget(&object(name));
    }
    assert!(bench.grants.lock().grants.is_empty());
    assert!(bench.grants.lock().objects.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_new_token_outlives_the_last_object_by_half_a_minute() {
    let bench = bench(|_| token("t", 3600));
    bench.ask("o", 1, Vendor::SixMap);
    bench.pass(10).await;
    bench.grants.release(&object("o"));
    assert_eq!(
        bench.token("o"),
        None,
        "it leaves memory only for those who use its grant"
    );
    // The object is made again, or edited there and back: its credentials make the same fingerprint.
    bench.uses("o", 2);
    bench.uses("o", 1);
    assert_eq!(bench.token("o").as_deref(), Some("t"));
    assert_eq!(bench.until(bench.facts("o").gap_on_request_ends), Some(20));
    bench.grants.release(&object("o"));
    // The sweep alone forgets it.
    bench.pass(120).await;
    assert!(bench.grants.lock().grants.is_empty());
    assert!(bench.grants.lock().kept.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_latch_outlives_the_last_object_by_a_day() {
    for (vendor, holds, over) in [
        (Vendor::CheckmarxSca, 23 * 3600, 2 * 3600),
        (Vendor::SixMap, 3500, 1000),
    ] {
        let bench = bench(|_| rejected());
        bench.ask("o", 1, vendor);
        bench.settle().await;
        bench.grants.release(&object("o"));
        bench.pass(holds).await;
        bench.uses("o", 1);
        let state = bench.facts("o");
        assert_eq!(
            state.failure.map(|failure| failure.reason),
            Some(Reason::CredentialsRejected)
        );
        bench.ask("o", 1, vendor);
        bench.settle().await;
        assert_eq!(bench.calls().len(), 1, "{vendor}: it was asked again");

        // An edit there and back does not end the latch.
        bench.uses("o", 2);
        bench.uses("o", 1);
        assert!(bench.facts("o").failure.is_some());
        bench.grants.release(&object("o"));
        bench.pass(over).await;
        if vendor == Vendor::CheckmarxSca {
            // The day begins when the last user leaves.
            bench.pass(22 * 3600 + 1).await;
        }
        bench.uses("p", 3);
        bench.grants.release(&object("p"));
        assert!(bench.grants.lock().grants.is_empty(), "{vendor}");
        assert!(bench.grants.lock().kept.is_empty(), "{vendor}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_in_flight_without_a_user_ends_quietly() {
    let mut bench = bench_with(&[], 1, |_| token("t", 3600).after(Duration::from_secs(2)));
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    bench.grants.release(&object("o"));
    assert_eq!(bench.grants.lock().grants.len(), 1);
    bench.pass(3).await;
    assert_eq!(bench.token("o"), None);
    assert_eq!(bench.woken(), Vec::<String>::new());
    bench.pass(120).await;
    assert!(bench.grants.lock().grants.is_empty());
    // The slot is free again.
    bench.ask("p", 2, Vendor::SixMap);
    bench.pass(3).await;
    assert_eq!(bench.token("p").as_deref(), Some("t"));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_returns_during_a_request_shares_it() {
    let mut bench = bench(|_| token("t", 3600).after(Duration::from_secs(2)));
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    bench.grants.release(&object("o"));
    bench.ask("o", 1, Vendor::SixMap);
    bench.pass(3).await;
    assert_eq!(bench.calls().len(), 1);
    assert_eq!(bench.token("o").as_deref(), Some("t"));
    assert_eq!(bench.woken(), ["a/o"]);
}

#[tokio::test(start_paused = true)]
async fn a_queued_request_is_dropped_with_its_last_user() {
    let bench = bench_with(&[], 1, |_| token("t", 3600).after(Duration::from_secs(2)));
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    bench.ask("p", 2, Vendor::SixMap);
    bench.grants.release(&object("p"));
    assert!(!bench.grants.lock().grants.contains_key(&fingerprint(2)));
    bench.pass(10).await;
    assert_eq!(bench.order(), [1]);
}

#[tokio::test(start_paused = true)]
async fn draining_waits_only_for_requests_in_flight() {
    let mut bench = bench_with(&[], 2, |_| token("t", 3600).after(Duration::from_secs(2)));
    for number in 1..=5 {
        bench.ask(&format!("o{number}"), number, Vendor::SixMap);
    }
    bench.pass(1).await;
    let begun = Instant::now();
    bench.grants.drain(Duration::from_secs(3)).await;
    assert_eq!(begun.elapsed().as_secs(), 1);
    assert_eq!(bench.woken(), ["a/o1", "a/o2"]);
    assert_eq!(
        bench.token("o2").as_deref(),
        Some("t"),
        "what arrived is kept to be published"
    );
    bench.ask("late", 9, Vendor::SixClicks);
    bench.pass(600).await;
    assert_eq!(bench.order(), [1, 2]);
    assert!(bench.running.is_finished());
}

#[tokio::test(start_paused = true)]
async fn draining_takes_no_longer_than_its_patience() {
    let bench = bench(|_| hanging());
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    let begun = Instant::now();
    bench.grants.drain(Duration::from_secs(3)).await;
    assert_eq!(begun.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn draining_takes_no_time_without_requests_in_flight() {
    let idle = bench(|_| hanging());
    idle.settle().await;
    let begun = Instant::now();
    idle.grants.drain(Duration::from_secs(3)).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    idle.settle().await;
    assert!(idle.running.is_finished());
}
