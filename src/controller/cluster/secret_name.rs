//! The checked name of a Secret. A name becomes a part of a URL's path, so only a checked text may be one.

use std::fmt;
use std::ops::Deref;

/// The longest name of a Secret, in bytes.
const LONGEST: usize = 253;

/// A name that a Secret can have: a DNS subdomain of RFC 1123, as Kubernetes reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretName(Box<str>);

impl SecretName {
    /// Checks `text`: at most 253 lower-case letters, digits, `-` and `.`, where each part between dots begins and ends
    /// with a letter or digit. `None` for any other text.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let is_outer = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_part = |part: &str| {
            let bytes = part.as_bytes();
            bytes.first().copied().is_some_and(is_outer)
                && bytes.last().copied().is_some_and(is_outer)
                && bytes.iter().all(|byte| is_outer(*byte) || *byte == b'-')
        };
        let is_name = text.len() <= LONGEST && text.split('.').all(is_part);
        is_name.then(|| Self(text.into()))
    }
}

impl Deref for SecretName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("sca-token")]
    #[case::parts("a.b-c.9")]
    #[case::longest(&"a".repeat(253))]
    fn a_name_that_a_secret_can_have_is_taken(#[case] name: &str) {
        assert_eq!(SecretName::new(name).as_deref(), Some(name));
    }

    #[rstest]
    #[case::empty("")]
    #[case::too_long(&"a".repeat(254))]
    #[case::parent("../x")]
    #[case::path("a/b")]
    #[case::query("x?watch=true")]
    #[case::bare_query("?watch=true")]
    #[case::fragment("x#y")]
    #[case::escape("x%2fy")]
    #[case::upper_case("Token")]
    #[case::space("a b")]
    #[case::line_feed("a\n")]
    #[case::other_letters("é")]
    #[case::dots("..")]
    #[case::empty_part("a..b")]
    #[case::dash_at_the_end_of_a_part("a-.b")]
    fn no_other_text_is_taken(#[case] text: &str) {
        assert_eq!(SecretName::new(text), None);
    }
}
