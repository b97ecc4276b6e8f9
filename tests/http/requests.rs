//! Requests and answers that nothing disturbs.

use jiff::{SignedDuration, Timestamp};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use vendor_token_operator::clock::Clock;
use vendor_token_operator::http::{HttpTransport, Transport};
use vendor_token_operator::token::SecretString;

use crate::servers::*;

#[tokio::test]
async fn a_request_and_its_answer_are_carried_unchanged() {
    let authority = Authority::new();
    let server = Server::answering(authority.good(), TOKEN).await;
    let response = send(&authority, &server.url()).await.unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.headers["content-type"], "application/json");
    assert_eq!(*response.body, b"{\"access_token\":\"abc\"}");
    let sent = server.requests().remove(0);
    let lower = sent.to_lowercase();
    assert!(
        sent.starts_with("POST /oauth/token?q=unwanted-query HTTP/1.1\r\n"),
        "{sent}"
    );
    assert!(
        sent.ends_with("\r\n\r\ngrant_type=client_credentials&client_secret=marked-body"),
        "{sent}"
    );
    assert!(lower.contains("\r\nx-key: marked-header\r\n"), "{sent}");
    assert!(lower.contains("\r\ncontent-length: 55\r\n"), "{sent}");
    assert!(lower.contains(&format!(
        "\r\nuser-agent: vendor-token-operator/{}\r\n",
        env!("CARGO_PKG_VERSION")
    )));
    assert!(!lower.contains("accept-encoding"), "{sent}");
    assert!(!lower.contains("transfer-encoding"), "{sent}");
}

#[tokio::test]
async fn an_empty_body_is_sent_with_content_length_zero() {
    let authority = Authority::new();
    let server = Server::answering(authority.good(), TOKEN).await;
    let mut empty = request(&server.url());
    empty.body = SecretString::from("");
    transport(options(&authority)).send(empty).await.unwrap();
    let sent = server.requests().remove(0).to_lowercase();
    assert_eq!(sent.matches("\r\ncontent-length: 0\r\n").count(), 1, "{sent}");
    assert!(!sent.contains("transfer-encoding"), "{sent}");
}

#[derive(Debug)]
struct CountingClock(AtomicI64);

impl Clock for CountingClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(self.0.fetch_add(10, Ordering::SeqCst))
    }
}

#[tokio::test]
async fn sent_and_received_come_from_the_given_clock() {
    let authority = Authority::new();
    let server = Server::answering(authority.good(), TOKEN).await;
    let transport = HttpTransport::new(options(&authority), by(CountingClock(AtomicI64::new(90)))).unwrap();
    let response = transport.send(request(&server.url())).await.unwrap();
    assert_eq!(
        (response.sent.as_second(), response.received.as_second()),
        (100, 110)
    );
}

/// Steps ahead once, after it was asked so often.
#[derive(Debug)]
struct SteppedClock {
    asked: AtomicUsize,
    steps_after: usize,
    step: SignedDuration,
}

impl Clock for SteppedClock {
    fn now(&self) -> Timestamp {
        let stepped = self.asked.fetch_add(1, Ordering::SeqCst) >= self.steps_after;
        Timestamp::now() + if stepped { self.step } else { SignedDuration::ZERO }
    }
}

#[tokio::test]
async fn a_clock_that_is_set_while_a_vendor_answers_is_told() {
    let authority = Authority::new();
    let server = Server::answering(authority.good(), TOKEN).await;
    // It is read at the start, when the request is sent, when the head comes and when the body has come.
    for (steps_after, seconds) in [(0, 0), (1, 0), (2, 3600), (3, 3600), (3, -3600), (4, 0)] {
        let clock = SteppedClock {
            asked: AtomicUsize::new(0),
            steps_after,
            step: SignedDuration::from_secs(if seconds < 0 { -3600 } else { 3600 }),
        };
        let transport = HttpTransport::new(options(&authority), by(clock)).unwrap();
        let response = transport.send(request(&server.url())).await.unwrap();
        let told = response.clock_step.as_secs_f64().round();
        assert_eq!(told, seconds as f64, "after {steps_after} looks");
    }
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let authority = Authority::new();
    let server = Server::answering(authority.good(), TOKEN).await;
    let transport = transport(options(&authority));
    for _ in 0..3 {
        transport.send(request(&server.url())).await.unwrap();
    }
    assert_eq!((server.connections(), server.requests().len()), (1, 3));
}
