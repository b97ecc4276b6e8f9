//! 6clicks: a JWT in exchange for an API key, by a POST without a body.
//!
//! Vendor's page: 6clicks "Developer API". The platform appears to run on ASP.NET Boilerplate, whose envelope is read
//! too.

use http::HeaderName;
use http::header::CONTENT_LENGTH;

use super::InvalidGrant;
use super::endpoint::is_within;
use super::provider::{Advice, Payload, Profile, Provider, credential};
use crate::failure::Failure;
use crate::token::{Credentials, SecretString};

const PATH: &str = "/auth-api/1.0/auth/token";
const API_KEY: HeaderName = HeaderName::from_static("6clicks-api-key");
const LONGEST_REGION: usize = 15;

pub(super) static PROFILE: Profile = Profile {
    name: "SixClicks",
    display_name: "6clicks",
    credential_keys: &["api-key"],
    default_life: 24 * 60 * 60,
    requests_per_minute: 600,
    limited_as_a_whole: false,
    account: None,
    envelope: Some("result"),
    token: "accessToken",
    relative_expiry: Some("expireInSeconds"),
    absolute_expiry: None,
    not_before: None,
    domains: &["6clicks.io", "6clicks.com"],
    wrong_host: |host| {
        let is_of_tenants = is_within(host, "6clicks.io");
        if is_of_tenants && host.starts_with("api-") {
            None
        } else if is_of_tenants && host.starts_with("app-") {
            Some("that is the web application; write the same host with api- instead of app-")
        } else {
            Some("that is another service of 6clicks; tokens come from https://api-<region>.6clicks.io")
        }
    },
    advice: Advice {
        credential: "the API key is wrong or deleted, its user is inactive, or the client certificate registered with it \
                     is missing",
        scope: "check the permissions of the API key's user",
        client: "check the API key, the client certificate registered with it and the Integrations permission of its user",
        not_found: "check sixClicks.region, the part after app- in your 6clicks URL, or --endpoint",
        payment: "ask 6clicks about the subscription",
        trouble: "it is tried again; if this lasts, check the API key, as 6clicks may answer so to a wrong one",
    },
};

pub(super) struct SixClicks<'a> {
    pub(super) region: &'a str,
}

impl Provider for SixClicks<'_> {
    fn check(&self) -> Result<(), InvalidGrant> {
        let refuse = |problem| {
            Err(InvalidGrant {
                field: "sixClicks.region",
                problem,
            })
        };
        let region = self.region;
        if ["app-", "api-"].iter().any(|prefix| region.starts_with(prefix)) {
            return refuse("begins with app- or api-: write only the part after it, as in au");
        }
        let formed = region.len() <= LONGEST_REGION
            && region.starts_with(|first: char| first.is_ascii_lowercase())
            && region
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if formed {
            Ok(())
        } else {
            refuse("is not a region: write the part after app- in your 6clicks URL, as in au")
        }
    }

    fn origin(&self) -> String {
        format!("https://api-{}.6clicks.io", self.region)
    }

    fn parameters(&self) -> serde_json::Value {
        self.region.into()
    }

    fn payload(&self, credentials: &Credentials) -> Result<Payload, Failure> {
        let key = credential(credentials, "api-key")?;
        Ok(Payload {
            path: PATH,
            // IIS and Azure answer 411 to a POST without a length (RFC 9110 section 8.6).
            headers: vec![
                (API_KEY, SecretString::from(key)),
                (CONTENT_LENGTH, SecretString::from("0")),
            ],
            content_type: None,
            body: SecretString::default(),
            client_certificate: credentials.client_certificate.clone(),
        })
    }
}
