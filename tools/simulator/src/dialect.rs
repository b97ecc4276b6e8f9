//! The vendors' answers: success, refusal, throttling, each in the vendor's own words.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::budget::Verdict;
use crate::digest::{hex, random};
use crate::rules::Refusal;
use crate::token::{RESOURCE, Times};
use crate::vendor::Vendor;

pub(crate) const JSON: &str = "application/json; charset=utf-8";
const HTML: &str = "text/html; charset=us-ascii";

/// An answer before faults change it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `None` leaves the header to `headers`, or out.
    pub(crate) content_type: Option<&'static str>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
}

impl Answer {
    fn json(status: u16, body: &impl Serialize) -> Self {
        // Neither a map with odd keys nor a failing Serialize occurs in here.
        Self::text(status, JSON, serde_json::to_vec(body).unwrap_or_default())
    }

    fn text(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type: Some(content_type),
            headers: Vec::new(),
            body: body.into(),
        }
    }

    pub(crate) fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }
}

/// Why a well-formed request gets no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    UnknownId,
    WrongSecret,
    ScopeNotAllowed,
    CertificateNeeded,
    LockedOut,
}

fn uuid() -> String {
    let text = hex(&random::<16>());
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32)
    )
}

#[derive(Serialize)]
struct StytchSuccess<'a> {
    access_token: &'a str,
    expires_in: i64,
    request_id: String,
    status_code: u16,
    token_type: &'a str,
}

#[derive(Serialize)]
struct IdentityServerSuccess<'a> {
    access_token: &'a str,
    expires_in: i64,
    token_type: &'a str,
}

#[derive(Serialize)]
struct MapiqSuccess<'a> {
    access_token: &'a str,
    token_type: &'a str,
    not_before: i64,
    expires_in: i64,
    expires_on: i64,
    resource: &'a str,
}

#[derive(Serialize)]
struct PicusSuccess<'a> {
    token: &'a str,
    expire_at: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SixClicksSuccess<'a> {
    access_token: &'a str,
}

/// The answer that carries a token.
pub(crate) fn success(vendor: Vendor, token: &str, times: Times) -> Answer {
    let expires_in = times.lifetime_seconds;
    let answer = match vendor {
        Vendor::SixMap => Answer::json(
            200,
            &StytchSuccess {
                access_token: token,
                expires_in,
                request_id: format!("request-id-live-{}", uuid()),
                status_code: 200,
                token_type: "Bearer",
            },
        ),
        Vendor::CheckmarxSca => Answer::json(
            200,
            &IdentityServerSuccess {
                access_token: token,
                expires_in,
                token_type: "Bearer",
            },
        ),
        Vendor::Mapiq => Answer::json(
            200,
            &MapiqSuccess {
                access_token: token,
                token_type: "Bearer",
                not_before: times.issued_seconds(),
                expires_in,
                expires_on: times.expires_seconds(),
                resource: RESOURCE,
            },
        ),
        Vendor::Picus => Answer::json(
            200,
            &PicusSuccess {
                token,
                expire_at: times.expires_ms(),
            },
        ),
        Vendor::SixClicks => Answer::json(200, &SixClicksSuccess { access_token: token }),
    };
    match vendor {
        Vendor::SixMap | Vendor::CheckmarxSca | Vendor::Mapiq => answer
            .with(header::CACHE_CONTROL, "no-store, no-cache, max-age=0")
            .with(header::PRAGMA, "no-cache"),
        Vendor::SixClicks | Vendor::Picus => answer,
    }
}

/// The answer to a request that the vendor's page does not allow.
pub(crate) fn refusal(vendor: Vendor, refusal: Refusal) -> Answer {
    let status = match refusal {
        Refusal::NotFound => 404,
        Refusal::MethodNotAllowed => 405,
        Refusal::UnsupportedMediaType => 415,
        Refusal::LengthRequired => 411,
        Refusal::ExpectationFailed => 417,
        Refusal::PayloadTooLarge => 413,
        _ => 400,
    };
    let code = match refusal {
        Refusal::UnsupportedGrantType => "unsupported_grant_type",
        Refusal::InvalidScope => "invalid_scope",
        Refusal::InvalidClient => "invalid_client",
        _ => "invalid_request",
    };
    match (vendor, refusal) {
        (_, Refusal::LengthRequired) => Answer::text(
            411,
            HTML,
            "<html><head><title>Length Required</title></head><body><h2>Length Required</h2>\
             <p>HTTP Error 411. The request must be chunked or have a content length.</p></body></html>",
        ),
        (Vendor::SixMap, _) => stytch(status, code),
        (Vendor::CheckmarxSca, Refusal::NotFound) => Answer::text(404, HTML, ""),
        (Vendor::CheckmarxSca, _) => identity_server(code, None),
        (Vendor::Mapiq, Refusal::NotFound) => {
            Answer::json(404, &json!({"statusCode": 404, "message": "Resource not found"}))
        }
        (Vendor::Mapiq, _) if status != 400 => Answer::json(
            status,
            &json!({"statusCode": status, "message": "The request is not supported"}),
        ),
        (Vendor::Mapiq, _) => azure_b2c(
            code,
            "AADB2C90085: The service has encountered a bad request; please check its parameters.",
        ),
        (Vendor::Picus, Refusal::InvalidRequest) => Answer::json(
            422,
            &json!({"message": "validation error", "errors": {"refresh_token": "refresh_token is a required field"}}),
        ),
        (Vendor::Picus, Refusal::NotFound) => Answer::json(404, &json!({"message": "not found"})),
        (Vendor::Picus, _) => Answer::json(status, &json!({"message": "bad request"})),
        (Vendor::SixClicks, Refusal::InvalidClient) => boilerplate(401, "The API key is missing."),
        (Vendor::SixClicks, _) => boilerplate(status, "The request is not valid."),
    }
}

/// The answer to a credential that is not accepted.
pub(crate) fn rejection(vendor: Vendor, rejection: Rejection) -> Answer {
    match (vendor, rejection) {
        (Vendor::SixMap, Rejection::ScopeNotAllowed) => stytch(400, "invalid_scope"),
        (Vendor::SixMap, Rejection::UnknownId) => stytch(400, "invalid_client"),
        (Vendor::SixMap, _) => stytch(401, "invalid_client"),
        (Vendor::CheckmarxSca, Rejection::ScopeNotAllowed) => identity_server("invalid_scope", None),
        // Unknown, wrong, locked out: IdentityServer's answer is the same.
        (Vendor::CheckmarxSca, _) => identity_server("invalid_grant", Some("invalid_username_or_password")),
        (Vendor::Mapiq, Rejection::UnknownId) => azure_b2c(
            "invalid_client",
            "AADB2C90007: The application associated with the client id has no registered redirect URIs.",
        ),
        (Vendor::Mapiq, _) => azure_b2c(
            "invalid_client",
            "AADB2C90081: The specified client_secret does not match the expected value for this client. \
             Please correct the client_secret and try again.",
        ),
        (Vendor::Picus, _) => Answer::json(401, &json!({"message": "unauthorized error"})),
        (Vendor::SixClicks, Rejection::CertificateNeeded) => {
            boilerplate(401, "A client certificate is required for this API key.")
        }
        (Vendor::SixClicks, _) => boilerplate(401, "The API key is not valid."),
    }
}

/// The vendor's 429, with `seconds` where its text names any.
pub(crate) fn throttled(vendor: Vendor, seconds: u64) -> Answer {
    match vendor {
        Vendor::SixMap => Answer::json(
            429,
            &json!({
                "status_code": 429,
                "request_id": format!("request-id-live-{}", uuid()),
                "error_type": "too_many_requests",
                "error_message": "Too many requests have been made.",
                "error_url": "https://stytch.com/docs/api/errors/429",
            }),
        ),
        Vendor::Mapiq => Answer::json(
            429,
            &json!({
                "statusCode": 429,
                "message": format!("Rate limit is exceeded. Try again in {seconds} seconds."),
            }),
        ),
        Vendor::Picus => Answer::json(429, &json!({"message": "too many requests"})),
        Vendor::SixClicks => boilerplate(429, "Too many requests."),
        Vendor::CheckmarxSca => Answer::text(429, "text/plain; charset=utf-8", "Too many requests"),
    }
}

/// The answer to a request beyond the budget.
pub(crate) fn over_budget(vendor: Vendor, verdict: Verdict) -> Answer {
    let seconds = verdict.wait_ms.div_ceil(1000).max(1);
    let answer = throttled(vendor, seconds);
    if verdict.retry_after_header && vendor != Vendor::Picus {
        answer.with(header::RETRY_AFTER, &seconds.to_string())
    } else {
        answer
    }
}

/// Picus' `X-Ratelimit-*`; the reset is in epoch seconds.
pub(crate) fn rate_limit_headers(answer: Answer, limit: u32, remaining: u32, reset_ms: u64) -> Answer {
    answer
        .with(HeaderName::from_static("x-ratelimit-limit"), &limit.to_string())
        .with(
            HeaderName::from_static("x-ratelimit-remaining"),
            &remaining.to_string(),
        )
        .with(
            HeaderName::from_static("x-ratelimit-reset"),
            &reset_ms.div_ceil(1000).to_string(),
        )
}

/// A redirect as a load balancer writes it.
pub(crate) fn redirect(status: u16, location: &str) -> Answer {
    Answer::text(status, HTML, "<html><body>The document has moved.</body></html>")
        .with(header::LOCATION, location)
}

/// Wraps a success as ASP.NET Boilerplate does.
pub(crate) fn envelope(result: Value) -> Value {
    json!({
        "result": result, "targetUrl": null, "success": true, "error": null,
        "unAuthorizedRequest": false, "__abp": true,
    })
}

fn stytch(status: u16, code: &str) -> Answer {
    let description = match code {
        "invalid_client" => "The client credentials are not valid.",
        "invalid_scope" => "A requested scope is not allowed for this client.",
        _ => "The request is not valid.",
    };
    Answer::json(
        status,
        &json!({
            "status_code": status,
            "request_id": format!("request-id-live-{}", uuid()),
            "error": code,
            "error_description": description,
            "error_uri": format!("https://stytch.com/docs/api/errors/{status}"),
        }),
    )
}

fn identity_server(code: &str, description: Option<&str>) -> Answer {
    let body = match description {
        Some(description) => json!({"error": code, "error_description": description}),
        None => json!({"error": code}),
    };
    Answer::json(400, &body).with(header::CACHE_CONTROL, "no-store, no-cache, max-age=0")
}

/// Azure AD B2C's error: text of several lines, another one each time.
fn azure_b2c(code: &str, text: &str) -> Answer {
    let time = Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ");
    let description = format!("{text}\r\nCorrelation ID: {}\r\nTimestamp: {time}\r\n", uuid());
    Answer::json(400, &json!({"error": code, "error_description": description}))
}

fn boilerplate(status: u16, message: &str) -> Answer {
    Answer::json(
        status,
        &json!({
            "result": null, "targetUrl": null, "success": false,
            "error": {"code": 0, "message": message, "details": null, "validationErrors": null},
            "unAuthorizedRequest": status == 401, "__abp": true,
        }),
    )
}
