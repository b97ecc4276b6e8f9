//! The mirror of Secrets: small records of their metadata.

use std::sync::Mutex;

use crate::controller::cluster::mirror::{Mirror, Mirrored};
use crate::controller::cluster::object_json::Unreadable;
use crate::metrics::{Kind, Metrics};
use crate::policy::ownership::SecretRecord;
use crate::sync::lock;

/// The result of a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    Found(SecretRecord),
    Absent,
    /// Secrets of this namespace are not watched, or this one could not be read: ask the API server.
    Unknown,
}

/// The record of one Secret.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    Record(SecretRecord),
    /// It is there, and its metadata could not be read.
    Unreadable {
        uid: Box<str>,
    },
}

impl Mirrored for Known {
    fn uid(&self) -> &str {
        match self {
            Self::Record(record) => &record.uid,
            Self::Unreadable { uid } => uid,
        }
    }

    /// That of a Secret which cannot be read is not known.
    fn resource_version(&self) -> &str {
        match self {
            Self::Record(record) => &record.resource_version,
            Self::Unreadable { .. } => "",
        }
    }
}

/// The records of all watched Secrets.
#[derive(Debug)]
pub(crate) struct Secrets {
    inner: Mutex<Inner>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Inner {
    mirror: Mirror<Known>,
    /// The number of Secrets that cannot be read.
    unreadable: usize,
}

impl Inner {
    fn is_unreadable(&self, namespace: &str, name: &str) -> bool {
        matches!(self.mirror.get(namespace, name), Some(Known::Unreadable { .. }))
    }
}

impl Secrets {
    /// No Secrets. Those that cannot be read are counted in `metrics`.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            inner: Mutex::default(),
            metrics,
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        let mut inner = lock(&self.inner);
        inner.mirror.clear();
        self.count(&mut inner, 0);
    }

    /// Finds a Secret.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Lookup {
        let inner = lock(&self.inner);
        if !inner.mirror.covers(namespace) {
            // A record of our own write may be there, but nothing shows later changes.
            return Lookup::Unknown;
        }
        match inner.mirror.get(namespace, name) {
            Some(Known::Record(record)) => Lookup::Found(record.clone()),
            Some(Known::Unreadable { .. }) => Lookup::Unknown,
            None => Lookup::Absent,
        }
    }

    /// Takes the record of an event or of an answer; see [`Mirror::put`].
    pub(crate) fn put(&self, namespace: &str, name: &str, record: SecretRecord) -> bool {
        self.change(namespace, name, |mirror| {
            mirror.put(namespace, name, Known::Record(record))
        })
    }

    /// Takes a record of the present list of `scope`; see [`Mirror::put_listed`].
    pub(crate) fn put_listed(&self, scope: &str, namespace: &str, name: &str, record: SecretRecord) -> bool {
        self.change(namespace, name, |mirror| {
            mirror.put_listed(scope, namespace, name, Known::Record(record))
        })
    }

    /// Takes a Secret that cannot be read: of the present list of `scope`, or of an event. False where that is known.
    pub(crate) fn put_unreadable(&self, scope: Option<&str>, unreadable: &Unreadable) -> bool {
        let (namespace, name) = (&unreadable.object.namespace, &unreadable.object.name);
        let was_unreadable = lock(&self.inner).is_unreadable(namespace, name);
        let known = Known::Unreadable {
            uid: unreadable.uid.as_str().into(),
        };
        self.change(namespace, name, |mirror| {
            mirror.replace(scope, namespace, name, known);
        });
        !was_unreadable
    }

    /// Takes a deletion at `resource_version`, which may be empty. False where a newer Secret is known, or none.
    pub(crate) fn remove(&self, namespace: &str, name: &str, resource_version: &str) -> bool {
        self.change(namespace, name, |mirror| {
            let removed = if resource_version.is_empty() {
                mirror.forget(namespace, name)
            } else {
                mirror.remove(namespace, name, resource_version)
            };
            removed.is_some()
        })
    }

    /// Forgets the record of a Secret, because the API server says that there is none.
    pub(crate) fn forget(&self, namespace: &str, name: &str) {
        self.change(namespace, name, |mirror| drop(mirror.forget(namespace, name)));
    }

    /// Begins a list of `scope`.
    pub(crate) fn begin_list(&self, scope: &str) {
        lock(&self.inner).mirror.begin_list(scope);
    }

    /// Ends the list of `scope`, and gives namespace and name of each Secret that is gone.
    pub(crate) fn end_list(&self, scope: &str) -> Vec<(String, String)> {
        let mut inner = lock(&self.inner);
        let gone = inner.mirror.end_list(scope);
        let unreadable = gone
            .iter()
            .filter(|(_, _, known)| matches!(known, Known::Unreadable { .. }));
        let left = inner.unreadable - unreadable.count();
        self.count(&mut inner, left);
        gone.into_iter()
            .map(|(namespace, name, _)| (namespace, name))
            .collect()
    }

    /// True for a scope with a complete list whose changes are followed.
    pub(crate) fn is_listed(&self, scope: &str) -> bool {
        lock(&self.inner).mirror.is_listed(scope)
    }

    /// Notes that changes in `scope` are not followed any more, until its next list ends. False where that is known.
    pub(crate) fn lose(&self, scope: &str) -> bool {
        lock(&self.inner).mirror.lose(scope)
    }

    /// Changes what is known of one Secret, and counts it where it cannot be read.
    fn change<T>(&self, namespace: &str, name: &str, change: impl FnOnce(&mut Mirror<Known>) -> T) -> T {
        let mut inner = lock(&self.inner);
        let before = usize::from(inner.is_unreadable(namespace, name));
        let changed = change(&mut inner.mirror);
        let after = usize::from(inner.is_unreadable(namespace, name));
        let unreadable = inner.unreadable - before + after;
        self.count(&mut inner, unreadable);
        changed
    }

    fn count(&self, inner: &mut Inner, unreadable: usize) {
        if inner.unreadable != unreadable {
            inner.unreadable = unreadable;
            self.metrics.undecodable_objects(Kind::Secret, unreadable);
        }
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
        let secrets = Secrets::new(Metrics::new());
        secrets.put("a", "s", record());
        assert_eq!(secrets.get("a", "s"), Lookup::Unknown);
    }

    #[test]
    fn a_watched_secret_is_found_or_absent() {
        let secrets = Secrets::new(Metrics::new());
        secrets.begin_list("a");
        secrets.put_listed("a", "a", "s", record());
        secrets.end_list("a");
        assert_eq!(secrets.get("a", "s"), Lookup::Found(record()));
        assert_eq!(secrets.get("a", "other"), Lookup::Absent);
    }

    #[test]
    fn a_lost_watch_leaves_its_secrets_unknown() {
        let secrets = Secrets::new(Metrics::new());
        secrets.begin_list("a");
        secrets.put_listed("a", "a", "s", record());
        secrets.end_list("a");
        secrets.lose("a");
        assert_eq!(secrets.get("a", "s"), Lookup::Unknown);
    }

    fn unreadable() -> Unreadable {
        Unreadable {
            object: crate::grants::ObjectKey {
                namespace: "a".to_owned(),
                name: "s".to_owned(),
            },
            uid: "u".to_owned(),
            resource_version: "11".to_owned(),
            error: crate::controller::cluster::object_json::ObjectError::Broken,
        }
    }

    fn undecodable(secrets: &Secrets) -> usize {
        let text = secrets.metrics.encode().unwrap();
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix("vendortoken_undecodable_objects "));
        value.unwrap().parse().unwrap()
    }

    // C16
    #[test]
    fn a_secret_that_cannot_be_read_is_unknown_and_not_deleted() {
        let secrets = Secrets::new(Metrics::new());
        for (times, other) in [("first", "none"), ("again", "a record")] {
            secrets.begin_list("a");
            assert_eq!(
                secrets.put_unreadable(Some("a"), &unreadable()),
                times == "first",
                "{other}"
            );
            assert!(secrets.end_list("a").is_empty());
            assert_eq!(
                (secrets.get("a", "s"), undecodable(&secrets)),
                (Lookup::Unknown, 1)
            );
            assert_eq!(secrets.get("a", "other"), Lookup::Absent);
        }
        assert!(secrets.put("a", "s", record()), "it can be read again");
        assert_eq!(
            (secrets.get("a", "s"), undecodable(&secrets)),
            (Lookup::Found(record()), 0)
        );
        assert!(secrets.put_unreadable(None, &unreadable()));
        assert_eq!(
            (secrets.get("a", "s"), undecodable(&secrets)),
            (Lookup::Unknown, 1)
        );
        for put in [
            |secrets: &Secrets| secrets.put("a", "s", record()),
            |secrets: &Secrets| secrets.put_unreadable(None, &unreadable()),
        ] {
            put(&secrets);
            assert!(secrets.remove("a", "s", ""), "a deletion that cannot be read");
            assert_eq!(
                (secrets.get("a", "s"), undecodable(&secrets)),
                (Lookup::Absent, 0)
            );
        }
    }

    #[test]
    fn secrets_that_cannot_be_read_are_counted_until_they_are_gone() {
        let secrets = Secrets::new(Metrics::new());
        for end in [
            |secrets: &Secrets| secrets.clear(),
            |secrets: &Secrets| {
                secrets.begin_list("a");
                secrets.end_list("a");
            },
            |secrets: &Secrets| secrets.forget("a", "s"),
            |secrets: &Secrets| assert!(secrets.remove("a", "s", "12")),
        ] {
            secrets.put_unreadable(None, &unreadable());
            assert_eq!(undecodable(&secrets), 1);
            end(&secrets);
            assert_eq!(undecodable(&secrets), 0);
        }
    }
}
