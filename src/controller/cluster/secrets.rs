//! The mirror of Secrets: small records of their metadata.

use std::sync::Mutex;

use crate::controller::cluster::mirror::{Mirror, Mirrored};
use crate::policy::ownership::SecretRecord;
use crate::sync::lock;

/// The result of a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    Found(SecretRecord),
    Absent,
    /// Secrets of this namespace are not watched: ask the API server.
    Unknown,
}

impl Mirrored for SecretRecord {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn resource_version(&self) -> &str {
        &self.resource_version
    }
}

/// The records of all watched Secrets.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    mirror: Mutex<Mirror<SecretRecord>>,
}

impl Secrets {
    /// Forgets everything.
    pub(crate) fn clear(&self) {
        lock(&self.mirror).clear();
    }

    /// Finds a Secret.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Lookup {
        let mirror = lock(&self.mirror);
        if !mirror.covers(namespace) {
            // A record of our own write may be there, but nothing shows later changes.
            return Lookup::Unknown;
        }
        match mirror.get(namespace, name) {
            Some(record) => Lookup::Found(record.clone()),
            None => Lookup::Absent,
        }
    }

    /// Takes the record of an event or of an answer; see [`Mirror::put`].
    pub(crate) fn put(&self, namespace: &str, name: &str, record: SecretRecord) -> bool {
        lock(&self.mirror).put(namespace, name, record)
    }

    /// Takes a record of the present list of `scope`; see [`Mirror::put_listed`].
    pub(crate) fn put_listed(&self, scope: &str, namespace: &str, name: &str, record: SecretRecord) -> bool {
        lock(&self.mirror).put_listed(scope, namespace, name, record)
    }

    /// Takes a deletion at `resource_version`. False where a newer Secret is known, or none.
    pub(crate) fn remove(&self, namespace: &str, name: &str, resource_version: &str) -> bool {
        let removed = lock(&self.mirror).remove(namespace, name, resource_version);
        removed.is_some()
    }

    /// Forgets the record of a Secret, because the API server says that there is none.
    pub(crate) fn forget(&self, namespace: &str, name: &str) {
        lock(&self.mirror).forget(namespace, name);
    }

    /// Begins a list of `scope`.
    pub(crate) fn begin_list(&self, scope: &str) {
        lock(&self.mirror).begin_list(scope);
    }

    /// Ends the list of `scope`, and gives namespace and name of each Secret that is gone.
    pub(crate) fn end_list(&self, scope: &str) -> Vec<(String, String)> {
        let gone = lock(&self.mirror).end_list(scope);
        gone.into_iter()
            .map(|(namespace, name, _)| (namespace, name))
            .collect()
    }

    /// True for a scope with a complete list whose changes are followed.
    pub(crate) fn is_listed(&self, scope: &str) -> bool {
        lock(&self.mirror).is_listed(scope)
    }

    /// Notes that changes in `scope` are not followed any more, until its next list ends. False where that is known.
    pub(crate) fn lose(&self, scope: &str) -> bool {
        lock(&self.mirror).lose(scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> SecretRecord {
        SecretRecord {
            uid: "u".into(),
            resource_version: "10".into(),
            controller: None,
            adoptable_by: None,
            ours: None,
            facts: None,
        }
    }

    #[test]
    fn a_secret_that_is_not_watched_is_unknown_also_after_a_write_of_ours() {
        let secrets = Secrets::default();
        secrets.put("a", "s", record());
        assert_eq!(secrets.get("a", "s"), Lookup::Unknown);
    }

    #[test]
    fn a_watched_secret_is_found_or_absent() {
        let secrets = Secrets::default();
        secrets.begin_list("a");
        secrets.put_listed("a", "a", "s", record());
        secrets.end_list("a");
        assert_eq!(secrets.get("a", "s"), Lookup::Found(record()));
        assert_eq!(secrets.get("a", "other"), Lookup::Absent);
    }

    #[test]
    fn a_lost_watch_leaves_its_secrets_unknown() {
        let secrets = Secrets::default();
        secrets.begin_list("a");
        secrets.put_listed("a", "a", "s", record());
        secrets.end_list("a");
        secrets.lose("a");
        assert_eq!(secrets.get("a", "s"), Lookup::Unknown);
    }
}
