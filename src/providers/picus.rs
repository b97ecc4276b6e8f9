//! Picus: an access token of two hours, in exchange for a refresh token of six months.
//!
//! Vendor's page: Picus "Authentication Details". Only `/v1/auth/token` is called: `/v1/auth/refresh` invalidates the
//! refresh token in the user's Secret.

use serde::Serialize;

use super::provider::{Advice, Payload, Profile, Provider, credential};
use crate::failure::Failure;
use crate::token::Credentials;

const PATH: &str = "/v1/auth/token";

pub(super) static PROFILE: Profile = Profile {
    name: "Picus",
    display_name: "Picus",
    credential_keys: &["refresh-token"],
    default_life: 2 * 60 * 60,
    requests_per_minute: 600,
    limited_as_a_whole: true,
    account: None,
    envelope: None,
    token: "token",
    relative_expiry: None,
    // Milliseconds on the page, seconds in the vendor's Swagger file.
    absolute_expiry: Some("expire_at"),
    not_before: None,
    domains: &["picussecurity.com"],
    wrong_host: |host| {
        let hint = if host == "app.picussecurity.com" {
            "that is the web console; the API is https://api.picussecurity.com"
        } else {
            "that is another service of Picus; the API is https://api.picussecurity.com"
        };
        (host != "api.picussecurity.com").then_some(hint)
    },
    advice: Advice {
        credential: "the refresh token has expired or was replaced; generate a new token in the console, Settings > Rest \
                     API Token",
        scope: "generate a new token with the scopes you need in the console, Settings > Rest API Token",
        client: "check that refresh-token holds the token of the console, Settings > Rest API Token",
        not_found: "check --endpoint: it is to name Picus' API, not its console",
        payment: "the Picus licence has reached a limit; ask whoever manages it",
        trouble: "it is tried again",
    },
};

pub(super) struct Picus;

#[derive(Serialize)]
struct Body<'a> {
    refresh_token: &'a str,
}

impl Provider for Picus {
    fn origin(&self) -> String {
        "https://api.picussecurity.com".to_owned()
    }

    fn payload(&self, credentials: &Credentials) -> Result<Payload, Failure> {
        Payload::json(
            PATH,
            &Body {
                refresh_token: credential(credentials, "refresh-token")?,
            },
        )
    }
}
