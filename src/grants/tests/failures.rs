//! Failed attempts, and the refresh requests that override their holds.

use std::time::Duration;

use rstest::rstest;

use super::*;

#[rstest]
#[case::rejected(Vendor::SixMap, rejected(), Reason::CredentialsRejected, Some((3600, 4320)))]
#[case::a_rejected_checkmarx_password(Vendor::CheckmarxSca, rejected(), Reason::CredentialsRejected, None)]
#[case::refused(Vendor::CheckmarxSca, status(404, "no such page"), Reason::EndpointRefused, Some((300, 361)))]
#[case::throttled(Vendor::SixMap, throttled(40), Reason::RateLimited, Some((40, 45)))]
#[case::transient(Vendor::SixMap, unreachable(), Reason::VendorUnavailable, Some((5, 7)))]
#[case::malformed(Vendor::SixMap, status(200, "[]"), Reason::InvalidResponse, Some((60, 73)))]
#[tokio::test(start_paused = true)]
async fn a_failure_has_a_reason_and_the_time_of_the_next_attempt(
    #[case] vendor: Vendor,
    #[case] answer: Answer,
    #[case] reason: Reason,
    #[case] within: Option<(i64, i64)>,
) {
    let mut answer = Some(answer);
    let mut bench = bench(move |_| answer.take().unwrap().after(Duration::from_millis(1500)));
    bench.pass(10).await;
    bench.ask("o", 1, vendor);
    bench.pass(2).await;
    let failure = bench.facts("o").failure.unwrap();
    assert_eq!(failure.reason, reason);
    assert_eq!(failure.count, 1);
    assert_eq!(failure.inputs, inputs());
    assert_eq!(
        failure.last_attempt,
        start() + SignedDuration::from_secs(10),
        "when it was sent"
    );
    let wait = failure
        .next_attempt
        .map(|next| next.duration_since(start()).as_secs() - 11);
    match within {
        None => assert_eq!(wait, None),
        Some((least, most)) => assert!((least..=most).contains(&wait.unwrap()), "{wait:?}"),
    }
    assert!(
        failure
            .next_attempt
            .is_none_or(|next| next.subsec_nanosecond() == 0)
    );
    assert_eq!(bench.woken(), ["a/o"]);
    assert_eq!(bench.token("o"), None);
    assert_eq!(bench.heard.ended.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_count_from_the_status_until_a_success() {
    let mut bench = bench(|call| match call.index {
        0 | 1 | 3 => unreachable(),
        _ => token("t", 10),
    });
    bench.ask_as(Ask {
        evidence: status_shows(Reason::VendorUnavailable, 3, -100, Some(-50)),
        ..ask("o", 1, grant_of(Vendor::SixMap))
    });
    bench.settle().await;
    let failure = bench.facts("o").failure.unwrap();
    assert_eq!(failure.count, 4);
    assert!(
        bench.until(failure.next_attempt) >= Some(40),
        "5 s doubled three times: {failure:?}"
    );
    bench.pass(60).await;
    // A status that is older than the failure in memory does not count.
    bench.ask_as(Ask {
        evidence: status_shows(Reason::VendorUnavailable, 2, -100, Some(-50)),
        ..ask("o", 1, grant_of(Vendor::SixMap))
    });
    bench.settle().await;
    assert_eq!(bench.facts("o").failure.unwrap().count, 5);
    bench.pass(120).await;
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    let state = bench.facts("o");
    assert_eq!(state.failure, None);
    assert_eq!(state.succeeded, Some(state.token.unwrap().issued));
    bench.pass(60).await;
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    let state = bench.facts("o");
    assert_eq!(state.failure.unwrap().count, 1);
    assert_eq!(state.succeeded, None);
    assert_eq!(bench.calls().len(), 4);
    assert_eq!(bench.woken().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_leaves_the_token() {
    let bench = bench(|call| match call.index {
        0 => token("t", 3600),
        _ => unreachable(),
    });
    bench.ask("o", 1, Vendor::SixMap);
    bench.pass(2880).await;
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    assert!(bench.facts("o").failure.is_some());
    assert_eq!(bench.token("o").as_deref(), Some("t"));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_completes_the_refresh_request_of_each_object_that_waited() {
    let bench = bench(|call| match call.index {
        0 => rejected().after(Duration::from_secs(1)),
        _ => token("t", 3600),
    });
    bench.ask_for_refresh("o", 1, Vendor::SixMap, "monday");
    bench.ask_for_refresh("p", 1, Vendor::SixMap, "tuesday");
    bench.ask("q", 1, Vendor::SixMap);
    bench.settle().await;
    assert_eq!(bench.facts("o").completed_request, None);
    bench.pass(2).await;
    assert_eq!(bench.facts("o").completed_request.as_deref(), Some("monday"));
    assert_eq!(bench.facts("p").completed_request.as_deref(), Some("tuesday"));
    assert_eq!(bench.facts("q").completed_request, None);
    bench.ask_for_refresh("o", 1, Vendor::SixMap, "friday");
    bench.settle().await;
    assert_eq!(bench.facts("o").completed_request.as_deref(), Some("friday"));
    assert_eq!(bench.facts("p").completed_request.as_deref(), Some("tuesday"));
}

#[tokio::test(start_paused = true)]
async fn asking_again_without_a_request_keeps_the_former_one() {
    let bench = bench(|_| token("t", 3600).after(Duration::from_secs(1)));
    bench.ask_for_refresh("o", 1, Vendor::SixMap, "monday");
    bench.ask("o", 1, Vendor::SixMap);
    bench.pass(2).await;
    assert_eq!(bench.facts("o").completed_request.as_deref(), Some("monday"));
}

#[tokio::test(start_paused = true)]
async fn a_latch_is_overridden_once_in_15_minutes_whoever_asks() {
    let bench = bench(|_| rejected());
    bench.ask("o", 1, Vendor::CheckmarxSca);
    bench.settle().await;
    assert!(
        bench.facts("o").may_override,
        "the first attempt overrode nothing"
    );
    bench.ask_for_refresh("o", 1, Vendor::CheckmarxSca, "monday");
    bench.settle().await;
    assert_eq!(bench.calls().len(), 2);
    assert!(!bench.facts("o").may_override);
    bench.uses("p", 1);
    assert!(
        !bench.facts("p").may_override,
        "it is the grant's, not the object's"
    );
    // A step back of the wall clock does not lengthen the wait.
    bench.clock.step(SignedDuration::from_hours(-2));
    bench.pass(15 * 60 - 1).await;
    assert!(!bench.facts("o").may_override);
    bench.pass(1).await;
    assert!(bench.facts("o").may_override);
    // The time of a sleep counts, too.
    bench.ask_for_refresh("o", 1, Vendor::CheckmarxSca, "tuesday");
    bench.settle().await;
    assert!(!bench.facts("o").may_override);
    bench.clock.sleep(SignedDuration::from_mins(15));
    assert!(bench.facts("o").may_override);
}

#[tokio::test(start_paused = true)]
async fn a_latch_that_only_a_status_shows_is_overridden_once_too() {
    let bench = bench(|_| rejected());
    bench.ask_as(Ask {
        evidence: status_shows(Reason::CredentialsRejected, 1, -100, None),
        refresh_request: Some("monday".to_owned()),
        ..ask("o", 1, grant_of(Vendor::CheckmarxSca))
    });
    bench.settle().await;
    assert_eq!(bench.calls().len(), 1);
    assert!(!bench.facts("o").may_override);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_object_has_no_facts() {
    let bench = bench(|_| token("t", 3600));
    let expected = GrantFacts {
        may_override: true,
        ..GrantFacts::default()
    };
    assert_eq!(bench.facts("nobody"), expected);
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    assert_eq!(bench.facts("nobody"), expected);
    assert_eq!(bench.token("nobody"), None);
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_asking_is_a_failed_attempt() {
    let mut bench = bench_with(&[], 1, |call| match call.index {
        0 => panic!("scripted"),
        _ => token("t", 3600),
    });
    bench.vendor.script.clear_poison();
    bench.ask_for_refresh("o", 1, Vendor::SixMap, "monday");
    bench.settle().await;
    let state = bench.facts("o");
    assert_eq!(state.failure.as_ref().unwrap().reason, Reason::VendorUnavailable);
    assert_eq!(state.completed_request.as_deref(), Some("monday"));
    assert_eq!(bench.woken(), ["a/o"]);
    assert_eq!(*bench.heard.ended.lock().unwrap(), [Err(FailureClass::Transient)]);
    bench.vendor.script.clear_poison();
    bench.ask("p", 2, Vendor::SixMap);
    bench.pass(10).await;
    bench.ask("o", 1, Vendor::SixMap);
    bench.settle().await;
    assert_eq!(bench.token("o").as_deref(), Some("t"));
    assert_eq!(bench.token("p").as_deref(), Some("t"));
    tokio::time::timeout(
        Duration::from_secs(1),
        bench.grants.drain(Duration::from_secs(60)),
    )
    .await
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_credential_that_a_vendor_sends_back_is_kept() {
    let bench = bench(|_| {
        status(
            400,
            r#"{"error":"invalid_grant","error_description":"hush1-refresh-token is bad"}"#,
        )
    });
    bench.ask("o", 1, Vendor::Picus);
    bench.settle().await;
    let failure = bench.facts("o").failure.unwrap();
    assert!(!failure.message.contains("hush1"), "{}", failure.message);
}

/// A log that keeps its lines.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn texts_that_change_with_each_refusal_are_only_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // With a single subscriber, the first thread that logs would decide for all threads that nobody reads the line.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let bench = bench(|call| {
        let body = serde_json::json!({
            "error": "invalid_client",
            "error_description": format!(
                "AADB2C90081: The secret does not match.\r\nCorrelation ID: id-{}\r\nTimestamp: {:?}\r\n", call.grant, call.at
            ),
        });
        status(400, &body.to_string())
    });
    let mut shown = Vec::new();
    for (name, number) in [("one", 1), ("two", 2)] {
        bench.ask(name, number, Vendor::Mapiq);
        bench.pass(7).await;
        shown.push(bench.facts(name).failure.unwrap().message);
    }
    assert_eq!(
        shown[0], shown[1],
        "a status that changes is written, seen and written again"
    );
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for id in ["id-1", "id-2"] {
        assert!(text.contains(id), "{text}");
        assert!(!shown[0].contains(id), "{}", shown[0]);
    }
}
