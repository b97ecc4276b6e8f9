//! SixMap: the client credentials grant of Stytch M2M, in JSON.
//!
//! Vendors' pages: SixMap "SixMap API, Get started"; Stytch "Get M2M access token".

use serde::Serialize;

use super::InvalidGrant;
use super::oauth::{canonical_scopes, is_scope, scope_parameter};
use super::provider::{Advice, Payload, Profile, Provider, credential};
use crate::failure::Failure;
use crate::token::Credentials;

/// The path names SixMap's own project, the same for all its customers.
const PATH: &str = "/v1/public/project-live-da664296-f5e5-4302-872d-9824683c3c42/oauth2/token";

pub(super) static PROFILE: Profile = Profile {
    name: "SixMap",
    display_name: "SixMap",
    credential_keys: &["client-id", "client-secret"],
    default_life: 3600,
    requests_per_minute: 600,
    limited_as_a_whole: false,
    account: None,
    envelope: None,
    token: "access_token",
    relative_expiry: Some("expires_in"),
    absolute_expiry: None,
    not_before: None,
    domains: &["sixmaptech.com", "stytch.com"],
    wrong_host: |host| {
        // Projects of the issuer for tests have a host of their own.
        let is_issuer = matches!(host, "api.stytch.com" | "test.stytch.com");
        (!is_issuer).then_some("SixMap's tokens come from its issuer, https://api.stytch.com")
    },
    advice: Advice {
        credential: "the API token is wrong, deleted or was renewed; generate a new token in SixMap and store its ID and \
                     secret",
        scope: "correct sixMap.scopes, or leave them out to get all scopes of the API token",
        client: "check that client-id and client-secret are the token ID and secret of an active SixMap API token",
        not_found: "check --endpoint: the path of SixMap's project is fixed",
        payment: "ask SixMap about the subscription",
        trouble: "it is tried again",
    },
};

pub(super) struct SixMap<'a> {
    pub(super) scopes: &'a [String],
}

#[derive(Serialize)]
struct Body<'a> {
    client_id: &'a str,
    client_secret: &'a str,
    grant_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

impl Provider for SixMap<'_> {
    fn check(&self) -> Result<(), InvalidGrant> {
        if self.scopes.iter().all(|scope| is_scope(scope)) {
            Ok(())
        } else {
            let problem = "has an entry that is no scope: write each scope alone, without blanks or quotes";
            Err(InvalidGrant {
                field: "sixMap.scopes",
                problem,
            })
        }
    }

    fn origin(&self) -> String {
        "https://api.stytch.com".to_owned()
    }

    fn parameters(&self) -> serde_json::Value {
        canonical_scopes(self.scopes).into()
    }

    fn payload(&self, credentials: &Credentials) -> Result<Payload, Failure> {
        let body = Body {
            client_id: credential(credentials, "client-id")?,
            client_secret: credential(credentials, "client-secret")?,
            grant_type: "client_credentials",
            scope: (!self.scopes.is_empty()).then(|| scope_parameter(self.scopes)),
        };
        Payload::json(PATH, &body)
    }
}
