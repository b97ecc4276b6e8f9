//! The token grants of the five vendors: building a request, reading a response. No I/O, no clock, no Kubernetes.
//!
//! May use: `token`, `failure`, `times`.
//!
//! A new vendor needs a file with a `PROFILE` and a `Provider`, an arm of [`Vendor`] and of [`Grant`], and a folder of
//! recorded exchanges in `tests/fixtures`.

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

use self::endpoint::is_within;
pub use self::endpoint::{Endpoint, EndpointError};
pub use self::exchange::{TokenRequest, TokenResponse};
use self::provider::{Profile, Provider};
use crate::failure::{Failure, FailureClass};
use crate::token::{AccessToken, Credentials, ExposeSecret, SecretString};

/// A vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vendor {
    SixMap,
    SixClicks,
    CheckmarxSca,
    Mapiq,
    Picus,
}

/// Error for a text that names no vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown vendor: use SixMap, SixClicks, CheckmarxSCA, Mapiq or Picus")]
pub struct UnknownVendor;

impl Vendor {
    /// All vendors, in the order of the documentation.
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

    /// The name in `spec.vendor`, on the command line and in metric labels.
    pub const fn as_str(self) -> &'static str {
        self.profile().name
    }

    /// The vendor's spelling of its name, for messages.
    pub const fn display_name(self) -> &'static str {
        self.profile().display_name
    }

    /// The documented life of a token, which is assumed where an answer states none.
    pub const fn default_life(self) -> Duration {
        Duration::from_secs(self.profile().default_life.unsigned_abs())
    }

    /// Canonical keys of the credentials Secret.
    pub const fn credential_keys(self) -> &'static [&'static str] {
        self.profile().credential_keys
    }

    /// Requests a minute to one endpoint of this vendor, unless the administrator sets another limit.
    pub const fn requests_per_minute(self) -> u32 {
        self.profile().requests_per_minute
    }

    /// True where the vendor limits an endpoint or an address, so that a 429 of one grant holds for all.
    pub const fn is_limited_as_a_whole(self) -> bool {
        self.profile().limited_as_a_whole
    }

    /// True where failed attempts can lock an account at this vendor.
    pub const fn locks_accounts(self) -> bool {
        self.profile().account.is_some()
    }

    /// A hint at the right host, for a `host` that is known as another service, of this vendor or of another.
    fn wrong_host(self, host: &str) -> Option<&'static str> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let is_of = |vendor: Self| {
            vendor
                .profile()
                .domains
                .iter()
                .any(|domain| is_within(host, domain))
        };
        if is_of(self) {
            (self.profile().wrong_host)(host)
        } else {
            let is_of_another = Self::ALL.into_iter().any(is_of);
            is_of_another.then_some("that is a host of another vendor, which must not see these credentials")
        }
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

/// A region of Checkmarx SCA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckmarxRegion {
    Us,
    Eu,
}

/// A vendor with the parameters of its grant: the part of a spec that reaches the token endpoint, without credentials.
///
/// [`Grant::check`] checks the parameters; [`Grant::request`] does so too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    /// `scopes`: an empty list asks for all scopes of the client.
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

/// Error in a parameter of a grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.{field} {problem}")]
pub struct InvalidGrant {
    /// The field of the spec, as in `checkmarxSCA.tenant`.
    pub field: &'static str,
    /// The fault and its cure.
    pub problem: &'static str,
}

impl Grant {
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

    /// The vendor of this grant.
    pub const fn vendor(&self) -> Vendor {
        match self {
            Self::SixMap { .. } => Vendor::SixMap,
            Self::SixClicks { .. } => Vendor::SixClicks,
            Self::CheckmarxSca { .. } => Vendor::CheckmarxSca,
            Self::Mapiq => Vendor::Mapiq,
            Self::Picus => Vendor::Picus,
        }
    }

    /// Checks the parameters.
    pub fn check(&self) -> Result<(), InvalidGrant> {
        self.provider().check()
    }

    /// Canonical keys of the credentials Secret.
    pub const fn credential_keys(&self) -> &'static [&'static str] {
        self.vendor().credential_keys()
    }

    /// Tenant and user of the account that failed attempts with these credentials could lock; `None` at a vendor that
    /// locks no accounts.
    pub fn account(&self, credentials: &Credentials) -> Option<[String; 2]> {
        let user = credentials.values.get(self.vendor().profile().account?)?;
        Some([
            self.provider().tenant().to_owned(),
            user.expose_secret().to_owned(),
        ])
    }

    /// The compiled-in endpoint of this grant; meaningless unless [`Grant::check`] passes.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            origin: self.provider().origin(),
        }
    }

    /// Vendor and parameters as one canonical, unambiguous text (JSON) for the fingerprint. A replaced endpoint is not
    /// in it.
    pub fn canonical(&self) -> String {
        serde_json::json!([self.vendor().as_str(), self.provider().parameters()]).to_string()
    }

    /// Builds the request for `endpoint` (the vendor's own, or an administrator's replacement).
    ///
    /// # Errors
    /// `Refused` for a parameter that fails [`Grant::check`], `Rejected` for a credential that is missing or is no
    /// header value.
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

    /// Reads the token in the response. Its expiry lies within 400 days after `response.received`.
    ///
    /// # Errors
    /// The failure may quote the vendor: pass it through [`scrub`] with the credentials of the request.
    pub fn read(&self, response: &TokenResponse) -> Result<AccessToken, Failure> {
        read::read(self.vendor().profile(), response)
    }
}

/// True for visible ASCII with blanks inside, which passes through HTTP unchanged (RFC 9110 section 5.5).
fn fits_header(value: &str) -> bool {
    let inside = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    inside && !value.is_empty() && !value.starts_with(' ') && !value.ends_with(' ')
}

/// Removes repeated credentials from a failure: a vendor, or a proxy in its place, may send back the request. Each
/// failure passes here before it is stored or shown.
#[must_use]
pub fn scrub(failure: Failure, credentials: &Credentials) -> Failure {
    failure.withholding(|text| credentials.repeated_in(text))
}

/// Constructors for tests, which check the parameters.
#[cfg(test)]
impl Grant {
    pub(crate) fn six_map(scopes: Vec<String>) -> Result<Self, InvalidGrant> {
        Self::SixMap { scopes }.checked()
    }

    pub(crate) fn six_clicks(region: impl Into<String>) -> Result<Self, InvalidGrant> {
        let region = region.into();
        Self::SixClicks { region }.checked()
    }

    pub(crate) fn checkmarx_sca(
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
        self.check().map(|()| self)
    }
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
    fn each_vendor_has_its_name_and_its_tokens_life(
        #[case] vendor: Vendor,
        #[case] name: &str,
        #[case] life: u64,
    ) {
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
            // The compiled-in endpoint passes the rules for a replacement.
            assert_eq!(Endpoint::parse(grant.vendor(), origin), Ok(grant.endpoint()));
        }
    }

    #[test]
    fn a_canonical_text_is_the_same_for_the_same_grant_only() {
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
    fn an_error_names_the_parameter(#[case] grant: Result<Grant, InvalidGrant>, #[case] field: &str) {
        assert_eq!(grant.unwrap_err().field, field);
    }

    #[rstest]
    #[case("au")]
    #[case("eu-2")]
    #[case("abcdefghijklmno")]
    fn a_region_is_up_to_15_letters_digits_and_dashes(#[case] region: &str) {
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
