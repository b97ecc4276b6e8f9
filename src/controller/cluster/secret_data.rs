//! The values of a Secret that were asked for. The others are skipped while its JSON is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use zeroize::Zeroizing;

use crate::controller::cluster::answers::AnswerError;

/// The value under one key of a Secret.
pub(crate) enum SecretValue {
    Bytes(Zeroizing<Vec<u8>>),
    /// It is longer than what was asked for, and was not kept.
    TooLong,
}

/// The named values of one version of a Secret. Wiped on drop.
pub(crate) struct SecretData {
    /// `uid/resourceVersion`.
    pub(crate) version: String,
    /// The type of the Secret.
    pub(crate) type_: String,
    /// The keys that were asked for, each with its value; `None` for one that the Secret has not.
    values: BTreeMap<String, Option<SecretValue>>,
}

impl fmt::Debug for SecretData {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SecretData")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl SecretData {
    /// The value under `key`; `None` where the Secret has none.
    pub(crate) fn get(&self, key: &str) -> Option<&SecretValue> {
        self.values.get(key)?.as_ref()
    }

    /// True where each of `keys` was asked for.
    pub(crate) fn has_asked_for(&self, keys: &BTreeSet<String>) -> bool {
        keys.iter().all(|key| self.values.contains_key(key))
    }
}

/// Reads `keys` of a Secret in JSON, and of each at most `longest` bytes. Texts of parsers may quote what they parse, so
/// they are dropped.
pub(crate) fn parse(json: &[u8], keys: &BTreeSet<String>, longest: usize) -> Result<SecretData, AnswerError> {
    let mut parser = serde_json::Deserializer::from_slice(json);
    parser
        .deserialize_map(SecretVisitor { keys, longest })
        .map_err(|_| AnswerError::NotASecret)
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
}

struct SecretVisitor<'k> {
    keys: &'k BTreeSet<String>,
    longest: usize,
}

impl<'de> Visitor<'de> for SecretVisitor<'_> {
    type Value = SecretData;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a Secret")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<SecretData, M::Error> {
        let mut metadata = Metadata::default();
        let mut secret = SecretData {
            version: String::new(),
            type_: String::new(),
            values: self.keys.iter().map(|key| (key.clone(), None)).collect(),
        };
        while let Some(member) = map.next_key::<String>()? {
            match member.as_str() {
                "metadata" => metadata = map.next_value()?,
                "type" => secret.type_ = map.next_value::<Option<String>>()?.unwrap_or_default(),
                "data" => map.next_value_seed(DataSeed(&mut secret.values, self.longest))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        secret.version = format!("{}/{}", metadata.uid, metadata.resource_version);
        Ok(secret)
    }
}

/// Takes the values under the keys that are asked for, of at most so many bytes, and skips the others.
struct DataSeed<'v>(&'v mut BTreeMap<String, Option<SecretValue>>, usize);

impl<'de> serde::de::DeserializeSeed<'de> for DataSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DataSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the data of a Secret")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match self.0.get_mut(&key) {
                Some(place) => *place = Some(map.next_value_seed(ValueSeed(self.1))?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Decodes one value of at most so many bytes.
struct ValueSeed(usize);

impl<'de> serde::de::DeserializeSeed<'de> for ValueSeed {
    type Value = SecretValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<SecretValue, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for ValueSeed {
    type Value = SecretValue;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value in base64")
    }

    fn visit_unit<E>(self) -> Result<SecretValue, E> {
        Ok(SecretValue::Bytes(Zeroizing::default()))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SecretValue, E> {
        if text.len() / 4 * 3 > self.0 + 3 {
            return Ok(SecretValue::TooLong);
        }
        let bytes = STANDARD.decode(text).map_err(|_| E::custom("no base64"))?;
        Ok(SecretValue::Bytes(Zeroizing::new(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error_text::with_causes;

    const LONGEST: usize = 64 * 1024;

    fn keys(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn text(data: Option<&SecretValue>) -> Option<String> {
        match data? {
            SecretValue::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            SecretValue::TooLong => Some("too long".to_owned()),
        }
    }

    fn secret() -> String {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": { "name": "s", "uid": "u", "resourceVersion": "1", "labels": { "a": "b" } },
            "data": { "key": "dmFsdWUtMQ==", "other": "AA==", "large": STANDARD.encode(vec![b'x'; 200_000]) },
        })
        .to_string()
    }

    #[test]
    fn only_the_named_values_are_kept_and_no_long_one() {
        let data = parse(secret().as_bytes(), &keys(&["key", "large", "absent"]), LONGEST).unwrap();
        assert_eq!((data.version.as_str(), data.type_.as_str()), ("u/1", "Opaque"));
        assert_eq!(text(data.get("key")).as_deref(), Some("value-1"));
        assert_eq!(text(data.get("large")).as_deref(), Some("too long"));
        assert!(data.get("absent").is_none() && data.get("other").is_none());
    }

    #[test]
    fn a_value_of_the_greatest_length_is_kept() {
        for (length, kept) in [(LONGEST, true), (LONGEST + 10, false)] {
            let json = json!({ "metadata": {}, "data": { "key": STANDARD.encode(vec![b'x'; length]) } });
            let data = parse(json.to_string().as_bytes(), &keys(&["key"]), LONGEST).unwrap();
            assert_eq!(
                matches!(data.get("key"), Some(SecretValue::Bytes(_))),
                kept,
                "{length}"
            );
        }
    }

    #[test]
    fn what_is_no_secret_is_refused_without_a_word_of_it() {
        for json in [
            "hush-value",
            r#"{"metadata":{},"data":"hush-value"}"#,
            r#"{"metadata":{},"data":{"key":"hush-value!"}}"#,
            r#"{"metadata":"hush-value"}"#,
            r#"{"metadata":{},"data":{"key":"aHVzaA=="#,
        ] {
            let error = parse(json.as_bytes(), &keys(&["key"]), LONGEST).unwrap_err();
            assert!(!with_causes(&error).contains("hush"), "{json}");
        }
        let empty = r#"{"metadata":{},"data":{"key":null}}"#;
        assert!(
            parse(empty.as_bytes(), &keys(&["key"]), LONGEST)
                .unwrap()
                .get("key")
                .is_some()
        );
        assert!(parse(br#"{"metadata":{},"data":null}"#, &keys(&["key"]), LONGEST).is_ok());
    }
}
