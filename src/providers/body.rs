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
    /// Takes the kind from the bytes, and from `content_type` (in lower case) where the bytes leave it open.
    pub(super) fn parse(bytes: &[u8], content_type: Option<&str>) -> Self {
        if bytes.len() > BODY_LIMIT {
            return Self::TooLong;
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii();
        if bytes.is_empty() {
            return Self::Empty;
        }
        match serde_json::from_slice(bytes) {
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

    /// A whole number above zero, also from a text (`"3600"`, as Azure sends it). A fraction is cut off. `None` for
    /// zero, negative numbers and other texts.
    pub(super) fn positive(&self, name: &str) -> Option<i64> {
        let number = match self.get(name)? {
            Node::Number(number) => *number,
            Node::Text(text) => text.trim().parse().ok()?,
            _ => return None,
        };
        // The cast saturates, far beyond any credible time.
        (number.is_finite() && number >= 1.0).then_some(number as i64)
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
