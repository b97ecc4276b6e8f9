//! Proxies between the process and a vendor.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use vendor_token_operator::failure::FailureClass;
use vendor_token_operator::http::{HttpTransport, HttpTransportOptions, ProxySetting, Transport};
use vendor_token_operator::proxy::Proxy;

use crate::servers::*;

fn through(authority: &Authority, proxy: &Server) -> HttpTransport {
    through_url(authority, &format!("http://{}", proxy.address))
}

#[tokio::test]
async fn a_proxy_that_wants_a_login_or_refuses_is_transient_with_its_own_text() {
    let authority = Authority::new();
    for (answer, text) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
            "407",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
            "refused a tunnel to vendor.example",
        ),
        ("", "opened no tunnel to vendor.example"),
    ] {
        let proxy = Server::tcp(move |mut stream, _| async move {
            let mut head = [0; 32];
            stream.read_exact(&mut head).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            drain(&mut stream).await;
        })
        .await;
        let named = format!("the proxy {} (HTTPS_PROXY)", proxy.address);
        fails(
            through(&authority, &proxy),
            request("https://vendor.example/oauth/token"),
            FailureClass::Transient,
            &named,
        )
        .await;
        fails(
            through(&authority, &proxy),
            request("https://vendor.example/oauth/token"),
            FailureClass::Transient,
            text,
        )
        .await;
    }
}

fn through_url(authority: &Authority, url: &str) -> HttpTransport {
    transport(HttpTransportOptions {
        proxy: ProxySetting::Through(Proxy::parse("HTTPS_PROXY", url, "").unwrap()),
        ..options(authority)
    })
}

#[tokio::test]
async fn a_proxy_that_is_not_reached_is_named_and_not_the_vendor() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let untrusted = Server::answering(stranger.good(), TOKEN).await;
    let plain = Server::answering(authority.good(), TOKEN).await;
    for (url, class, text) in [
        (
            format!("http://u:marked@{address}"),
            FailureClass::Transient,
            format!("the proxy {address} (HTTPS_PROXY) refused the connection"),
        ),
        (
            "http://u:marked@no-such-host.invalid:3128".to_owned(),
            FailureClass::Transient,
            "failed to resolve the proxy no-such-host.invalid:3128 (HTTPS_PROXY)".to_owned(),
        ),
        (
            format!("https://u:marked@{}", untrusted.address),
            FailureClass::Refused,
            format!(
                "the TLS handshake with the proxy {} (HTTPS_PROXY) failed",
                untrusted.address
            ),
        ),
        (
            format!("http://u:marked@{}", plain.address),
            FailureClass::Transient,
            format!("the proxy {} (HTTPS_PROXY) refused a tunnel", plain.address),
        ),
    ] {
        let request = request("https://vendor.example/oauth/token");
        fails(through_url(&authority, &url), request, class, &text).await;
    }
}

#[tokio::test]
async fn a_proxy_that_is_silent_is_named() {
    let authority = Authority::new();
    let proxy = Server::tcp(|stream, _| async move {
        let _open = stream;
        forever().await;
    })
    .await;
    let transport = transport(HttpTransportOptions {
        connect_timeout: Duration::from_millis(200),
        proxy: ProxySetting::Through(Proxy::parse("HTTPS_PROXY", &proxy.address.to_string(), "").unwrap()),
        ..options(&authority)
    });
    let text = format!("through the proxy {} (HTTPS_PROXY) in time", proxy.address);
    let request = request("https://vendor.example/oauth/token");
    fails(transport, request, FailureClass::Transient, &text).await;
}

#[tokio::test]
async fn a_proxy_sees_no_secret() {
    let authority = Authority::new();
    let server = Server::answering(authority.good(), TOKEN).await;
    let target = server.address;
    let proxy = Server::tcp(move |mut stream, seen| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut head).await.unwrap();
        }
        seen.lock().unwrap().push(String::from_utf8(head).unwrap());
        let mut upstream = TcpStream::connect(target).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let _ = copy_bidirectional(&mut stream, &mut upstream).await;
    })
    .await;
    let response = through(&authority, &proxy)
        .send(request(&server.url()))
        .await
        .unwrap();
    assert_eq!(response.status, 200);
    let seen = proxy.requests().remove(0);
    assert!(
        seen.starts_with(&format!("CONNECT {target} HTTP/1.1\r\n")),
        "{seen}"
    );
    assert!(!seen.contains("marked"), "{seen}");
}
