//! Where a target holds the token, so that it can be written anew without a vendor call when memory is empty.

use std::fmt;

/// No longer token type is kept, in characters.
const LONGEST_TYPE: usize = 16;

/// The bytes of the target's data that are the token itself, behind and before what the template puts around it.
///
/// Text form `<token type>.<start>.<length>.<key>`, at the end of the annotation `vendortoken.io/content`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPlace {
    /// The key of `data`.
    pub key: String,
    /// The first byte.
    pub start: usize,
    /// How many bytes.
    pub length: usize,
    /// What stands for `$(tokenType)`.
    pub token_type: String,
}

impl TokenPlace {
    /// The place of a token of this type; `None` where the type is no plain word.
    pub fn new(key: &str, start: usize, length: usize, token_type: &str) -> Option<Self> {
        is_plain(token_type).then(|| Self {
            key: key.to_owned(),
            start,
            length,
            token_type: token_type.to_owned(),
        })
    }

    /// Reads the text form; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, '.');
        let (token_type, start, length, key) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let place = Self::new(key, start.parse().ok()?, length.parse().ok()?, token_type)?;
        (!key.is_empty() && place.length > 0).then_some(place)
    }

    /// The token in the value of [`Self::key`]; `None` where it cannot be there.
    pub fn token<'a>(&self, value: &'a [u8]) -> Option<&'a str> {
        let end = self.start.checked_add(self.length)?;
        std::str::from_utf8(value.get(self.start..end)?).ok()
    }
}

fn is_plain(token_type: &str) -> bool {
    (1..=LONGEST_TYPE).contains(&token_type.len())
        && token_type.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl fmt::Display for TokenPlace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            start,
            length,
            token_type,
        } = self;
        write!(formatter, "{token_type}.{start}.{length}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_back_with_any_key_that_data_may_have() {
        let place = TokenPlace::new(".docker-config_v1.json", 7, 3, "Bearer").unwrap();
        assert_eq!(TokenPlace::parse(&place.to_string()), Some(place.clone()));
        assert_eq!(place.token(b"Bearer T0K!"), Some("T0K"));
    }

    #[test]
    fn anything_else_is_no_place() {
        for text in [
            "",
            "Bearer",
            "Bearer.0.3",
            "Bearer.0.3.",
            "Bearer.0.0.token",
            "Bearer.-1.3.token",
            "a b.0.3.token",
        ] {
            assert_eq!(TokenPlace::parse(text), None, "{text:?}");
        }
        assert_eq!(TokenPlace::new("token", 0, 3, "DPoP+x"), None);
    }

    #[test]
    fn a_value_that_is_too_short_or_cut_in_a_character_holds_no_token() {
        let place = TokenPlace::new("token", 1, 3, "Bearer").unwrap();
        assert_eq!(place.token(b"abc"), None);
        assert_eq!(place.token("äbcd".as_bytes()), None);
        let endless = TokenPlace {
            start: usize::MAX,
            ..place
        };
        assert_eq!(endless.token(b"abcd"), None);
    }
}
