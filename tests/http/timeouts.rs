//! Servers that keep a request waiting.

use std::time::Duration;
use tokio::io::AsyncWriteExt;
use vendor_token_operator::failure::FailureClass;
use vendor_token_operator::http::HttpTransportOptions;

use crate::servers::*;

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_ends_at_the_connect_timeout() {
    let authority = Authority::new();
    let server = Server::tcp(|stream, _| async move {
        let _held = stream;
        forever().await;
    })
    .await;
    let options = HttpTransportOptions {
        connect_timeout: Duration::from_millis(200),
        ..options(&authority)
    };
    fails(
        transport(options),
        request(&server.url()),
        FailureClass::Transient,
        "failed to connect",
    )
    .await;
}

#[tokio::test]
async fn a_server_that_hangs_before_or_after_its_head_ends_at_the_total_timeout() {
    let authority = Authority::new();
    for head in ["", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"] {
        let server = Server::tls(authority.good(), move |mut stream, _| async move {
            read_request(&mut stream).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            forever().await;
        })
        .await;
        let options = HttpTransportOptions {
            total_timeout: Duration::from_millis(400),
            ..options(&authority)
        };
        fails(
            transport(options),
            request(&server.url()),
            FailureClass::Transient,
            "within 0.4 s",
        )
        .await;
    }
}

#[tokio::test]
async fn a_body_that_drips_ends_at_the_total_timeout() {
    let authority = Authority::new();
    let server = Server::tls(authority.good(), |mut stream, _| async move {
        read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
            .await
            .unwrap();
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        while stream.write_all(b"x").await.is_ok() && stream.flush().await.is_ok() {
            pace.tick().await;
        }
    })
    .await;
    let options = HttpTransportOptions {
        total_timeout: Duration::from_millis(400),
        ..options(&authority)
    };
    fails(
        transport(options),
        request(&server.url()),
        FailureClass::Transient,
        "within 0.4 s",
    )
    .await;
}
