//! Permits that are not used, and attempts on an account from before this term.

use super::*;
use crate::policy::Hold;

fn checkmarx(name: &str, number: u8, account: u8) -> Ask {
    Ask {
        account: Some(Account::from_bytes([account; 16])),
        ..ask(name, number, grant_of(Vendor::CheckmarxSca))
    }
}

/// Reserves a request, and gives its permit; `None` where another holds it or waits.
fn permit(bench: &Bench, ask: &Ask, refresh_request: Option<&str>) -> Option<Box<Permit>> {
    match bench.grants.reserve(&ask.observation(&inputs()), refresh_request) {
        Reservation::Permitted(permit) => Some(permit),
        Reservation::UnderWay(_) | Reservation::Held => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_is_dropped_overrides_nothing() {
    let bench = bench(|_| rejected());
    bench.ask_as(checkmarx("o", 1, 1));
    bench.pass(60).await;
    assert_eq!(bench.observe(checkmarx("o", 1, 1)).hold, Hold::Latched);
    drop(permit(&bench, &checkmarx("o", 1, 1), Some("now")).unwrap());
    assert_eq!(bench.observe(checkmarx("o", 1, 1)).hold_on_request, Hold::Free);
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_is_dropped_counts_against_no_account() {
    let bench = bench(|_| rejected());
    for number in 0..4 {
        let name = format!("o{number}");
        assert!(
            permit(&bench, &checkmarx(&name, number, 1), None).is_some(),
            "{name}"
        );
    }
    assert_eq!(bench.observe(checkmarx("o", 9, 1)).account_free_at, None);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_not_sent_for_an_object_that_is_gone() {
    let bench = bench(|_| token("t", 3600));
    let ask = ask("o", 1, Grant::Mapiq);
    let permit = permit(&bench, &ask, None).unwrap();
    bench.grants.forget(&ask.object);
    let sent = permit.send(Some(ask.call()));
    assert_eq!(sent, None);
    bench.settle().await;
    assert_eq!(bench.calls().len(), 0);
    bench.pass(120).await;
    assert!(bench.grants.lock().grants.is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_dropped_permit_wakes_one_of_those_who_wait() {
    let mut bench = bench(|_| rejected());
    let all: Vec<_> = (0..50)
        .map(|number| checkmarx(&format!("o{number:02}"), 1, 1))
        .collect();
    let mut held = permit(&bench, &all[0], None);
    for ask in &all[1..] {
        assert!(permit(&bench, ask, None).is_none(), "one permit at a time");
    }
    // The API server refuses each record.
    let mut woken = Vec::new();
    while held.take().is_some() {
        let names = bench.woken();
        assert!(names.len() <= 1, "{names:?}");
        let next = names
            .first()
            .and_then(|name| all.iter().find(|ask| ask.object.to_string() == *name));
        held = next.and_then(|ask| permit(&bench, ask, None));
        woken.extend(names);
    }
    assert_eq!(woken.len(), 49, "all the others, one after the other");
}

#[tokio::test(start_paused = true)]
async fn attempts_in_a_status_count_against_each_account_that_comes() {
    let bench = bench(|_| rejected());
    bench.pass(100).await;
    bench.grants.start_leading();
    let seen = |number, account| {
        bench.observe(Ask {
            evidence: Evidence {
                is_same_credential: false,
                ..status_shows(Reason::CredentialsRejected, 3, 50, None)
            },
            ..checkmarx("o", number, account)
        })
    };
    // The Secret names another user at the restart, and then the one whose password was tried.
    seen(1, 2);
    assert!(seen(2, 1).account_free_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_several_statuses_show_counts_once() {
    let bench = bench(|_| rejected());
    bench.pass(100).await;
    bench.grants.start_leading();
    // Three VendorTokens name the Secret. Each publishes the former password in its own way; a new one is there now.
    for (name, fingerprint) in [("one", "4"), ("two", "5"), ("three", "6")] {
        let mut evidence = status_shows(Reason::CredentialsRejected, 1, 50, None);
        evidence.is_same_credential = false;
        evidence.failure.as_mut().unwrap().inputs.fingerprint = fingerprint.repeat(32);
        let standing = bench.observe(Ask {
            evidence,
            ..checkmarx(name, 2, 1)
        });
        assert_eq!(standing.account_free_at, None, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_of_the_process_in_between_count() {
    for answers_after in [0, 10] {
        let bench = bench(move |_| unreachable().after(Duration::from_secs(answers_after)));
        bench.ask_as(checkmarx("o", 1, 1));
        bench.pass(1).await;
        bench.grants.step_down();
        bench.pass(60).await;
        bench.grants.start_leading();
        let standing = bench.observe(Ask {
            evidence: Evidence {
                is_same_credential: false,
                ..status_shows(Reason::VendorUnavailable, 3, 50, Some(55))
            },
            ..checkmarx("o", 2, 1)
        });
        assert!(
            standing.account_free_at.is_some(),
            "an answer {answers_after} s after the attempt"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_is_free_at_the_same_second_after_a_restart() {
    let first = bench(|_| unreachable());
    first.pass(1).await;
    let all = [("a", 1), ("b", 2), ("c", 3)];
    for (name, number) in all {
        first.pass(1).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        first.ask_as(checkmarx(name, number, 1));
        first.settle().await;
    }
    let statuses = all.map(|(name, number)| first.observe(checkmarx(name, number, 1)));
    let second = bench(|_| unreachable());
    second
        .clock
        .step(first.clock.now().duration_since(second.clock.now()));
    second.grants.start_leading();
    for ((name, number), standing) in all.into_iter().zip(&statuses) {
        second.observe(Ask {
            evidence: Evidence {
                failure: standing.failure.clone(),
                is_same_credential: true,
                ..Evidence::default()
            },
            ..checkmarx(name, number, 1)
        });
    }
    let free_at = second.observe(checkmarx("d", 4, 1)).account_free_at;
    assert!(free_at.is_some());
    assert_eq!(free_at, statuses[2].account_free_at);
}
