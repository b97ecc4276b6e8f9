//! Distinct tokens in the shapes that the vendors issue.

use serde_json::json;

use crate::credential::Presented;
use crate::digest::{base64url, hex, random};
use crate::vendor::Vendor;

/// The times of a token by the vendor's clock, in Unix milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) issued_ms: i64,
    pub(crate) lifetime_seconds: i64,
}

impl Times {
    pub(crate) fn issued_seconds(self) -> i64 {
        self.issued_ms.div_euclid(1000)
    }

    pub(crate) fn expires_seconds(self) -> i64 {
        self.issued_seconds().saturating_add(self.lifetime_seconds)
    }

    pub(crate) fn expires_ms(self) -> i64 {
        self.issued_ms
            .saturating_add(self.lifetime_seconds.saturating_mul(1000))
    }
}

/// Mints a token. All but Picus issue JWTs; the signature is random bytes, since no client can verify it.
pub(crate) fn mint(
    vendor: Vendor,
    presented: &Presented,
    ledger_id: &str,
    times: Times,
    opaque: bool,
) -> String {
    if opaque || vendor == Vendor::Picus {
        return base64url(&random::<96>());
    }
    let (issued, expires) = (times.issued_seconds(), times.expires_seconds());
    let id = hex(&random::<16>());
    let scope = presented.scopes.join(" ");
    let header = match vendor {
        Vendor::SixClicks => r#"{"alg":"HS256","typ":"JWT"}"#,
        Vendor::SixMap => r#"{"alg":"RS256","kid":"jwk-live-simulator","typ":"JWT"}"#,
        _ => r#"{"alg":"RS256","kid":"simulator","typ":"JWT"}"#,
    };
    let claims = match vendor {
        Vendor::SixMap => json!({
            "aud": ["project-live-da664296-f5e5-4302-872d-9824683c3c42"],
            "exp": expires, "iat": issued, "nbf": issued, "jti": id,
            "iss": "stytch.com/project-live-da664296-f5e5-4302-872d-9824683c3c42",
            "scope": scope, "sub": presented.id,
        }),
        Vendor::CheckmarxSca => json!({
            "iss": "https://platform.checkmarx.net/identity", "aud": "sca_api",
            "nbf": issued, "iat": issued, "exp": expires, "jti": id,
            "client_id": "sca_resource_owner", "sub": ledger_id,
            "tenant_name": presented.tenant, "scope": presented.scopes,
        }),
        Vendor::Mapiq => json!({
            "iss": "https://account.mapiq.com/v2.0/", "aud": RESOURCE, "sub": presented.id,
            "iat": issued, "nbf": issued, "exp": expires, "jti": id,
        }),
        Vendor::SixClicks | Vendor::Picus => json!({
            "sub": "1", "jti": id, "iat": issued, "nbf": issued, "exp": expires,
            "iss": "6clicks", "aud": "LegalRegTech", "token_type": "0",
            "http://www.aspnetboilerplate.com/identity/claims/tenantId": "1",
            "user_identifier": "1@1",
        }),
    };
    let claims = base64url(claims.to_string().as_bytes());
    format!(
        "{}.{claims}.{}",
        base64url(header.as_bytes()),
        base64url(&random::<32>())
    )
}

/// Mapiq's `resource`.
pub(crate) const RESOURCE: &str = "5d1b7c60-0000-4000-8000-6d6170697100";
