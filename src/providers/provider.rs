//! The parts of a vendor's file: constants, and a grant with its parameters.

use http::HeaderName;

use super::InvalidGrant;
use crate::failure::{Failure, FailureClass};
use crate::token::{ClientCertificate, Credentials, ExposeSecret, SecretString};

/// The constants of a vendor.
pub(super) struct Profile {
    /// The name in `spec.vendor`.
    pub(super) name: &'static str,
    /// The vendor's spelling of its name.
    pub(super) display_name: &'static str,
    /// Canonical keys of the credentials Secret.
    pub(super) credential_keys: &'static [&'static str],
    /// The documented life of a token, in seconds.
    pub(super) default_life: i64,
    /// Requests a minute to one endpoint, unless the administrator sets another limit.
    pub(super) requests_per_minute: u32,
    /// True where the vendor limits an endpoint or an address, so that a 429 of one grant holds for all.
    pub(super) limited_as_a_whole: bool,
    /// The credential with the name of the account that failed attempts could lock.
    pub(super) account: Option<&'static str>,
    /// An object of the answer that may hold the members below in place of the answer.
    pub(super) envelope: Option<&'static str>,
    /// The member with the token.
    pub(super) token: &'static str,
    /// The member with its life in seconds.
    pub(super) relative_expiry: Option<&'static str>,
    /// The member with its end in seconds or milliseconds since the epoch.
    pub(super) absolute_expiry: Option<&'static str>,
    /// The member with the start of its validity in seconds since the epoch.
    pub(super) not_before: Option<&'static str>,
    /// The domains in which the vendor's services are.
    pub(super) domains: &'static [&'static str],
    /// A hint at the right host, for a host in these domains that is no token endpoint.
    pub(super) wrong_host: fn(&str) -> Option<&'static str>,
    pub(super) advice: Advice,
}

/// Cures of failures in the vendor's own terms, short enough for the limit of a message.
pub(super) struct Advice {
    /// Of a rejected credential.
    pub(super) credential: &'static str,
    /// Of rejected scopes.
    pub(super) scope: &'static str,
    /// Of a client that may not use the grant.
    pub(super) client: &'static str,
    /// Of a 404.
    pub(super) not_found: &'static str,
    /// Of a 402.
    pub(super) payment: &'static str,
    /// Of a 5xx.
    pub(super) trouble: &'static str,
}

/// The part of a request that a vendor's file makes.
pub(super) struct Payload {
    pub(super) path: &'static str,
    /// Headers beside `Accept` and `Content-Type`.
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
    /// Checks the parameters.
    fn check(&self) -> Result<(), InvalidGrant> {
        Ok(())
    }

    /// Scheme and host of the compiled-in endpoint.
    fn origin(&self) -> String;

    /// The parameters for the fingerprint, in a canonical form.
    fn parameters(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// The tenant of an account; empty where the vendor has no tenants.
    fn tenant(&self) -> &str {
        ""
    }

    /// Makes the vendor's part of the request.
    fn payload(&self, credentials: &Credentials) -> Result<Payload, Failure>;
}

/// The value of a credential. A missing or empty one fails before a request: an empty password counts as a wrong one.
pub(super) fn credential<'a>(credentials: &'a Credentials, key: &'static str) -> Result<&'a str, Failure> {
    let value = credentials.values.get(key).map(ExposeSecret::expose_secret);
    value.filter(|value| !value.is_empty()).ok_or_else(|| {
        let message = format!("the credential {key} is missing: put it into the credentials Secret");
        Failure::new(FailureClass::Rejected, &message)
    })
}
