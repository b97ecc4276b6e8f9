//! The VendorTokens that are known, and which Secrets they name.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher::Event;

use crate::api::{VendorToken, names};
use crate::controller::cluster::deleted::Deleted;
use crate::controller::cluster::secrets::is_newer;
use crate::grants::ObjectKey;

/// The longest refresh request that is echoed in a status, in bytes.
pub(in crate::controller) const LONGEST_REQUEST: usize = 256;

/// The namespace and name of an object.
pub(in crate::controller) fn key_of(token: &VendorToken) -> ObjectKey {
    ObjectKey {
        namespace: token.namespace().unwrap_or_default(),
        name: token.name_any(),
    }
}

/// A reference for kube's stores and queues.
pub(in crate::controller) fn object_ref(key: &ObjectKey) -> ObjectRef<VendorToken> {
    ObjectRef::new(&key.name).within(&key.namespace)
}

/// The name of the target Secret: `spec.target.name`, by default the VendorToken's own.
pub(in crate::controller) fn target_name(token: &VendorToken) -> String {
    token.spec.target.name.clone().unwrap_or_else(|| token.name_any())
}

/// The Secrets that a VendorToken reads: its credentials, and its client certificate.
pub(in crate::controller) fn sources(token: &VendorToken) -> Vec<String> {
    let credentials = &token.spec.credentials_secret_ref.name;
    let certificate = token
        .spec
        .six_clicks
        .as_ref()
        .and_then(|spec| spec.client_certificate_secret_ref.as_ref())
        .map(|reference| &reference.name);
    std::iter::once(credentials).chain(certificate).cloned().collect()
}

/// Leaves out of an object what nothing here reads: annotations may have 256 kB, and anybody may write them.
pub(in crate::controller) fn slim(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.labels = None;
    metadata.owner_references = None;
    metadata.finalizers = None;
    let request = metadata
        .annotations
        .take()
        .and_then(|mut all| all.remove(names::REFRESH_REQUESTED_AT))
        .filter(|request| request.len() <= LONGEST_REQUEST);
    metadata.annotations = request.map(|request| [(names::REFRESH_REQUESTED_AT.to_owned(), request)].into());
}

/// All known VendorTokens.
pub(in crate::controller) struct Tokens {
    reader: Store<VendorToken>,
    inner: Mutex<Inner>,
}

struct Inner {
    writer: Writer<VendorToken>,
    /// By namespace and Secret: the VendorTokens that name it.
    referrers: HashMap<(String, String), BTreeMap<String, Reference>>,
    /// By VendorToken: the Secrets that it names.
    secrets: HashMap<ObjectKey, Vec<String>>,
    /// VendorTokens that cannot be read any more, as they last could: what they name stays theirs.
    unreadable: HashMap<ObjectKey, Arc<VendorToken>>,
    listing: HashMap<String, Listing>,
    listed: HashSet<String>,
    deleted: Deleted,
}

/// A list that is being read.
#[derive(Default)]
struct Listing {
    /// What was in it so far.
    listed: HashSet<ObjectKey>,
    /// What was told from elsewhere meanwhile (by an answer to a write, say), and may be newer than the list.
    told: HashSet<ObjectKey>,
}

#[derive(Clone, Copy, Debug)]
struct Reference {
    created: Option<Timestamp>,
    is_target: bool,
    /// It holds credentials or a certificate.
    is_source: bool,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Tokens")
            .field("known", &self.reader.len())
            .finish()
    }
}

impl Default for Tokens {
    fn default() -> Self {
        let mut writer = Writer::default();
        // Lists of several namespaces are merged here, so the store only ever sees single changes.
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        Self {
            reader: writer.as_reader(),
            inner: Mutex::new(Inner {
                writer,
                referrers: HashMap::new(),
                secrets: HashMap::new(),
                unreadable: HashMap::new(),
                listing: HashMap::new(),
                listed: HashSet::new(),
                deleted: Deleted::default(),
            }),
        }
    }
}

impl Tokens {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All known objects.
    pub(in crate::controller) fn all(&self) -> Vec<Arc<VendorToken>> {
        self.reader.state()
    }

    /// Forgets everything.
    pub(in crate::controller) fn clear(&self) {
        let mut inner = self.lock();
        inner.writer.apply_watcher_event(&Event::Init);
        inner.writer.apply_watcher_event(&Event::InitDone);
        inner.referrers.clear();
        inner.secrets.clear();
        inner.unreadable.clear();
        inner.listing.clear();
        inner.listed.clear();
    }

    /// The store, for kube's applier.
    pub(in crate::controller) fn store(&self) -> Store<VendorToken> {
        self.reader.clone()
    }

    /// Finds an object.
    pub(in crate::controller) fn get(&self, key: &ObjectKey) -> Option<Arc<VendorToken>> {
        self.reader.get(&object_ref(key))
    }

    /// Takes a newer version of an object; false when it was known already, or older than the known one.
    pub(in crate::controller) fn put(&self, mut token: VendorToken) -> bool {
        slim(&mut token.metadata);
        let key = key_of(&token);
        let mut inner = self.lock();
        for listing in inner.listing.values_mut() {
            listing.told.insert(key.clone());
        }
        if token
            .metadata
            .uid
            .as_deref()
            .is_some_and(|uid| inner.deleted.has(uid))
        {
            return false;
        }
        let known = self
            .reader
            .get(&object_ref(&key))
            .and_then(|known| known.resource_version());
        if let (Some(version), Some(known)) = (token.resource_version(), known)
            && !is_newer(&version, &known)
        {
            return false;
        }
        inner.take(&key, token);
        true
    }

    /// Takes an object of the list of `scope` that has begun; false when it was known already. It replaces what was known
    /// before the list began, whatever the versions say: they start again at lower ones when a backup is restored.
    pub(in crate::controller) fn put_listed(&self, scope: &str, mut token: VendorToken) -> bool {
        slim(&mut token.metadata);
        let key = key_of(&token);
        let mut inner = self.lock();
        let listing = inner.listing.entry(scope.to_owned()).or_default();
        if listing.told.contains(&key) {
            drop(inner);
            return self.put(token);
        }
        listing.listed.insert(key.clone());
        let known = self.reader.get(&object_ref(&key));
        if known.is_some_and(|known| {
            known.uid() == token.uid() && known.resource_version() == token.resource_version()
        }) {
            return false;
        }
        if let Some(uid) = &token.metadata.uid {
            inner.deleted.is_back(uid);
        }
        inner.take(&key, token);
        true
    }

    /// An object that was read before cannot be read any more: it is not worked on, and what it names stays its own.
    /// `scope` is that of the list that it came from, if it came from one. False where nothing was known of it.
    pub(in crate::controller) fn became_unreadable(&self, key: &ObjectKey, scope: Option<&str>) -> bool {
        let mut inner = self.lock();
        match scope {
            Some(scope) => {
                let listing = inner.listing.entry(scope.to_owned()).or_default();
                listing.listed.insert(key.clone());
            }
            None => {
                for listing in inner.listing.values_mut() {
                    listing.told.insert(key.clone());
                }
            }
        }
        let Some(known) = self.reader.get(&object_ref(key)) else {
            return false;
        };
        inner.writer.apply_watcher_event(&Event::Delete((*known).clone()));
        inner.unreadable.insert(key.clone(), known);
        true
    }

    /// An object that cannot be read was deleted: what was last known of it, if anything was.
    pub(in crate::controller) fn remove_unreadable(&self, key: &ObjectKey) -> Option<Arc<VendorToken>> {
        let mut inner = self.lock();
        let known = inner.unreadable.remove(key).or_else(|| {
            let known = self.reader.get(&object_ref(key))?;
            inner.writer.apply_watcher_event(&Event::Delete((*known).clone()));
            Some(known)
        })?;
        inner.forget_references(key);
        Some(known)
    }

    /// An object was deleted; false when a newer one is known by now, or none.
    pub(in crate::controller) fn remove(&self, token: &VendorToken) -> bool {
        let key = key_of(token);
        let Some(known) = self.reader.get(&object_ref(&key)) else {
            return self.remove_unreadable(&key).is_some();
        };
        if let (Some(version), Some(known)) = (token.resource_version(), known.resource_version())
            && is_newer(&known, &version)
        {
            return false;
        }
        self.lock().end(&key, &known);
        true
    }

    /// A list of `scope` (a namespace, or empty for all) begins.
    pub(in crate::controller) fn list_begins(&self, scope: &str) {
        self.lock().listing.insert(scope.to_owned(), Listing::default());
    }

    /// A list of `scope` is complete: what was not in it is gone. Gives those objects.
    pub(in crate::controller) fn list_ends(&self, scope: &str) -> Vec<Arc<VendorToken>> {
        let mut inner = self.lock();
        let Some(listing) = inner.listing.remove(scope) else {
            return Vec::new();
        };
        inner.listed.insert(scope.to_owned());
        let gone: Vec<_> = self
            .reader
            .state()
            .into_iter()
            .chain(inner.unreadable.values().cloned())
            .filter(|token| scope.is_empty() || token.namespace().as_deref() == Some(scope))
            .filter(|token| {
                let key = key_of(token);
                !listing.listed.contains(&key) && !listing.told.contains(&key)
            })
            .collect();
        for token in &gone {
            inner.unreadable.remove(&key_of(token));
            inner.end(&key_of(token), token);
        }
        gone
    }

    /// Whether the list of `scope` was read whole at least once.
    pub(in crate::controller) fn is_listed(&self, scope: &str) -> bool {
        self.lock().listed.contains(scope)
    }

    /// The VendorTokens that name this Secret, in whatever role.
    pub(in crate::controller) fn referrers(&self, namespace: &str, secret: &str) -> Vec<ObjectKey> {
        let inner = self.lock();
        let names = inner.referrers.get(&(namespace.to_owned(), secret.to_owned()));
        names
            .into_iter()
            .flat_map(BTreeMap::keys)
            .map(|name| ObjectKey {
                namespace: namespace.to_owned(),
                name: name.clone(),
            })
            .collect()
    }

    /// The first of the VendorTokens other than `me` that read this Secret.
    pub(in crate::controller) fn reader_of(&self, me: &ObjectKey, secret: &str) -> Option<String> {
        let inner = self.lock();
        let names = inner.referrers.get(&(me.namespace.clone(), secret.to_owned()))?;
        names
            .iter()
            .find(|(name, reference)| reference.is_source && **name != me.name)
            .map(|(name, _)| name.clone())
    }

    /// The VendorTokens other than `me` that name this Secret as their target, with the times they were created.
    pub(in crate::controller) fn rivals(
        &self,
        me: &ObjectKey,
        secret: &str,
    ) -> Vec<(String, Option<Timestamp>)> {
        let inner = self.lock();
        let names = inner.referrers.get(&(me.namespace.clone(), secret.to_owned()));
        names
            .into_iter()
            .flatten()
            .filter(|(name, reference)| reference.is_target && **name != me.name)
            .map(|(name, reference)| (name.clone(), reference.created))
            .collect()
    }
}

impl Inner {
    fn take(&mut self, key: &ObjectKey, token: VendorToken) {
        self.unreadable.remove(key);
        self.forget_references(key);
        self.note_references(key, &token);
        self.writer.apply_watcher_event(&Event::Apply(token));
    }

    fn end(&mut self, key: &ObjectKey, token: &VendorToken) {
        if let Some(uid) = &token.metadata.uid {
            self.deleted.note(uid);
        }
        self.forget_references(key);
        self.writer.apply_watcher_event(&Event::Delete(token.clone()));
    }

    fn note_references(&mut self, key: &ObjectKey, token: &VendorToken) {
        let created = token.creation_timestamp().map(|time| time.0);
        let mut named = vec![(target_name(token), true)];
        named.extend(sources(token).into_iter().map(|secret| (secret, false)));
        for (secret, is_target) in &named {
            let referrers = self
                .referrers
                .entry((key.namespace.clone(), secret.clone()))
                .or_default();
            let reference = referrers.entry(key.name.clone()).or_insert(Reference {
                created,
                is_target: false,
                is_source: false,
            });
            reference.is_target |= is_target;
            reference.is_source |= !is_target;
        }
        self.secrets
            .insert(key.clone(), named.into_iter().map(|(secret, _)| secret).collect());
    }

    fn forget_references(&mut self, key: &ObjectKey) {
        for secret in self.secrets.remove(key).unwrap_or_default() {
            let place = (key.namespace.clone(), secret);
            if let Some(referrers) = self.referrers.get_mut(&place) {
                referrers.remove(&key.name);
                if referrers.is_empty() {
                    self.referrers.remove(&place);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(name: &str, version: &str) -> VendorToken {
        serde_json::from_value(json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": name, "namespace": "a", "uid": name, "resourceVersion": version },
            "spec": { "vendor": "Mapiq", "credentialsSecretRef": { "name": "c" }, "target": { "name": "t" } },
        }))
        .unwrap()
    }

    fn version(tokens: &Tokens, name: &str) -> Option<String> {
        tokens.get(&key_of(&token(name, "0")))?.resource_version()
    }

    #[test]
    fn a_list_from_a_restored_backup_counts_although_its_versions_are_lower() {
        let tokens = Tokens::default();
        tokens.put(token("x", "1000"));
        tokens.list_begins("a");
        assert!(tokens.put_listed("a", token("x", "10")));
        assert!(tokens.list_ends("a").is_empty());
        assert_eq!(version(&tokens, "x").as_deref(), Some("10"));
        assert!(tokens.put(token("x", "11")), "and so do the events after it");
    }

    #[test]
    fn an_answer_that_comes_after_the_deletion_brings_nothing_back() {
        let tokens = Tokens::default();
        assert!(tokens.put(token("a", "10")));
        assert!(tokens.remove(&token("a", "12")));
        assert!(!tokens.put(token("a", "11")));
        assert_eq!(version(&tokens, "a"), None);
        tokens.list_begins("");
        assert!(tokens.put_listed("", token("a", "5")), "a restored backup has it");
        tokens.list_ends("");
        assert!(tokens.put(token("a", "6")));
    }

    #[test]
    fn a_write_that_was_answered_while_a_list_was_read_is_newer_than_the_list() {
        let tokens = Tokens::default();
        tokens.list_begins("a");
        tokens.put(token("x", "12"));
        assert!(!tokens.put_listed("a", token("x", "11")));
        assert!(tokens.list_ends("a").is_empty());
        assert_eq!(version(&tokens, "x").as_deref(), Some("12"));
    }

    #[test]
    fn one_that_cannot_be_read_keeps_what_it_names_until_it_is_gone() {
        let (tokens, rival) = (Tokens::default(), key_of(&token("rival", "1")));
        let claims =
            |tokens: &Tokens| tokens.rivals(&rival, "t").len() + tokens.reader_of(&rival, "c").iter().len();
        let key = key_of(&token("x", "1"));
        tokens.put(token("x", "1"));
        assert!(tokens.became_unreadable(&key, None));
        assert!(!tokens.became_unreadable(&key, None), "that was known");
        assert_eq!((version(&tokens, "x"), claims(&tokens)), (None, 2));

        tokens.list_begins("a");
        tokens.became_unreadable(&key, Some("a"));
        assert!(tokens.list_ends("a").is_empty());
        assert_eq!(claims(&tokens), 2);

        tokens.list_begins("a");
        assert_eq!(tokens.list_ends("a").len(), 1, "it is in no list any more");
        assert_eq!(claims(&tokens), 0);
    }

    #[test]
    fn one_that_can_be_read_again_is_worked_on_again() {
        let tokens = Tokens::default();
        tokens.put(token("x", "1"));
        tokens.became_unreadable(&key_of(&token("x", "1")), None);
        assert!(tokens.put(token("x", "2")));
        assert_eq!(version(&tokens, "x").as_deref(), Some("2"));
        assert!(tokens.remove(&token("x", "3")));
        assert_eq!(tokens.remove_unreadable(&key_of(&token("x", "1"))), None);
    }
}
