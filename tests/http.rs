//! The transport against real TLS servers on loopback that misbehave byte by byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is a failed test

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderName;
use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use vendor_token_operator::clock::{Clock, SystemClock, Timeline};
use vendor_token_operator::failure::{Failure, FailureClass};
use vendor_token_operator::http::{
    AuthorityFile, HttpTransport, HttpTransportOptions, ProxySetting, Transport,
};
use vendor_token_operator::providers::{TokenRequest, TokenResponse};
use vendor_token_operator::proxy::Proxy;
use vendor_token_operator::token::{ClientCertificate, SecretString};

const TOKEN: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 22\r\n\r\n{\"access_token\":\"abc\"}";

/// A certificate authority made for one test.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, "test authority");
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str, until: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(until, 1, 1);
        (
            parameters.signed_by(&key, &self.0).unwrap().pem(),
            key.serialize_pem(),
        )
    }

    fn client_certificate(&self) -> ClientCertificate {
        let (chain, key) = self.issue("client.example", 2100);
        ClientCertificate {
            certificate_chain: chain.into(),
            private_key: key.into(),
        }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.0.pem().as_bytes()).unwrap())
            .unwrap();
        Arc::new(roots)
    }

    /// TLS for a server with a certificate for `name`; asks for a client certificate of `clients` where given.
    fn server(
        &self,
        name: &str,
        until: i32,
        clients: Option<&Self>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let (chain, key) = self.issue(name, until);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(clients.roots(), provider)
                    .build()
                    .unwrap(),
            ),
        };
        let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
        Arc::new(
            builder
                .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                .unwrap(),
        )
    }

    fn good(&self) -> Arc<ServerConfig> {
        self.server("127.0.0.1", 2100, None, rustls::ALL_VERSIONS)
    }
}

/// A server on a free loopback port; it and all its connections end with it.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn tcp<F, R>(handle: F) -> Self
    where
        F: Fn(TcpStream, Arc<Mutex<Vec<String>>>) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (counted, seen) = (Arc::clone(&connections), Arc::clone(&requests));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                open.spawn(handle(stream, Arc::clone(&seen)));
            }
        });
        Self {
            address,
            connections,
            requests,
            _tasks: tasks,
        }
    }

    /// After the handshake, hands over the stream.
    async fn tls<F, R>(config: Arc<ServerConfig>, handle: F) -> Self
    where
        F: Fn(TlsStream<TcpStream>, Arc<Mutex<Vec<String>>>) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self::tcp(move |stream, requests| {
            let (accept, handle) = (
                TlsAcceptor::from(Arc::clone(&config)).accept(stream),
                handle.clone(),
            );
            async move {
                match accept.into_fallible().await {
                    Ok(stream) => handle(stream, requests).await,
                    // Reads on, so that the alert it has sent is not lost to a connection reset.
                    Err((_, mut stream)) => drain(&mut stream).await,
                }
            }
        })
        .await
    }

    /// Reads one request after the other and answers each with `answer`.
    async fn answering(
        config: Arc<ServerConfig>,
        answer: impl AsRef<[u8]> + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::tls(config, move |mut stream, requests| {
            let answer = answer.clone();
            async move {
                while let Some(request) = read_request(&mut stream).await {
                    requests.lock().unwrap().push(request);
                    if stream.write_all(answer.as_ref()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Answers one request with `answer`, then closes in an orderly way.
    async fn closing(config: Arc<ServerConfig>, answer: &'static str) -> Self {
        Self::tls(config, move |mut stream, requests| async move {
            let Some(request) = read_request(&mut stream).await else {
                return;
            };
            requests.lock().unwrap().push(request);
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            drain(&mut stream.into_inner().0).await;
        })
        .await
    }

    fn url(&self) -> String {
        format!("https://{}/oauth/token?q=unwanted-query", self.address)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn drain(stream: &mut TcpStream) {
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
}

async fn forever() {
    std::future::pending().await
}

/// One request as text, or nothing at the end of the connection.
async fn read_request(stream: &mut TlsStream<TcpStream>) -> Option<String> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .map_or(0, |(_, value)| value.parse().unwrap());
            if body.len() >= length {
                return Some(text);
            }
        }
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
}

fn options(authority: &Authority) -> HttpTransportOptions {
    HttpTransportOptions {
        connect_timeout: Duration::from_secs(10),
        total_timeout: Duration::from_secs(20),
        additional_authorities: Some(authority.0.pem().into_bytes()),
        proxy: ProxySetting::Off,
        ..HttpTransportOptions::default()
    }
}

/// A timeline by this clock.
fn by(clock: impl Clock + 'static) -> Arc<Timeline> {
    Arc::new(Timeline::new(Arc::new(clock)))
}

fn transport(options: HttpTransportOptions) -> HttpTransport {
    HttpTransport::new(options, by(SystemClock)).unwrap()
}

fn request(url: &str) -> TokenRequest {
    TokenRequest {
        url: url.to_owned(),
        headers: vec![(
            HeaderName::from_static("x-key"),
            SecretString::from("marked-header"),
        )],
        body: SecretString::from("grant_type=client_credentials&client_secret=marked-body"),
        client_certificate: None,
    }
}

/// A request that presents this certificate to a server that asks for one.
fn request_with(url: &str, certificate: ClientCertificate) -> TokenRequest {
    TokenRequest {
        client_certificate: Some(certificate),
        ..request(url)
    }
}

async fn send(authority: &Authority, url: &str) -> Result<TokenResponse, Failure> {
    transport(options(authority)).send(request(url)).await
}

/// Sends, and expects a failure of this class whose message holds `text`, and no secret, path or query.
async fn fails(transport: HttpTransport, request: TokenRequest, class: FailureClass, text: &str) {
    let failure = match transport.send(request).await {
        Ok(response) => panic!("status {} instead of a failure", response.status),
        Err(failure) => failure,
    };
    assert_eq!(failure.class, class, "{}", failure.message);
    assert!(failure.message.contains(text), "{}", failure.message);
    for unwanted in ["marked", "unwanted", "oauth", "?", "https://"] {
        assert!(!failure.message.contains(unwanted), "{}", failure.message);
    }
    assert_eq!(failure.not_before, None);
}

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
    fails(
        transport(options(&authority)),
        request(&server.url()),
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
    fails(
        transport(options(&authority)),
        request(&server.url()),
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
    fails(
        transport(options(&authority)),
        request(&server.url()),
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
        fails(
            transport(options(&authority)),
            request(&server.url()),
            FailureClass::Refused,
            text,
        )
        .await;
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
        fails(
            transport(options(&authority)),
            request(&server.url()),
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
    fails(
        transport(options(&authority)),
        request(&server.url()),
        FailureClass::Refused,
        "does not answer with TLS",
    )
    .await;
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_malformed() {
    let authority = Authority::new();
    let server = Server::answering(authority.good(), "220 mail.example ESMTP\r\n\r\n").await;
    fails(
        transport(options(&authority)),
        request(&server.url()),
        FailureClass::Malformed,
        "not HTTP",
    )
    .await;
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
    fails(
        transport(options(&authority)),
        request(&url),
        FailureClass::Transient,
        "refused the connection",
    )
    .await;

    let server = Server::tcp(|stream, _| async move {
        stream.set_zero_linger().unwrap(); // closes with a reset
    })
    .await;
    fails(
        transport(options(&authority)),
        request(&server.url()),
        FailureClass::Transient,
        "TLS handshake",
    )
    .await;
}

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
async fn authorities_that_are_replaced_count_for_the_next_request() {
    let (old, new) = (Authority::new(), Authority::new());
    let [old_server, new_server] = [
        Server::answering(old.good(), TOKEN).await,
        Server::answering(new.good(), TOKEN).await,
    ];
    let transport = transport(options(&old));
    let answers = async |server: &Server| transport.send(request(&server.url())).await.is_ok();
    assert!(answers(&old_server).await && !answers(&new_server).await);
    transport.replace_authorities(b"no certificate").unwrap_err();
    assert!(
        answers(&old_server).await,
        "a bundle that cannot be used changed something"
    );
    transport.replace_authorities(new.0.pem().as_bytes()).unwrap();
    assert!(answers(&new_server).await, "the new authority is not trusted");
    assert!(
        !answers(&old_server).await,
        "a connection from before is used again"
    );
}

#[tokio::test]
async fn a_file_of_authorities_is_followed_through_a_swap_of_its_link() {
    let (old, new) = (Authority::new(), Authority::new());
    let server = Server::answering(new.good(), TOKEN).await;
    // The way in which the kubelet keeps a mounted ConfigMap: `..data` leads to the folder of the day.
    let mount = tempfile::tempdir().unwrap();
    let path = |name: &str| mount.path().join(name);
    for (folder, authority) in [("..first", &old), ("..second", &new)] {
        std::fs::create_dir(path(folder)).unwrap();
        std::fs::write(path(folder).join("ca.pem"), authority.0.pem()).unwrap();
    }
    std::os::unix::fs::symlink("..first", path("..data")).unwrap();
    std::os::unix::fs::symlink("..data/ca.pem", path("ca.pem")).unwrap();
    let file = AuthorityFile::read(&path("ca.pem")).unwrap();
    let transport = transport(options(&old));
    let following = tokio::spawn(file.follow(transport.clone(), Duration::from_millis(20)));
    assert!(transport.send(request(&server.url())).await.is_err());

    std::os::unix::fs::symlink("..second", path("..data_tmp")).unwrap();
    std::fs::rename(path("..data_tmp"), path("..data")).unwrap();
    let started = std::time::Instant::now();
    while transport.send(request(&server.url())).await.is_err() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "the new file is not used"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    following.abort();
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

/// Everything that any crate logs in this process, at every level.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_library_logs_a_header_a_body_or_a_token_even_at_trace() {
    use tracing_subscriber::util::SubscriberInitExt;
    let logs = Logs::default();
    let writer = logs.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::level_filters::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish()
        .try_init()
        .unwrap();

    let (authority, clients) = (Authority::new(), Authority::new());
    let answer = "HTTP/1.1 200 OK\r\nx-echo: marked-answer\r\ncontent-length: 12\r\n\r\nmarked-token";
    let config = authority.server("127.0.0.1", 2100, Some(&clients), rustls::ALL_VERSIONS);
    let server = Server::answering(config, answer).await;
    let certificate = clients.client_certificate();
    let with = request_with(&server.url(), certificate.clone());
    let transport = transport(options(&authority));
    let response = transport.send(with).await.unwrap();
    assert_eq!(*response.body, b"marked-token");
    fails(
        transport,
        request(&server.url()),
        FailureClass::Refused,
        "client certificate",
    )
    .await;
    let cut = Server::closing(
        authority.good(),
        "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nmarked-token",
    )
    .await;
    send(&authority, &cut.url()).await.map(drop).unwrap_err();

    let text = String::from_utf8_lossy(&logs.0.lock().unwrap()).into_owned();
    for library in ["hyper_util::", "reqwest::", "rustls::"] {
        assert!(
            text.contains(library),
            "nothing of {library}: the logs are not collected"
        );
    }
    let key = secrecy::ExposeSecret::expose_secret(&certificate.private_key)
        .lines()
        .nth(1)
        .unwrap()
        .to_owned();
    for secret in [
        "marked",
        "6d61726b6564",
        "6d, 61, 72, 6b",
        "109, 97, 114, 107",
        &key,
    ] {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{line:?}");
    }
}
