//! Replays the recorded exchanges in `tests/fixtures/<vendor>/*.json` through the vendors' grants.
//!
//! A file holds the grant, the raw credentials of the Secret, the request that must come of them, the response, and
//! what must come of that. All credentials and tokens are made up. `${jwt}` in a response stands for a token that is
//! minted here from the file's `claims`.

// Test code: a fixture that cannot be read is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use vendor_token_operator::failure::Failure;
use vendor_token_operator::providers::{
    CheckmarxRegion, Endpoint, Grant, TokenRequest, TokenResponse, Vendor, scrub,
};
use vendor_token_operator::token::{AccessToken, ClientCertificate, Credentials, ExposeSecret};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Exchange {
    /// What the file shows, and where it is from.
    about: String,
    grant: GrantParameters,
    /// Values as they stand in the Secret.
    credentials: BTreeMap<String, String>,
    #[serde(default)]
    client_certificate: bool,
    /// An administrator's replacement.
    endpoint: Option<String>,
    /// Absent where none must be sent.
    request: Option<Request>,
    response: Option<Response>,
    /// Claims of the token that `${jwt}` stands for.
    claims: Option<serde_json::Value>,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GrantParameters {
    region: Option<String>,
    tenant: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Request {
    method: String,
    url: String,
    headers: BTreeMap<String, String>,
    body: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Response {
    status: u16,
    /// In their order; a name may come twice.
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// One of the three; none is an empty body.
    json: Option<serde_json::Value>,
    text: Option<String>,
    base64: Option<String>,
    sent: Timestamp,
    received: Timestamp,
    /// How far the clock was set ahead before the end of the answer.
    #[serde(default)]
    clock_step_seconds: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, untagged)]
enum Expect {
    #[serde(rename_all = "camelCase")]
    Token {
        token: String,
        token_type: String,
        expires: Timestamp,
        expiry_assumed: bool,
        clock_skew_suspected: bool,
        #[serde(default)]
        unusually_long: bool,
        #[serde(default)]
        type_is_unusual: bool,
        not_before: Option<Timestamp>,
    },
    #[serde(rename_all = "camelCase")]
    Failure {
        class: String,
        message: String,
        not_before: Option<Timestamp>,
        request_id: Option<String>,
    },
    #[serde(rename_all = "camelCase")]
    Credential { credential_error: String },
}

fn folder(vendor: Vendor) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(vendor.as_str().to_lowercase())
}

fn exchanges(vendor: Vendor) -> Vec<(String, Exchange)> {
    let mut paths: Vec<_> = fs::read_dir(folder(vendor))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let exchange = serde_json::from_slice(&fs::read(&path).unwrap());
        let exchange = exchange.unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()));
        (
            format!("{vendor}/{}", path.file_stem().unwrap().to_string_lossy()),
            exchange,
        )
    };
    paths.into_iter().map(read).collect()
}

fn grant(vendor: Vendor, parameters: &GrantParameters) -> Grant {
    let GrantParameters {
        region,
        tenant,
        scopes,
    } = parameters;
    match vendor {
        Vendor::SixMap => Grant::SixMap {
            scopes: scopes.clone(),
        },
        Vendor::SixClicks => Grant::SixClicks {
            region: region.clone().unwrap(),
        },
        Vendor::CheckmarxSca => Grant::CheckmarxSca {
            region: match region.as_deref() {
                Some("US") => CheckmarxRegion::Us,
                Some("EU") => CheckmarxRegion::Eu,
                other => panic!("unknown region {other:?}"),
            },
            tenant: tenant.clone().unwrap(),
            scopes: scopes.clone(),
        },
        Vendor::Mapiq => Grant::Mapiq,
        Vendor::Picus => Grant::Picus,
    }
}

fn mint(claims: &serde_json::Value) -> String {
    let encode = |json: String| URL_SAFE_NO_PAD.encode(json);
    let signature = URL_SAFE_NO_PAD.encode("not a signature");
    format!(
        "{}.{}.{signature}",
        encode(r#"{"alg":"RS256","typ":"JWT"}"#.to_owned()),
        encode(claims.to_string())
    )
}

fn response(recorded: &Response, jwt: &str) -> TokenResponse {
    let mut headers = HeaderMap::new();
    for (name, value) in &recorded.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    let json = recorded.json.as_ref().map(ToString::to_string);
    let text = json
        .or_else(|| recorded.text.clone())
        .map(|text| text.replace("${jwt}", jwt).into_bytes());
    let body = text.or_else(|| {
        recorded
            .base64
            .as_ref()
            .map(|encoded| STANDARD.decode(encoded).unwrap())
    });
    TokenResponse {
        status: recorded.status,
        headers,
        body: body.unwrap_or_default().into(),
        sent: recorded.sent,
        received: recorded.received,
        clock_step: SignedDuration::from_secs(recorded.clock_step_seconds),
    }
}

fn assert_request(name: &str, request: &TokenRequest, expected: &Request) {
    let headers: BTreeMap<String, String> = request
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.expose_secret().to_owned()))
        .collect();
    assert_eq!(TokenRequest::METHOD.as_str(), expected.method, "{name}: method");
    assert_eq!(request.url, expected.url, "{name}: url");
    assert_eq!(headers, expected.headers, "{name}: headers");
    assert_eq!(
        request.headers.len(),
        headers.len(),
        "{name}: a header was sent twice"
    );
    assert_eq!(request.body.expose_secret(), expected.body, "{name}: body");
}

fn assert_failure(name: &str, failure: &Failure, expected: &Expect) {
    let Expect::Failure {
        class,
        message,
        not_before,
        request_id,
    } = expected
    else {
        panic!("{name}: unexpected failure: {failure:?}");
    };
    assert_eq!(&failure.message, message, "{name}: message");
    assert_eq!(failure.class.as_str(), class, "{name}: class");
    assert_eq!(&failure.not_before, not_before, "{name}: not before");
    assert_eq!(&failure.request_id, request_id, "{name}: request id");
}

fn assert_token(name: &str, found: &AccessToken, sent: Timestamp, jwt: &str, expected: &Expect) {
    let Expect::Token {
        token,
        token_type,
        expires,
        expiry_assumed,
        clock_skew_suspected,
        unusually_long,
        type_is_unusual,
        not_before,
    } = expected
    else {
        panic!("{name}: unexpected token: {found:?}");
    };
    assert_eq!(
        found.value.expose_secret(),
        token.replace("${jwt}", jwt),
        "{name}: token"
    );
    assert_eq!(&found.token_type, token_type, "{name}: token type");
    assert_eq!(found.issued, sent, "{name}: issued");
    assert_eq!(&found.expires, expires, "{name}: expires");
    assert_eq!(&found.expiry_assumed, expiry_assumed, "{name}: expiry assumed");
    assert_eq!(
        &found.clock_skew_suspected, clock_skew_suspected,
        "{name}: clock skew suspected"
    );
    assert_eq!(&found.unusually_long, unusually_long, "{name}: unusually long");
    assert_eq!(&found.type_is_unusual, type_is_unusual, "{name}: type is unusual");
    assert_eq!(&found.not_before, not_before, "{name}: not before");
}

fn replay(name: &str, vendor: Vendor, exchange: &Exchange) {
    assert!(!exchange.about.is_empty(), "{name}: about");
    let grant = grant(vendor, &exchange.grant);
    let data = |key: &str| exchange.credentials.get(key).map(String::as_bytes);
    let mut credentials = match Credentials::from_data(grant.credential_keys(), &BTreeMap::new(), data) {
        Ok(credentials) => credentials,
        Err(error) => {
            let Expect::Credential { credential_error } = &exchange.expect else {
                panic!("{name}: {error}")
            };
            assert_eq!(&error.to_string(), credential_error, "{name}");
            return;
        }
    };
    credentials.client_certificate = exchange.client_certificate.then(|| ClientCertificate {
        certificate_chain: "certificate".into(),
        private_key: "key".into(),
    });
    let endpoint = match &exchange.endpoint {
        Some(text) => Endpoint::parse(vendor, text).unwrap(),
        None => grant.endpoint(),
    };

    let request = match grant.request(&endpoint, &credentials) {
        Ok(request) => request,
        Err(failure) => {
            assert!(exchange.request.is_none(), "{name}: no request: {failure:?}");
            assert_failure(name, &scrub(failure, &credentials), &exchange.expect);
            return;
        }
    };
    assert_request(name, &request, exchange.request.as_ref().expect(name));
    assert_eq!(
        request.client_certificate.is_some(),
        exchange.client_certificate,
        "{name}: client certificate"
    );

    let recorded = exchange.response.as_ref().expect(name);
    let jwt = exchange.claims.as_ref().map(mint).unwrap_or_default();
    match grant.read(&response(recorded, &jwt)) {
        Ok(token) => assert_token(name, &token, recorded.sent, &jwt, &exchange.expect),
        Err(failure) => assert_failure(name, &scrub(failure, &credentials), &exchange.expect),
    }
}

/// Goes through all files, so that one run shows everything that is wrong.
fn replay_all(vendor: Vendor) {
    let exchanges = exchanges(vendor);
    assert!(
        exchanges.len() >= 12,
        "{vendor} has {} recorded exchanges",
        exchanges.len()
    );
    let failed: Vec<_> = exchanges
        .iter()
        .filter(|(name, exchange)| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| replay(name, vendor, exchange))).is_err()
        })
        .map(|(name, _)| name.as_str())
        .collect();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

#[test]
fn six_map_answers_as_recorded() {
    replay_all(Vendor::SixMap);
}

#[test]
fn six_clicks_answers_as_recorded() {
    replay_all(Vendor::SixClicks);
}

#[test]
fn checkmarx_sca_answers_as_recorded() {
    replay_all(Vendor::CheckmarxSca);
}

#[test]
fn mapiq_answers_as_recorded() {
    replay_all(Vendor::Mapiq);
}

#[test]
fn picus_answers_as_recorded() {
    replay_all(Vendor::Picus);
}
