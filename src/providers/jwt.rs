//! Times in a JSON Web Token (RFC 7519). The signature is not checked: the token's receiver verifies it, and only its
//! life matters here.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::body::Body;

/// The claims that bound a token's life, in seconds since the epoch by the issuer's clock.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) expires: Option<i64>,
    pub(super) not_before: Option<i64>,
}

/// RFC 7515 section 2 forbids padding; some issuers send it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Reads `exp` and `nbf`. An opaque or encrypted token has no readable claims, which is no error.
pub(super) fn claims(token: &str) -> Claims {
    decode(token).unwrap_or_default()
}

fn decode(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let payload = Zeroizing::new(BASE64.decode(payload).ok()?);
    let body = Body::parse(&payload, None);
    let members = body.members()?;
    Some(Claims {
        expires: members.positive("exp"),
        not_before: members.positive("nbf"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{URL_SAFE as PADDED, URL_SAFE_NO_PAD};
    use rstest::rstest;

    fn both(expires: i64, not_before: i64) -> Claims {
        Claims {
            expires: Some(expires),
            not_before: Some(not_before),
        }
    }

    // edge case 26
    #[rstest]
    #[case::whole(
        r#"{"exp":1700003600,"nbf":1700000000,"aud":"one"}"#,
        both(1_700_003_600, 1_700_000_000)
    )]
    #[case::list_of_audiences(
        r#"{"exp":1700003600,"nbf":1700000000,"aud":["a","b"]}"#,
        both(1_700_003_600, 1_700_000_000)
    )]
    #[case::fractions(r#"{"exp":1700003600.75,"nbf":1.7e9}"#, both(1_700_003_600, 1_700_000_000))]
    #[case::names_that_are_urls(r#"{"http://example.com/claims/tenantId":"1","exp":1700003600}"#,
        Claims { expires: Some(1_700_003_600), not_before: None })]
    #[case::no_times(r#"{"sub":"robot","exp":null,"nbf":"soon"}"#, Claims::default())]
    #[case::no_object("[1]", Claims::default())]
    fn times_are_read_from_the_claims(#[case] payload: &str, #[case] expected: Claims) {
        for encoded in [URL_SAFE_NO_PAD.encode(payload), PADDED.encode(payload)] {
            assert_eq!(
                claims(&format!("eyJhbGciOiJIUzI1NiJ9.{encoded}.c2lnbmF0dXJl")),
                expected
            );
        }
    }

    // edge case 26
    #[test]
    fn an_encrypted_or_opaque_token_has_no_claims() {
        let payload = URL_SAFE_NO_PAD.encode(r#"{"exp":1700003600}"#);
        for token in [
            "opaque",
            "",
            "a.b",
            "..",
            "a.!.c",
            &format!("a.{payload}"),
            &format!("a.{payload}.c.d.e"),
        ] {
            assert_eq!(claims(token), Claims::default(), "{token}");
        }
    }
}
