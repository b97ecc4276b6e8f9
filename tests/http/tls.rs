//! Connections that are refused.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use vendor_token_operator::failure::FailureClass;

use crate::servers::*;

#[tokio::test]
async fn a_server_certificate_that_cannot_be_trusted_is_refused_with_its_cure() {
    let (authority, other) = (Authority::new(), Authority::new());
    let all = rustls::ALL_VERSIONS;
    for (config, text) in [
        (authority.server("127.0.0.1", 2021, None, all), "has expired"),
        (
            authority.server("other.example", 2100, None, all),
            "for another name",
        ),
        (other.server("127.0.0.1", 2100, None, all), "--vendor-ca-file"),
    ] {
        let server = Server::answering(config, TOKEN).await;
        fails_at(&authority, &server.url(), FailureClass::Refused, text).await;
        assert_eq!(server.requests().len(), 0);
    }
}

#[tokio::test]
async fn tls_below_1_2_is_refused() {
    let authority = Authority::new();
    let server = Server::answering(
        authority.server("127.0.0.1", 2100, None, &[&rustls::version::TLS12]),
        TOKEN,
    )
    .await;
    assert_eq!(send(&authority, &server.url()).await.unwrap().status, 200);

    // What an old server says to a ClientHello without its version: a fatal alert, protocol_version (70) …
    let alert = [0x15, 0x03, 0x02, 0x00, 0x02, 0x02, 0x46].to_vec();
    // … or it goes on with TLS 1.1 (a ServerHello of version 0x0302, 32 bytes of random, no session, one cipher).
    let mut hello = vec![0x16, 0x03, 0x02, 0x00, 0x2a, 0x02, 0x00, 0x00, 0x26, 0x03, 0x02];
    hello.extend([7; 32]);
    hello.extend([0x00, 0xc0, 0x2f, 0x00]);
    for answer in [alert, hello] {
        let server = Server::tcp(move |mut stream, _| {
            let answer = answer.clone();
            async move {
                let mut client_hello = [0; 64];
                stream.read_exact(&mut client_hello).await.unwrap();
                stream.write_all(&answer).await.unwrap();
                drain(&mut stream).await;
            }
        })
        .await;
        fails_at(
            &authority,
            &server.url(),
            FailureClass::Refused,
            "TLS 1.2 or later",
        )
        .await;
    }
}

#[tokio::test]
async fn a_plain_text_server_is_refused() {
    let authority = Authority::new();
    let server = Server::tcp(|mut stream, _| async move {
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        drain(&mut stream).await;
    })
    .await;
    fails_at(
        &authority,
        &server.url(),
        FailureClass::Refused,
        "does not answer with TLS",
    )
    .await;
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_malformed() {
    let authority = Authority::new();
    let server = Server::answering(authority.good(), "220 mail.example ESMTP\r\n\r\n").await;
    fails_at(&authority, &server.url(), FailureClass::Malformed, "not HTTP").await;
}

#[tokio::test]
async fn connections_that_fail_below_tls_are_transient() {
    let authority = Authority::new();
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("https://{closed}/oauth/token");
    fails_at(
        &authority,
        &url,
        FailureClass::Transient,
        "refused the connection",
    )
    .await;

    let server = Server::tcp(|stream, _| async move {
        stream.set_zero_linger().unwrap(); // closes with a reset
    })
    .await;
    fails_at(
        &authority,
        &server.url(),
        FailureClass::Transient,
        "TLS handshake",
    )
    .await;
}
