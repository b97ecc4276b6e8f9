//! Client certificates.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use vendor_token_operator::failure::FailureClass;
use vendor_token_operator::http::Transport;
use vendor_token_operator::token::ClientCertificate;

use crate::servers::*;

#[tokio::test]
async fn a_client_certificate_is_presented_where_it_is_asked_for() {
    let (authority, clients) = (Authority::new(), Authority::new());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = authority.server("127.0.0.1", 2100, Some(&clients), &[version]);
        let server = Server::answering(config, TOKEN).await;
        let transport = transport(options(&authority));

        let with = request_with(&server.url(), clients.client_certificate());
        assert_eq!(transport.send(with).await.unwrap().status, 200);

        // The connection just made is not used for anyone without that certificate.
        fails(
            transport.clone(),
            request(&server.url()),
            FailureClass::Refused,
            "requires a client certificate",
        )
        .await;

        let foreign = request_with(&server.url(), Authority::new().client_certificate());
        fails(
            transport,
            foreign,
            FailureClass::Refused,
            "refused the client certificate",
        )
        .await;
        assert_eq!(server.requests().len(), 1);
    }
}

/// A server that asks for the certificate only after the request ends the connection, as the client does not follow.
#[tokio::test]
async fn a_server_that_asks_late_for_a_client_certificate_is_refused() {
    let (authority, clients) = (Authority::new(), Authority::new());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for with_reset in [false, true] {
            let config = authority.server("127.0.0.1", 2100, None, &[version]);
            let server = Server::tls(config, move |mut stream, requests| async move {
                let Some(request) = read_request(&mut stream).await else {
                    return;
                };
                requests.lock().unwrap().push(request);
                if with_reset {
                    stream.get_ref().0.set_zero_linger().unwrap();
                } else {
                    stream.shutdown().await.unwrap();
                }
            })
            .await;
            let transport = transport(options(&authority));
            let with = request_with(&server.url(), clients.client_certificate());
            let late = "asks for it only after the request";
            fails(transport.clone(), with, FailureClass::Refused, late).await;
            // Without a certificate it is a connection that broke.
            let without = request(&server.url());
            fails(
                transport,
                without,
                FailureClass::Transient,
                "closed the connection",
            )
            .await;
            assert_eq!(server.requests().len(), 2);
        }
    }
}

#[tokio::test]
async fn a_server_that_has_asked_or_answered_before_may_close_a_connection() {
    let (authority, clients) = (Authority::new(), Authority::new());
    for asks in [true, false] {
        let asked = asks.then_some(&clients);
        let config = authority.server("127.0.0.1", 2100, asked, rustls::ALL_VERSIONS);
        let answers = Arc::new(AtomicUsize::new(0));
        let server = Server::tls(config, move |mut stream, _| {
            let is_first = answers.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                read_request(&mut stream).await;
                if is_first {
                    stream.write_all(TOKEN.as_bytes()).await.unwrap();
                }
                stream.shutdown().await.unwrap();
            }
        })
        .await;
        let transport = transport(options(&authority));
        let certificate = clients.client_certificate();
        let with = || request_with(&server.url(), certificate.clone());
        assert_eq!(transport.send(with()).await.unwrap().status, 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
        fails(
            transport,
            with(),
            FailureClass::Transient,
            "closed the connection",
        )
        .await;
    }
}

#[tokio::test]
async fn a_client_certificate_that_cannot_be_used_makes_no_connection() {
    let authority = Authority::new();
    let server = Server::answering(authority.good(), TOKEN).await;
    let (chain, _) = authority.issue("client.example", 2100);
    let certificate = ClientCertificate {
        certificate_chain: chain.into(),
        private_key: authority.issue("x", 2100).1.into(),
    };
    let mismatched = request_with(&server.url(), certificate);
    fails(
        transport(options(&authority)),
        mismatched,
        FailureClass::Refused,
        "does not belong",
    )
    .await;
    assert_eq!(server.connections(), 0);
}
