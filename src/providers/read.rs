//! The token in a response.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::body::{Body, Members, Node};
use super::classify::{self, ASK_SUPPORT, CHECK_CLOCK, CHECK_ENDPOINT};
use super::exchange::TokenResponse;
use super::expiry::{self, Sources, UnusableToken};
use super::jwt;
use super::provider::Profile;
use crate::failure::Failure;
use crate::token::{AccessToken, SecretString};

/// Limit of a token, in bytes: neither a header nor a Secret is of use with more.
const LONGEST_TOKEN: usize = 64 * 1024;

pub(super) fn read(profile: &Profile, response: &TokenResponse) -> Result<AccessToken, Failure> {
    let content_type = response
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(str::to_ascii_lowercase);
    let body = Body::parse(&response.body, content_type.as_deref());
    if !(200..300).contains(&response.status) {
        return Err(classify::failure(profile, response, &body));
    }
    let malformed = |found: &str, advice: &str| classify::malformed(profile, response, &body, found, advice);

    let members = body
        .members()
        .ok_or_else(|| malformed(&instead_of_an_object(&body, &response.headers), CHECK_ENDPOINT))?;
    let envelope = profile.envelope.and_then(|name| members.object(name));
    let holder = envelope
        .filter(|inner| inner.get(profile.token).is_some())
        .unwrap_or(members);
    let found = holder.get(profile.token);
    if let Some(failure) = classify::failure_inside(profile, response, &body, found.is_some()) {
        return Err(failure);
    }
    let token = match found {
        Some(Node::Text(text)) => text.as_str(),
        Some(_) => return Err(malformed("a token that is not a text", ASK_SUPPORT)),
        None => return Err(malformed("JSON that holds no token", CHECK_ENDPOINT)),
    };
    if let Some(problem) = unfit(token) {
        return Err(malformed(problem, ASK_SUPPORT));
    }
    let type_is_unusual = has_unusual_type(holder)
        .ok_or_else(|| malformed("a token of a type other than bearer", ASK_SUPPORT))?;

    if expiry::clock_was_set(response) {
        return Err(classify::clock_stepped(profile));
    }
    let life = expiry::settle(response, &sources(profile, holder, token), profile.default_life);
    let life = life.map_err(|unusable| match unusable {
        UnusableToken::Expired => malformed("a token that has already expired", CHECK_CLOCK),
        UnusableToken::NeverValid => malformed("a token that expires before it becomes valid", CHECK_CLOCK),
    })?;
    Ok(AccessToken {
        value: SecretString::from(token),
        token_type: BEARER.to_owned(),
        type_is_unusual,
        issued: life.issued,
        expires: life.expires,
        expiry_assumed: life.assumed,
        clock_skew_suspected: life.clock_skew_suspected,
        unusually_long: life.unusually_long,
        not_before: life.not_before,
    })
}

fn sources(profile: &Profile, holder: &Members, token: &str) -> Sources {
    let number = |name: Option<&'static str>| name.and_then(|name| holder.positive(name));
    let claims = jwt::claims(token);
    Sources {
        relative: profile.relative_expiry.and_then(|name| holder.whole(name)),
        absolute: number(profile.absolute_expiry)
            .into_iter()
            .chain(claims.expires)
            .collect(),
        not_before: number(profile.not_before)
            .into_iter()
            .chain(claims.not_before)
            .collect(),
    }
}

/// The fault of a token that cannot be the value of a header. Nothing is stripped in silence.
fn unfit(token: &str) -> Option<&'static str> {
    if token.trim().is_empty() {
        Some("an empty token")
    } else if token.len() > LONGEST_TOKEN {
        Some("a token of more than 64 KiB")
    } else if ["null", "undefined", "none", "bearer"]
        .iter()
        .any(|word| token.eq_ignore_ascii_case(word))
    {
        Some("a word in the place of the token")
    } else if token
        .get(..7)
        .is_some_and(|start| start.eq_ignore_ascii_case("bearer "))
    {
        Some("a token that begins with Bearer")
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Some("a token with blanks, control characters or other than ASCII")
    } else {
        None
    }
}

/// The one type of token that an `Authorization: Bearer` header can carry, however the vendor spells it: a workload's
/// header has the registered spelling, and a target can be compared with its templates.
const BEARER: &str = "Bearer";

/// True where the vendor wrote the type `Bearer` in a form that a client need not understand (RFC 6749 section 5.1).
/// `None` for another type. It may be missing: 6clicks and Picus send none.
fn has_unusual_type(holder: &Members) -> Option<bool> {
    let text = match holder.get("token_type") {
        None => "",
        Some(Node::Text(text)) => text.as_str(),
        Some(_) => return None,
    };
    let trimmed = text.trim();
    match trimmed {
        "" => Some(false),
        _ if trimmed.eq_ignore_ascii_case(BEARER) => Some(trimmed != text),
        _ if trimmed.eq_ignore_ascii_case("bearertoken") => Some(true),
        _ => None,
    }
}

fn instead_of_an_object(body: &Body, headers: &HeaderMap) -> String {
    let compressed = headers
        .get(CONTENT_ENCODING)
        .is_some_and(|value| value != "identity");
    match body {
        Body::Empty => "an empty body".to_owned(),
        Body::TooLong => "a body of more than 1 MiB".to_owned(),
        Body::OtherJson => "JSON that is not an object".to_owned(),
        Body::Markup => match classify::media_type(headers) {
            Some(media_type) => format!("a web page (\"{media_type}\")"),
            None => "a web page".to_owned(),
        },
        _ if compressed => "a compressed body, though none was asked for".to_owned(),
        _ => match classify::media_type(headers) {
            Some("application/json") | None => "a body that is not whole JSON".to_owned(),
            Some(media_type) => format!("\"{media_type}\" that is not JSON"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    // edge case 36
    #[test]
    fn a_token_has_at_most_64_kib() {
        assert_eq!(unfit(&"a".repeat(LONGEST_TOKEN)), None);
        assert_eq!(
            unfit(&"a".repeat(LONGEST_TOKEN + 1)),
            Some("a token of more than 64 KiB")
        );
    }

    // edge case 36
    #[test]
    fn a_text_that_fits_no_header_is_no_token() {
        for text in [
            "",
            " ",
            "\r\n",
            "null",
            "NULL",
            "undefined",
            "Bearer",
            "bearer abc",
            "a b",
            "a\tb",
            "ä",
            "a\u{7f}",
        ] {
            assert!(unfit(text).is_some(), "{text:?}");
        }
    }

    #[rstest]
    #[case::absent("{}", Some(false))]
    #[case::null(r#"{"token_type":null}"#, Some(false))]
    #[case::empty(r#"{"token_type":""}"#, Some(false))]
    #[case::blank(r#"{"token_type":"  "}"#, Some(false))]
    #[case::as_documented(r#"{"token_type":"Bearer"}"#, Some(false))]
    #[case::in_another_case(r#"{"token_type":"bearer"}"#, Some(false))]
    #[case::a_blank_behind(r#"{"token_type":"Bearer "}"#, Some(true))]
    #[case::blanks_around(r#"{"token_type":"\tBEARER\n"}"#, Some(true))]
    #[case::bearer_token(r#"{"token_type":"BearerToken"}"#, Some(true))]
    #[case::bearer_token_in_lower_case(r#"{"token_type":"bearertoken "}"#, Some(true))]
    #[case::two_words(r#"{"token_type":"Bearer token"}"#, None)]
    #[case::another(r#"{"token_type":"DPoP"}"#, None)]
    #[case::mac(r#"{"token_type":"mac"}"#, None)]
    #[case::not_a_text(r#"{"token_type":1}"#, None)]
    fn a_token_type_is_bearer_in_each_of_its_spellings(#[case] json: &str, #[case] expected: Option<bool>) {
        let body = Body::parse(json.as_bytes(), None);
        assert_eq!(has_unusual_type(body.members().unwrap()), expected);
    }

    // edge case 36
    #[test]
    fn a_token_may_contain_a_reserved_word() {
        for text in ["nullable", "bearertoken", "a.b-c_d~e+f/g=", "x"] {
            assert_eq!(unfit(text), None, "{text:?}");
        }
    }
}
