//! What is known of Secrets: small records of their metadata, fed by a watch and by our own writes.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::controller::cluster::deleted::Deleted;
use crate::policy::ownership::SecretRecord;

/// What a look-up finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) enum Lookup {
    Found(SecretRecord),
    Absent,
    /// Secrets of this namespace are not watched: ask the API server.
    Unknown,
}

/// The records of all watched Secrets.
#[derive(Debug, Default)]
pub(in crate::controller) struct SecretIndex {
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
    pub(in crate::controller) fn clear(&self) {
        *self.lock() = Inner::default();
    }

    /// Finds a Secret.
    pub(in crate::controller) fn get(&self, namespace: &str, name: &str) -> Lookup {
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
    pub(in crate::controller) fn put(&self, namespace: &str, name: &str, record: SecretRecord) -> bool {
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
    pub(in crate::controller) fn put_listed(
        &self,
        scope: &str,
        namespace: &str,
        name: &str,
        record: SecretRecord,
    ) -> bool {
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
    pub(in crate::controller) fn remove(&self, namespace: &str, name: &str, resource_version: &str) -> bool {
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
    pub(in crate::controller) fn forget(&self, namespace: &str, name: &str) {
        if let Some(secrets) = self.lock().namespaces.get_mut(namespace) {
            secrets.remove(name);
        }
    }

    /// A list of `scope` begins.
    pub(in crate::controller) fn list_begins(&self, scope: &str) {
        self.lock().listing.insert(scope.to_owned(), Listing::default());
    }

    /// A list of `scope` is complete: what was not in it is gone. Gives the names of those.
    pub(in crate::controller) fn list_ends(&self, scope: &str) -> Vec<(String, String)> {
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
    pub(in crate::controller) fn is_listed(&self, scope: &str) -> bool {
        self.lock().listed.contains(scope)
    }

    /// Changes in `scope` are told no more: look-ups find nothing there until a list was read whole again. False when
    /// that was known.
    pub(in crate::controller) fn lost(&self, scope: &str) -> bool {
        self.lock().listed.remove(scope)
    }
}

/// Resource versions of one resource can be compared as numbers; where they are none, the later to come is newer.
pub(in crate::controller) fn is_newer(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version > than,
        _ => version != than,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
