//! A mirror of the objects of one kind, fed by lists, by watches and by the answers to our own writes.

use std::collections::{HashMap, HashSet};

use crate::controller::cluster::deleted::Deleted;

/// The record that a mirror keeps of an object.
pub(crate) trait Mirrored: PartialEq {
    /// The object's UID, or empty where it is not known.
    fn uid(&self) -> &str;
    /// The object's resource version, or empty where it is not known: every version is newer then.
    fn resource_version(&self) -> &str;
}

/// The records of all objects of one kind. A scope is a namespace, or empty for all namespaces.
#[derive(Debug)]
pub(crate) struct Mirror<T> {
    namespaces: HashMap<Box<str>, Entries<T>>,
    /// The number of lists that have begun, which is the time in this mirror.
    lists: u64,
    /// By scope, the time at which the present list began.
    begun: HashMap<String, u64>,
    /// Scopes with a complete list, whose changes are followed since.
    listed: HashSet<String>,
    deleted: Deleted,
}

/// The entries of one namespace by name. Boxed, because half of the places in a hash map may be empty.
type Entries<T> = HashMap<Box<str>, Box<Entry<T>>>;

#[derive(Debug)]
struct Entry<T> {
    record: T,
    /// The time of the last list that contained it.
    listed: u64,
    /// The time of the last event or answer that brought it.
    received: u64,
}

impl<T> Default for Mirror<T> {
    fn default() -> Self {
        Self {
            namespaces: HashMap::new(),
            lists: 0,
            begun: HashMap::new(),
            listed: HashSet::new(),
            deleted: Deleted::default(),
        }
    }
}

impl<T: Mirrored> Mirror<T> {
    /// Forgets all records and lists. Deletions stay known.
    pub(crate) fn clear(&mut self) {
        self.namespaces.clear();
        self.begun.clear();
        self.listed.clear();
    }

    /// The record of an object.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&T> {
        let entry = self.namespaces.get(namespace)?.get(name)?;
        Some(&entry.record)
    }

    /// All records, with namespace and name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str, &T)> {
        self.namespaces.iter().flat_map(|(namespace, records)| {
            let of_namespace = records.iter();
            of_namespace.map(move |(name, entry)| (&**namespace, &**name, &entry.record))
        })
    }

    /// Takes the record of an event or of an answer. False for a record that is not newer than the known one, and for
    /// one of a deleted object.
    pub(crate) fn put(&mut self, namespace: &str, name: &str, record: T) -> bool {
        if self.deleted.has(record.uid()) {
            return false;
        }
        let received = self.lists;
        let records = self.namespaces.entry(namespace.into()).or_default();
        if let Some(known) = records.get_mut(name) {
            known.received = received;
            let is_news = is_newer(record.resource_version(), known.record.resource_version());
            if is_news {
                known.record = record;
            }
            return is_news;
        }
        let entry = Entry {
            record,
            listed: 0,
            received,
        };
        records.insert(name.into(), Box::new(entry));
        true
    }

    /// Takes a record of the present list of `scope`. False for a record that is known. It replaces a record from
    /// before that list, whatever the versions: they are lower after the restore of a backup.
    pub(crate) fn put_listed(&mut self, scope: &str, namespace: &str, name: &str, record: T) -> bool {
        let begun = self.begun.get(scope).copied().unwrap_or_default();
        let known = self
            .namespaces
            .get(namespace)
            .and_then(|records| records.get(name));
        if known.is_some_and(|known| known.received >= begun) {
            // An answer that came meanwhile may be newer than the list.
            return self.put(namespace, name, record);
        }
        let is_news = known.is_none_or(|known| known.record != record);
        self.deleted.is_back(record.uid());
        self.replace(Some(scope), namespace, name, record);
        is_news
    }

    /// Takes a record whatever its version: of the present list of `scope`, or of an event.
    pub(crate) fn replace(&mut self, scope: Option<&str>, namespace: &str, name: &str, record: T) {
        let now = self.lists;
        let records = self.namespaces.entry(namespace.into()).or_default();
        let (listed, received) = records
            .get(name)
            .map_or((0, 0), |known| (known.listed, known.received));
        let entry = Entry {
            record,
            listed: if scope.is_some() { now } else { listed },
            received: if scope.is_some() { received } else { now },
        };
        records.insert(name.into(), Box::new(entry));
    }

    /// Takes a deletion at `resource_version`, and gives the last record. `None` where a newer object is known, or
    /// none.
    pub(crate) fn remove(&mut self, namespace: &str, name: &str, resource_version: &str) -> Option<T> {
        let known = self.get(namespace, name)?;
        if is_newer(known.resource_version(), resource_version) {
            return None;
        }
        let removed = self.forget(namespace, name)?;
        self.deleted.note(removed.uid());
        Some(removed)
    }

    /// Removes a record without noting a deletion.
    pub(crate) fn forget(&mut self, namespace: &str, name: &str) -> Option<T> {
        let records = self.namespaces.get_mut(namespace)?;
        let removed = records.remove(name)?;
        if records.is_empty() {
            self.namespaces.remove(namespace);
        }
        Some(removed.record)
    }

    /// Begins a list of `scope`.
    pub(crate) fn begin_list(&mut self, scope: &str) {
        self.lists += 1;
        self.begun.insert(scope.to_owned(), self.lists);
    }

    /// Ends the list of `scope`: objects that were not in it are gone, unless an event or an answer brought them
    /// meanwhile. Gives namespace, name and last record of each.
    pub(crate) fn end_list(&mut self, scope: &str) -> Vec<(String, String, T)> {
        let Some(begun) = self.begun.remove(scope) else {
            return Vec::new();
        };
        self.listed.insert(scope.to_owned());
        let mut gone = Vec::new();
        for (namespace, records) in &mut self.namespaces {
            if !scope.is_empty() && **namespace != *scope {
                continue;
            }
            for (name, entry) in records.extract_if(|_, entry| entry.listed.max(entry.received) < begun) {
                self.deleted.note(entry.record.uid());
                gone.push((namespace.to_string(), name.into_string(), entry.record));
            }
        }
        self.namespaces.retain(|_, records| !records.is_empty());
        gone
    }

    /// True for a scope with a complete list whose changes are followed.
    pub(crate) fn is_listed(&self, scope: &str) -> bool {
        self.listed.contains(scope)
    }

    /// True for a namespace with a complete list, its own or that of all namespaces, whose changes are followed.
    pub(crate) fn covers(&self, namespace: &str) -> bool {
        self.is_listed("") || self.is_listed(namespace)
    }

    /// Notes that changes in `scope` are not followed any more, until its next list ends. False where that is known.
    pub(crate) fn lose(&mut self, scope: &str) -> bool {
        self.listed.remove(scope)
    }
}

/// Resource versions of one kind are compared as numbers; where they are none, the later to come is newer. An unknown
/// version is newer than none.
fn is_newer(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version > than,
        _ => !version.is_empty() && version != than,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Record(&'static str, &'static str);

    impl Mirrored for Record {
        fn uid(&self) -> &str {
            self.0
        }
        fn resource_version(&self) -> &str {
            self.1
        }
    }

    /// A mirror that knows the object `x` in namespace `a`, with UID `u` and this version.
    fn mirror(version: &'static str) -> Mirror<Record> {
        let mut mirror = Mirror::default();
        assert!(mirror.put("a", "x", Record("u", version)));
        mirror
    }

    fn version(mirror: &Mirror<Record>) -> Option<&'static str> {
        mirror.get("a", "x").map(|record| record.1)
    }

    fn list(mirror: &mut Mirror<Record>, scope: &str, versions: &[&'static str]) -> Vec<String> {
        mirror.begin_list(scope);
        for version in versions {
            mirror.put_listed(scope, "a", "x", Record("u", version));
        }
        let gone = mirror.end_list(scope);
        gone.into_iter().map(|(_, name, _)| name).collect()
    }

    #[test]
    fn an_event_that_is_older_than_our_own_write_changes_nothing() {
        let mut mirror = mirror("10");
        for old in ["9", "10", ""] {
            assert!(!mirror.put("a", "x", Record("u", old)), "{old}");
        }
        assert_eq!(mirror.remove("a", "x", "9"), None);
        assert_eq!(version(&mirror), Some("10"));
    }

    #[test]
    fn a_newer_version_replaces_an_older_and_any_replaces_an_unknown_one() {
        for (old, new) in [("9", "10"), ("", "1"), ("opaque", "other")] {
            let mut mirror = mirror(old);
            assert!(mirror.put("a", "x", Record("u", new)), "{old} {new}");
            assert_eq!(version(&mirror), Some(new));
        }
    }

    #[test]
    fn an_answer_that_comes_after_the_deletion_brings_nothing_back() {
        let mut mirror = mirror("10");
        assert_eq!(mirror.remove("a", "x", "12"), Some(Record("u", "10")));
        assert!(!mirror.put("a", "x", Record("u", "11")));
        assert_eq!(version(&mirror), None);
        assert!(mirror.put("a", "x", Record("another", "13")), "it was made anew");
    }

    #[test]
    fn a_restored_backup_brings_a_deleted_object_back() {
        let mut mirror = mirror("10");
        mirror.remove("a", "x", "12");
        list(&mut mirror, "", &["5"]);
        assert_eq!(version(&mirror), Some("5"));
        assert!(mirror.put("a", "x", Record("u", "6")));
    }

    #[test]
    fn a_list_from_a_restored_backup_counts_although_its_versions_are_lower() {
        let mut mirror = mirror("1000");
        assert_eq!(list(&mut mirror, "a", &["10"]), Vec::<String>::new());
        assert_eq!(version(&mirror), Some("10"));
        assert!(mirror.put("a", "x", Record("u", "11")), "and so do later events");
    }

    #[test]
    fn what_a_list_has_that_is_known_is_no_news() {
        let mut mirror = mirror("10");
        mirror.begin_list("a");
        assert!(!mirror.put_listed("a", "a", "x", Record("u", "10")));
        assert!(mirror.put_listed("a", "a", "y", Record("v", "10")));
    }

    #[test]
    fn a_write_answered_while_a_list_is_read_is_newer_than_the_list() {
        let mut mirror = mirror("10");
        mirror.begin_list("a");
        mirror.put("a", "x", Record("u", "12"));
        assert!(!mirror.put_listed("a", "a", "x", Record("u", "11")));
        assert_eq!(version(&mirror), Some("12"));
    }

    #[test]
    fn what_a_list_lacks_is_gone() {
        let mut mirror = mirror("10");
        assert_eq!(list(&mut mirror, "a", &[]), ["x"]);
        assert_eq!(version(&mirror), None);
        assert!(!mirror.put("a", "x", Record("u", "11")), "and was deleted");
    }

    #[test]
    fn what_a_list_lacks_and_was_written_meanwhile_stays() {
        let mut mirror = mirror("10");
        mirror.begin_list("a");
        mirror.put("a", "x", Record("u", "12"));
        assert_eq!(mirror.end_list("a"), []);
        assert_eq!(version(&mirror), Some("12"));
    }

    #[test]
    fn a_list_of_one_namespace_says_nothing_of_another() {
        let mut mirror = mirror("10");
        assert_eq!(list(&mut mirror, "b", &[]), Vec::<String>::new());
        assert!(mirror.covers("b") && !mirror.covers("a"));
        assert_eq!(list(&mut mirror, "", &[]), ["x"]);
        assert!(mirror.covers("a"));
    }

    #[test]
    fn lists_of_two_namespaces_do_not_disturb_each_other() {
        let mut mirror = mirror("10");
        mirror.begin_list("a");
        mirror.begin_list("b");
        mirror.put_listed("a", "a", "x", Record("u", "10"));
        assert_eq!(mirror.end_list("b"), []);
        assert_eq!(mirror.end_list("a"), []);
        assert_eq!(version(&mirror), Some("10"));
    }

    #[test]
    fn a_lost_scope_is_not_covered_until_its_next_list_ends() {
        let mut mirror = mirror("10");
        list(&mut mirror, "a", &["10"]);
        assert!(mirror.lose("a"));
        assert!(!mirror.covers("a") && !mirror.lose("a"));
        list(&mut mirror, "a", &["10"]);
        assert!(mirror.covers("a"));
    }
}
