//! Checkmarx SCA: the password grant of an IdentityServer. Not Checkmarx One, which is another product.
//!
//! Vendor's page: "Checkmarx SCA (REST) API - POST Token". Its `Accept: application/x-www-form-urlencoded` is a
//! mistake, since the answer is JSON. RFC 9700 section 2.4 forbids this grant; the vendor offers no other.

use super::endpoint::is_within;
use super::oauth::{canonical_scopes, scope_parameter};
use super::provider::{Advice, Payload, Profile, Provider, credential};
use super::{CheckmarxRegion, InvalidGrant};
use crate::failure::Failure;
use crate::token::Credentials;

const PATH: &str = "/identity/connect/token";
const SCOPES: [&str; 2] = ["sca_api", "access_control_api"];
const TENANT_PREFIX: &str = "Tenant:";

pub(super) static PROFILE: Profile = Profile {
    name: "CheckmarxSCA",
    display_name: "Checkmarx SCA",
    credential_keys: &["username", "password"],
    default_life: 3600,
    requests_per_minute: 600,
    limited_as_a_whole: false,
    account: Some("username"),
    envelope: None,
    token: "access_token",
    relative_expiry: Some("expires_in"),
    absolute_expiry: None,
    not_before: None,
    domains: &["checkmarx.net", "checkmarx.com"],
    wrong_host: |host| {
        if is_within(host, "platform.checkmarx.net") {
            None
        } else if is_within(host, "iam.checkmarx.net") || is_within(host, "ast.checkmarx.net") {
            Some(
                "that is Checkmarx One, another product; Checkmarx SCA's are https://platform.checkmarx.net and \
                 https://eu.platform.checkmarx.net",
            )
        } else if host.starts_with("eu.") {
            Some("that is another service of Checkmarx; tokens come from https://eu.platform.checkmarx.net")
        } else {
            Some(
                "that is another service of Checkmarx; tokens come from https://platform.checkmarx.net, those of the EU from \
                 https://eu.platform.checkmarx.net",
            )
        }
    },
    advice: Advice {
        credential: "wrong user or password, or a locked, expired or IP-restricted user (it looks the same); use a local \
                     SCA user, check tenant",
        scope: "correct checkmarxSCA.scopes; access_control_api needs a user with that right",
        client: "check checkmarxSCA.tenant and region, and that the user is a local Checkmarx SCA user",
        not_found: "check checkmarxSCA.region and --endpoint",
        payment: "ask Checkmarx about the licence",
        trouble: "it is tried again",
    },
};

pub(super) struct CheckmarxSca<'a> {
    pub(super) region: CheckmarxRegion,
    pub(super) tenant: &'a str,
    pub(super) scopes: &'a [String],
}

impl Provider for CheckmarxSca<'_> {
    fn check(&self) -> Result<(), InvalidGrant> {
        let refuse = |field, problem| Err(InvalidGrant { field, problem });
        let tenant = self.tenant;
        let prefix = tenant.get(..TENANT_PREFIX.len());
        if tenant.is_empty() {
            refuse(
                "checkmarxSCA.tenant",
                "is empty: write the name of the tenant account",
            )
        } else if prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(TENANT_PREFIX)) {
            refuse(
                "checkmarxSCA.tenant",
                "begins with Tenant: which is added by itself: write only the name",
            )
        } else if tenant
            .chars()
            .any(|character| character.is_whitespace() || character.is_control())
        {
            refuse(
                "checkmarxSCA.tenant",
                "has white space: write the name of the tenant account, one word",
            )
        } else if self.scopes.is_empty() || !self.scopes.iter().all(|scope| SCOPES.contains(&scope.as_str()))
        {
            refuse(
                "checkmarxSCA.scopes",
                "must be sca_api, access_control_api or both",
            )
        } else {
            Ok(())
        }
    }

    fn origin(&self) -> String {
        match self.region {
            CheckmarxRegion::Us => "https://platform.checkmarx.net".to_owned(),
            CheckmarxRegion::Eu => "https://eu.platform.checkmarx.net".to_owned(),
        }
    }

    fn parameters(&self) -> serde_json::Value {
        let region = match self.region {
            CheckmarxRegion::Us => "US",
            CheckmarxRegion::Eu => "EU",
        };
        serde_json::json!([region, self.tenant, canonical_scopes(self.scopes)])
    }

    fn tenant(&self) -> &str {
        self.tenant
    }

    fn payload(&self, credentials: &Credentials) -> Result<Payload, Failure> {
        Ok(Payload::form(
            PATH,
            &[
                ("username", credential(credentials, "username")?),
                ("password", credential(credentials, "password")?),
                ("acr_values", &format!("{TENANT_PREFIX}{}", self.tenant)),
                ("scope", &scope_parameter(self.scopes)),
                ("client_id", "sca_resource_owner"),
                ("grant_type", "password"),
            ],
        ))
    }
}
