//! The one place that talks to vendors: sends a [`TokenRequest`], returns a [`TokenResponse`] or a classified failure.
//!
//! It sends each request once and decides nothing else: whether, when and how often to ask is up to the caller.
//! May use: `providers` (types), `token`, `failure`, `clock`.

mod certificate;
mod classify;
mod clients;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_LENGTH, HeaderValue};
use tokio::time::Instant;
use zeroize::Zeroizing;

pub use certificate::{ClientCertificateError, check_client_certificate};
use clients::Clients;

use crate::clock::{Clock, gone_ahead};
use crate::failure::{Failure, FailureClass};
use crate::providers::{TokenRequest, TokenResponse};
use crate::token::ExposeSecret;

/// Sends one request to a vendor. The seam at which tests replace the network.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` once. Any HTTP answer, whatever its status, is `Ok`; a [`Failure`] means that no whole answer
    /// came. Dropping the future closes the connection.
    fn send(&self, request: TokenRequest) -> BoxFuture<'static, Result<TokenResponse, Failure>>;
}

/// Limits and trust of [`HttpTransport`].
#[derive(Clone, Debug)]
pub struct HttpTransportOptions {
    /// For DNS, TCP, the proxy's tunnel and TLS together.
    pub connect_timeout: Duration,
    /// For one request in all: connecting, the response's head and its body.
    pub total_timeout: Duration,
    /// The largest response body, in bytes. More is never buffered.
    pub body_limit: usize,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// Unused connections kept for one endpoint; as many as there may be requests in flight to it.
    pub idle_connections_per_endpoint: usize,
    /// Clients kept for distinct client certificates; the least recently used goes first.
    pub client_certificates: usize,
    /// How long a client (and its private key) is kept after its last use.
    pub client_certificate_idle_timeout: Duration,
    /// PEM bundle of authorities that are trusted besides the system's (`--vendor-ca-file`).
    pub additional_authorities: Option<Vec<u8>>,
    /// Which proxy to use.
    pub proxy: ProxySetting,
}

/// Where the proxy's address comes from.
#[derive(Clone, Debug)]
pub enum ProxySetting {
    /// `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, or their lower-case spellings, read once at start.
    Environment,
    /// No proxy, whatever the environment says.
    Off,
    /// This one for every request.
    Address(url::Url),
}

impl Default for HttpTransportOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(30),
            body_limit: 1 << 20,
            // Shorter than the idle timeouts that load balancers commonly have (60 s and more), so that it is
            // rarely the other side that closes first.
            idle_timeout: Duration::from_secs(30),
            idle_connections_per_endpoint: 32,
            client_certificates: 64,
            client_certificate_idle_timeout: Duration::from_secs(600),
            additional_authorities: None,
            proxy: ProxySetting::Environment,
        }
    }
}

/// Why a transport could not be set up: a matter of the operator's own configuration.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No trusted authority at all.
    #[error(
        "failed to load trusted certificate authorities: install the system's CA certificates \
         (package ca-certificates), or set SSL_CERT_FILE or --vendor-ca-file"
    )]
    Authorities(#[source] rustls::Error),
    /// The additional bundle is not PEM.
    #[error("failed to read the CA bundle: it must hold one or more PEM certificates (BEGIN CERTIFICATE)")]
    Bundle(#[source] Option<rustls::pki_types::pem::Error>),
    /// The TLS library refused the protocol versions.
    #[error("failed to set up TLS")]
    Tls(#[source] rustls::Error),
    /// The HTTP client could not be built.
    #[error("failed to set up the HTTP client: check HTTPS_PROXY and NO_PROXY")]
    Client(#[source] reqwest::Error),
}

/// Vendors over HTTPS: HTTP/1.1, TLS 1.2 or later, no redirects, no decompression, no retries, no cookies.
#[derive(Clone)]
pub struct HttpTransport {
    inner: Arc<Inner>,
}

struct Inner {
    clients: Clients,
    clock: Arc<dyn Clock>,
    total_timeout: Duration,
    body_limit: usize,
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HttpTransport").finish_non_exhaustive()
    }
}

impl HttpTransport {
    /// Loads the trusted authorities and sets up connection pools; connects to nothing yet. The system's authorities
    /// and the proxy's address are read here, once.
    pub fn new(options: HttpTransportOptions, clock: Arc<dyn Clock>) -> Result<Self, TransportError> {
        let (total_timeout, body_limit) = (options.total_timeout, options.body_limit);
        let clients = Clients::new(options)?;
        Ok(Self {
            inner: Arc::new(Inner {
                clients,
                clock,
                total_timeout,
                body_limit,
            }),
        })
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: TokenRequest) -> BoxFuture<'static, Result<TokenResponse, Failure>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { inner.send(request).await })
    }
}

impl Inner {
    async fn send(&self, request: TokenRequest) -> Result<TokenResponse, Failure> {
        let client = match &request.client_certificate {
            None => self.clients.plain(),
            Some(certificate) => self.clients.with_certificate(certificate, self.clock.now())?,
        };
        let (request, host) = into_reqwest(request)?;
        let sent = self.clock.now();
        let started = (sent, Instant::now());
        let exchange = async {
            let mut response = client
                .execute(request)
                .await
                .map_err(|error| classify::exchange(&error, &host))?;
            let received = self.clock.now();
            let body = self.read_body(&mut response, &host).await?;
            Ok(TokenResponse {
                status: response.status().as_u16(),
                headers: std::mem::take(response.headers_mut()),
                body,
                sent,
                received,
                clock_step: gone_ahead(started, (self.clock.now(), Instant::now())),
            })
        };
        match tokio::time::timeout(self.total_timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(classify::timed_out(&host, self.total_timeout)),
        }
    }

    /// Reads the body as it comes, and gives up as soon as it is too large.
    async fn read_body(
        &self,
        response: &mut reqwest::Response,
        host: &str,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let announced = response.content_length();
        if announced.is_some_and(|length| length > self.body_limit as u64) {
            return Err(classify::too_large(host, self.body_limit));
        }
        let capacity = announced
            .and_then(|length| usize::try_from(length).ok())
            .unwrap_or(8 << 10);
        let mut body = Zeroizing::new(Vec::with_capacity(capacity));
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| classify::exchange(&error, host))?
        {
            if body.len() + chunk.len() > self.body_limit {
                return Err(classify::too_large(host, self.body_limit));
            }
            append(&mut body, &chunk);
        }
        Ok(body)
    }
}

/// Appends `chunk`. Where the buffer must grow, its old memory is wiped: `Vec` alone would leave a copy of the token
/// in freed memory.
fn append(body: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) {
    let needed = body.len() + chunk.len();
    if needed > body.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(body.capacity() * 2)));
        larger.extend_from_slice(body);
        *body = larger;
    }
    body.extend_from_slice(chunk);
}

/// The HTTP client's request, and the host (with its port where it is not 443) for messages. Secrets are copied here,
/// as late as possible, into memory that is wiped when the HTTP client lets go of it.
fn into_reqwest(request: TokenRequest) -> Result<(reqwest::Request, String), Failure> {
    let refused = |message: String| Failure::new(FailureClass::Refused, &message);
    let url = url::Url::parse(&request.url).map_err(|_| {
        refused("failed to build the request: its URL is invalid; check --endpoint".to_owned())
    })?;
    let host = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => String::new(),
    };
    if url.scheme() != "https" || host.is_empty() {
        return Err(refused(
            "refused to send credentials anywhere but to an https URL; check --endpoint".to_owned(),
        ));
    }
    let mut built = reqwest::Request::new(http::Method::POST, url);
    let headers = built.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    for (name, value) in &request.headers {
        let bytes = wiped_on_drop(value.expose_secret());
        let mut value = HeaderValue::from_maybe_shared(bytes).map_err(|_| {
            refused(format!(
                "failed to build the request: the value of {name} cannot stand in a header"
            ))
        })?;
        value.set_sensitive(true);
        headers.insert(name.clone(), value);
    }
    let body = request.body.expose_secret();
    if body.is_empty() {
        // Without it hyper sends no length for a POST that has no body, which IIS answers with 411
        // (RFC 9110, section 8.6).
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    } else {
        *built.body_mut() = Some(reqwest::Body::from(wiped_on_drop(body)));
    }
    Ok((built, host))
}

fn wiped_on_drop(text: &str) -> Bytes {
    Bytes::from_owner(Zeroizing::new(text.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::SecretString;

    fn request(url: &str, header: &str) -> TokenRequest {
        TokenRequest {
            url: url.to_owned(),
            headers: vec![(
                http::HeaderName::from_static("6clicks-api-key"),
                SecretString::from(header),
            )],
            body: SecretString::from("grant_type=password"),
            client_certificate: None,
        }
    }

    #[test]
    fn secrets_are_marked_sensitive_so_that_debug_output_masks_them() {
        let (built, _) = into_reqwest(request("https://api.example/token", "marked-secret")).unwrap();
        let shown = format!("{built:?} {:?} {:?}", built.headers(), built.body());
        assert!(!shown.contains("marked-secret"), "{shown}");
        assert!(!shown.contains("grant_type"), "{shown}");
    }

    #[test]
    fn nothing_is_sent_but_to_https() {
        for url in [
            "http://api.example/token",
            "ftp://api.example/",
            "api.example",
            "https:",
        ] {
            let failure = into_reqwest(request(url, "k")).map(|_| ()).unwrap_err();
            assert_eq!(failure.class, FailureClass::Refused, "{url}");
            assert!(failure.message.contains("--endpoint"), "{}", failure.message);
        }
    }

    #[test]
    fn a_header_value_with_a_line_break_makes_no_request_and_stays_out_of_the_message() {
        let failure = into_reqwest(request("https://api.example/token", "marked\r\nsecret"))
            .map(|_| ())
            .unwrap_err();
        assert!(failure.message.contains("6clicks-api-key"), "{}", failure.message);
        assert!(!failure.message.contains("marked"), "{}", failure.message);
    }

    #[test]
    fn a_growing_body_keeps_every_byte() {
        let mut body = Zeroizing::new(Vec::with_capacity(2));
        let whole: Vec<u8> = (0..=255).collect();
        for chunk in whole.chunks(7) {
            append(&mut body, chunk);
        }
        assert_eq!(*body, whole);
    }
}
