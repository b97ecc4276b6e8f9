//! The index of the Secrets that VendorTokens name.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt as _;

use crate::api::VendorToken;
use crate::grants::ObjectKey;

/// The name of the target Secret: `spec.target.name`, by default the VendorToken's own.
pub(crate) fn target_name(token: &VendorToken) -> String {
    token.spec.target.name.clone().unwrap_or_else(|| token.name_any())
}

/// The name of the Secret with the client certificate, where the spec names one.
pub(crate) fn certificate_secret(token: &VendorToken) -> Option<&String> {
    let spec = token.spec.six_clicks.as_ref()?;
    Some(&spec.client_certificate_secret_ref.as_ref()?.name)
}

/// The Secrets that one VendorToken names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct References {
    /// The name of the VendorToken.
    name: Box<str>,
    /// The creation time of the VendorToken.
    created: Option<Timestamp>,
    pub(crate) target: Box<str>,
    /// The Secrets that the VendorToken reads: its credentials, and its client certificate.
    pub(crate) sources: Box<[Box<str>]>,
}

impl References {
    /// The Secrets that `token` names.
    pub(crate) fn of(token: &VendorToken) -> Self {
        let credentials = &token.spec.credentials_secret_ref.name;
        let sources = std::iter::once(credentials).chain(certificate_secret(token));
        Self {
            name: token.name_any().into(),
            created: token.creation_timestamp().map(|time| time.0),
            target: target_name(token).into(),
            sources: sources.map(|name| name.as_str().into()).collect(),
        }
    }
}

/// The rank by which one of several VendorTokens gets a target that does not exist yet.
fn rank(references: &References) -> (Timestamp, &str) {
    (references.created.unwrap_or(Timestamp::MAX), &references.name)
}

/// VendorTokens by namespace and name of a Secret, each in order.
#[derive(Debug, Default)]
struct BySecret(HashMap<Box<str>, OfNamespace>);

/// The VendorTokens of one namespace by name of a Secret.
type OfNamespace = HashMap<Box<str>, Vec<Arc<References>>>;

impl BySecret {
    fn get(&self, namespace: &str, secret: &str) -> &[Arc<References>] {
        let found = self.0.get(namespace).and_then(|secrets| secrets.get(secret));
        found.map_or(&[], Vec::as_slice)
    }

    /// Adds a VendorToken in the place that `place` gives among the others.
    fn add(
        &mut self,
        namespace: &str,
        secret: &str,
        references: &Arc<References>,
        place: impl Fn(&[Arc<References>]) -> Result<usize, usize>,
    ) {
        if !self.0.contains_key(namespace) {
            self.0.insert(namespace.into(), HashMap::new());
        }
        let Some(secrets) = self.0.get_mut(namespace) else {
            return;
        };
        match secrets.get_mut(secret) {
            Some(others) => match place(others) {
                Ok(same) => others[same] = Arc::clone(references),
                Err(place) => others.insert(place, Arc::clone(references)),
            },
            // Most Secrets are named once, so the list has no room for more.
            None => drop(secrets.insert(secret.into(), vec![Arc::clone(references)])),
        }
    }

    fn remove(
        &mut self,
        namespace: &str,
        secret: &str,
        place: impl Fn(&[Arc<References>]) -> Result<usize, usize>,
    ) {
        let Some(secrets) = self.0.get_mut(namespace) else {
            return;
        };
        if let Some(all) = secrets.get_mut(secret) {
            if let Ok(place) = place(all) {
                all.remove(place);
            }
            if all.is_empty() {
                secrets.remove(secret);
            }
        }
        if secrets.is_empty() {
            self.0.remove(namespace);
        }
    }
}

fn by_rank(of: &References) -> impl Fn(&[Arc<References>]) -> Result<usize, usize> {
    move |all| all.binary_search_by(|other| rank(other).cmp(&rank(of)))
}

fn by_name(of: &References) -> impl Fn(&[Arc<References>]) -> Result<usize, usize> {
    move |all| all.binary_search_by(|other| other.name.cmp(&of.name))
}

/// The VendorTokens that name a Secret. Each question about one VendorToken costs the same however many name that Secret.
#[derive(Debug, Default)]
pub(crate) struct ReferenceIndex {
    /// The VendorTokens with that Secret as their target, by rank.
    writers: BySecret,
    /// The VendorTokens that read that Secret, by name.
    readers: BySecret,
}

impl ReferenceIndex {
    /// Adds the references of a VendorToken.
    pub(crate) fn add(&mut self, object: &ObjectKey, references: &Arc<References>) {
        let namespace = &object.namespace;
        let by_rank = by_rank(references);
        self.writers
            .add(namespace, &references.target, references, by_rank);
        for source in &references.sources {
            let by_name = by_name(references);
            self.readers.add(namespace, source, references, by_name);
        }
    }

    /// Removes the references of a VendorToken, as they were added.
    pub(crate) fn remove(&mut self, object: &ObjectKey, references: &References) {
        let namespace = &object.namespace;
        self.writers
            .remove(namespace, &references.target, by_rank(references));
        for source in &references.sources {
            self.readers.remove(namespace, source, by_name(references));
        }
    }

    /// The VendorTokens that name this Secret, by name.
    pub(crate) fn referrers(&self, namespace: &str, secret: &str) -> Vec<ObjectKey> {
        let writers = self.writers.get(namespace, secret);
        let all = writers.iter().chain(self.readers.get(namespace, secret));
        let mut names: Vec<&str> = all.map(|references| &*references.name).collect();
        names.sort_unstable();
        names.dedup();
        let key = |name: &str| ObjectKey {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        names.into_iter().map(key).collect()
    }

    /// The first VendorToken other than `me` that reads this Secret.
    pub(crate) fn reader_of(&self, me: &ObjectKey, secret: &str) -> Option<String> {
        let readers = self.readers.get(&me.namespace, secret);
        let first = readers.iter().find(|references| *references.name != *me.name)?;
        Some(first.name.to_string())
    }

    /// The VendorTokens other than `me` with this Secret as their target, the first in rank first, with their creation
    /// times.
    pub(crate) fn rivals<'a>(
        &'a self,
        me: &'a ObjectKey,
        secret: &str,
    ) -> impl Iterator<Item = (String, Option<Timestamp>)> + use<'a> {
        self.writers
            .get(&me.namespace, secret)
            .iter()
            .filter(|references| *references.name != *me.name)
            .map(|references| (references.name.to_string(), references.created))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey {
            namespace: "a".to_owned(),
            name: name.to_owned(),
        }
    }

    fn references(name: &str, target: &str, source: &str) -> Arc<References> {
        Arc::new(References {
            name: name.into(),
            target: target.into(),
            sources: [source.into()].into(),
            created: None,
        })
    }

    fn rivals(index: &ReferenceIndex, me: &str, secret: &str) -> Vec<String> {
        let me = key(me);
        let rivals = index.rivals(&me, secret).map(|(name, _)| name);
        rivals.collect()
    }

    #[test]
    fn a_secret_has_rivals_for_it_and_readers_and_both_are_referrers() {
        let mut index = ReferenceIndex::default();
        index.add(&key("writer"), &references("writer", "s", "c"));
        index.add(&key("reader"), &references("reader", "t", "s"));
        let me = key("me");
        assert_eq!(rivals(&index, "me", "s"), ["writer"]);
        assert_eq!(index.reader_of(&me, "s").as_deref(), Some("reader"));
        assert_eq!(index.referrers("a", "s"), [key("reader"), key("writer")]);
        assert_eq!(index.referrers("b", "s"), []);
    }

    #[test]
    fn nobody_is_its_own_rival_or_reader() {
        let mut index = ReferenceIndex::default();
        index.add(&key("me"), &references("me", "s", "s"));
        assert_eq!(rivals(&index, "me", "s"), Vec::<String>::new());
        assert_eq!(index.reader_of(&key("me"), "s"), None);
    }

    #[test]
    fn removed_references_leave_nothing_behind() {
        let mut index = ReferenceIndex::default();
        index.add(&key("x"), &references("x", "t", "c"));
        index.remove(&key("x"), &references("x", "t", "c"));
        assert!(index.writers.0.is_empty() && index.readers.0.is_empty());
    }

    #[test]
    fn rivals_come_by_age_and_then_by_name() {
        let mut index = ReferenceIndex::default();
        for (name, created) in [("d", None), ("c", Some(2)), ("b", Some(1)), ("a", Some(2))] {
            let created = created.map(|second| Timestamp::from_second(second).unwrap());
            let references = References {
                created,
                ..(*references(name, "s", "x")).clone()
            };
            index.add(&key(name), &Arc::new(references));
        }
        assert_eq!(rivals(&index, "me", "s"), ["b", "a", "c", "d"]);
        assert_eq!(rivals(&index, "b", "s"), ["a", "c", "d"]);
        assert_eq!(
            index.referrers("a", "s"),
            [key("a"), key("b"), key("c"), key("d")]
        );
    }
}
