//! Servers on loopback that misbehave byte by byte, and the transport to them.

use http::HeaderName;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use vendor_token_operator::clock::{Clock, SystemClock, Timeline};
use vendor_token_operator::failure::{Failure, FailureClass};
use vendor_token_operator::http::{HttpTransport, HttpTransportOptions, ProxySetting, Transport};
use vendor_token_operator::providers::{TokenRequest, TokenResponse};
use vendor_token_operator::token::{ClientCertificate, SecretString};

pub(crate) const TOKEN: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 22\r\n\r\n{\"access_token\":\"abc\"}";

/// A certificate authority made for one test.
pub(crate) struct Authority(pub CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, "test authority");
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn issue(&self, name: &str, until: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(until, 1, 1);
        (
            parameters.signed_by(&key, &self.0).unwrap().pem(),
            key.serialize_pem(),
        )
    }

    pub(crate) fn client_certificate(&self) -> ClientCertificate {
        let (chain, key) = self.issue("client.example", 2100);
        ClientCertificate {
            certificate_chain: chain.into(),
            private_key: key.into(),
        }
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.0.pem().as_bytes()).unwrap())
            .unwrap();
        Arc::new(roots)
    }

    /// TLS for a server with a certificate for `name`; asks for a client certificate of `clients` where given.
    pub(crate) fn server(
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

    pub(crate) fn good(&self) -> Arc<ServerConfig> {
        self.server("127.0.0.1", 2100, None, rustls::ALL_VERSIONS)
    }
}

/// A server on a free loopback port; it and all its connections end with it.
pub(crate) struct Server {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    pub requests: Arc<Mutex<Vec<String>>>,
    pub _tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn tcp<F, R>(handle: F) -> Self
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
    pub(crate) async fn tls<F, R>(config: Arc<ServerConfig>, handle: F) -> Self
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
    pub(crate) async fn answering(
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
    pub(crate) async fn closing(config: Arc<ServerConfig>, answer: &'static str) -> Self {
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

    pub(crate) fn url(&self) -> String {
        format!("https://{}/oauth/token?q=unwanted-query", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

pub(crate) async fn drain(stream: &mut TcpStream) {
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
}

pub(crate) async fn forever() {
    std::future::pending().await
}

/// One request as text, or nothing at the end of the connection.
pub(crate) async fn read_request(stream: &mut TlsStream<TcpStream>) -> Option<String> {
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

pub(crate) fn options(authority: &Authority) -> HttpTransportOptions {
    HttpTransportOptions {
        connect_timeout: Duration::from_secs(10),
        total_timeout: Duration::from_secs(20),
        additional_authorities: Some(authority.0.pem().into_bytes()),
        proxy: ProxySetting::Off,
        ..HttpTransportOptions::default()
    }
}

/// A timeline by this clock.
pub(crate) fn by(clock: impl Clock + 'static) -> Arc<Timeline> {
    Arc::new(Timeline::new(Arc::new(clock)))
}

pub(crate) fn transport(options: HttpTransportOptions) -> HttpTransport {
    HttpTransport::new(options, by(SystemClock)).unwrap()
}

pub(crate) fn request(url: &str) -> TokenRequest {
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
pub(crate) fn request_with(url: &str, certificate: ClientCertificate) -> TokenRequest {
    TokenRequest {
        client_certificate: Some(certificate),
        ..request(url)
    }
}

pub(crate) async fn send(authority: &Authority, url: &str) -> Result<TokenResponse, Failure> {
    transport(options(authority)).send(request(url)).await
}

/// Expects that a usual request to `url` fails as [`fails`] says.
pub(crate) async fn fails_at(authority: &Authority, url: &str, class: FailureClass, text: &str) {
    fails(transport(options(authority)), request(url), class, text).await;
}

/// Sends, and expects a failure of this class whose message holds `text`, and no secret, path or query.
pub(crate) async fn fails(transport: HttpTransport, request: TokenRequest, class: FailureClass, text: &str) {
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
