//! Attempts on one account from several namespaces.

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
