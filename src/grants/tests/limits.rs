//! Budgets, pauses, and steps of the clock.

use std::time::Duration;

use rstest::rstest;

use super::*;

/// The most requests in any 60 s.
fn most_in_a_minute(calls: &[Call]) -> usize {
    calls
        .iter()
        .map(|first| {
            calls
                .iter()
                .filter(|call| call.at >= first.at && call.at - first.at < Duration::from_secs(60))
                .count()
        })
        .max()
        .unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn the_budget_holds_in_every_minute() {
    let bench = bench_with(&[(Vendor::Mapiq, 20)], 32, |_| {
        token("t", 3600).after(Duration::from_secs(1))
    });
    for number in 0..100 {
        bench.ask(&format!("o{number}"), number, Vendor::Mapiq);
    }
    bench.ask("other", 200, Vendor::SixMap);
    bench.pass(400).await;
    let mut calls = bench.calls();
    assert_eq!(calls.len(), 101);
    let other = calls.iter().position(|call| call.grant == 200).unwrap();
    assert_eq!(calls.remove(other).at.as_secs(), 0, "budgets are per endpoint");
    assert_eq!(most_in_a_minute(&calls), 20);
    // A quarter is left out, which another process may have had in flight.
    let first_minute = calls.iter().filter(|call| call.at < Duration::from_secs(60));
    assert_eq!(first_minute.count(), 15);
    // All of it is used: 100 requests at 20 a minute take five minutes, that quarter, and
    // the time for an answer each minute.
    assert!(calls.last().unwrap().at < Duration::from_secs(320), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_all_requests_are_sent_at_once() {
    let bench = bench_with(&[], 200, |_| token("t", 3600));
    for number in 0..150 {
        bench.ask(&format!("o{number}"), number, Vendor::Mapiq);
    }
    bench.settle().await;
    assert_eq!(bench.calls().len(), 150);
}

#[rstest]
#[case::mapiq(Vendor::Mapiq)]
#[case::picus(Vendor::Picus)]
#[tokio::test(start_paused = true)]
async fn a_429_of_a_vendor_limited_as_a_whole_pauses_its_endpoint(#[case] vendor: Vendor) {
    let bench = bench(|call| match call.index {
        0 => throttled(289),
        _ => token("t", 3600),
    });
    bench.ask("first", 1, vendor);
    bench.settle().await;
    bench.ask("second", 2, vendor);
    bench.ask("elsewhere", 3, Vendor::SixClicks);
    bench.pass(285).await;
    assert_eq!(bench.order(), [1, 3]);
    let paused = bench.facts("second").paused_until.unwrap();
    assert!(bench.facts("elsewhere").paused_until.is_none());
    assert_eq!(*bench.heard.throttled_until.lock().unwrap(), [paused]);
    bench.pass(60).await;
    assert_eq!(bench.order(), [1, 3, 2]);
    let sent = bench.calls()[2].wall;
    assert!(
        sent >= paused && sent < paused + SignedDuration::from_secs(1),
        "{sent} {paused}"
    );
    assert!(paused >= start() + SignedDuration::from_secs(289));
    assert!(paused <= start() + SignedDuration::from_secs(289 + 31));
    assert!(bench.facts("second").paused_until.is_none());
}

#[rstest]
#[case::six_map(Vendor::SixMap)]
#[case::six_clicks(Vendor::SixClicks)]
#[case::checkmarx(Vendor::CheckmarxSca)]
#[tokio::test(start_paused = true)]
async fn at_other_vendors_one_grant_probes_after_a_429(#[case] vendor: Vendor) {
    let bench = bench(|call| match call.grant {
        1 => throttled(100),
        _ => token("t", 3600).after(Duration::from_secs(5)),
    });
    bench.ask("o1", 1, vendor);
    bench.settle().await;
    for number in 2..5 {
        bench.ask(&format!("o{number}"), number, vendor);
    }
    bench.pass(1).await;
    assert_eq!(bench.order(), [1, 2], "one probe");
    assert!(
        bench.facts("o3").paused_until.is_none(),
        "the endpoint is not paused"
    );
    bench.pass(5).await;
    assert_eq!(bench.order(), [1, 2, 3, 4]);
    assert_eq!(bench.facts("o1").failure.unwrap().reason.as_str(), "RateLimited");
}

#[tokio::test(start_paused = true)]
async fn two_throttled_clients_of_one_namespace_hold_no_other_namespace_back() {
    let bench = bench(|call| match call.grant {
        1 | 2 => throttled(200),
        _ => token("t", 3600),
    });
    for number in [1, 2] {
        bench.ask(&format!("many/o{number}"), number, Vendor::SixMap);
        bench.settle().await;
    }
    bench.ask("other/o3", 3, Vendor::SixMap);
    bench.settle().await;
    assert_eq!(bench.order(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_probe_of_another_namespace_pauses_the_endpoint() {
    let bench = bench(|call| match call.grant {
        1 => throttled(100),
        2 => throttled(200),
        _ => token("t", 3600),
    });
    bench.ask("a/o1", 1, Vendor::SixMap);
    bench.settle().await;
    bench.ask("b/o2", 2, Vendor::SixMap);
    bench.ask("b/o3", 3, Vendor::SixMap);
    bench.pass(190).await;
    assert_eq!(bench.order(), [1, 2]);
    assert!(bench.facts("b/o3").paused_until.is_some());
    bench.pass(60).await;
    assert_eq!(bench.order(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_otherwise_lets_the_next_one_probe() {
    let bench = bench(|call| match call.grant {
        1 => throttled(100),
        2 => rejected(),
        _ => token("t", 3600),
    });
    bench.ask("o1", 1, Vendor::SixMap);
    bench.settle().await;
    bench.ask("o2", 2, Vendor::SixMap);
    bench.ask("o3", 3, Vendor::SixMap);
    bench.settle().await;
    assert_eq!(bench.order(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn with_nobody_to_probe_the_throttled_grant_waits_for_its_deadline() {
    let bench = bench(|call| match call.index {
        0 => throttled(100),
        _ => token("t", 3600),
    });
    bench.ask("o1", 1, Vendor::SixMap);
    bench.settle().await;
    // A refresh request does not override the vendor's deadline.
    bench.ask_for_refresh("o1", 1, Vendor::SixMap, "now");
    bench.pass(99).await;
    assert_eq!(bench.order(), [1]);
    bench.pass(20).await;
    bench.ask_for_refresh("o1", 1, Vendor::SixMap, "now");
    bench.settle().await;
    assert_eq!(bench.order(), [1, 1]);
    assert!(bench.calls()[1].at >= Duration::from_secs(100));
}

#[tokio::test(start_paused = true)]
async fn a_503_with_a_deadline_pauses_its_own_grant_only() {
    let bench = bench(|call| match call.grant {
        1 => {
            let mut answer = throttled(120);
            if let Ok((status, _, _)) = &mut answer.result {
                *status = 503;
            }
            answer
        }
        _ => token("t", 3600),
    });
    bench.ask("o1", 1, Vendor::Mapiq);
    bench.settle().await;
    let failure = bench.facts("o1").failure.unwrap();
    assert_eq!(failure.reason.as_str(), "VendorUnavailable");
    assert!(bench.until(failure.next_attempt) >= Some(119), "{failure:?}");
    bench.ask("o2", 2, Vendor::Mapiq);
    bench.settle().await;
    assert_eq!(bench.token("o2").as_deref(), Some("t"));
}

#[rstest]
#[case::back(-1, 600)]
#[case::a_day_back(-24, 600)]
#[case::ahead(1, 600)]
#[tokio::test(start_paused = true)]
async fn a_step_of_the_clock_does_not_move_the_end_of_a_pause(#[case] hours: i64, #[case] ends: u64) {
    let bench = bench(|call| match call.index {
        0 => throttled(600),
        _ => token("t", 3600),
    });
    bench.ask("first", 1, Vendor::Picus);
    bench.settle().await;
    bench.ask("second", 2, Vendor::Picus);
    bench.settle().await;
    bench.clock.step(SignedDuration::from_hours(hours));
    bench.pass(2 * 3600).await;
    let times = bench.times();
    assert_eq!(times.len(), 2);
    assert!((ends..=ends + 61).contains(&times[1]), "{times:?}");
    // The throttled grant is not held longer either.
    bench.ask("first", 1, Vendor::Picus);
    bench.settle().await;
    assert_eq!(bench.token("first").as_deref(), Some("t"));
}

#[tokio::test(start_paused = true)]
async fn a_step_of_the_clock_does_not_change_a_budget() {
    let bench = bench_with(&[(Vendor::Mapiq, 6)], 32, |_| token("t", 3600));
    for number in 0..18 {
        bench.ask(&format!("o{number}"), number, Vendor::Mapiq);
    }
    for hours in [1, -3, 2] {
        bench.clock.step(SignedDuration::from_hours(hours));
        bench.pass(20).await;
    }
    bench.pass(300).await;
    assert_eq!(bench.calls().len(), 18);
    assert_eq!(most_in_a_minute(&bench.calls()), 6);
}

/// An object that asks for a grant of this vendor through a gateway, whose origin stands in the place of every vendor's.
fn ask_through_gateway(name: &str, number: u8, vendor: Vendor) -> Ask {
    Ask {
        endpoint: Endpoint {
            origin: "https://gateway.example".to_owned(),
        },
        ..ask(name, number, grant_of(vendor))
    }
}

#[rstest]
#[case::without_a_limit(&[])]
#[case::with_high_limits(&Vendor::ALL.map(|vendor| (vendor, 600_000)))]
#[tokio::test(start_paused = true)]
async fn five_vendors_behind_one_gateway_serve_all_of_their_grants(#[case] per_minute: &[(Vendor, u32)]) {
    let bench = bench_with(per_minute, 32, |_| {
        token("t", 3600).after(Duration::from_millis(50))
    });
    for number in 0..250 {
        let vendor = Vendor::ALL[usize::from(number) % Vendor::ALL.len()];
        bench.ask_as(ask_through_gateway(&format!("o{number}"), number, vendor));
    }
    bench.pass(10).await;
    assert_eq!(bench.calls().len(), 250);
    assert_eq!(bench.grants.lock().in_flight.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_429_of_one_vendor_behind_a_gateway_holds_no_other_back() {
    for throttling in Vendor::ALL {
        let bench = bench(|call| match call.grant {
            0 | 10 | 20 => throttled(300),
            _ => token("t", 3600),
        });
        for (name, number) in [("a/first", 0), ("b/second", 10), ("c/third", 20)] {
            bench.ask_as(ask_through_gateway(name, number, throttling));
            bench.settle().await;
        }
        let others = Vendor::ALL.into_iter().filter(|vendor| *vendor != throttling);
        for (vendor, number) in others.zip(1..) {
            bench.ask_as(ask_through_gateway(&format!("o{number}"), number, vendor));
        }
        bench.settle().await;
        let mut served = bench.order();
        served.retain(|grant| !grant.is_multiple_of(10));
        served.sort_unstable();
        assert_eq!(served, [1, 2, 3, 4], "beside {throttling}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_of_one_vendor_behind_a_gateway_is_not_used_by_another() {
    let bench = bench_with(&[(Vendor::Mapiq, 20), (Vendor::SixMap, 600)], 32, |_| {
        token("t", 3600)
    });
    for number in 0..20 {
        bench.ask_as(ask_through_gateway(&format!("m{number}"), number, Vendor::Mapiq));
    }
    bench.settle().await;
    for number in 100..150 {
        bench.ask_as(ask_through_gateway(&format!("s{number}"), number, Vendor::SixMap));
    }
    bench.settle().await;
    let of_six_map = bench.order().into_iter().filter(|grant| *grant >= 100);
    assert_eq!(of_six_map.count(), 50);
}

#[tokio::test(start_paused = true)]
async fn idle_endpoints_are_forgotten_when_they_are_many() {
    let bench = bench(|call| match call.grant {
        0 => throttled(3600),
        _ => token("t", 3600),
    });
    bench.ask("throttled", 0, Vendor::Picus);
    for number in 1..=200_u8 {
        let region = Grant::six_clicks(format!("r{number}")).unwrap();
        bench.ask_as(ask(&format!("o{number}"), number, region));
        bench.settle().await;
    }
    assert_eq!(bench.calls().len(), 201);
    let kept = bench.grants.lock().endpoints.len();
    assert!(kept <= crate::grants::table::MOST_IDLE_ENDPOINTS, "{kept}");
    // An endpoint with a pause is kept.
    assert!(bench.facts("throttled").paused_until.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_term_counts_requests_that_may_be_in_flight() {
    let bench = bench_with(&[(Vendor::Mapiq, 20)], 32, |_| token("t", 3600));
    bench.pass(100).await;
    for number in 0..15 {
        bench.ask(&format!("before{number}"), number, Vendor::Mapiq);
    }
    bench.pass(35).await;
    assert_eq!(bench.calls().len(), 15);
    bench.grants.start_leading();
    for number in 100..105 {
        bench.ask(&format!("again{number}"), number, Vendor::Mapiq);
    }
    bench.pass(20).await;
    assert_eq!(bench.calls().len(), 15, "five may have been sent by another");
    bench.pass(60).await;
    assert_eq!(bench.calls().len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_pause_with_an_incredible_time_is_ignored() {
    let bench = bench(|_| token("t", 3600));
    bench.grants.start_leading();
    let observe = |last_attempt: i64| {
        bench.observe(Ask {
            evidence: status_shows(Reason::RateLimited, 1, last_attempt, Some(600)),
            ..ask("o", 1, Grant::Mapiq)
        });
    };
    // The first attempt lies in the term of this process, which did not see it; the second lies too far from its
    // deadline.
    observe(1);
    observe(-7200);
    assert_eq!(*bench.heard.throttled_until.lock().unwrap(), []);
    observe(-1);
    let until = start() + SignedDuration::from_secs(600);
    assert_eq!(*bench.heard.throttled_until.lock().unwrap(), [until]);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_request_counts_from_its_latest_possible_answer() {
    let bench = bench_with(&[(Vendor::Mapiq, 20)], 32, |_| token("t", 3600));
    bench.pass(100).await;
    let sent = vec![bench.clock.now() - SignedDuration::from_secs(10); 15];
    bench
        .grants
        .count_earlier_requests(&Grant::Mapiq.endpoint(), Vendor::Mapiq, &sent);
    bench.grants.start_leading();
    bench.ask("o", 1, Vendor::Mapiq);
    bench.pass(100).await;
    // Sent at second 90, its answer came by second 95, and it counts for a minute from there.
    assert_eq!(bench.times(), [155]);
}
