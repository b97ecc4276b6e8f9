//! The index of the Secrets that VendorTokens name.

use std::collections::{BTreeMap, HashMap};
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

/// The Secrets that a VendorToken reads: its credentials, and its client certificate.
fn sources(token: &VendorToken) -> Vec<String> {
    let credentials = &token.spec.credentials_secret_ref.name;
    let certificate = certificate_secret(token);
    std::iter::once(credentials).chain(certificate).cloned().collect()
}

/// The Secrets that one VendorToken names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct References {
    pub(crate) target: String,
    /// The Secrets that it reads.
    pub(crate) sources: Vec<String>,
    /// The creation time of the VendorToken.
    created: Option<Timestamp>,
}

impl References {
    /// The Secrets that `token` names.
    pub(crate) fn of(token: &VendorToken) -> Self {
        Self {
            target: target_name(token),
            sources: sources(token),
            created: token.creation_timestamp().map(|time| time.0),
        }
    }

    fn secrets(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.target).chain(&self.sources)
    }
}

/// The VendorTokens that name a Secret, in all roles.
#[derive(Debug, Default)]
pub(crate) struct ReferenceIndex {
    /// By namespace and name of the Secret, then by name of the VendorToken.
    referrers: HashMap<(String, String), BTreeMap<String, Arc<References>>>,
}

impl ReferenceIndex {
    /// Adds the references of a VendorToken.
    pub(crate) fn add(&mut self, object: &ObjectKey, references: &Arc<References>) {
        for secret in references.secrets() {
            self.referrers
                .entry((object.namespace.clone(), secret.clone()))
                .or_default()
                .insert(object.name.clone(), Arc::clone(references));
        }
    }

    /// Removes the references of a VendorToken, as they were added.
    pub(crate) fn remove(&mut self, object: &ObjectKey, references: &References) {
        for secret in references.secrets() {
            let secret = (object.namespace.clone(), secret.clone());
            if let Some(referrers) = self.referrers.get_mut(&secret) {
                referrers.remove(&object.name);
                if referrers.is_empty() {
                    self.referrers.remove(&secret);
                }
            }
        }
    }

    fn of<'a>(
        &'a self,
        namespace: &str,
        secret: &str,
    ) -> impl Iterator<Item = (&'a String, &'a Arc<References>)> + use<'a> {
        let referrers = self.referrers.get(&(namespace.to_owned(), secret.to_owned()));
        referrers.into_iter().flatten()
    }

    /// The VendorTokens that name this Secret.
    pub(crate) fn referrers(&self, namespace: &str, secret: &str) -> Vec<ObjectKey> {
        self.of(namespace, secret)
            .map(|(name, _)| ObjectKey {
                namespace: namespace.to_owned(),
                name: name.clone(),
            })
            .collect()
    }

    /// The first VendorToken other than `me` that reads this Secret.
    pub(crate) fn reader_of(&self, me: &ObjectKey, secret: &str) -> Option<String> {
        self.of(&me.namespace, secret)
            .find(|(name, references)| {
                **name != me.name && references.sources.iter().any(|one| one == secret)
            })
            .map(|(name, _)| name.clone())
    }

    /// The VendorTokens other than `me` with this Secret as their target, and their creation times.
    pub(crate) fn rivals(&self, me: &ObjectKey, secret: &str) -> Vec<(String, Option<Timestamp>)> {
        self.of(&me.namespace, secret)
            .filter(|(name, references)| **name != me.name && references.target == secret)
            .map(|(name, references)| (name.clone(), references.created))
            .collect()
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

    fn references(target: &str, source: &str) -> Arc<References> {
        Arc::new(References {
            target: target.to_owned(),
            sources: vec![source.to_owned()],
            created: None,
        })
    }

    #[test]
    fn a_secret_has_rivals_for_it_and_readers_and_both_are_referrers() {
        let mut index = ReferenceIndex::default();
        index.add(&key("writer"), &references("s", "c"));
        index.add(&key("reader"), &references("t", "s"));
        let me = key("me");
        assert_eq!(index.rivals(&me, "s"), [("writer".to_owned(), None)]);
        assert_eq!(index.reader_of(&me, "s").as_deref(), Some("reader"));
        assert_eq!(index.referrers("a", "s"), [key("reader"), key("writer")]);
        assert_eq!(index.referrers("b", "s"), []);
    }

    #[test]
    fn nobody_is_its_own_rival_or_reader() {
        let mut index = ReferenceIndex::default();
        index.add(&key("me"), &references("s", "s"));
        assert_eq!(index.rivals(&key("me"), "s"), []);
        assert_eq!(index.reader_of(&key("me"), "s"), None);
    }

    #[test]
    fn removed_references_leave_nothing_behind() {
        let mut index = ReferenceIndex::default();
        index.add(&key("x"), &references("t", "c"));
        index.remove(&key("x"), &references("t", "c"));
        assert!(index.referrers.is_empty());
    }
}
