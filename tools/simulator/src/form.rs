//! Strict readers of the two request encodings.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// Reads `application/x-www-form-urlencoded`. Unlike a lenient reader it refuses what an encoder would never
/// write: empty pairs, pairs without `=`, bad percent signs, raw bytes that need encoding.
pub(crate) fn read_form(body: &[u8]) -> Result<Vec<(String, String)>, &'static str> {
    if body.is_empty() {
        return Ok(Vec::new());
    }
    body.split(|byte| *byte == b'&')
        .map(|pair| {
            let at = pair
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or("a form pair has no '='")?;
            let (name, value) = pair.split_at(at);
            if name.is_empty() {
                return Err("a form pair has no name");
            }
            Ok((decode(name)?, decode(value.get(1..).unwrap_or_default())?))
        })
        .collect()
}

fn decode(text: &[u8]) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
                match (digit(rest.next()), digit(rest.next())) {
                    (Some(high), Some(low)) => {
                        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
                    }
                    _ => return Err("a percent sign in the form is not followed by two hexadecimal digits"),
                }
            }
            byte if byte.is_ascii_graphic() => bytes.push(*byte),
            _ => return Err("the form has a byte that is not percent-encoded"),
        }
    }
    String::from_utf8(bytes).map_err(|_| "the form is not UTF-8")
}

/// A JSON object that keeps duplicate names.
pub(crate) struct Members(pub(crate) Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_decoded_as_utf8() {
        let pairs = read_form("a=1+2%2B3&b=%C3%A9%26%3D%25&c=".as_bytes()).unwrap();
        let expected = [("a", "1 2+3"), ("b", "é&=%"), ("c", "")];
        assert_eq!(
            pairs,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn what_no_encoder_writes_is_refused() {
        for body in [
            "a", "a=1&", "&a=1", "=1", "a=%", "a=%4", "a=%zz", "a=é", "a=b c", "a=%ff",
        ] {
            assert!(read_form(body.as_bytes()).is_err(), "{body}");
        }
    }
}
