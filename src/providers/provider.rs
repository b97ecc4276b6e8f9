//! What a vendor's file has to say about itself.

use http::HeaderName;

use super::InvalidGrant;
use crate::failure::{Failure, FailureClass};
use crate::token::{ClientCertificate, Credentials, ExposeSecret, SecretString};

/// The constants of a vendor.
pub(super) struct Profile {
    /// As in `spec.vendor`.
    pub(super) name: &'static str,
    /// As the vendor writes it.
    pub(super) display_name: &'static str,
    /// Canonical keys of the credentials Secret.
    pub(super) credential_keys: &'static [&'static str],
    /// The documented life of a token, in seconds.
    pub(super) default_life: i64,
    /// Requests a minute to one endpoint, unless the administrator says otherwise.
    pub(super) requests_per_minute: u32,
    /// The limits are per endpoint and per address, so a 429 of one grant is a 429 for all.
    pub(super) limited_as_a_whole: bool,
    /// The credential that names the account which failed attempts could lock.
    pub(super) account: Option<&'static str>,
    /// An object of the answer that may hold the members below instead of the answer itself.
    pub(super) envelope: Option<&'static str>,
    /// The member that holds the token.
    pub(super) token: &'static str,
    /// The member that holds its life in seconds.
    pub(super) relative_expiry: Option<&'static str>,
    /// The member that holds its end in seconds or milliseconds since the epoch.
    pub(super) absolute_expiry: Option<&'static str>,
    /// The member that holds the time before which it must not be used, in seconds since the epoch.
    pub(super) not_before: Option<&'static str>,
    /// What to write instead, where a host is known to be another service of the vendor.
    pub(super) wrong_host: fn(&str) -> Option<&'static str>,
    /// What to do about a failure.
    pub(super) advice: Advice,
}

/// What to do about a failure, in the vendor's own terms; short enough to fit into a message behind its head.
pub(super) struct Advice {
    /// The credential was rejected.
    pub(super) credential: &'static str,
    /// The scopes were.
    pub(super) scope: &'static str,
    /// This client may not ask in this way.
    pub(super) client: &'static str,
    /// The path was not found.
    pub(super) not_found: &'static str,
    /// 402.
    pub(super) payment: &'static str,
    /// 5xx, beyond waiting.
    pub(super) trouble: &'static str,
}

/// What differs between requests, as a vendor's file makes it.
pub(super) struct Payload {
    pub(super) path: &'static str,
    /// Beside `Accept` and `Content-Type`.
    pub(super) headers: Vec<(HeaderName, SecretString)>,
    pub(super) content_type: Option<&'static str>,
    pub(super) body: SecretString,
    pub(super) client_certificate: Option<ClientCertificate>,
}

impl Payload {
    pub(super) fn form(path: &'static str, pairs: &[(&str, &str)]) -> Self {
        let content_type = Some("application/x-www-form-urlencoded");
        let body = super::exchange::form(pairs);
        Self {
            path,
            headers: Vec::new(),
            content_type,
            body,
            client_certificate: None,
        }
    }

    pub(super) fn json(path: &'static str, value: &impl serde::Serialize) -> Result<Self, Failure> {
        let body = super::exchange::json(value)
            .ok_or_else(|| Failure::new(FailureClass::Refused, "failed to write the request as JSON"))?;
        let content_type = Some("application/json");
        Ok(Self {
            path,
            headers: Vec::new(),
            content_type,
            body,
            client_certificate: None,
        })
    }
}

/// A grant with its parameters.
pub(super) trait Provider {
    /// Whether the parameters can be used.
    fn check(&self) -> Result<(), InvalidGrant> {
        Ok(())
    }

    /// Scheme and host.
    fn origin(&self) -> String;

    /// The parameters, for the fingerprint.
    fn parameters(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// The tenant that an account belongs to, where the vendor has such.
    fn tenant(&self) -> &str {
        ""
    }

    /// The parts of the request.
    fn payload(&self, credentials: &Credentials) -> Result<Payload, Failure>;
}

/// The value of a credential. One that is missing or empty is no request: an empty password counts as a wrong one.
pub(super) fn credential<'a>(credentials: &'a Credentials, key: &'static str) -> Result<&'a str, Failure> {
    let value = credentials.values.get(key).map(ExposeSecret::expose_secret);
    value.filter(|value| !value.is_empty()).ok_or_else(|| {
        let message = format!("the credential {key} is missing: put it into the credentials Secret");
        Failure::new(FailureClass::Rejected, &message)
    })
}
