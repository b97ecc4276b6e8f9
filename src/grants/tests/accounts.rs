//! Attempts on one account from several namespaces, from a queue, and with passwords that were proven.

use super::*;

/// An object of `namespace` with this password of the one account.
fn password(namespace: &str, number: u8) -> Ask {
    Ask {
        account: Some(Account::from_bytes([1; 16])),
        ..ask(
            &format!("{namespace}/o{number}"),
            number,
            grant_of(Vendor::CheckmarxSca),
        )
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotated_password_is_tried_at_once_beside_junk_of_another_namespace() {
    let bench = bench(|call| match call.grant {
        1 | 2 => token("t", 3600),
        _ => rejected(),
    });
    bench.ask_as(password("good", 1));
    bench.settle().await;
    for number in 10..20 {
        bench.ask_as(password("evil", number));
        bench.settle().await;
    }
    assert_eq!(bench.order(), [1, 10, 11], "one attempt is kept");
    bench.ask_as(password("good", 2));
    bench.settle().await;
    assert_eq!(bench.order(), [1, 10, 11, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_proven_password_is_used_whatever_others_try() {
    let bench = bench(|call| match call.grant {
        1 => token("t", 3600),
        _ => rejected(),
    });
    bench.ask_as(password("good", 1));
    bench.pass(1000).await;
    for number in 10..20 {
        bench.ask_as(password("evil", number));
        bench.settle().await;
    }
    bench.ask_as(password("good", 1));
    bench.settle().await;
    assert_eq!(bench.order(), [1, 10, 11, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_first_password_waits_a_quarter_of_an_hour_at_most_beside_endless_junk() {
    let bench = bench(|call| match call.grant {
        255 => token("t", 3600),
        _ => rejected(),
    });
    let mut junk = 0..200;
    for _ in 0..3 {
        bench.ask_as(password("evil", junk.next().unwrap()));
    }
    for _ in 0..16 {
        // Objects are looked at every few minutes, those of the hostile namespace first.
        for _ in 0..3 {
            if bench.ask_as(password("evil", junk.end - 1)).is_some() {
                junk.end -= 1;
            }
        }
        bench.ask_as(password("good", 255));
        bench.pass(60).await;
    }
    let sent = bench.calls();
    let good = sent.iter().find(|call| call.grant == 255).unwrap();
    assert!(good.at <= Duration::from_secs(960), "{:?}", good.at);
}

/// The answer to all requests after the password was changed at the vendor.
fn changed_after(seconds: u64, answer: impl Fn() -> Answer + Send + 'static) -> impl FnMut(&Call) -> Answer {
    move |call| {
        if call.at.as_secs() < seconds {
            token("t", 3600)
        } else {
            answer()
        }
    }
}

/// Asserts that any 15 minutes have three of these times at most. An account counts in whole seconds.
fn assert_three_in_15_minutes(times: &[u64]) {
    for window in times.windows(4) {
        assert!(window[3] - window[0] >= 899, "{times:?}");
    }
}

impl Bench {
    /// Asks with each of these every 30 s.
    async fn ask_all(&self, minutes: u64, asks: impl Fn() -> Vec<Ask>) {
        for _ in 0..2 * minutes {
            for ask in asks() {
                self.ask_as(ask);
            }
            self.pass(30).await;
        }
    }

    /// The seconds at which these grants were asked for, from `from` on.
    fn times_of(&self, grants: std::ops::RangeInclusive<u8>, from: u64) -> Vec<u64> {
        let calls = self.calls().into_iter();
        let calls = calls.filter(|call| grants.contains(&call.grant));
        calls
            .map(|call| call.at.as_secs())
            .filter(|at| *at >= from)
            .collect()
    }
}

#[rstest::rstest]
#[case::of_one_namespace(|_| "a")]
#[case::of_three_namespaces(|number| ["a", "b", "c"][usize::from(number % 3)])]
#[tokio::test(start_paused = true)]
async fn passwords_that_waited_for_a_paused_endpoint_are_tried_three_at_a_time(
    #[case] namespace_of: fn(u8) -> &'static str,
) {
    let bench = bench(|call| match call.grant {
        250.. => throttled(3600),
        _ => rejected(),
    });
    // Two users of two namespaces are throttled, which pauses the endpoint.
    for (namespace, number) in [("x", 250), ("y", 251)] {
        bench.ask_as(Ask {
            account: Some(Account::from_bytes([number; 16])),
            ..password(namespace, number)
        });
    }
    bench.settle().await;
    let all = || {
        (1..=12)
            .map(|number| password(namespace_of(number), number))
            .collect()
    };
    bench.ask_all(130, all).await;
    let times = bench.times_of(1..=12, 0);
    assert!(times[0] >= 3600 && times.len() == 12, "{times:?}");
    assert_three_in_15_minutes(&times);
}

#[tokio::test(start_paused = true)]
async fn a_success_clears_no_attempt_that_was_in_flight_beside_it() {
    let bench = bench(|call| match call.grant {
        1 | 2 => rejected().after(Duration::from_secs(20)),
        3 => token("t", 3600),
        _ => rejected(),
    });
    for number in [1, 2] {
        bench.ask_as(password("a", number));
    }
    bench.pass(5).await;
    bench.ask_as(password("a", 3));
    bench.pass(5).await;
    for number in 4..9 {
        bench.ask_as(password("a", number));
        bench.settle().await;
    }
    bench.pass(60).await;
    bench.ask_as(password("a", 9));
    bench.settle().await;
    assert_eq!(bench.order(), [1, 2, 3, 4]);
}

/// Three grants of one password: its VendorTokens have other scopes.
fn three_scope_sets() -> Vec<Ask> {
    let of_scopes = |number| Ask {
        password: 9,
        ..password("a", number)
    };
    (1..=3).map(of_scopes).collect()
}

#[tokio::test(start_paused = true)]
async fn a_changed_password_costs_three_attempts_in_15_minutes_whatever_its_scopes() {
    let bench = bench(changed_after(60, rejected));
    bench.ask_all(1, three_scope_sets).await;
    assert_eq!(bench.calls().len(), 3, "it is proven for all of them");
    bench.ask_all(24 * 60, three_scope_sets).await;
    let times = bench.times_of(1..=3, 60);
    assert_eq!(times.len(), 6, "each rejection is confirmed once: {times:?}");
    assert_three_in_15_minutes(&times);
}

#[tokio::test(start_paused = true)]
async fn a_proven_password_rejected_beside_junk_is_not_sent_with_other_scopes() {
    let bench = bench(|call| match call.grant {
        1..=3 if call.at.as_secs() < 60 => token("t", 3600),
        _ => rejected().after(Duration::from_secs(2)),
    });
    bench.ask_all(1, three_scope_sets).await;
    bench.pass(1800).await;
    for number in 10..13 {
        bench.ask_as(password("a", number));
    }
    bench.pass(10).await;
    bench.ask_all(10, three_scope_sets).await;
    assert_eq!(
        bench.order()[3..],
        [10, 11, 12, 1],
        "one more than three, and no other"
    );
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_answered_401_with_a_wait_counts_once_it_is_no_longer_right() {
    let answer = || {
        let mut answer = status(401, "");
        if let Ok((_, headers, _)) = &mut answer.result {
            headers.push(("retry-after", "1".to_owned()));
        }
        answer
    };
    let bench = bench(changed_after(60, answer));
    let one = || vec![password("a", 1)];
    bench.ask_all(1, one).await;
    bench.ask_all(60, one).await;
    let ended = bench.heard.ended.lock().unwrap().clone();
    assert_eq!(ended.last(), Some(&Err(FailureClass::Throttled)));
    let times = bench.times_of(1..=1, 60);
    assert!(times.len() > 6, "it is asked for again: {times:?}");
    assert_three_in_15_minutes(&times);
}
