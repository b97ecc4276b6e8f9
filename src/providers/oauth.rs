//! Scopes and error codes of OAuth 2.0 (RFC 6749 sections 3.3 and 5.2), with the codes of Stytch and Azure AD B2C.

use std::borrow::Cow;

use super::body::Members;

/// Meaning of an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The credential is wrong.
    Credential,
    /// The request was denied: for the credential, or for another cause where a server's error goes with it.
    Denied,
    /// The scopes are wrong.
    Scope,
    /// The client may not use this grant.
    Client,
    /// The server is in trouble.
    Trouble,
    /// Too many requests.
    Throttle,
    /// An unknown code in the form of one.
    Unknown,
}

/// An error code that is safe to show: known, or of a strict form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) verdict: Verdict,
    pub(super) text: Cow<'static, str>,
    /// A more exact code from the description, if it is a known one.
    pub(super) detail: Option<Cow<'static, str>>,
}

const KNOWN: [(&str, Verdict); 24] = [
    ("invalid_client", Verdict::Credential),
    ("invalid_grant", Verdict::Credential),
    ("access_denied", Verdict::Denied),
    ("unauthorized", Verdict::Credential),
    ("unauthorized_credentials", Verdict::Credential),
    ("invalid_client_secret", Verdict::Credential),
    ("m2m_client_not_found", Verdict::Credential),
    ("invalid_scope", Verdict::Scope),
    ("invalid_request", Verdict::Client),
    ("unauthorized_client", Verdict::Client),
    ("unsupported_grant_type", Verdict::Client),
    ("invalid_target", Verdict::Client),
    ("temporarily_unavailable", Verdict::Trouble),
    ("server_error", Verdict::Trouble),
    ("internal_error", Verdict::Trouble),
    ("internal_server_error", Verdict::Trouble),
    ("service_unavailable", Verdict::Trouble),
    ("bad_gateway", Verdict::Trouble),
    ("gateway_timeout", Verdict::Trouble),
    ("request_timeout", Verdict::Trouble),
    ("too_many_requests", Verdict::Throttle),
    ("rate_limit_exceeded", Verdict::Throttle),
    ("slow_down", Verdict::Throttle),
    ("quota_exceeded", Verdict::Throttle),
];

/// Codes that IdentityServer sends as descriptions.
const KNOWN_DETAILS: [&str; 3] = [
    "invalid_username_or_password",
    "invalid_credential",
    "user_locked_out",
];

/// Prefixes and numbers of digits of Microsoft's error codes.
const NUMBERED_DETAILS: [(&str, std::ops::RangeInclusive<usize>); 2] = [("AADB2C", 5..=6), ("AADSTS", 5..=7)];

/// Limit of a code that is shown, in bytes.
const LONGEST_CODE: usize = 40;

/// The error code of an answer: OAuth's `error`, Stytch's other dialect `error_type`, or a `code` in words.
pub(super) fn code(members: &Members) -> Option<Code> {
    let nested = members.object("error").and_then(|error| error.text("code"));
    let candidates = [
        members.text("error"),
        members.text("error_type"),
        nested,
        members.text("code"),
    ];
    let (text, verdict) = candidates.into_iter().flatten().find_map(recognise)?;
    Some(Code {
        verdict,
        text,
        detail: detail(members),
    })
}

fn recognise(text: &str) -> Option<(Cow<'static, str>, Verdict)> {
    let known = KNOWN.iter().find(|(known, _)| known.eq_ignore_ascii_case(text));
    known
        .map(|(known, verdict)| (Cow::Borrowed(*known), *verdict))
        .or_else(|| is_formed(text).then(|| (Cow::Owned(text.to_owned()), Verdict::Unknown)))
}

/// Two or more words of lower-case letters joined by underscores: no token and hardly a password looks so.
fn is_formed(text: &str) -> bool {
    text.len() <= LONGEST_CODE
        && text.contains('_')
        && text
            .split('_')
            .all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase()))
}

fn detail(members: &Members) -> Option<Cow<'static, str>> {
    let description = members.text("error_description")?;
    let known = KNOWN_DETAILS
        .iter()
        .find(|known| known.eq_ignore_ascii_case(description.trim()));
    known.map(|known| Cow::Borrowed(*known)).or_else(|| {
        NUMBERED_DETAILS.iter().find_map(|(prefix, digits)| {
            let rest = description.trim_start().strip_prefix(prefix)?;
            let number = rest.get(..rest.bytes().take_while(u8::is_ascii_digit).count())?;
            digits
                .contains(&number.len())
                .then(|| Cow::Owned(format!("{prefix}{number}")))
        })
    })
}

/// True for a `scope-token` of RFC 6749 section 3.3.
pub(super) fn is_scope(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// The scopes as one parameter: without repetition, in the given order.
pub(super) fn scope_parameter(scopes: &[String]) -> String {
    let mut unique: Vec<&str> = Vec::with_capacity(scopes.len());
    for scope in scopes {
        if !unique.contains(&scope.as_str()) {
            unique.push(scope);
        }
    }
    unique.join(" ")
}

/// The scopes for a fingerprint: without repetition, sorted, since their order has no meaning.
pub(super) fn canonical_scopes(scopes: &[String]) -> Vec<&str> {
    let mut sorted: Vec<&str> = scopes.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::body::Body;
    use rstest::rstest;

    // edge cases 16, 33 and 34
    #[rstest]
    #[case::rfc_alone(r#"{"error":"invalid_client"}"#, "invalid_client", Verdict::Credential, None)]
    #[case::in_another_case(r#"{"error":"Invalid_Client"}"#, "invalid_client", Verdict::Credential, None)]
    #[case::stytch(
        r#"{"error_type":"unauthorized_credentials"}"#,
        "unauthorized_credentials",
        Verdict::Credential,
        None
    )]
    #[case::null_and_the_other_dialect(
        r#"{"error":null,"error_type":"too_many_requests"}"#,
        "too_many_requests",
        Verdict::Throttle,
        None
    )]
    #[case::nested(
        r#"{"error":{"code":"invalid_scope"}}"#,
        "invalid_scope",
        Verdict::Scope,
        None
    )]
    #[case::unknown(
        r#"{"error":"user_must_consent"}"#,
        "user_must_consent",
        Verdict::Unknown,
        None
    )]
    #[case::identity_server(
        r#"{"error":"invalid_grant","error_description":"invalid_username_or_password"}"#,
        "invalid_grant",
        Verdict::Credential,
        Some("invalid_username_or_password")
    )]
    #[case::azure(
        r#"{"error":"invalid_client","error_description":"AADB2C90081: The…\r\nCorrelation ID: 1"}"#,
        "invalid_client",
        Verdict::Credential,
        Some("AADB2C90081")
    )]
    #[case::free_description(
        r#"{"error":"invalid_client","error_description":"AADB2C: no"}"#,
        "invalid_client",
        Verdict::Credential,
        None
    )]
    fn a_code_is_known_or_of_a_strict_form(
        #[case] json: &str,
        #[case] text: &'static str,
        #[case] verdict: Verdict,
        #[case] detail: Option<&'static str>,
    ) {
        let body = Body::parse(json.as_bytes(), None);
        let expected = Code {
            verdict,
            text: text.into(),
            detail: detail.map(Cow::Borrowed),
        };
        assert_eq!(code(body.members().unwrap()), Some(expected));
    }

    #[rstest]
    #[case("Bad Request")]
    #[case("s3cret_token")]
    #[case("a__b")]
    #[case("_a")]
    #[case("word")]
    #[case("Some_Words")]
    #[case("a_b\n")]
    #[case("abcdefghij_abcdefghij_abcdefghij_abcdefghij")]
    fn other_texts_are_no_code(#[case] text: &str) {
        let json = serde_json::json!({ "error": text, "code": 17 }).to_string();
        assert_eq!(code(Body::parse(json.as_bytes(), None).members().unwrap()), None);
    }

    #[test]
    fn a_parameter_holds_each_scope_once_in_the_given_order() {
        assert_eq!(scope_parameter(&["b", "a", "b"].map(str::to_owned)), "b a");
    }

    #[test]
    fn canonical_scopes_are_sorted_without_repetition() {
        assert_eq!(canonical_scopes(&["b", "a", "b"].map(str::to_owned)), ["a", "b"]);
    }

    #[test]
    fn a_scope_has_no_blank_and_no_quote() {
        assert!(is_scope("read:hosts") && is_scope("https://api.example.com/.default"));
        assert!(!is_scope("") && !is_scope("a b") && !is_scope("a\"") && !is_scope("ä"));
    }
}
