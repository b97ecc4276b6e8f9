//! The five vendors' token grants: builds a request, reads a response. No I/O, no clock, no Kubernetes.
//!
//! May use: `token`, `failure`.

use http::{HeaderMap, HeaderName};
use jiff::Timestamp;

use crate::failure::Failure;
use crate::token::{AccessToken, ClientCertificate, Credentials, SecretString};

/// The vendors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vendor {
    SixMap,
    SixClicks,
    CheckmarxSca,
    Mapiq,
    Picus,
}

/// Checkmarx SCA's two regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckmarxRegion {
    Us,
    Eu,
}

/// What is asked of which vendor: the part of a spec that reaches the token endpoint, credentials apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    SixMap { scopes: Vec<String> },
    SixClicks { region: String },
    CheckmarxSca { region: CheckmarxRegion, tenant: String, scopes: Vec<String> },
    Mapiq,
    Picus,
}

/// Scheme, host and port of a token endpoint: the key of budgets and pauses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// As in `https://api.stytch.com`: scheme `https`, host, and a port only where it is not 443. No path.
    pub origin: String,
}

/// One POST to a token endpoint. `Debug` shows neither headers' values nor the body.
pub struct TokenRequest {
    /// The full URL. Never carries a secret.
    pub url: String,
    /// Header names and values; a value may be a secret.
    pub headers: Vec<(HeaderName, SecretString)>,
    /// The body; empty for 6clicks (sent with `Content-Length: 0`).
    pub body: SecretString,
    /// For mutual TLS.
    pub client_certificate: Option<ClientCertificate>,
}

/// What came back. `Debug` shows the status only.
pub struct TokenResponse {
    pub status: u16,
    pub headers: HeaderMap,
    /// At most 1 MiB.
    pub body: zeroize::Zeroizing<Vec<u8>>,
    /// When the request was sent, by the local clock.
    pub sent: Timestamp,
    /// When the response head arrived, by the local clock.
    pub received: Timestamp,
}

impl Grant {
    pub fn vendor(&self) -> Vendor { todo!() }
    /// Keys that the credentials Secret must hold.
    pub fn credential_keys(&self) -> &'static [&'static str] { todo!() }
    /// The compiled-in endpoint of this grant.
    pub fn endpoint(&self) -> Endpoint { todo!() }
    /// Parameters as one canonical, unambiguous text: goes into the fingerprint.
    pub fn canonical(&self) -> String { todo!() }
    /// Builds the request for `endpoint` (the vendor's own, or an administrator's replacement).
    pub fn request(&self, endpoint: &Endpoint, credentials: &Credentials) -> Result<TokenRequest, Failure> { todo!() }
    /// Reads the response.
    pub fn read(&self, response: &TokenResponse) -> Result<AccessToken, Failure> { todo!() }
}
