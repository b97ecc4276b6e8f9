//! Secret values and the access token: types that cannot be printed or serialised by accident.
//!
//! May use: nothing of ours. Knows neither Kubernetes nor HTTP.

use std::collections::BTreeMap;

use jiff::Timestamp;
pub use secrecy::{ExposeSecret, SecretString};

/// The credential values of one grant, by canonical key (`client-id`, `api-key`, …), already checked and with
/// one trailing line end taken off. Wiped on drop; `Debug` shows the keys only.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Canonical key to value.
    pub values: BTreeMap<&'static str, SecretString>,
    /// The client certificate for mutual TLS (6clicks only).
    pub client_certificate: Option<ClientCertificate>,
}

/// A client certificate with its private key, as found in a `kubernetes.io/tls` Secret (PEM).
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// `tls.crt`: the certificate, then its chain.
    pub certificate_chain: SecretString,
    /// `tls.key`: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub private_key: SecretString,
}

/// An access token with its expiry. All times are whole seconds.
#[derive(Clone, Debug)]
pub struct AccessToken {
    /// The token as the vendor sent it.
    pub value: SecretString,
    /// `Bearer` in the vendor's own spelling, or `Bearer` where the vendor sends none.
    pub token_type: String,
    /// When the request was sent, by the local clock.
    pub issued: Timestamp,
    /// The earliest credible expiry, in local time.
    pub expires: Timestamp,
    /// True when the vendor gave no expiry and its documented default was assumed.
    pub expiry_assumed: bool,
    /// True when two sources of the expiry disagree by more than 120 s, or the `Date` header is off by more than 60 s.
    pub clock_skew_suspected: bool,
    /// Set when the token says that it is not usable before a time in the future.
    pub not_before: Option<Timestamp>,
}
