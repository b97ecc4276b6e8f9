//! The requests that each vendor's page allows. Everything else is a violation.

use http::request::Parts;
use http::{HeaderMap, Method, header};
use serde_json::Value;

use crate::credential::Presented;
use crate::form::{Members, read_form};
use crate::vendor::Vendor;

/// Bytes of a request body that are read.
pub(crate) const MOST_BODY_BYTES: usize = 64 * 1024;

/// The kind of refusal; `dialect` turns it into the vendor's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotFound,
    MethodNotAllowed,
    UnsupportedMediaType,
    LengthRequired,
    ExpectationFailed,
    PayloadTooLarge,
    InvalidRequest,
    UnsupportedGrantType,
    InvalidScope,
    InvalidClient,
    /// Picus' rotation endpoint, which answers and thereby ends the refresh token.
    Rotated,
}

/// A request after its examination.
#[derive(Default)]
pub(crate) struct Examined {
    pub(crate) presented: Presented,
    /// The first decides the answer, all stand in the ledger.
    problems: Vec<(Refusal, String)>,
}

impl Examined {
    fn problem(&mut self, refusal: Refusal, reason: impl Into<String>) {
        self.problems.push((refusal, reason.into()));
    }

    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.problems.first().map(|(refusal, _)| *refusal)
    }

    pub(crate) fn violation(&self) -> Option<String> {
        if self.problems.is_empty() {
            return None;
        }
        let reasons: Vec<_> = self.problems.iter().map(|(_, reason)| reason.as_str()).collect();
        Some(reasons.join("; "))
    }

    fn parameter(&mut self, pairs: &[(String, String)], name: &'static str) -> Option<String> {
        match pairs.iter().find(|(key, _)| key == name) {
            Some((_, value)) if value.is_empty() => {
                self.problem(Refusal::InvalidRequest, format!("parameter {name} is empty"));
                None
            }
            Some((_, value)) => Some(value.clone()),
            None => {
                self.problem(Refusal::InvalidRequest, format!("parameter {name} is missing"));
                None
            }
        }
    }

    fn fixed(&mut self, pairs: &[(String, String)], name: &'static str, value: &str, refusal: Refusal) {
        if let Some(found) = self.parameter(pairs, name)
            && found != value
        {
            self.problem(refusal, format!("parameter {name} is not {value}"));
        }
    }

    fn only(&mut self, pairs: &[(String, String)], allowed: &[&str]) {
        for (index, (name, _)) in pairs.iter().enumerate() {
            if !allowed.contains(&name.as_str()) {
                // The name itself is not repeated: in a malformed body it may be a secret.
                self.problem(
                    Refusal::InvalidRequest,
                    format!("unknown parameter (allowed: {})", allowed.join(", ")),
                );
            } else if pairs.iter().take(index).any(|(earlier, _)| earlier == name) {
                self.problem(
                    Refusal::InvalidRequest,
                    format!("parameter {name} is given twice"),
                );
            }
        }
    }

    fn scopes(&mut self, text: &str, allowed: Option<&[&str]>) {
        let scopes: Vec<_> = text.split(' ').map(str::to_owned).collect();
        for (index, scope) in scopes.iter().enumerate() {
            if scope.is_empty() {
                self.problem(
                    Refusal::InvalidScope,
                    "scope is not a list separated by single spaces",
                );
            } else if scopes.iter().take(index).any(|earlier| earlier == scope) {
                self.problem(Refusal::InvalidScope, "scope names one scope twice");
            } else if allowed.is_some_and(|allowed| !allowed.contains(&scope.as_str())) {
                self.problem(
                    Refusal::InvalidScope,
                    "scope names a scope that the vendor's page does not",
                );
            }
        }
        self.presented.scopes = scopes;
    }
}

/// Examines a request. `body` is `None` where it was larger than [`MOST_BODY_BYTES`] or not read.
pub(crate) fn examine(vendor: Vendor, head: &Parts, body: Option<&[u8]>) -> Examined {
    let mut examined = Examined::default();
    examine_head(vendor, head, &mut examined);
    match body {
        None if head.headers.contains_key(header::EXPECT) => {}
        None => examined.problem(Refusal::PayloadTooLarge, "the body is larger than 64 KiB"),
        Some(body) => examine_body(vendor, &head.headers, body, &mut examined),
    }
    examined
}

fn examine_head(vendor: Vendor, head: &Parts, examined: &mut Examined) {
    let path = head.uri.path();
    if vendor == Vendor::Picus && path == "/v1/auth/refresh" {
        examined.problem(
            Refusal::Rotated,
            "/v1/auth/refresh ends the refresh token and is never called",
        );
    } else if path != vendor.path() {
        examined.problem(Refusal::NotFound, "the path is not the token endpoint's");
    }
    if head.method != Method::POST {
        examined.problem(Refusal::MethodNotAllowed, "the method is not POST");
    }
    let headers = &head.headers;
    if headers.contains_key(header::EXPECT) {
        examined.problem(
            Refusal::ExpectationFailed,
            "header expect is not for this endpoint",
        );
    }
    if head.uri.query().is_some() {
        examined.problem(Refusal::InvalidRequest, "the URL has a query");
    }
    match one(headers, "host") {
        Ok(Some(host)) if matches!(host.split(':').next(), Some("localhost" | "127.0.0.1")) => {}
        _ => examined.problem(Refusal::InvalidRequest, "header host is not this endpoint's"),
    }
    for name in ["authorization", "proxy-authorization", "cookie"] {
        if headers.contains_key(name) {
            examined.problem(
                Refusal::InvalidRequest,
                format!("header {name} is not for this endpoint"),
            );
        }
    }
    if headers.contains_key(header::REFERER) {
        examined.problem(Refusal::InvalidRequest, "header referer: a redirect was followed");
    }
    if headers.contains_key(header::CONTENT_ENCODING) {
        examined.problem(Refusal::UnsupportedMediaType, "the body is encoded");
    }
    if vendor != Vendor::SixClicks && headers.contains_key("6clicks-api-key") {
        examined.problem(
            Refusal::InvalidRequest,
            "header 6clicks-api-key belongs to another vendor",
        );
    }
    if head.method == Method::POST && !headers.contains_key(header::CONTENT_LENGTH) {
        examined.problem(Refusal::LengthRequired, "header content-length is missing");
    }
    let media_type = match one(headers, "content-type") {
        Ok(value) => value.map(|value| value.split(';').next().unwrap_or_default().trim()),
        Err(()) => {
            examined.problem(
                Refusal::UnsupportedMediaType,
                "header content-type is given twice",
            );
            return;
        }
    };
    let expected = match vendor {
        Vendor::SixMap | Vendor::Picus => "application/json",
        Vendor::CheckmarxSca | Vendor::Mapiq => "application/x-www-form-urlencoded",
        Vendor::SixClicks => {
            if media_type.is_some() {
                examined.problem(
                    Refusal::UnsupportedMediaType,
                    "header content-type without a body",
                );
            }
            return;
        }
    };
    match media_type {
        Some(found) if found.eq_ignore_ascii_case(expected) => {}
        Some(_) => examined.problem(
            Refusal::UnsupportedMediaType,
            format!("header content-type is not {expected}"),
        ),
        None => examined.problem(Refusal::UnsupportedMediaType, "header content-type is missing"),
    }
}

/// The value of a header that may stand once; unreadable bytes count as absent.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(());
    }
    Ok(first.and_then(|value| value.to_str().ok()))
}

fn examine_body(vendor: Vendor, headers: &HeaderMap, body: &[u8], examined: &mut Examined) {
    match vendor {
        Vendor::SixMap => {
            let Some(pairs) = json(body, examined) else { return };
            examined.only(&pairs, &["client_id", "client_secret", "grant_type", "scope"]);
            client_credentials(&pairs, examined);
            if pairs.iter().any(|(name, _)| name == "scope")
                && let Some(scope) = examined.parameter(&pairs, "scope")
            {
                examined.scopes(&scope, None);
            }
        }
        Vendor::Mapiq => {
            let Some(pairs) = form(body, examined) else { return };
            examined.only(&pairs, &["client_id", "client_secret", "grant_type", "scope"]);
            client_credentials(&pairs, examined);
            let scope = "https://api.mapiq.com/public/.default";
            examined.fixed(&pairs, "scope", scope, Refusal::InvalidScope);
        }
        Vendor::CheckmarxSca => {
            let Some(pairs) = form(body, examined) else { return };
            let allowed = [
                "username",
                "password",
                "acr_values",
                "scope",
                "client_id",
                "grant_type",
            ];
            examined.only(&pairs, &allowed);
            examined.fixed(&pairs, "grant_type", "password", Refusal::UnsupportedGrantType);
            examined.fixed(&pairs, "client_id", "sca_resource_owner", Refusal::InvalidClient);
            examined.presented.id = examined.parameter(&pairs, "username");
            examined.presented.secret = examined.parameter(&pairs, "password");
            if let Some(values) = examined.parameter(&pairs, "acr_values") {
                match values.strip_prefix("Tenant:") {
                    Some(tenant)
                        if !tenant.is_empty()
                            && !tenant.contains(char::is_whitespace)
                            && !tenant.starts_with("Tenant:") =>
                    {
                        examined.presented.tenant = Some(tenant.to_owned());
                    }
                    _ => examined.problem(
                        Refusal::InvalidRequest,
                        "acr_values is not Tenant: and the tenant's name",
                    ),
                }
            }
            if let Some(scope) = examined.parameter(&pairs, "scope") {
                examined.scopes(&scope, Some(&["sca_api", "access_control_api"]));
            }
        }
        Vendor::Picus => {
            let Some(pairs) = json(body, examined) else { return };
            examined.only(&pairs, &["refresh_token"]);
            examined.presented.secret = examined.parameter(&pairs, "refresh_token");
        }
        Vendor::SixClicks => {
            if !body.is_empty() {
                examined.problem(Refusal::InvalidRequest, "the request has a body");
            }
            match one(headers, "6clicks-api-key") {
                Ok(Some(key)) if !key.is_empty() => examined.presented.secret = Some(key.to_owned()),
                Ok(_) => examined.problem(
                    Refusal::InvalidClient,
                    "header 6clicks-api-key is missing or empty",
                ),
                Err(()) => examined.problem(Refusal::InvalidRequest, "header 6clicks-api-key is given twice"),
            }
        }
    }
}

fn client_credentials(pairs: &[(String, String)], examined: &mut Examined) {
    examined.fixed(
        pairs,
        "grant_type",
        "client_credentials",
        Refusal::UnsupportedGrantType,
    );
    examined.presented.id = examined.parameter(pairs, "client_id");
    examined.presented.secret = examined.parameter(pairs, "client_secret");
}

fn form(body: &[u8], examined: &mut Examined) -> Option<Vec<(String, String)>> {
    match read_form(body) {
        Ok(pairs) => Some(pairs),
        Err(reason) => {
            examined.problem(Refusal::InvalidRequest, reason);
            None
        }
    }
}

fn json(body: &[u8], examined: &mut Examined) -> Option<Vec<(String, String)>> {
    let Ok(Members(members)) = serde_json::from_slice(body) else {
        examined.problem(Refusal::InvalidRequest, "the body is not a JSON object");
        return None;
    };
    let mut pairs = Vec::with_capacity(members.len());
    for (name, value) in members {
        match value {
            Value::String(text) => pairs.push((name, text)),
            _ => examined.problem(Refusal::InvalidRequest, "a member of the body is not a string"),
        }
    }
    Some(pairs)
}
