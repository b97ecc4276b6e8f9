//! What is known of Secrets: metadata only, as small records, fed by a watch and by our own writes.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use serde_json::{Map, Value};

use super::deleted::Deleted;
use crate::api::names;
use crate::inputs::Inputs;
use crate::policy::Stored;
use crate::policy::ownership::{Controller, OurEntry, SecretRecord, split_content};

/// No name that is compared is longer, in bytes. What is cut there equals none.
const LONGEST_NAME: usize = 254;
/// No text that we write into an annotation is longer, in bytes.
const LONGEST_TEXT: usize = 1024;

/// The beginning of a text that anybody may have written: a record is kept of every Secret, and has to be small.
fn cut(text: &str, bytes: usize) -> Box<str> {
    text.get(..text.floor_char_boundary(bytes))
        .unwrap_or_default()
        .into()
}

fn is_short(text: &&str) -> bool {
    text.len() <= LONGEST_TEXT
}

/// Makes the record of a Secret from its metadata. `None` for metadata without UID or resource version.
pub(super) fn record(metadata: &ObjectMeta) -> Option<SecretRecord> {
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
    })
}

/// What our apply entry owns. A key that anybody else changes or removes leaves the entry, so what is found here was
/// written by us and is unchanged since.
fn our_entry(entry: &ManagedFieldsEntry, metadata: &ObjectMeta) -> Option<OurEntry> {
    let is_ours = entry.manager.as_deref() == Some(names::FIELD_MANAGER)
        && entry.operation.as_deref() == Some("Apply")
        && entry.subresource.as_deref().unwrap_or_default().is_empty();
    let fields = entry.fields_v1.as_ref().filter(|_| is_ours)?.0.as_object()?;
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
    let (content, place) = annotation(names::CONTENT).map(split_content).unzip();
    let time = |key: &str| annotation(key).and_then(|text| text.parse::<Timestamp>().ok());
    let stored = || {
        Some(Stored {
            issued: time(names::ISSUED_TIME)?,
            expires: time(names::EXPIRATION_TIME)?,
            inputs: annotation(names::INPUTS).and_then(Inputs::parse)?,
            credentials_version: annotation(names::CREDENTIALS_VERSION)
                .filter(is_short)
                .map(str::to_owned),
            refresh_handled: annotation(names::REFRESH_HANDLED)
                .filter(is_short)
                .map(str::to_owned),
            place: place
                .flatten()
                .filter(|place| data.contains(&place.key.as_str()))
                .map(Box::new),
        })
    };
    Some(OurEntry {
        name: label(names::NAME_LABEL).map(Into::into),
        owned: owned_digest(&data, &labels, &annotations),
        content: content.map(|content| cut(content, LONGEST_NAME)),
        stored: stored(),
    })
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
pub(super) fn owned_digest(data: &[&str], labels: &[&str], annotations: &[&str]) -> u64 {
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

/// What a look-up finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    Found(SecretRecord),
    Absent,
    /// Secrets of this namespace are not watched: ask the API server.
    Unknown,
}

/// The records of all watched Secrets.
#[derive(Debug, Default)]
pub(super) struct SecretIndex {
    inner: Mutex<Inner>,
}

/// Namespace and name.
type SecretKey = (Box<str>, Box<str>);

#[derive(Debug, Default)]
struct Inner {
    namespaces: HashMap<Box<str>, HashMap<Box<str>, SecretRecord>>,
    /// Scopes (a namespace, or empty for all) whose list was read whole, and whose changes are told since.
    listed: HashSet<String>,
    /// By scope, what has come since its list began.
    listing: HashMap<String, Listing>,
    deleted: Deleted,
}

/// A list that is being read.
#[derive(Debug, Default)]
struct Listing {
    /// What was in it so far.
    listed: HashSet<SecretKey>,
    /// What was told from elsewhere meanwhile (by an answer to a write, say), and may be newer than the list.
    told: HashSet<SecretKey>,
}

impl SecretIndex {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *self.lock() = Inner::default();
    }

    /// Finds a Secret.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Lookup {
        let inner = self.lock();
        if !inner.listed.contains("") && !inner.listed.contains(namespace) {
            // Our own writes are here too, but nobody tells what became of them since.
            return Lookup::Unknown;
        }
        let found = inner
            .namespaces
            .get(namespace)
            .and_then(|secrets| secrets.get(name));
        found.cloned().map_or(Lookup::Absent, Lookup::Found)
    }

    /// Takes a newer record; false when it was known already, or older than the known one.
    pub(super) fn put(&self, namespace: &str, name: &str, record: SecretRecord) -> bool {
        let mut inner = self.lock();
        let key = (Box::from(namespace), Box::from(name));
        for listing in inner.listing.values_mut() {
            listing.told.insert(key.clone());
        }
        if inner.deleted.has(&record.uid) {
            return false;
        }
        let secrets = inner.namespaces.entry(namespace.into()).or_default();
        match secrets.get(name) {
            Some(known) if !is_newer(&record.resource_version, &known.resource_version) => false,
            _ => {
                secrets.insert(name.into(), record);
                true
            }
        }
    }

    /// Takes a record of the list of `scope` that has begun; false when it was known already. It replaces what was known
    /// before the list began, whatever the versions say: they start again at lower ones when a backup is restored.
    pub(super) fn put_listed(&self, scope: &str, namespace: &str, name: &str, record: SecretRecord) -> bool {
        let key = (Box::from(namespace), Box::from(name));
        {
            let mut inner = self.lock();
            let listing = inner.listing.entry(scope.to_owned()).or_default();
            if !listing.told.contains(&key) {
                listing.listed.insert(key);
                inner.deleted.is_back(&record.uid);
                let secrets = inner.namespaces.entry(namespace.into()).or_default();
                let known = secrets.insert(name.into(), record.clone());
                return known.as_ref() != Some(&record);
            }
        }
        self.put(namespace, name, record)
    }

    /// A Secret was deleted at `resource_version`; false when a newer one is known by now.
    pub(super) fn remove(&self, namespace: &str, name: &str, resource_version: &str) -> bool {
        let mut inner = self.lock();
        let Some(secrets) = inner.namespaces.get_mut(namespace) else {
            return false;
        };
        let is_older = |known: &SecretRecord| !is_newer(&known.resource_version, resource_version);
        match secrets
            .get(name)
            .is_some_and(is_older)
            .then(|| secrets.remove(name))
            .flatten()
        {
            Some(known) => {
                inner.deleted.note(&known.uid);
                true
            }
            None => false,
        }
    }

    /// Forgets what is known of a Secret, because the API server says otherwise.
    pub(super) fn forget(&self, namespace: &str, name: &str) {
        if let Some(secrets) = self.lock().namespaces.get_mut(namespace) {
            secrets.remove(name);
        }
    }

    /// A list of `scope` begins.
    pub(super) fn list_begins(&self, scope: &str) {
        self.lock().listing.insert(scope.to_owned(), Listing::default());
    }

    /// A list of `scope` is complete: what was not in it is gone. Gives the names of those.
    pub(super) fn list_ends(&self, scope: &str) -> Vec<(String, String)> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(listing) = inner.listing.remove(scope) else {
            return Vec::new();
        };
        inner.listed.insert(scope.to_owned());
        let mut gone = Vec::new();
        for (namespace, secrets) in &mut inner.namespaces {
            if !scope.is_empty() && **namespace != *scope {
                continue;
            }
            secrets.retain(|name, record| {
                let key = (namespace.clone(), name.clone());
                let kept = listing.listed.contains(&key) || listing.told.contains(&key);
                if !kept {
                    inner.deleted.note(&record.uid);
                    gone.push((namespace.to_string(), name.to_string()));
                }
                kept
            });
        }
        gone
    }

    /// Whether the list of `scope` was read whole, and changes are told since.
    pub(super) fn is_listed(&self, scope: &str) -> bool {
        self.lock().listed.contains(scope)
    }

    /// Changes in `scope` are told no more: look-ups find nothing there until a list was read whole again. False when
    /// that was known.
    pub(super) fn lost(&self, scope: &str) -> bool {
        self.lock().listed.remove(scope)
    }
}

/// Resource versions of one resource can be compared as numbers; where they are none, the later to come is newer.
pub(super) fn is_newer(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version > than,
        _ => version != than,
    }
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
        })
    }

    fn owned() -> Value {
        json!({
            "f:vendortoken.io/issued-time": {}, "f:vendortoken.io/expiration-time": {}, "f:vendortoken.io/inputs": {},
        })
    }

    #[test]
    fn what_our_apply_entry_owns_is_read_back() {
        let record = record(&metadata(fields(owned()), annotations())).unwrap();
        let ours = record.ours.unwrap();
        assert_eq!(ours.name.as_deref(), Some("sca"));
        let stored = ours.stored.unwrap();
        assert_eq!(stored.expires, "2026-01-01T01:00:00Z".parse().unwrap());
        assert_eq!(stored.inputs.jitter, 7);
    }

    #[test]
    fn an_annotation_that_somebody_else_wrote_does_not_count() {
        let mut owned = owned();
        owned
            .as_object_mut()
            .unwrap()
            .remove("f:vendortoken.io/expiration-time");
        let record = record(&metadata(fields(owned), annotations())).unwrap();
        assert_eq!(record.ours.unwrap().stored, None);
    }

    #[test]
    fn a_record_stays_small_whatever_stands_on_the_secret() {
        let long = "x".repeat(250_000);
        let mut annotations = annotations();
        for key in [
            names::ADOPTABLE_BY,
            names::CONTENT,
            names::CREDENTIALS_VERSION,
            names::REFRESH_HANDLED,
        ] {
            annotations[key] = json!(long);
        }
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
        let record = record(&metadata).unwrap();
        assert!(record.ours.as_ref().unwrap().stored.is_some());
        let size = format!("{record:?}").len();
        assert!(size < 3000, "{size}");
    }

    #[test]
    fn an_update_under_our_name_is_not_our_apply_entry() {
        let mut metadata = metadata(fields(owned()), annotations());
        metadata.managed_fields.as_mut().unwrap()[1].operation = Some("Update".to_owned());
        assert_eq!(record(&metadata).unwrap().ours, None);
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

    fn version(resource_version: &str) -> SecretRecord {
        SecretRecord {
            uid: "u".into(),
            resource_version: resource_version.into(),
            controller: None,
            adoptable_by: None,
            ours: None,
        }
    }

    #[test]
    fn an_event_older_than_our_own_write_changes_nothing() {
        let index = SecretIndex::default();
        index.list_begins("a");
        index.list_ends("a");
        assert!(index.put("a", "s", version("10")));
        assert!(!index.put("a", "s", version("9")));
        assert!(!index.put("a", "s", version("10")));
        assert!(!index.remove("a", "s", "9"));
        assert_eq!(index.get("a", "s"), Lookup::Found(version("10")));
        assert!(index.remove("a", "s", "11"));
        assert_eq!(index.get("a", "s"), Lookup::Absent);
        assert!(!index.put("a", "s", version("10")), "an answer that comes late");
        assert_eq!(index.get("a", "s"), Lookup::Absent);
    }

    #[test]
    fn what_is_not_watched_is_unknown_also_after_a_write_of_ours() {
        let index = SecretIndex::default();
        index.put("a", "s", version("10"));
        assert_eq!(index.get("a", "s"), Lookup::Unknown);
    }

    #[test]
    fn what_a_new_list_lacks_is_gone_unless_it_was_written_meanwhile() {
        let index = SecretIndex::default();
        for name in ["kept", "gone", "written"] {
            index.put("a", name, version("1"));
        }
        index.put("b", "elsewhere", version("1"));
        index.list_begins("a");
        index.put_listed("a", "a", "kept", version("1"));
        index.put("a", "written", version("5"));
        assert_eq!(index.list_ends("a"), [("a".to_owned(), "gone".to_owned())]);
        assert_eq!(index.get("a", "gone"), Lookup::Absent);
        assert_eq!(index.get("b", "elsewhere"), Lookup::Unknown);
        index.list_begins("");
        index.put_listed("", "b", "elsewhere", version("1"));
        assert_eq!(index.list_ends("").len(), 2);
        assert_eq!(index.get("b", "elsewhere"), Lookup::Found(version("1")));
    }

    fn list(index: &SecretIndex, name: &str, resource_version: &str) -> bool {
        index.list_begins("a");
        let is_news = index.put_listed("a", "a", name, version(resource_version));
        index.list_ends("a");
        is_news
    }

    #[test]
    fn a_watch_that_is_lost_leaves_nothing_to_be_found_until_the_next_list() {
        let index = SecretIndex::default();
        list(&index, "s", "10");
        assert!(index.lost("a"));
        assert!(!index.lost("a"), "that was told already");
        assert_eq!(index.get("a", "s"), Lookup::Unknown);
        assert!(!list(&index, "s", "10"), "nothing has changed meanwhile");
        assert_eq!(index.get("a", "s"), Lookup::Found(version("10")));
    }

    #[test]
    fn a_list_from_a_restored_backup_counts_although_its_versions_are_lower() {
        let index = SecretIndex::default();
        list(&index, "s", "1000");
        assert!(list(&index, "s", "10"));
        assert_eq!(index.get("a", "s"), Lookup::Found(version("10")));
        assert!(
            index.put("a", "s", version("11")),
            "and so do the events after it"
        );
    }

    #[test]
    fn a_write_that_was_answered_while_a_list_was_read_is_newer_than_the_list() {
        let index = SecretIndex::default();
        index.list_begins("a");
        index.put("a", "s", version("12"));
        assert!(!index.put_listed("a", "a", "s", version("11")));
        assert_eq!(index.list_ends("a"), []);
        assert_eq!(index.get("a", "s"), Lookup::Found(version("12")));
    }
}
