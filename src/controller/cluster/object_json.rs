//! Objects of the API server, read from JSON part by part: what one part holds spoils no other part, and what one object
//! holds spoils no other object.
//!
//! The API server takes more than kube's types do: times after the year 9999, and fields that are nested deeper than a
//! parser goes. Anybody who may edit an object may put them into its `managedFields`. So only the parts that the operator
//! needs are parsed, and times are no reason to refuse an object.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, Time};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::api::VendorToken;
use crate::controller::cluster::secret_record::{self, is_our_entry};
use crate::grants::ObjectKey;
use crate::policy::ownership::SecretRecord;

/// The failure to read an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ObjectError {
    #[error("failed to read an object: it is none in JSON, or is longer than objects may be")]
    Broken,
    /// Without the parser's words, which may quote what they are about.
    #[error("failed to read the member '{0}' of an object")]
    Member(&'static str),
    #[error("failed to read the spec of an object: {0}")]
    Spec(String),
}

impl From<ObjectError> for kube::Error {
    fn from(error: ObjectError) -> Self {
        Self::Service(Box::new(error))
    }
}

/// An object of a list or of a watch that cannot be read, with what could be read of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) object: ObjectKey,
    /// The object's UID, or empty.
    pub(crate) uid: String,
    /// The object's resource version, or empty.
    pub(crate) resource_version: String,
    pub(crate) error: ObjectError,
}

impl Unreadable {
    fn new(json: &[u8], error: ObjectError) -> Self {
        let metadata = Members::of(json).object("metadata");
        let text = |name| metadata.read(name).ok().flatten().unwrap_or_default();
        Self {
            object: ObjectKey {
                namespace: text("namespace"),
                name: text("name"),
            },
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            error,
        }
    }
}

/// An object that lists and watches bring.
pub(crate) trait FromJson {
    /// Reads an object. One that cannot be read is given as such.
    fn from_json(json: &[u8]) -> Self;
    /// The resource version of the object, or empty.
    fn resource_version(&self) -> &str;
}

/// A VendorToken of a list or of a watch.
pub(crate) type ReadVendorToken = Result<VendorToken, Unreadable>;
/// The metadata of a Secret of a list or of a watch.
pub(crate) type ReadSecret = Result<(ObjectKey, SecretRecord), Unreadable>;

impl FromJson for ReadVendorToken {
    fn from_json(json: &[u8]) -> Self {
        vendor_token(json).map_err(|error| Unreadable::new(json, error))
    }

    fn resource_version(&self) -> &str {
        match self {
            Ok(token) => token.metadata.resource_version.as_deref().unwrap_or_default(),
            Err(unreadable) => &unreadable.resource_version,
        }
    }
}

impl FromJson for ReadSecret {
    fn from_json(json: &[u8]) -> Self {
        let read = || {
            let metadata = Members::of(json).metadata()?;
            let record = secret_record::read(&metadata).ok_or(ObjectError::Member("metadata"))?;
            let (Some(namespace), Some(name)) = (metadata.namespace, metadata.name) else {
                return Err(ObjectError::Member("metadata"));
            };
            Ok((ObjectKey { namespace, name }, record))
        };
        read().map_err(|error| Unreadable::new(json, error))
    }

    fn resource_version(&self) -> &str {
        match self {
            Ok((_, record)) => &record.resource_version,
            Err(unreadable) => &unreadable.resource_version,
        }
    }
}

/// Reads a VendorToken. A status that cannot be read is absent: the operator writes it again.
pub(crate) fn vendor_token(json: &[u8]) -> Result<VendorToken, ObjectError> {
    let members = Members::of(json);
    let metadata = members.metadata()?;
    let spec = members.get("spec").unwrap_or(b"null");
    Ok(VendorToken {
        metadata,
        spec: serde_json::from_slice(spec).map_err(|error| ObjectError::Spec(error.to_string()))?,
        status: members.read("status").ok().flatten(),
    })
}

/// Reads the metadata of a Secret.
pub(crate) fn secret_metadata(json: &[u8]) -> Result<ObjectMeta, ObjectError> {
    Members::of(json).metadata()
}

/// Takes a value from the beginning of `rest`, and gives it with its text.
fn take<'j, T: Deserialize<'j>>(rest: &mut &'j [u8]) -> Option<(T, &'j [u8])> {
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter();
    let value = values.next()?.ok()?;
    let (text, after) = rest.split_at_checked(values.byte_offset())?;
    *rest = after;
    Some((value, text))
}

/// Takes one of these bytes from the beginning of `rest`, behind blanks.
fn take_byte(rest: &mut &[u8], expected: &[u8]) -> Option<u8> {
    let (first, after) = rest.trim_ascii_start().split_first()?;
    *rest = after;
    expected.contains(first).then_some(*first)
}

/// The members of an object with their texts, as far as the object can be read. The text of the last one may be cut off.
pub(crate) struct Members<'j> {
    all: Vec<(String, &'j [u8])>,
    is_whole: bool,
}

impl<'j> Members<'j> {
    /// The members of the object in `json`; none where it is no object.
    pub(crate) fn of(mut json: &'j [u8]) -> Self {
        let mut all = Vec::new();
        let is_whole = Self::take_all(&mut json, &mut all).is_some();
        Self { all, is_whole }
    }

    /// `None` where the object has no end.
    fn take_all(rest: &mut &'j [u8], all: &mut Vec<(String, &'j [u8])>) -> Option<()> {
        take_byte(rest, b"{")?;
        if rest.trim_ascii_start().starts_with(b"}") {
            return Some(());
        }
        loop {
            let (name, _) = take::<String>(rest)?;
            take_byte(rest, b":")?;
            let cut_off = *rest;
            let value = take::<IgnoredAny>(rest);
            all.push((name, value.map_or(cut_off, |(_, text)| text)));
            value?;
            if take_byte(rest, b",}")? == b'}' {
                return Some(());
            }
        }
    }

    /// The text of a member.
    pub(crate) fn get(&self, name: &str) -> Option<&'j [u8]> {
        let member = self.all.iter().rfind(|(member, _)| member == name)?;
        Some(member.1)
    }

    /// A member that is an object; an empty one where it is none.
    pub(crate) fn object(&self, name: &str) -> Self {
        Self::of(self.get(name).unwrap_or_default())
    }

    /// Parses a member. `None` for one that is absent or `null`.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, ObjectError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        serde_json::from_slice(text).map_err(|_| ObjectError::Member(name))
    }

    /// Parses a member with a time. `None` for one that is later than times can be, too.
    fn time(&self, name: &'static str) -> Option<Time> {
        self.read(name).ok().flatten()
    }

    /// Parses a member with labels or annotations.
    fn texts(&self, name: &'static str) -> Result<Option<BTreeMap<String, String>>, ObjectError> {
        let texts: Option<BTreeMap<String, Option<String>>> = self.read(name)?;
        Ok(texts.map(|texts| {
            let given = texts.into_iter();
            given.filter_map(|(key, text)| Some((key, text?))).collect()
        }))
    }

    /// The metadata of the object, without what nothing here reads. What names it and what decides whose it is must be
    /// readable.
    fn metadata(&self) -> Result<ObjectMeta, ObjectError> {
        let metadata = self.object("metadata");
        if !self.is_whole || !metadata.is_whole {
            return Err(ObjectError::Broken);
        }
        let is_deleted = metadata
            .get("deletionTimestamp")
            .is_some_and(|text| text.trim_ascii() != b"null");
        let deleted_at = || {
            metadata
                .time("deletionTimestamp")
                .unwrap_or(Time(Timestamp::UNIX_EPOCH))
        };
        Ok(ObjectMeta {
            name: metadata.read("name")?,
            namespace: metadata.read("namespace")?,
            uid: metadata.read("uid")?,
            resource_version: metadata.read("resourceVersion")?,
            generation: metadata.read("generation")?,
            creation_timestamp: metadata.time("creationTimestamp"),
            deletion_timestamp: is_deleted.then(deleted_at),
            labels: metadata.texts("labels")?,
            annotations: metadata.texts("annotations")?,
            owner_references: metadata.read("ownerReferences")?,
            managed_fields: metadata.get("managedFields").map(managed_fields),
            ..ObjectMeta::default()
        })
    }
}

/// Reads `managedFields`, as far as its entries can be read. Only those of our own applies keep their fields.
fn managed_fields(mut json: &[u8]) -> Vec<ManagedFieldsEntry> {
    let mut entries = Vec::new();
    let rest = &mut json;
    if take_byte(rest, b"[").is_none() {
        return entries;
    }
    while let Some((_, text)) = take::<IgnoredAny>(rest) {
        entries.extend(managed_fields_entry(text).ok());
        if take_byte(rest, b",").is_none() {
            break;
        }
    }
    entries
}

fn managed_fields_entry(json: &[u8]) -> Result<ManagedFieldsEntry, ObjectError> {
    let members = Members::of(json);
    let mut entry = ManagedFieldsEntry {
        manager: members.read("manager")?,
        operation: members.read("operation")?,
        subresource: members.read("subresource")?,
        time: members.time("time"),
        ..ManagedFieldsEntry::default()
    };
    if is_our_entry(&entry) {
        entry.fields_v1 = members.read("fieldsV1")?;
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::names;

    fn metadata(more: Value) -> Value {
        let mut metadata = json!({ "name": "s", "namespace": "a", "uid": "u", "resourceVersion": "7" });
        metadata
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({ "metadata": metadata })
    }

    fn read(more: Value) -> Result<ObjectMeta, ObjectError> {
        let json = metadata(more).to_string();
        secret_metadata(json.as_bytes())
    }

    proptest! {
        /// Members are found as serde_json finds them, whatever they hold.
        #[test]
        fn members_are_found_with_their_texts(
            values in prop::collection::btree_map("[a\"\\\\{}:,é ]{0,6}", any_value(), 0..6), pretty in any::<bool>()
        ) {
            let object = json!(values);
            let text = if pretty { serde_json::to_vec_pretty(&object) } else { serde_json::to_vec(&object) }.unwrap();
            let members = Members::of(&text);
            prop_assert!(members.is_whole);
            prop_assert_eq!(members.all.len(), values.len());
            for (name, value) in &values {
                let found: Value = serde_json::from_slice(members.get(name).unwrap()).unwrap();
                prop_assert_eq!(&found, value);
            }
            for end in 0..text.len() {
                prop_assert!(!Members::of(&text[..end]).is_whole, "cut after {end} bytes");
            }
        }

        #[test]
        fn no_bytes_make_it_fail_but_with_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(ReadSecret::from_json(&bytes).is_err());
            prop_assert!(ReadVendorToken::from_json(&bytes).is_err());
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            "[a\"\\\\{}\\[\\]:,é\n ]{0,12}".prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(json!(null)),
            Just(json!([{ "a": [] }, {}])),
            Just(json!({ "b": { "c": "}" } })),
        ]
    }

    #[test]
    fn an_object_that_is_cut_off_is_known_by_its_names() {
        let json = metadata(json!({ "zzz": { "f:a": ["x", "y"] } })).to_string();
        let names = json.find("zzz").unwrap();
        for end in names..json.len() {
            let unreadable = ReadSecret::from_json(&json.as_bytes()[..end]).unwrap_err();
            assert_eq!(
                (unreadable.object.to_string(), &*unreadable.uid),
                ("a/s".to_owned(), "u")
            );
            assert_eq!(
                (&*unreadable.resource_version, unreadable.error),
                ("7", ObjectError::Broken)
            );
        }
    }

    #[test]
    fn what_decides_whose_a_secret_is_must_be_readable() {
        for part in [
            json!({ "labels": ["hush"] }),
            json!({ "annotations": { "a": ["hush"] } }),
            json!({ "ownerReferences": [{ "controller": "hush" }] }),
            json!({ "uid": 5 }),
        ] {
            let error = read(part.clone()).unwrap_err();
            assert!(matches!(error, ObjectError::Member(_)), "{part}: {error}");
            assert!(!error.to_string().contains("hush"));
        }
    }

    #[test]
    fn an_object_that_is_being_deleted_stays_so_whatever_the_time() {
        let deleted = |time: Value| {
            read(json!({ "deletionTimestamp": time }))
                .unwrap()
                .deletion_timestamp
        };
        assert_eq!(deleted(json!(null)), None);
        for time in [
            "2026-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "10000-01-01T00:00:00Z",
        ] {
            let found = deleted(json!(time)).unwrap();
            // It is kept as text, and read again.
            let text = serde_json::to_string(&found).unwrap();
            assert_eq!(serde_json::from_str::<Time>(&text).unwrap(), found, "{time}");
        }
    }

    #[test]
    fn only_our_own_entries_keep_their_fields() {
        let entry = |manager: &str, operation: &str| {
            json!({ "manager": manager, "operation": operation, "time": "9999-12-31T23:59:59Z",
                "fieldsV1": { "f:data": { "f:token": {} } } })
        };
        let entries = json!([
            5,
            entry("kubectl", "Update"),
            null,
            entry(names::FIELD_MANAGER, "Apply")
        ]);
        let found = read(json!({ "managedFields": entries }))
            .unwrap()
            .managed_fields
            .unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|entry| (entry.manager.as_deref(), entry.fields_v1.is_some()))
            .collect();
        assert!(
            found.contains(&(Some("kubectl"), false)) && found.contains(&(Some(names::FIELD_MANAGER), true))
        );
    }

    #[test]
    fn a_status_that_cannot_be_read_is_absent_and_a_spec_makes_the_object_unreadable() {
        let mut object = metadata(json!({}));
        object["spec"] = json!({ "vendor": "Mapiq", "credentialsSecretRef": { "name": "c" } });
        object["status"] = json!("odd");
        assert!(
            vendor_token(object.to_string().as_bytes())
                .unwrap()
                .status
                .is_none()
        );
        object["spec"]["vendor"] = json!("Newcomer");
        let unreadable = ReadVendorToken::from_json(object.to_string().as_bytes()).unwrap_err();
        assert!(
            unreadable.error.to_string().contains("Newcomer"),
            "{unreadable:?}"
        );
    }
}
