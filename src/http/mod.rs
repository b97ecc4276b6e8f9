//! The HTTPS transport to vendors: sends a [`TokenRequest`] once and returns a [`TokenResponse`] or a classified
//! failure.
//!
//! May use: `providers` (types), `token`, `failure`, `clock`, `error_text`, `proxy`, `sync`, `times`.

mod authorities;
mod certificate;
mod classify;
mod clients;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_LENGTH, HeaderValue};
use zeroize::Zeroizing;

pub use authorities::AuthorityFile;
pub use certificate::{ClientCertificateError, check_client_certificate};
use clients::Clients;

use crate::clock::Timeline;
use crate::failure::{Failure, FailureClass};
use crate::providers::{TokenRequest, TokenResponse};
use crate::proxy::Proxy;
use crate::token::ExposeSecret;

/// Sends requests to vendors; tests replace it.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` once. Dropping the future closes the connection.
    ///
    /// # Errors
    /// A [`Failure`] means that no complete HTTP answer came; an answer of any status is `Ok`.
    fn send(&self, request: TokenRequest) -> BoxFuture<'static, Result<TokenResponse, Failure>>;
}

/// Limits, trusted authorities and proxy of an [`HttpTransport`].
#[derive(Clone, Debug)]
pub struct HttpTransportOptions {
    /// Limit of DNS, TCP, the proxy's tunnel and TLS together.
    pub connect_timeout: Duration,
    /// Limit of one request: connecting, the response's head and its body.
    pub total_timeout: Duration,
    /// Limit of a response body, in bytes.
    pub body_limit: usize,
    /// Lifetime of an unused connection.
    pub idle_timeout: Duration,
    /// Unused connections kept for one endpoint: the default number of requests in flight to it.
    pub idle_connections_per_endpoint: usize,
    /// Clients kept for distinct client certificates; the least recently used is dropped first.
    pub client_certificates: usize,
    /// Lifetime of a client, with its private key, after its last use.
    pub client_certificate_idle_timeout: Duration,
    /// PEM bundle of authorities that are trusted besides the system's (`--vendor-ca-file`).
    pub additional_authorities: Option<Vec<u8>>,
    /// The proxy.
    pub proxy: ProxySetting,
}

/// Use of a proxy.
#[derive(Clone, Debug, Default)]
pub enum ProxySetting {
    /// No proxy, whatever the environment says.
    #[default]
    Off,
    /// A proxy for all requests but those to its exceptions.
    Through(Proxy),
}

impl Default for HttpTransportOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(30),
            body_limit: 1 << 20,
            // Shorter than the usual idle timeouts of load balancers (60 s and more), so that the other side rarely
            // closes first.
            idle_timeout: Duration::from_secs(30),
            idle_connections_per_endpoint: 32,
            client_certificates: 64,
            client_certificate_idle_timeout: Duration::from_secs(600),
            additional_authorities: None,
            proxy: ProxySetting::Off,
        }
    }
}

/// Error in setting up a transport, from the operator's own configuration.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// There is no trusted authority.
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
    #[error("failed to set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// Vendors over HTTPS: HTTP/1.1, TLS 1.2 or later, no redirects, no decompression, no retries, no cookies.
#[derive(Clone)]
pub struct HttpTransport {
    inner: Arc<Inner>,
}

struct Inner {
    clients: Clients,
    timeline: Arc<Timeline>,
    total_timeout: Duration,
    body_limit: usize,
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HttpTransport").finish_non_exhaustive()
    }
}

impl HttpTransport {
    /// Reads the system's authorities, and sets up connection pools. Makes no connection.
    pub fn new(options: HttpTransportOptions, timeline: Arc<Timeline>) -> Result<Self, TransportError> {
        let (total_timeout, body_limit) = (options.total_timeout, options.body_limit);
        let clients = Clients::new(options)?;
        Ok(Self {
            inner: Arc::new(Inner {
                clients,
                timeline,
                total_timeout,
                body_limit,
            }),
        })
    }
}

impl HttpTransport {
    /// Replaces the PEM bundle of authorities that are trusted besides the system's, which are read anew. Later requests
    /// go over new connections.
    ///
    /// # Errors
    /// When the bundle is not PEM or has no certificate. Nothing changes then.
    pub fn replace_authorities(&self, bundle: &[u8]) -> Result<(), TransportError> {
        self.inner.clients.replace_authorities(bundle)
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
        let (client, seen) = match &request.client_certificate {
            None => (self.clients.plain(), None),
            Some(certificate) => {
                let now = self.timeline.now().wall();
                let (client, seen) = self.clients.with_certificate(certificate, now)?;
                (client, Some(seen))
            }
        };
        let (request, host) = into_reqwest(request)?;
        let proxy = request
            .url()
            .host_str()
            .and_then(|host| self.clients.proxy_to(host));
        let sent = self.timeline.now();
        let exchange = async {
            let mut response = client.execute(request).await.map_err(|error| {
                let is_unknown = seen.as_ref().is_some_and(|seen| seen.nothing());
                if is_unknown && classify::is_end_after_request(&error) {
                    classify::asks_for_the_certificate_late(&host)
                } else {
                    classify::exchange(&error, &host, proxy)
                }
            })?;
            if let Some(seen) = &seen {
                seen.note_answer();
            }
            let received = self.timeline.now().wall();
            let body = self.read_body(&mut response, &host, proxy).await?;
            Ok(TokenResponse {
                status: response.status().as_u16(),
                headers: std::mem::take(response.headers_mut()),
                body,
                sent: sent.wall(),
                received,
                clock_step: self.timeline.stepped_since(sent.moment),
            })
        };
        match tokio::time::timeout(self.total_timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(classify::timed_out(&host, self.total_timeout)),
        }
    }

    /// Reads the body up to the limit, and fails beyond it.
    async fn read_body(
        &self,
        response: &mut reqwest::Response,
        host: &str,
        proxy: Option<&Proxy>,
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
            .map_err(|error| classify::exchange(&error, host, proxy))?
        {
            if body.len() + chunk.len() > self.body_limit {
                return Err(classify::too_large(host, self.body_limit));
            }
            append(&mut body, &chunk);
        }
        Ok(body)
    }
}

/// Appends `chunk`, and wipes the old memory of a buffer that grows: `Vec` alone leaves a copy of the token in freed
/// memory.
fn append(body: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) {
    let needed = body.len() + chunk.len();
    if needed > body.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(body.capacity() * 2)));
        larger.extend_from_slice(body);
        *body = larger;
    }
    body.extend_from_slice(chunk);
}

/// Converts a request to the HTTP client's, and names the host (with a port other than 443) for messages. Secrets are
/// copied into memory that is wiped when the HTTP client drops it.
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
    let mut built = reqwest::Request::new(TokenRequest::METHOD, url);
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
        // hyper sends no length for a POST without a body, to which IIS answers 411 (RFC 9110, section 8.6).
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
    fn the_debug_output_of_a_request_masks_secrets() {
        let (built, _) = into_reqwest(request("https://api.example/token", "marked-secret")).unwrap();
        let shown = format!("{built:?} {:?} {:?}", built.headers(), built.body());
        assert!(!shown.contains("marked-secret"), "{shown}");
        assert!(!shown.contains("grant_type"), "{shown}");
    }

    #[test]
    fn a_request_to_another_scheme_than_https_is_refused() {
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
    fn the_error_of_an_invalid_header_value_names_the_header_alone() {
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
