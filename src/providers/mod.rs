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

    /// Requests a minute to one endpoint of this vendor, unless the administrator says otherwise.
    pub const fn requests_per_minute(self) -> u32 {
        self.profile().requests_per_minute
    }

    /// The vendor's limits are per endpoint and per address, so a 429 of one grant is a 429 for all.
    pub const fn is_limited_as_a_whole(self) -> bool {
        self.profile().limited_as_a_whole
    }

    /// Failed attempts can lock an account at this vendor.
    pub const fn locks_accounts(self) -> bool {
        self.profile().account.is_some()
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

    /// Tenant and user of the account that failed attempts with these credentials could lock; `None` where the vendor locks
    /// none.
    pub fn account(&self, credentials: &Credentials) -> Option<[String; 2]> {
        let user = credentials.values.get(self.vendor().profile().account?)?;
        Some([
            self.provider().tenant().to_owned(),
            user.expose_secret().to_owned(),
        ])
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

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn checkmarx(region: CheckmarxRegion, tenant: &str, scopes: &[&str]) -> Result<Grant, InvalidGrant> {
        Grant::checkmarx_sca(
            region,
            tenant,
            scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        )
    }

    #[test]
    fn a_vendor_is_found_by_its_name() {
        for vendor in Vendor::ALL {
            assert_eq!(vendor.to_string().parse(), Ok(vendor));
        }
        assert_eq!("sixmap".parse::<Vendor>(), Err(UnknownVendor));
    }

    #[rstest]
    #[case(Vendor::SixMap, "SixMap", 3600)]
    #[case(Vendor::SixClicks, "SixClicks", 86400)]
    #[case(Vendor::CheckmarxSca, "CheckmarxSCA", 3600)]
    #[case(Vendor::Mapiq, "Mapiq", 3600)]
    #[case(Vendor::Picus, "Picus", 7200)]
    fn a_vendors_constants_are_its_own(#[case] vendor: Vendor, #[case] name: &str, #[case] life: u64) {
        assert_eq!(
            (vendor.as_str(), vendor.default_life()),
            (name, Duration::from_secs(life))
        );
    }

    #[test]
    fn each_grant_has_its_compiled_in_endpoint() {
        let scopes = ["sca_api"];
        let origins = [
            (Grant::six_map(Vec::new()), "https://api.stytch.com"),
            (Grant::six_clicks("au"), "https://api-au.6clicks.io"),
            (
                checkmarx(CheckmarxRegion::Us, "acme", &scopes),
                "https://platform.checkmarx.net",
            ),
            (
                checkmarx(CheckmarxRegion::Eu, "acme", &scopes),
                "https://eu.platform.checkmarx.net",
            ),
            (Ok(Grant::Mapiq), "https://account.mapiq.com"),
            (Ok(Grant::Picus), "https://api.picussecurity.com"),
        ];
        for (grant, origin) in origins {
            let grant = grant.unwrap();
            assert_eq!(grant.endpoint().origin, origin);
            // What is compiled in passes the rules for a replacement.
            assert_eq!(Endpoint::parse(grant.vendor(), origin), Ok(grant.endpoint()));
        }
    }

    #[test]
    fn a_canonical_text_tells_grants_apart_and_nothing_else() {
        let canonical = |grant: Result<Grant, InvalidGrant>| grant.unwrap().canonical();
        let scopes = |scopes: &[&str]| scopes.iter().map(|scope| (*scope).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            canonical(Grant::six_map(scopes(&["b", "a", "b"]))),
            r#"["SixMap",["a","b"]]"#
        );
        assert_eq!(canonical(Grant::six_clicks("au")), r#"["SixClicks","au"]"#);
        assert_eq!(
            canonical(checkmarx(CheckmarxRegion::Eu, "ac\"me", &["sca_api"])),
            r#"["CheckmarxSCA",["EU","ac\"me",["sca_api"]]]"#
        );
        assert_eq!(Grant::Mapiq.canonical(), r#"["Mapiq",null]"#);
        assert_eq!(Grant::Picus.canonical(), r#"["Picus",null]"#);
        assert_ne!(
            canonical(Grant::six_map(scopes(&["a,b"]))),
            canonical(Grant::six_map(scopes(&["a", "b"])))
        );
    }

    // edge cases 8 and 9
    #[rstest]
    #[case(Grant::six_clicks(""), "sixClicks.region")]
    #[case(Grant::six_clicks("AU"), "sixClicks.region")]
    #[case(Grant::six_clicks("1au"), "sixClicks.region")]
    #[case(Grant::six_clicks("a.example.com"), "sixClicks.region")]
    #[case(Grant::six_clicks("abcdefghijklmnop"), "sixClicks.region")]
    #[case(Grant::six_clicks("app-au"), "sixClicks.region")]
    #[case(checkmarx(CheckmarxRegion::Us, "", &["sca_api"]), "checkmarxSCA.tenant")]
    #[case(checkmarx(CheckmarxRegion::Us, " acme", &["sca_api"]), "checkmarxSCA.tenant")]
    #[case(checkmarx(CheckmarxRegion::Us, "Tenant:acme", &["sca_api"]), "checkmarxSCA.tenant")]
    #[case(checkmarx(CheckmarxRegion::Us, "acme", &[]), "checkmarxSCA.scopes")]
    #[case(checkmarx(CheckmarxRegion::Us, "acme", &["openid"]), "checkmarxSCA.scopes")]
    #[case(Grant::six_map(vec![String::new()]), "sixMap.scopes")]
    fn a_parameter_that_cannot_be_used_is_named(
        #[case] grant: Result<Grant, InvalidGrant>,
        #[case] field: &str,
    ) {
        assert_eq!(grant.unwrap_err().field, field);
    }

    #[rstest]
    #[case("au")]
    #[case("eu-2")]
    #[case("abcdefghijklmno")]
    fn a_region_is_taken(#[case] region: &str) {
        assert!(Grant::six_clicks(region).is_ok());
    }

    // edge case 6
    #[test]
    fn a_missing_credential_makes_no_request() {
        let failure = Grant::Picus
            .request(&Grant::Picus.endpoint(), &Credentials::default())
            .unwrap_err();
        assert_eq!(failure.class, FailureClass::Rejected);
        assert!(failure.message.contains("refresh-token"), "{}", failure.message);
    }
}
