//! Scripted faults.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use vendor_simulator::{Credential, Effect, Fault, Vendor};

use crate::common::{ask, ask_under, builder, client, request, request_with, start, token};

const MAPIQ: Vendor = Vendor::Mapiq;

#[tokio::test]
async fn a_scripted_answer_is_verbatim_as_often_as_it_says() {
    let simulator = start().await;
    let client = client(&simulator);
    let effect = Effect::Answer {
        status: 503,
        headers: vec![
            ("Retry-After".into(), "7".into()),
            ("Content-Type".into(), "text/html".into()),
        ],
        body: "<html>busy</html>".into(),
    };
    simulator.add_fault(Fault::new(MAPIQ, effect).times(2));
    for _ in 0..2 {
        let response = ask(&client, &simulator, MAPIQ).await;
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "7");
        assert_eq!(response.headers()["content-type"], "text/html");
        assert_eq!(response.text().await.unwrap(), "<html>busy</html>");
    }
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
    let counts = simulator.total(MAPIQ);
    assert_eq!(
        (counts.by_status[&503], counts.by_status[&200], counts.issued),
        (2, 1, 1)
    );
    assert_eq!(simulator.calls().iter().filter(|call| call.fault).count(), 2);
}

#[tokio::test]
async fn a_fault_on_one_credential_leaves_the_others_alone() {
    let simulator = start().await;
    let client = client(&simulator);
    simulator.add_fault(Fault::new(Vendor::Picus, throttled("soon")).credential("pi"));
    simulator.put_credential(Vendor::Picus, Credential::new("second", "another"));
    assert_eq!(ask(&client, &simulator, Vendor::Picus).await.status(), 429);
    let other = request_with(&client, &simulator, Vendor::Picus, "another");
    assert_eq!(other.send().await.unwrap().status(), 200);
    let counts = simulator.credential_counts(Vendor::Picus, "pi");
    assert_eq!(counts.by_status[&429], 1);
}

#[tokio::test]
async fn a_fault_acts_until_it_is_cleared() {
    let simulator = start().await;
    let client = client(&simulator);
    let id = simulator.add_fault(Fault::new(MAPIQ, throttled("soon")));
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 429);
    assert!(simulator.clear_fault(id));
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
    assert!(!simulator.clear_fault(id));
}

fn throttled(retry_after: &str) -> Effect {
    Effect::Throttle {
        retry_after: Some(retry_after.into()),
        seconds: 289,
    }
}

#[tokio::test]
async fn a_throttle_is_in_the_vendors_words() {
    let simulator = start().await;
    let client = client(&simulator);
    let response = ask_under(&client, &simulator, Vendor::Picus, throttled("soon")).await;
    assert_eq!(response.headers()["retry-after"], "soon");
    assert!(response.headers().contains_key("x-ratelimit-reset"));
    let response = ask_under(&client, &simulator, MAPIQ, throttled("soon")).await;
    let body: Value = response.json().await.unwrap();
    assert_eq!(
        body["message"],
        json!("Rate limit is exceeded. Try again in 289 seconds.")
    );
}

#[tokio::test]
async fn a_delayed_head_comes_late() {
    let simulator = start().await;
    let begin = Instant::now();
    let effect = Effect::DelayHead { milliseconds: 150 };
    let response = ask_under(&client(&simulator), &simulator, MAPIQ, effect).await;
    assert_eq!(response.status(), 200);
    assert!(begin.elapsed() >= Duration::from_millis(150));
}

#[tokio::test]
async fn a_delayed_body_comes_after_its_head() {
    let simulator = start().await;
    let begin = Instant::now();
    let effect = Effect::DelayBody { milliseconds: 1500 };
    let response = ask_under(&client(&simulator), &simulator, MAPIQ, effect).await;
    assert!(
        begin.elapsed() < Duration::from_millis(1400),
        "the head comes at once"
    );
    let body: Value = response.json().await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(1500));
    assert!(simulator.validate(MAPIQ, &token(&body)).valid);
}

#[tokio::test]
async fn a_dripping_body_comes_byte_by_byte() {
    let simulator = start().await;
    let begin = Instant::now();
    let effect = Effect::DripBody { milliseconds: 1 };
    let response = ask_under(&client(&simulator), &simulator, MAPIQ, effect).await;
    let body: Value = response.json().await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert!(simulator.validate(MAPIQ, &token(&body)).valid);
}

#[tokio::test]
async fn a_hanging_request_is_never_answered() {
    let simulator = start().await;
    simulator.add_fault(Fault::new(MAPIQ, Effect::Hang).times(1));
    let hanging = request(&client(&simulator), &simulator, MAPIQ)
        .timeout(Duration::from_millis(200))
        .send()
        .await;
    assert!(hanging.unwrap_err().is_timeout());
    assert_eq!(simulator.total(MAPIQ).by_status[&0], 1);
}

#[tokio::test]
async fn a_closed_connection_has_no_answer() {
    let simulator = start().await;
    let client = client(&simulator);
    simulator.add_fault(Fault::new(MAPIQ, Effect::Close).times(1));
    let closed = request(&client, &simulator, MAPIQ).send().await.unwrap_err();
    assert!(!closed.is_timeout());
    assert_eq!(simulator.total(MAPIQ).by_status[&0], 1);
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
}

#[tokio::test]
async fn a_truncated_body_fails_to_be_read() {
    let simulator = start().await;
    let client = client(&simulator);
    let response = ask_under(&client, &simulator, MAPIQ, Effect::Truncate).await;
    assert_eq!(response.status(), 200);
    assert!(response.text().await.is_err());
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
}

fn redirect(status: u16) -> Effect {
    let location = None;
    Effect::Redirect { status, location }
}

#[tokio::test]
async fn a_redirect_points_to_the_trap() {
    let simulator = start().await;
    let client = client(&simulator);
    for status in [301, 302, 307, 308] {
        let response = ask_under(&client, &simulator, MAPIQ, redirect(status)).await;
        assert_eq!(response.status().as_u16(), status);
        let location = response.headers()["location"].to_str().unwrap().to_owned();
        assert!(location.starts_with(&simulator.origins().trap), "{location}");
    }
    let trap = simulator.trap();
    assert_eq!((trap.connections, trap.requests.len()), (0, 0));
}

#[tokio::test]
async fn the_trap_records_a_client_that_follows_a_redirect() {
    let simulator = start().await;
    let careless = builder(&simulator)
        .redirect(reqwest::redirect::Policy::limited(2))
        .build()
        .unwrap();
    let response = ask_under(&careless, &simulator, MAPIQ, redirect(307)).await;
    assert_eq!(token(&response.json().await.unwrap()), "from-the-trap");
    let trap = simulator.trap();
    assert_eq!((trap.connections, trap.requests.len()), (1, 1));
    assert!(trap.requests[0].body_length > 0);
    assert_eq!(trap.requests[0].path, MAPIQ.path());
}

#[tokio::test]
async fn a_huge_body_does_not_announce_its_length() {
    let simulator = start().await;
    let effect = Effect::HugeBody { bytes: 2 << 20 };
    let response = ask_under(&client(&simulator), &simulator, MAPIQ, effect).await;
    assert_eq!(response.content_length(), None);
    let body = response.bytes().await.unwrap();
    assert!(body.len() > 2 << 20);
    let value: Value = serde_json::from_slice(&body).unwrap();
    assert!(simulator.validate(MAPIQ, &token(&value)).valid);
}

#[tokio::test]
async fn a_body_can_be_compressed_unasked() {
    let simulator = start().await;
    let response = ask_under(&client(&simulator), &simulator, MAPIQ, Effect::Gzip).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert!(response.bytes().await.unwrap().starts_with(&[0x1f, 0x8b, 8]));
}

#[tokio::test]
async fn a_body_can_begin_with_a_byte_order_mark() {
    let simulator = start().await;
    let response = ask_under(&client(&simulator), &simulator, MAPIQ, Effect::ByteOrderMark).await;
    assert!(response.bytes().await.unwrap().starts_with(b"\xef\xbb\xbf{"));
}

/// The JSON of a success under a fault.
async fn success_under(vendor: Vendor, effect: Effect) -> Value {
    let simulator = start().await;
    let response = ask_under(&client(&simulator), &simulator, vendor, effect).await;
    response.json().await.unwrap()
}

#[tokio::test]
async fn numbers_can_be_written_as_text() {
    let body = success_under(MAPIQ, Effect::NumbersAsText).await;
    assert_eq!(body["expires_in"], json!("3600"));
}

#[tokio::test]
async fn members_can_be_set_and_removed() {
    let set = Map::from_iter([("token_type".to_owned(), json!("mac"))]);
    let remove = vec!["expires_in".into()];
    let body = success_under(MAPIQ, Effect::Members { set, remove }).await;
    assert_eq!(
        (body.get("expires_in"), &body["token_type"]),
        (None, &json!("mac"))
    );
}

#[tokio::test]
async fn picus_expiry_can_be_in_seconds() {
    let body = success_under(Vendor::Picus, Effect::ExpireAtInSeconds).await;
    assert!(body["expire_at"].as_i64().unwrap() < 100_000_000_000);
}

#[tokio::test]
async fn a_success_can_be_wrapped_in_an_envelope() {
    let simulator = start().await;
    let response = ask_under(
        &client(&simulator),
        &simulator,
        Vendor::SixClicks,
        Effect::Envelope,
    )
    .await;
    let body: Value = response.json().await.unwrap();
    let token = token(&body["result"]);
    assert!(simulator.validate(Vendor::SixClicks, &token).valid);
}

#[tokio::test]
async fn a_token_can_be_opaque() {
    let body = success_under(Vendor::SixClicks, Effect::OpaqueToken).await;
    assert!(!token(&body).contains('.'));
}

#[tokio::test]
async fn a_credentials_last_token_can_be_given_again() {
    let simulator = start().await;
    let client = client(&simulator);
    let first: Value = ask(&client, &simulator, Vendor::SixClicks)
        .await
        .json()
        .await
        .unwrap();
    let again = ask_under(&client, &simulator, Vendor::SixClicks, Effect::SameToken).await;
    assert_eq!(token(&again.json().await.unwrap()), token(&first));
}

#[tokio::test]
async fn a_token_can_be_issued_expired() {
    let simulator = start().await;
    let effect = Effect::Lifetime { seconds: -5 };
    let response = ask_under(&client(&simulator), &simulator, Vendor::Picus, effect).await;
    let expired = simulator.validate(Vendor::Picus, &token(&response.json().await.unwrap()));
    assert!(expired.known && !expired.valid && expired.expires_ms < expired.issued_ms);
}

#[tokio::test]
async fn a_vendors_clock_can_be_off_in_the_header_or_everywhere() {
    let simulator = start().await;
    let client = client(&simulator);
    for header_only in [true, false] {
        let effect = Effect::ClockSkew {
            seconds: 86_400,
            header_only,
        };
        let response = ask_under(&client, &simulator, Vendor::Picus, effect).await;
        let date = response.headers()["date"].to_str().unwrap().to_owned();
        let date = jiff::fmt::rfc2822::parse(&date).unwrap().timestamp();
        let ahead = date.as_second() - jiff::Timestamp::now().as_second();
        assert!((86_390..=86_410).contains(&ahead), "{ahead}");
        let body: Value = response.json().await.unwrap();
        let known = simulator.validate(Vendor::Picus, &token(&body));
        let off = body["expire_at"].as_u64().unwrap() - known.expires_ms;
        assert_eq!(off, if header_only { 0 } else { 86_400_000 });
    }
}
