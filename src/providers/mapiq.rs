//! Mapiq: the client credentials grant of Azure AD B2C behind Azure API Management.
//!
//! Vendor's page: Mapiq API v2 "Getting Started". Version 1 (password grant at `api.mapiq.com`) is retired.

use super::provider::{Advice, Payload, Profile, Provider, credential};
use crate::failure::Failure;
use crate::token::Credentials;

const PATH: &str = "/api/public/oauth2/token";
const SCOPE: &str = "https://api.mapiq.com/public/.default";

pub(super) static PROFILE: Profile = Profile {
    name: "Mapiq",
    display_name: "Mapiq",
    credential_keys: &["client-id", "client-secret"],
    default_life: 3600,
    requests_per_minute: 20,
    limited_as_a_whole: true,
    account: None,
    envelope: None,
    token: "access_token",
    relative_expiry: Some("expires_in"),
    absolute_expiry: Some("expires_on"),
    not_before: Some("not_before"),
    domains: &["mapiq.com"],
    wrong_host: |host| {
        let hint = if host == "api.mapiq.com" {
            "that is the API itself; tokens come from https://account.mapiq.com"
        } else {
            "that is another service of Mapiq; tokens come from https://account.mapiq.com"
        };
        (host != "account.mapiq.com").then_some(hint)
    },
    advice: Advice {
        credential: "has the client secret expired, or was it rotated? Ask Mapiq support for a new one and store it",
        scope: "ask Mapiq support for the API permissions of the client application",
        client: "ask Mapiq support whether the client application may use the client credentials grant",
        not_found: "check --endpoint: the path is that of version 2 of the API",
        payment: "ask Mapiq about the subscription",
        trouble: "it is tried again",
    },
};

pub(super) struct Mapiq;

impl Provider for Mapiq {
    fn origin(&self) -> String {
        "https://account.mapiq.com".to_owned()
    }

    fn payload(&self, credentials: &Credentials) -> Result<Payload, Failure> {
        Ok(Payload::form(
            PATH,
            &[
                ("grant_type", "client_credentials"),
                ("scope", SCOPE),
                ("client_id", credential(credentials, "client-id")?),
                ("client_secret", credential(credentials, "client-secret")?),
            ],
        ))
    }
}
