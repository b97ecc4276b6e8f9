//! What faults, budgets, listeners and the trap do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use common::{ask, builder, client, credential, request, request_with, start, start_with, token};
use serde_json::{Map, Value, json};
use vendor_simulator::{Budget, Credential, Detail, Effect, Fault, Options, TlsMode, Vendor};

const MAPIQ: Vendor = Vendor::Mapiq;

#[tokio::test]
async fn a_scripted_answer_is_verbatim_and_lasts_as_long_as_it_says() {
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
    assert!(simulator.faults().is_empty());
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
    let effect = Effect::Throttle {
        retry_after: Some("soon".into()),
        seconds: 289,
    };
    let id = simulator.add_fault(Fault::new(Vendor::Picus, effect.clone()).credential("pi"));
    simulator.put_credential(Vendor::Picus, Credential::new("second", "another"));
    let response = ask(&client, &simulator, Vendor::Picus).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"soon".parse().unwrap())
    );
    assert!(response.headers().contains_key("x-ratelimit-reset"));
    let other = request_with(&client, &simulator, Vendor::Picus, "another")
        .send()
        .await
        .unwrap();
    assert_eq!(other.status(), 200);
    assert!(simulator.clear_fault(id));
    assert_eq!(ask(&client, &simulator, Vendor::Picus).await.status(), 200);
    simulator.add_fault(Fault::new(MAPIQ, effect));
    let body: Value = ask(&client, &simulator, MAPIQ).await.json().await.unwrap();
    assert_eq!(
        body["message"],
        json!("Rate limit is exceeded. Try again in 289 seconds.")
    );
    assert_eq!(
        simulator.counts(Vendor::Picus).credentials["pi"].by_status[&429],
        1
    );
}

#[tokio::test]
async fn waits_before_the_head_and_within_the_body() {
    let simulator = start().await;
    let client = client(&simulator);
    simulator.add_fault(Fault::new(MAPIQ, Effect::DelayHead { milliseconds: 150 }).times(1));
    let begin = Instant::now();
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
    assert!(begin.elapsed() >= Duration::from_millis(150));
    simulator.add_fault(Fault::new(MAPIQ, Effect::DelayBody { milliseconds: 1500 }).times(1));
    let begin = Instant::now();
    let response = ask(&client, &simulator, MAPIQ).await;
    assert!(
        begin.elapsed() < Duration::from_millis(1400),
        "the head comes at once"
    );
    let body: Value = response.json().await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(1500));
    assert!(simulator.validate(MAPIQ, &token(&body)).valid);
    simulator.add_fault(Fault::new(MAPIQ, Effect::DripBody { milliseconds: 1 }).times(1));
    let begin = Instant::now();
    let body: Value = ask(&client, &simulator, MAPIQ).await.json().await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert!(simulator.validate(MAPIQ, &token(&body)).valid);
}

#[tokio::test]
async fn no_answer_a_closed_connection_and_a_truncated_body() {
    let simulator = start().await;
    let client = client(&simulator);
    simulator.add_fault(Fault::new(MAPIQ, Effect::Hang).times(1));
    let hanging = request(&client, &simulator, MAPIQ)
        .timeout(Duration::from_millis(200))
        .send()
        .await;
    assert!(hanging.unwrap_err().is_timeout());
    simulator.add_fault(Fault::new(MAPIQ, Effect::Close).times(1));
    let closed = request(&client, &simulator, MAPIQ).send().await.unwrap_err();
    assert!(!closed.is_timeout());
    assert_eq!(simulator.total(MAPIQ).by_status[&0], 2);
    simulator.add_fault(Fault::new(MAPIQ, Effect::Truncate).times(1));
    let response = ask(&client, &simulator, MAPIQ).await;
    assert_eq!(response.status(), 200);
    assert!(response.text().await.is_err());
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
}

#[tokio::test]
async fn a_redirect_points_to_the_trap_which_records_who_follows() {
    let simulator = start().await;
    let careful = client(&simulator);
    for status in [301, 302, 307, 308] {
        simulator.add_fault(
            Fault::new(
                MAPIQ,
                Effect::Redirect {
                    status,
                    location: None,
                },
            )
            .times(1),
        );
        let response = ask(&careful, &simulator, MAPIQ).await;
        assert_eq!(response.status().as_u16(), status);
        let location = response.headers()["location"].to_str().unwrap().to_owned();
        assert!(location.starts_with(&simulator.origins().trap), "{location}");
    }
    assert_eq!(
        (simulator.trap().connections, simulator.trap().requests.len()),
        (0, 0)
    );
    let careless = builder(&simulator)
        .redirect(reqwest::redirect::Policy::limited(2))
        .build()
        .unwrap();
    simulator.add_fault(
        Fault::new(
            MAPIQ,
            Effect::Redirect {
                status: 307,
                location: None,
            },
        )
        .times(1),
    );
    let body: Value = ask(&careless, &simulator, MAPIQ).await.json().await.unwrap();
    assert_eq!(token(&body), "from-the-trap");
    let trap = simulator.trap();
    assert_eq!((trap.connections, trap.requests.len()), (1, 1));
    assert!(trap.requests[0].body_length > 0);
    assert_eq!(trap.requests[0].path, MAPIQ.path());
}

#[tokio::test]
async fn changed_bodies_huge_gzipped_with_other_members() {
    let simulator = start().await;
    let client = client(&simulator);
    let fetch = async |vendor: Vendor, effect: Effect| {
        simulator.add_fault(Fault::new(vendor, effect).times(1));
        ask(&client, &simulator, vendor).await
    };
    let response = fetch(MAPIQ, Effect::HugeBody { bytes: 2 << 20 }).await;
    assert_eq!(response.content_length(), None, "the length is not announced");
    let body = response.bytes().await.unwrap();
    assert!(body.len() > 2 << 20);
    let value: Value = serde_json::from_slice(&body).unwrap();
    assert!(simulator.validate(MAPIQ, &token(&value)).valid);

    let response = fetch(MAPIQ, Effect::Gzip).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert!(response.bytes().await.unwrap().starts_with(&[0x1f, 0x8b, 8]));

    let response = fetch(MAPIQ, Effect::ByteOrderMark).await;
    assert!(response.bytes().await.unwrap().starts_with(b"\xef\xbb\xbf{"));

    let body: Value = fetch(MAPIQ, Effect::NumbersAsText).await.json().await.unwrap();
    assert_eq!(body["expires_in"], json!("3600"));

    let set = Map::from_iter([("token_type".to_owned(), json!("mac"))]);
    let effect = Effect::Members {
        set,
        remove: vec!["expires_in".into()],
    };
    let body: Value = fetch(MAPIQ, effect).await.json().await.unwrap();
    assert_eq!(
        (body.get("expires_in"), &body["token_type"]),
        (None, &json!("mac"))
    );

    let body: Value = fetch(Vendor::Picus, Effect::ExpireAtInSeconds)
        .await
        .json()
        .await
        .unwrap();
    assert!(body["expire_at"].as_i64().unwrap() < 100_000_000_000);

    let body: Value = fetch(Vendor::SixClicks, Effect::Envelope)
        .await
        .json()
        .await
        .unwrap();
    assert!(
        simulator
            .validate(Vendor::SixClicks, &token(&body["result"]))
            .valid
    );

    let body: Value = fetch(Vendor::SixClicks, Effect::OpaqueToken)
        .await
        .json()
        .await
        .unwrap();
    assert!(!token(&body).contains('.'));
    let again: Value = fetch(Vendor::SixClicks, Effect::SameToken)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(token(&again), token(&body));
}

#[tokio::test]
async fn lifetimes_and_clocks_that_are_off() {
    let simulator = start().await;
    let client = client(&simulator);
    simulator.add_fault(Fault::new(Vendor::Picus, Effect::Lifetime { seconds: -5 }).times(1));
    let body: Value = ask(&client, &simulator, Vendor::Picus)
        .await
        .json()
        .await
        .unwrap();
    let expired = simulator.validate(Vendor::Picus, &token(&body));
    assert!(expired.known && !expired.valid && expired.expires_ms < expired.issued_ms);
    for header_only in [true, false] {
        let effect = Effect::ClockSkew {
            seconds: 86_400,
            header_only,
        };
        simulator.add_fault(Fault::new(Vendor::Picus, effect).times(1));
        let response = ask(&client, &simulator, Vendor::Picus).await;
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

#[tokio::test]
async fn a_budget_answers_429_in_the_vendors_words() {
    let simulator = start_with(Options::default().budget(
        MAPIQ,
        Budget {
            requests: 2,
            ..Budget::MAPIQ
        },
    ))
    .await;
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
    simulator.set_budget(
        Vendor::Picus,
        Some(Budget {
            requests: 1,
            ..Budget::MAPIQ
        }),
    );
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
    simulator.set_budget(MAPIQ, None);
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
}

#[tokio::test]
async fn a_paused_listener_refuses_connections_and_comes_back_on_its_port() {
    let simulator = start().await;
    let client = client(&simulator);
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
    simulator.pause(MAPIQ).await.unwrap();
    let error = request(&client, &simulator, MAPIQ).send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert_eq!(
        ask(&client, &simulator, Vendor::Picus).await.status(),
        200,
        "the others go on"
    );
    simulator.resume(MAPIQ).await.unwrap();
    simulator.resume(MAPIQ).await.unwrap();
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
    assert_eq!(simulator.total(MAPIQ).calls, 2);
}

#[tokio::test]
async fn bad_certificates_fail_the_handshake_and_a_good_one_ends_it() {
    let simulator = start().await;
    let client = client(&simulator);
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
    let mut failed = 0;
    for (mode, words) in [
        (TlsMode::Expired, "Expired"),
        (TlsMode::WrongHost, "NotValidForName"),
        (TlsMode::Untrusted, "UnknownIssuer"),
    ] {
        simulator.set_tls(MAPIQ, mode).await.unwrap();
        let error = request(&client, &simulator, MAPIQ).send().await.unwrap_err();
        failed += 1;
        let end = Instant::now() + Duration::from_secs(5);
        while simulator.counts(MAPIQ).failed_handshakes < failed {
            assert!(Instant::now() < end, "the server has not seen the failure");
            tokio::task::yield_now().await;
        }
        assert!(format!("{error:?}").contains(words), "{mode:?}: {error:?}");
    }
    simulator.set_tls(MAPIQ, TlsMode::Trusted).await.unwrap();
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
}

#[tokio::test]
async fn the_ledger_tells_what_came_since_and_forgets_when_cleared() {
    let simulator = start_with(Options {
        detail: Detail::Counts,
        ..Options::default()
    })
    .await;
    let client = client(&simulator);
    ask(&client, &simulator, MAPIQ).await;
    assert!(simulator.calls().is_empty(), "counts only");
    assert_eq!(simulator.credential_counts(MAPIQ, "client").issued, 1);
    let simulator = start().await;
    let client = common::client(&simulator);
    let body: Value = ask(&client, &simulator, MAPIQ).await.json().await.unwrap();
    let since = simulator.sequence();
    ask(&client, &simulator, Vendor::Picus).await;
    let calls = simulator.calls_since(since);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].credential, Some(credential(Vendor::Picus).ledger_id()));
    let fingerprint = vendor_simulator::fingerprint(token(&body).as_bytes());
    assert_eq!(simulator.calls()[0].token.as_deref(), Some(fingerprint.as_str()));
    simulator.clear_ledger();
    assert_eq!((simulator.calls().len(), simulator.total(MAPIQ).calls), (0, 0));
    assert!(
        simulator.validate(MAPIQ, &token(&body)).valid,
        "tokens stay known"
    );
    ask(&client, &simulator, MAPIQ).await;
    assert!(simulator.wait_for_calls(MAPIQ, 1, Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_stopped_simulator_leaves_nothing_behind() {
    let simulator = start().await;
    let client = client(&simulator);
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
    let url = simulator.url(MAPIQ);
    simulator.stop().await;
    assert!(client.post(&url).send().await.unwrap_err().is_connect());
    let dropped = start().await;
    let address = dropped.origin(MAPIQ).replace("https://localhost", "127.0.0.1");
    drop(dropped);
    let end = Instant::now() + Duration::from_secs(5);
    while tokio::net::TcpStream::connect(&address).await.is_ok() {
        assert!(Instant::now() < end, "still listening");
        tokio::task::yield_now().await;
    }
}
