//! Makes the record of a Secret from its metadata.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use serde_json::{Map, Value};

use crate::api::names;
use crate::policy::ownership::{Controller, OurEntry, SecretRecord};
use crate::seal::SealedFacts;
use crate::text::{first_characters, without_control_characters};

/// The longest name that is compared, in bytes. A longer one is cut, and equals no name then.
const LONGEST_NAME: usize = 254;
/// The longest name of a field manager in a message, in characters.
const LONGEST_MANAGER: usize = 63;

/// The beginning of a text that anybody may have written: every Secret has a record, which must be small.
fn cut(text: &str, bytes: usize) -> Box<str> {
    text.get(..text.floor_char_boundary(bytes))
        .unwrap_or_default()
        .into()
}

/// Makes the record of a Secret from its metadata. `None` for metadata without UID or resource version.
pub(crate) fn read(metadata: &ObjectMeta) -> Option<SecretRecord> {
    let annotation = |key: &str| {
        metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(key))
            .map(String::as_str)
    };
    let controller = metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true));
    let controller = controller.map(|owner| {
        let group = owner.api_version.split('/').next().unwrap_or_default();
        let cut = |text| cut(text, LONGEST_NAME);
        if owner.kind == "VendorToken" && group == "vendortoken.io" {
            Controller::VendorToken {
                name: cut(&owner.name),
                uid: cut(&owner.uid),
            }
        } else {
            Controller::Other {
                kind: cut(&owner.kind),
                name: cut(&owner.name),
            }
        }
    });
    Some(SecretRecord {
        uid: metadata.uid.as_deref()?.into(),
        resource_version: metadata.resource_version.as_deref()?.into(),
        controller,
        adoptable_by: annotation(names::ADOPTABLE_BY).map(|name| cut(name, LONGEST_NAME)),
        ours: metadata
            .managed_fields
            .iter()
            .flatten()
            .find_map(|entry| our_entry(entry, metadata))
            .map(Box::new),
        facts: SealedFacts::read(annotation).map(Box::new),
    })
}

/// True for an entry of an apply under the operator's name.
pub(crate) fn is_our_entry(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(names::FIELD_MANAGER)
        && entry.operation.as_deref() == Some("Apply")
        && entry.subresource.as_deref().unwrap_or_default().is_empty()
}

/// The keys and values of our apply entry. A key that anybody else changes or removes leaves the entry, so these were
/// written by us and are unchanged since.
fn our_entry(entry: &ManagedFieldsEntry, metadata: &ObjectMeta) -> Option<OurEntry> {
    let fields = entry
        .fields_v1
        .as_ref()
        .filter(|_| is_our_entry(entry))?
        .0
        .as_object()?;
    let of_metadata = fields.get("f:metadata").and_then(Value::as_object);
    let labels = owned_keys(of_metadata.and_then(|fields| fields.get("f:labels")));
    let annotations = owned_keys(of_metadata.and_then(|fields| fields.get("f:annotations")));
    let annotation = |key: &str| {
        annotations
            .contains(&key)
            .then(|| metadata.annotations.as_ref()?.get(key).map(String::as_str))
            .flatten()
    };
    let label = |key: &str| {
        labels
            .contains(&key)
            .then(|| metadata.labels.as_ref()?.get(key).map(String::as_str))
            .flatten()
    };
    let data = owned_keys(fields.get("f:data"));
    Some(OurEntry {
        name: label(names::NAME_LABEL).map(Into::into),
        owned: owned_digest(&data, &labels, &annotations),
        owned_data: owned_digest(&data, &[], &[]),
        content: annotation(names::CONTENT).map(|content| cut(content, LONGEST_NAME)),
    })
}

/// The field manager of the last write that was not our own apply.
pub(crate) fn last_other_manager(metadata: &ObjectMeta) -> Option<Box<str>> {
    let others = metadata
        .managed_fields
        .iter()
        .flatten()
        .filter(|entry| !is_our_entry(entry));
    let last = others.max_by_key(|entry| entry.time.as_ref().map(|time| time.0))?;
    let manager = without_control_characters(last.manager.as_deref()?);
    Some(first_characters(&manager, LONGEST_MANAGER).into())
}

fn owned_keys(fields: Option<&Value>) -> Vec<&str> {
    fields
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::keys)
        .filter_map(|key| key.strip_prefix("f:"))
        .collect()
}

/// A digest of the paths that an apply entry owns. The annotation of a handled refresh request is left out: it is
/// there or not by what users asked, not by what the target should be.
pub(crate) fn owned_digest(data: &[&str], labels: &[&str], annotations: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for keys in [data, labels, annotations] {
        let mut keys: Vec<&str> = keys
            .iter()
            .copied()
            .filter(|key| *key != names::REFRESH_HANDLED)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(fields: Value, annotations: Value) -> ObjectMeta {
        serde_json::from_value(json!({
            "name": "sca-token", "namespace": "appsec", "uid": "u", "resourceVersion": "7",
            "labels": { "vendortoken.io/name": "sca" },
            "annotations": annotations,
            "managedFields": [
                { "manager": "kubectl", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                  "fieldsV1": { "f:data": { "f:other": {} } } },
                { "manager": "vendor-token-operator", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                  "fieldsV1": fields },
            ],
        }))
        .unwrap()
    }

    fn fields(annotations: Value) -> Value {
        json!({
            "f:data": { "f:token": {} },
            "f:metadata": { "f:labels": { "f:vendortoken.io/name": {} }, "f:annotations": annotations },
        })
    }

    fn inputs() -> String {
        format!(
            "{}.{}.{}.{}.07",
            "0".repeat(8),
            "1".repeat(32),
            "2".repeat(8),
            "3".repeat(32)
        )
    }

    fn annotations() -> Value {
        json!({
            "vendortoken.io/issued-time": "2026-01-01T00:00:00Z",
            "vendortoken.io/expiration-time": "2026-01-01T01:00:00Z",
            "vendortoken.io/inputs": inputs(),
            "vendortoken.io/content": "created.0123456789abcdef",
            "vendortoken.io/credentials-version": "uid/7",
            "vendortoken.io/seal": format!("{}.{}.{}", "0".repeat(8), "1".repeat(32), "2".repeat(32)),
        })
    }

    fn owned() -> Value {
        annotations()
            .as_object()
            .unwrap()
            .keys()
            .map(|key| (format!("f:{key}"), json!({})))
            .collect::<Map<_, _>>()
            .into()
    }

    #[test]
    fn what_our_apply_entry_owns_is_read_back() {
        let record = read(&metadata(fields(owned()), annotations())).unwrap();
        let ours = record.ours.unwrap();
        assert_eq!(ours.name.as_deref(), Some("sca"));
        assert_eq!(ours.content.as_deref(), Some("created.0123456789abcdef"));
    }

    #[test]
    fn an_annotation_that_our_apply_entry_does_not_own_is_drift() {
        let digest = |owned| {
            read(&metadata(fields(owned), annotations()))
                .unwrap()
                .ours
                .unwrap()
                .owned
        };
        let mut without = owned();
        without
            .as_object_mut()
            .unwrap()
            .remove("f:vendortoken.io/expiration-time");
        assert_ne!(digest(owned()), digest(without));
    }

    #[test]
    fn facts_are_read_whatever_managed_fields_say() {
        let whole = metadata(fields(owned()), annotations());
        let restored = ObjectMeta {
            managed_fields: None,
            ..whole.clone()
        };
        let facts = read(&whole).unwrap().facts;
        assert!(facts.is_some());
        let restored = read(&restored).unwrap();
        assert_eq!((restored.facts, restored.ours), (facts, None));
    }

    #[test]
    fn a_record_stays_small_whatever_stands_on_the_secret() {
        let long = "x".repeat(250_000);
        let mut annotations = annotations();
        for key in [names::ADOPTABLE_BY, names::CONTENT] {
            annotations[key] = json!(long);
        }
        // Facts with long texts are none: see `seal`.
        annotations[names::REFRESH_HANDLED] = json!("x".repeat(256));
        let mut owned = owned();
        for key in annotations.as_object().unwrap().keys() {
            owned[format!("f:{key}")] = json!({});
        }
        let mut metadata = metadata(fields(owned), annotations);
        metadata.owner_references = Some(vec![
            serde_json::from_value(json!({
                "apiVersion": "v1", "kind": long, "name": long, "uid": long, "controller": true,
            }))
            .unwrap(),
        ]);
        let record = read(&metadata).unwrap();
        assert!(record.ours.is_some());
        let size = format!("{record:?}").len();
        assert!(size < 3000, "{size}");
    }

    #[test]
    fn an_update_under_our_name_is_not_our_apply_entry() {
        let mut metadata = metadata(fields(owned()), annotations());
        metadata.managed_fields.as_mut().unwrap()[1].operation = Some("Update".to_owned());
        assert_eq!(read(&metadata).unwrap().ours, None);
    }

    #[test]
    fn the_last_writer_beside_our_apply_is_found_whatever_its_name() {
        let mut metadata = metadata(fields(owned()), annotations());
        let found = |metadata: &ObjectMeta| last_other_manager(metadata).map(String::from);
        assert_eq!(found(&metadata).as_deref(), Some("kubectl"));
        let entries = metadata.managed_fields.as_mut().unwrap();
        let mut later = entries[0].clone();
        later.manager = Some(format!("{}\n", "x".repeat(250)));
        later.time = serde_json::from_value(json!("2026-05-04T10:00:00Z")).unwrap();
        entries.insert(0, later);
        // Cut, and on one line.
        assert_eq!(found(&metadata), Some("x".repeat(63)));
        metadata.managed_fields.as_mut().unwrap().drain(..2);
        assert_eq!(found(&metadata), None);
    }

    #[test]
    fn a_lost_data_key_changes_the_digest_and_the_order_of_keys_does_not() {
        let all = owned_digest(&["a", "b"], &["l"], &["x"]);
        assert_eq!(
            all,
            owned_digest(&["b", "a"], &["l"], &["x", names::REFRESH_HANDLED])
        );
        assert_ne!(all, owned_digest(&["a"], &["l"], &["x"]));
        assert_ne!(all, owned_digest(&["a", "b"], &["x"], &["l"]));
    }
}
