//! The five vendors' token grants: builds a request, reads a response. No I/O, no clock, no Kubernetes.
//!
//! May use: `token`, `failure`.
//!
//! A new vendor is a file that has a `PROFILE` and implements `Provider`, an arm of [`Vendor`] and [`Grant`], and a
//! folder of recorded exchanges in `tests/fixtures`.

mod body;
mod checkmarx;
mod classify;
mod date;
mod endpoint;
mod exchange;
mod expiry;
mod jwt;
mod mapiq;
mod oauth;
mod picus;
mod provider;
mod read;
mod sixclicks;
mod sixmap;
mod throttle;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};

pub use self::endpoint::{Endpoint, EndpointError};
pub use self::exchange::{TokenRequest, TokenResponse};
use self::provider::{Profile, Provider};
use crate::failure::{Failure, FailureClass};
use crate::token::{AccessToken, Credentials, ExposeSecret, SecretString};

/// The vendors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vendor {
    SixMap,
    SixClicks,
    CheckmarxSca,
    Mapiq,
    Picus,
}

/// A text that names no vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown vendor: use SixMap, SixClicks, CheckmarxSCA, Mapiq or Picus")]
pub struct UnknownVendor;

impl Vendor {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 5] = [
        Self::SixMap,
        Self::SixClicks,
        Self::CheckmarxSca,
        Self::Mapiq,
        Self::Picus,
    ];

    const fn profile(self) -> &'static Profile {
        match self {
            Self::SixMap => &sixmap::PROFILE,
            Self::SixClicks => &sixclicks::PROFILE,
            Self::CheckmarxSca => &checkmarx::PROFILE,
            Self::Mapiq => &mapiq::PROFILE,
            Self::Picus => &picus::PROFILE,
        }
    }

    /// The name as in `spec.vendor`, on the command line and in metric labels.
    pub const fn as_str(self) -> &'static str {
        self.profile().name
    }

    /// The name as the vendor writes it, for messages.
    pub const fn display_name(self) -> &'static str {
        self.profile().display_name
    }

    /// How long the vendor documents its tokens to live: what is assumed where an answer does not tell.
    pub const fn default_life(self) -> Duration {
        Duration::from_secs(self.profile().default_life.unsigned_abs())
    }

    /// Canonical keys that the credentials Secret must hold.
    pub const fn credential_keys(self) -> &'static [&'static str] {
        self.profile().credential_keys
    }

    /// What to write instead, where `host` is known to be another service of this vendor.
    fn wrong_host(self, host: &str) -> Option<&'static str> {
        (self.profile().wrong_host)(host)
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Vendor {
    type Err = UnknownVendor;

    fn from_str(text: &str) -> Result<Self, UnknownVendor> {
        Self::ALL
            .into_iter()
            .find(|vendor| vendor.as_str() == text)
            .ok_or(UnknownVendor)
    }
}

/// Checkmarx SCA's two regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckmarxRegion {
    Us,
    Eu,
}

/// What is asked of which vendor: the part of a spec that reaches the token endpoint, credentials apart.
///
/// The constructors check the parameters; so does [`Grant::check`], for a grant that was put together by hand, and
/// [`Grant::request`] before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    /// `scopes`: none asks for all that the client has.
    SixMap {
        scopes: Vec<String>,
    },
    /// `region`: the part of the tenant's URL after `app-`.
    SixClicks {
        region: String,
    },
    /// `tenant`: without the prefix `Tenant:`. `scopes`: `sca_api`, `access_control_api` or both.
    CheckmarxSca {
        region: CheckmarxRegion,
        tenant: String,
        scopes: Vec<String>,
    },
    Mapiq,
    Picus,
}

/// A parameter of a grant that cannot be used: names the field of the spec and the cure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.{field} {problem}")]
pub struct InvalidGrant {
    /// The path in the spec, as in `checkmarxSCA.tenant`.
    pub field: &'static str,
    /// What is wrong and what to write.
    pub problem: &'static str,
}

impl Grant {
    /// A grant of SixMap's.
    pub fn six_map(scopes: Vec<String>) -> Result<Self, InvalidGrant> {
        Self::SixMap { scopes }.checked()
    }

    /// A grant of 6clicks'.
    pub fn six_clicks(region: impl Into<String>) -> Result<Self, InvalidGrant> {
        Self::SixClicks {
            region: region.into(),
        }
        .checked()
    }

    /// A grant of Checkmarx SCA's.
    pub fn checkmarx_sca(
        region: CheckmarxRegion,
        tenant: impl Into<String>,
        scopes: Vec<String>,
    ) -> Result<Self, InvalidGrant> {
        Self::CheckmarxSca {
            region,
            tenant: tenant.into(),
            scopes,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, InvalidGrant> {
        self.check()?;
        Ok(self)
    }

    fn provider(&self) -> Box<dyn Provider + '_> {
        match self {
            Self::SixMap { scopes } => Box::new(sixmap::SixMap { scopes }),
            Self::SixClicks { region } => Box::new(sixclicks::SixClicks { region }),
            Self::CheckmarxSca {
                region,
                tenant,
                scopes,
            } => Box::new(checkmarx::CheckmarxSca {
                region: *region,
                tenant,
                scopes,
            }),
            Self::Mapiq => Box::new(mapiq::Mapiq),
            Self::Picus => Box::new(picus::Picus),
        }
    }

    /// Whose grant it is.
    pub const fn vendor(&self) -> Vendor {
        match self {
            Self::SixMap { .. } => Vendor::SixMap,
            Self::SixClicks { .. } => Vendor::SixClicks,
            Self::CheckmarxSca { .. } => Vendor::CheckmarxSca,
            Self::Mapiq => Vendor::Mapiq,
            Self::Picus => Vendor::Picus,
        }
    }

    /// Whether the parameters can be used.
    pub fn check(&self) -> Result<(), InvalidGrant> {
        self.provider().check()
    }

    /// Keys that the credentials Secret must hold.
    pub const fn credential_keys(&self) -> &'static [&'static str] {
        self.vendor().credential_keys()
    }

    /// The compiled-in endpoint of this grant. Only of use where [`Grant::check`] passes.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            origin: self.provider().origin(),
        }
    }

    /// Parameters as one canonical, unambiguous text (JSON): goes into the fingerprint. The vendor is the first
    /// part of it; the endpoint is not in it where it does not follow from the parameters.
    pub fn canonical(&self) -> String {
        serde_json::json!([self.vendor().as_str(), self.provider().parameters()]).to_string()
    }

    /// Builds the request for `endpoint` (the vendor's own, or an administrator's replacement).
    ///
    /// Fails, before anything is sent, where a parameter cannot be used (`Refused`), or a credential is missing or
    /// cannot stand in a header (`Rejected`).
    pub fn request(&self, endpoint: &Endpoint, credentials: &Credentials) -> Result<TokenRequest, Failure> {
        let provider = self.provider();
        provider
            .check()
            .map_err(|invalid| Failure::new(FailureClass::Refused, &invalid.to_string()))?;
        let payload = provider.payload(credentials)?;
        let mut headers = vec![(ACCEPT, SecretString::from("application/json"))];
        if let Some(content_type) = payload.content_type {
            headers.push((CONTENT_TYPE, content_type.into()));
        }
        headers.extend(payload.headers);
        if let Some((name, _)) = headers
            .iter()
            .find(|(_, value)| !fits_header(value.expose_secret()))
        {
            let vendor = self.vendor().display_name();
            let message = format!(
                "{vendor} takes the credential in the HTTP header {name}, where the stored value cannot stand: store it \
                 as it was issued, in ASCII and without blanks around it"
            );
            return Err(Failure::new(FailureClass::Rejected, &message));
        }
        Ok(TokenRequest {
            url: format!("{}{}", endpoint.origin, payload.path),
            headers,
            body: payload.body,
            client_certificate: payload.client_certificate,
        })
    }

    /// Reads the response.
    ///
    /// A token's expiry lies after `response.received` and at most 400 days after it. The failure is to be passed
    /// through [`scrub`], which needs the credentials that were sent.
    pub fn read(&self, response: &TokenResponse) -> Result<AccessToken, Failure> {
        read::read(self.vendor().profile(), response)
    }
}

/// Visible ASCII with blanks inside: what passes through HTTP unchanged (RFC 9110 section 5.5).
fn fits_header(value: &str) -> bool {
    let inside = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    inside && !value.is_empty() && !value.starts_with(' ') && !value.ends_with(' ')
}

/// Takes out of a failure what repeats one of the credentials. Every failure goes through here before anyone else
/// sees it: a vendor, or whoever answers in its place, may send back what it was sent.
#[must_use]
pub fn scrub(failure: Failure, credentials: &Credentials) -> Failure {
    failure.withholding(|text| credentials.repeated_in(text))
}
