//! Budgets: requests a vendor answers in a window.

use serde_json::{Value, json};
use vendor_simulator::{Budget, Options, Vendor};

use crate::common::{ask, client, start, start_with};

const MAPIQ: Vendor = Vendor::Mapiq;

fn budget(requests: u32) -> Budget {
    Budget {
        requests,
        ..Budget::MAPIQ
    }
}

#[tokio::test]
async fn beyond_its_budget_mapiq_answers_429_in_its_words() {
    let simulator = start_with(Options::default().budget(MAPIQ, budget(2))).await;
    let client = client(&simulator);
    for _ in 0..2 {
        assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
    }
    let response = ask(&client, &simulator, MAPIQ).await;
    assert_eq!(response.status(), 429);
    let seconds: u32 = response.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=60).contains(&seconds));
    let body: Value = response.json().await.unwrap();
    let text = format!("Rate limit is exceeded. Try again in {seconds} seconds.");
    assert_eq!(body, json!({"statusCode": 429, "message": text}));
}

#[tokio::test]
async fn a_budget_can_leave_retry_after_out() {
    let simulator = start().await;
    let client = client(&simulator);
    simulator.set_budget(
        MAPIQ,
        Some(Budget {
            requests: 0,
            window_seconds: 300,
            retry_after_header: false,
        }),
    );
    let response = ask(&client, &simulator, MAPIQ).await;
    assert_eq!(response.status(), 429);
    assert!(!response.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn a_budget_can_be_lifted() {
    let simulator = start_with(Options::default().budget(MAPIQ, budget(0))).await;
    let client = client(&simulator);
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 429);
    simulator.set_budget(MAPIQ, None);
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
}

#[tokio::test]
async fn picus_tells_its_budget_in_headers_of_its_own() {
    let simulator = start_with(Options::default().budget(Vendor::Picus, budget(1))).await;
    let client = client(&simulator);
    let first = ask(&client, &simulator, Vendor::Picus).await;
    assert_eq!(
        (
            first.status().as_u16(),
            first.headers()["x-ratelimit-remaining"].to_str().unwrap()
        ),
        (200, "0")
    );
    let second = ask(&client, &simulator, Vendor::Picus).await;
    assert_eq!(second.status(), 429);
    let reset: i64 = second.headers()["x-ratelimit-reset"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let wait = reset - jiff::Timestamp::now().as_second();
    assert!((50..=61).contains(&wait), "{wait}");
    assert!(!second.headers().contains_key("retry-after"));
}
