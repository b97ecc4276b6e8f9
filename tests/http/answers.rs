//! Answers that are cut off, too long, compressed or refusals: none is asked for twice.

use tokio::io::AsyncWriteExt;
use vendor_token_operator::failure::FailureClass;

use crate::servers::*;

#[tokio::test]
async fn a_truncated_answer_is_not_asked_for_again() {
    let authority = Authority::new();
    for answer in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"access",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"access\r\n",
    ] {
        let server = Server::closing(authority.good(), answer).await;
        let transport = transport(options(&authority));
        fails(
            transport,
            request(&server.url()),
            FailureClass::Transient,
            "closed the connection",
        )
        .await;
        assert_eq!(server.requests().len(), 1, "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_ends_without_the_tls_end_is_truncated() {
    let authority = Authority::new();
    let server = Server::tls(authority.good(), |mut stream, _| async move {
        read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"access_token\":\"a\"}")
            .await
            .unwrap();
        stream.flush().await.unwrap();
        // The plain socket is closed under the TLS session, as an attacker or a broken middlebox would.
        let mut socket = stream.into_inner().0;
        socket.shutdown().await.unwrap();
        drain(&mut socket).await;
    })
    .await;
    fails_at(
        &authority,
        &server.url(),
        FailureClass::Transient,
        "closed the connection",
    )
    .await;
}

#[tokio::test]
async fn a_body_over_one_mebibyte_is_malformed() {
    let authority = Authority::new();
    let announced = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 << 20);
    let server = Server::answering(authority.good(), announced).await;
    fails_at(
        &authority,
        &server.url(),
        FailureClass::Malformed,
        "1048576 bytes",
    )
    .await;

    // Without a length it would never end.
    let server = Server::tls(authority.good(), |mut stream, _| async move {
        read_request(&mut stream).await;
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        let mut sent = stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        while sent.is_ok() {
            sent = stream.write_all(chunk.as_bytes()).await;
        }
    })
    .await;
    fails_at(
        &authority,
        &server.url(),
        FailureClass::Malformed,
        "1048576 bytes",
    )
    .await;

    let mut whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1 << 20).into_bytes();
    whole.resize(whole.len() + (1 << 20), b'x');
    let server = Server::answering(authority.good(), whole).await;
    assert_eq!(send(&authority, &server.url()).await.unwrap().body.len(), 1 << 20);
}

#[tokio::test]
async fn a_body_in_chunks_arrives_whole() {
    let authority = Authority::new();
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n3\r\n:1}\r\n0\r\n\r\n";
    let server = Server::answering(authority.good(), answer).await;
    let response = send(&authority, &server.url()).await.unwrap();
    assert_eq!(*response.body, br#"{"a":1}"#);
}

#[tokio::test]
async fn a_compressed_body_is_passed_on_as_it_came() {
    let authority = Authority::new();
    let answer = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\u{1f}abc";
    let server = Server::answering(authority.good(), answer).await;
    let response = send(&authority, &server.url()).await.unwrap();
    assert_eq!(*response.body, b"\x1fabc");
    assert_eq!(response.headers["content-encoding"], "gzip");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let authority = Authority::new();
    let second = Server::answering(authority.good(), TOKEN).await;
    for status in [301, 302, 303, 307, 308] {
        let head = format!(
            "HTTP/1.1 {status} Moved\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
            second.url()
        );
        let first = Server::answering(authority.good(), head).await;
        let response = send(&authority, &first.url()).await.unwrap();
        assert_eq!((response.status, first.requests().len()), (status, 1));
    }
    assert_eq!(second.connections(), 0);
}

#[tokio::test]
async fn an_error_status_is_not_asked_for_again() {
    let authority = Authority::new();
    for status in [400, 401, 429, 500, 503] {
        let head = format!("HTTP/1.1 {status} No\r\nretry-after: 0\r\ncontent-length: 2\r\n\r\n{{}}");
        let server = Server::answering(authority.good(), head).await;
        let response = send(&authority, &server.url()).await.unwrap();
        assert_eq!(
            (response.status, &response.body[..], server.requests().len()),
            (status, &b"{}"[..], 1)
        );
    }
}
