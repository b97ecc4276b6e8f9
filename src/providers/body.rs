//! The body of a response as JSON members that are wiped on drop.
//!
//! serde_json's own `Value` is not used because it leaves the token behind in freed memory. (serde_json keeps a
//! string with escapes in a buffer of its own while parsing; tokens have none.)

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

/// The largest body that is read, in bytes; `http` receives no more.
const BODY_LIMIT: usize = 1024 * 1024;

/// A body by its kind.
pub(super) enum Body {
    /// No bytes, or white space alone.
    Empty,
    /// A JSON object.
    Object(Members),
    /// JSON, but not an object.
    OtherJson,
    /// HTML or XML: a page made for a person, by a proxy, a firewall or a CDN.
    Markup,
    /// Plain text, cut JSON, compressed bytes, …
    Other,
    /// More than 1 MiB.
    TooLong,
}

impl Body {
    /// Takes the kind from the bytes, and from `content_type` (in lower case) where the bytes leave it open. JSON that
    /// is damaged in a way that hides no member is read all the same (see [`mended`]).
    pub(super) fn parse(bytes: &[u8], content_type: Option<&str>) -> Self {
        if bytes.len() > BODY_LIMIT {
            return Self::TooLong;
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii();
        if bytes.is_empty() {
            return Self::Empty;
        }
        match serde_json::from_slice(bytes).or_else(|_| serde_json::from_slice(&mended(bytes))) {
            Ok(Node::Object(members)) => Self::Object(members),
            Ok(_) => Self::OtherJson,
            Err(_) if bytes.starts_with(b"<") || content_type.is_some_and(is_markup) => Self::Markup,
            Err(_) => Self::Other,
        }
    }

    pub(super) fn members(&self) -> Option<&Members> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }
}

/// The text of JSON that its sender damaged: bytes that are not UTF-8 and escapes of half a surrogate pair (RFC 8259
/// sections 8.1 and 8.2) become U+FFFD, control characters become blanks. So an error code is seen whatever stands
/// beside it, and padding with NUL bytes is white space.
fn mended(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut mended = Zeroizing::new(Vec::with_capacity(bytes.len().saturating_mul(3)));
    for chunk in bytes.utf8_chunks() {
        mended.extend_from_slice(chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            mended.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    for byte in mended.iter_mut().filter(|byte| byte.is_ascii_control()) {
        *byte = b' ';
    }
    let mut index = 0;
    while let Some(byte) = mended.get(index) {
        if *byte != b'\\' {
            index += 1;
            continue;
        }
        match (
            escaped_unit(&mended, index),
            escaped_unit(&mended, index + ESCAPE_LENGTH),
        ) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => index += 2 * ESCAPE_LENGTH,
            (Some(0xd800..=0xdfff), _) => {
                if let Some(digits) = mended.get_mut(index + 2..index + ESCAPE_LENGTH) {
                    digits.copy_from_slice(b"fffd");
                }
                index += ESCAPE_LENGTH;
            }
            // Skips the character behind the backslash, which may be another backslash.
            _ => index += 2,
        }
    }
    mended
}

/// The length of an escape `\uXXXX`, in bytes.
const ESCAPE_LENGTH: usize = 6;

/// The UTF-16 code unit of the escape `\uXXXX` at `index`; `None` where there is no such escape.
fn escaped_unit(bytes: &[u8], index: usize) -> Option<u16> {
    let digits = bytes.get(index..index + ESCAPE_LENGTH)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit: u16, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | u16::try_from(digit).ok()?)
    })
}

fn is_markup(content_type: &str) -> bool {
    content_type.contains("html") || content_type.contains("xml")
}

/// The members of a JSON object, in order.
pub(super) struct Members(Vec<(Zeroizing<String>, Node)>);

/// A JSON value. The items of an array are not kept: no vendor sends one in a member that is read.
pub(super) enum Node {
    Null,
    Bool(bool),
    Number(f64),
    Text(Zeroizing<String>),
    Object(Members),
    Array,
}

impl Members {
    /// The member of this name. Of duplicates the last one counts, as in RFC 7519 section 4 and most JSON libraries.
    /// `null` counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        let (_, node) = self.0.iter().rev().find(|(key, _)| key.as_str() == name)?;
        (!matches!(node, Node::Null)).then_some(node)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn object(&self, name: &str) -> Option<&Members> {
        match self.get(name)? {
            Node::Object(members) => Some(members),
            _ => None,
        }
    }

    pub(super) fn is(&self, name: &str, value: bool) -> bool {
        matches!(self.get(name), Some(Node::Bool(found)) if *found == value)
    }

    /// A whole number, also from a text (`"3600"`, as Azure sends it). A fraction is cut off. `None` for other texts.
    pub(super) fn whole(&self, name: &str) -> Option<i64> {
        let number: f64 = match self.get(name)? {
            Node::Number(number) => *number,
            Node::Text(text) => text.trim().parse().ok()?,
            _ => return None,
        };
        // The cast saturates, far beyond any credible time.
        number.is_finite().then_some(number as i64)
    }

    /// A whole number above zero, read as by [`Self::whole`].
    pub(super) fn positive(&self, name: &str) -> Option<i64> {
        self.whole(name).filter(|number| *number > 0)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(Zeroizing::new(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Node, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Node::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some((key, node)) = map.next_entry::<String, Node>()? {
            members.push((Zeroizing::new(key), node));
        }
        Ok(Node::Object(Members(members)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn object(json: &str) -> Members {
        match Body::parse(json.as_bytes(), None) {
            Body::Object(members) => members,
            _ => panic!("not an object: {json}"),
        }
    }

    // edge case 17
    #[rstest]
    #[case("3600", Some(3600))]
    #[case("3600.0", Some(3600))]
    #[case("3600.9", Some(3600))]
    #[case("3.6e3", Some(3600))]
    #[case(r#""3600""#, Some(3600))]
    #[case(r#"" 3599 ""#, Some(3599))]
    #[case(r#""3600.0""#, Some(3600))]
    #[case("1654518145155", Some(1_654_518_145_155))]
    #[case("1e300", Some(i64::MAX))]
    #[case("18446744073709551616", Some(i64::MAX))]
    #[case("null", None)]
    #[case("0", None)]
    #[case("0.5", None)]
    #[case("-0", None)]
    #[case("-3600", None)]
    #[case(r#""-1""#, None)]
    #[case(r#""NaN""#, None)]
    #[case(r#""inf""#, None)]
    #[case(r#""""#, None)]
    #[case(r#""one hour""#, None)]
    #[case("true", None)]
    #[case("[3600]", None)]
    #[case(r#"{"seconds":3600}"#, None)]
    fn numbers_are_read_in_each_notation(#[case] json: &str, #[case] number: Option<i64>) {
        assert_eq!(
            object(&format!(r#"{{"expires_in":{json}}}"#)).positive("expires_in"),
            number
        );
    }

    // edge case 17
    #[rstest]
    #[case("0", Some(0))]
    #[case("0.5", Some(0))]
    #[case("-3600", Some(-3600))]
    #[case(r#""-1""#, Some(-1))]
    #[case(r#""0""#, Some(0))]
    #[case("-1e300", Some(i64::MIN))]
    #[case("1e400", None)]
    #[case(r#""NaN""#, None)]
    #[case(r#""inf""#, None)]
    #[case(r#""""#, None)]
    #[case("null", None)]
    fn a_life_of_nothing_is_a_number_too(#[case] json: &str, #[case] number: Option<i64>) {
        let body = Body::parse(format!(r#"{{"expires_in":{json}}}"#).as_bytes(), None);
        assert_eq!(
            body.members().and_then(|members| members.whole("expires_in")),
            number
        );
    }

    // edge case 37
    #[rstest]
    #[case::latin_1(b"{\"error\":\"invalid_grant\",\"error_description\":\"Ung\xfcltig\"}")]
    #[case::cut_utf_8(b"{\"error_description\":\"\xe2\x82\",\"error\":\"invalid_grant\"}")]
    #[case::in_a_name(b"{\"erkl\xe4rung\":\"x\",\"error\":\"invalid_grant\"}")]
    #[case::high_surrogate_alone(br#"{"error":"invalid_grant","error_description":"\ud83d"}"#)]
    #[case::low_surrogate_alone(br#"{"error_description":"\uDE00 x","error":"invalid_grant"}"#)]
    #[case::two_high_surrogates(br#"{"error_description":"\ud83d\ud83d\ude00","error":"invalid_grant"}"#)]
    #[case::behind_an_escaped_backslash(
        b"{\"error_description\":\"\\\\\\ud800\",\"error\":\"invalid_grant\"}"
    )]
    #[case::nul_bytes_behind(b"{\"error\":\"invalid_grant\"}\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")]
    #[case::nul_bytes_and_line_ends_behind(b"{\"error\":\"invalid_grant\"}\r\n\0\0\r\n")]
    #[case::line_break_in_a_text(b"{\"error\":\"invalid_grant\",\"error_description\":\"two\r\nlines\"}")]
    #[case::all_at_once(b"{\"error\":\"invalid_grant\",\"a\":\"\xff\\ud800\t\"}\0")]
    fn damage_beside_an_error_code_does_not_hide_it(#[case] bytes: &[u8]) {
        let body = Body::parse(bytes, Some("application/json"));
        assert_eq!(
            body.members().and_then(|members| members.text("error")),
            Some("invalid_grant")
        );
    }

    // edge case 37
    #[test]
    fn a_text_with_whole_escapes_is_mended_around_them() {
        let body = Body::parse(b"{\"a\":\"\\ud83d\\ude00 \\\\ud800 \xff\"}", None);
        assert_eq!(
            body.members().unwrap().text("a"),
            Some("\u{1f600} \\ud800 \u{fffd}")
        );
    }

    // edge case 37
    #[test]
    fn the_last_of_duplicate_keys_counts() {
        assert_eq!(object(r#"{"a":"first","a":"last"}"#).text("a"), Some("last"));
    }

    // edge case 37
    #[rstest]
    #[case::byte_order_mark(b"\xef\xbb\xbf{}", None, "object")]
    #[case::white_space(b" \r\n", None, "empty")]
    #[case::json_said_to_be_html(b"{}", Some("text/html"), "object")]
    #[case::html(b"\n<!DOCTYPE html>", None, "markup")]
    #[case::page_without_a_tag(b"blocked", Some("text/html"), "markup")]
    #[case::text(b"Unauthorized", Some("text/plain"), "other")]
    #[case::cut(b"{\"access_token\":\"a", None, "other")]
    #[case::two_values(b"{}{}", None, "other")]
    #[case::array(b"[{}]", None, "other json")]
    #[case::nul_bytes_alone(b"\0\0\0\0", None, "other")]
    #[case::two_values_around_a_nul_byte(b"{}\0{}", None, "other")]
    #[case::too_long(&[b' '; BODY_LIMIT + 1], None, "too long")]
    fn the_kind_of_a_body_follows_from_its_bytes(
        #[case] bytes: &[u8],
        #[case] kind: Option<&str>,
        #[case] found: &str,
    ) {
        let name = match Body::parse(bytes, kind) {
            Body::Empty => "empty",
            Body::Object(_) => "object",
            Body::OtherJson => "other json",
            Body::Markup => "markup",
            Body::Other => "other",
            Body::TooLong => "too long",
        };
        assert_eq!(name, found);
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_stack_overflow() {
        let deep = format!("{}1{}", "{\"a\":".repeat(150_000), "}".repeat(150_000));
        assert!(matches!(Body::parse(deep.as_bytes(), None), Body::Other));
    }
}
