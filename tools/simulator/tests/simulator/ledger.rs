//! The ledger.

use std::time::Duration;

use vendor_simulator::{Detail, Options, Vendor};

use crate::common::{SECRET, answer, ask, client, credential, request_with, start, start_with, token};

const MAPIQ: Vendor = Vendor::Mapiq;

#[tokio::test]
async fn calls_tokens_and_connections_are_counted() {
    let simulator = start().await;
    let client = client(&simulator);
    for vendor in Vendor::ALL {
        ask(&client, &simulator, vendor).await.bytes().await.unwrap();
        ask(&client, &simulator, vendor).await.bytes().await.unwrap();
        let counts = simulator.counts(vendor);
        assert_eq!(
            (counts.total.calls, counts.total.issued, counts.connections),
            (2, 2, 1),
            "{vendor}"
        );
    }
}

#[tokio::test]
async fn counts_alone_are_kept_where_calls_are_not() {
    let simulator = start_with(Options {
        detail: Detail::Counts,
        ..Options::default()
    })
    .await;
    ask(&client(&simulator), &simulator, MAPIQ).await;
    assert_eq!(simulator.calls(), []);
    assert_eq!(simulator.credential_counts(MAPIQ, "client").issued, 1);
}

#[tokio::test]
async fn the_calls_since_a_number_are_those_after_it() {
    let simulator = start().await;
    let client = client(&simulator);
    ask(&client, &simulator, MAPIQ).await;
    let since = simulator.sequence();
    ask(&client, &simulator, Vendor::Picus).await;
    let calls = simulator.calls_since(since);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].credential, Some(credential(Vendor::Picus).ledger_id()));
}

#[tokio::test]
async fn a_call_names_its_token_by_the_fingerprint() {
    let simulator = start().await;
    let body = answer(&client(&simulator), &simulator, MAPIQ).await;
    let fingerprint = vendor_simulator::fingerprint(token(&body).as_bytes());
    assert_eq!(simulator.calls()[0].token.as_deref(), Some(fingerprint.as_str()));
}

#[tokio::test]
async fn the_ledger_never_holds_a_secret() {
    let simulator = start().await;
    let client = client(&simulator);
    for vendor in Vendor::ALL {
        for secret in [SECRET, "mistyped"] {
            let request = request_with(&client, &simulator, vendor, secret);
            // 6clicks is not asked with a secret that no header can carry.
            let _ = request.send().await;
        }
    }
    let text = format!("{:?}", simulator.calls());
    assert!(!text.contains("mistyped") && !text.contains(SECRET), "{text}");
}

#[tokio::test]
async fn a_cleared_ledger_still_knows_the_tokens() {
    let simulator = start().await;
    let client = client(&simulator);
    let body = answer(&client, &simulator, MAPIQ).await;
    simulator.clear_ledger();
    assert_eq!((simulator.calls().len(), simulator.total(MAPIQ).calls), (0, 0));
    assert!(simulator.validate(MAPIQ, &token(&body)).valid);
}

#[tokio::test]
async fn a_number_of_calls_can_be_waited_for() {
    let simulator = start().await;
    ask(&client(&simulator), &simulator, MAPIQ).await;
    assert!(simulator.wait_for_calls(MAPIQ, 1, Duration::from_secs(5)).await);
    assert!(!simulator.wait_for_calls(MAPIQ, 2, Duration::ZERO).await);
}
