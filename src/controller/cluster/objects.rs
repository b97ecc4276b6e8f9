//! The mirror of VendorTokens, with the index of the Secrets that they name. Each is kept as a short text, which has a
//! tenth of the size of kube's types, and is parsed when it is looked at.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::api::{VendorToken, names};
use crate::controller::cluster::mirror::{Mirror, Mirrored};
use crate::controller::cluster::packed::{pack, unpack};
use crate::controller::cluster::references::{ReferenceIndex, References};
use crate::grants::ObjectKey;
use crate::metrics::{Kind, Metrics};
use crate::sync::lock;

/// The longest refresh request that is echoed in a status, in bytes.
pub(crate) const LONGEST_REQUEST: usize = 256;

/// A VendorToken with more bytes of JSON is kept without its templates, which may have 256 KiB.
const LARGE: usize = 8 * 1024;

/// True for an object that is kept without the templates of its target: they are read when they are needed. The schema
/// asks for one at least.
pub(crate) fn lacks_templates(token: &VendorToken) -> bool {
    token.spec.target.data.is_empty()
}

fn json_of(token: &VendorToken) -> Option<Vec<u8>> {
    let json = serde_json::to_vec(token).ok()?;
    if json.len() <= LARGE {
        return Some(json);
    }
    let mut token = token.clone();
    let target = &mut token.spec.target;
    target.data.clear();
    target.labels.clear();
    target.annotations.clear();
    serde_json::to_vec(&token).ok()
}

/// The namespace and name of an object.
pub(crate) fn key_of(token: &VendorToken) -> ObjectKey {
    ObjectKey {
        namespace: token.namespace().unwrap_or_default(),
        name: token.name_any(),
    }
}

/// Removes from an object what nothing here reads: annotations may have 256 kB, and anybody may write them.
pub(crate) fn slim(metadata: &mut ObjectMeta) {
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

/// The record of one VendorToken.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    uid: Box<str>,
    resource_version: Box<str>,
    /// The object in JSON, packed. `None` for an object that does not fit the schema: it is not reconciled, and keeps
    /// its claim to the Secrets that it named.
    json: Option<Box<[u8]>>,
    /// The Secrets that it names, or named when it could last be read.
    references: Option<Arc<References>>,
}

impl Known {
    /// `None` for an object that has no form in JSON, which no answer of an API server can be.
    fn readable(token: &VendorToken) -> Option<Self> {
        Some(Self {
            uid: token.uid().unwrap_or_default().into(),
            resource_version: token.resource_version().unwrap_or_default().into(),
            json: Some(pack(&json_of(token)?)),
            references: Some(Arc::new(References::of(token))),
        })
    }

    fn unreadable(former: Option<&Self>) -> Self {
        let (uid, resource_version, references) = former.map_or_else(Default::default, |known| {
            (
                known.uid.clone(),
                known.resource_version.clone(),
                known.references.clone(),
            )
        });
        Self {
            uid,
            resource_version,
            json: None,
            references,
        }
    }

    fn is_readable(&self) -> bool {
        self.json.is_some()
    }

    fn parsed(&self) -> Option<Arc<VendorToken>> {
        let json = self.json.as_deref()?;
        serde_json::from_slice(&unpack(json)).ok().map(Arc::new)
    }
}

impl Mirrored for Known {
    fn uid(&self) -> &str {
        &self.uid
    }

    /// That of an object which cannot be read is not known.
    fn resource_version(&self) -> &str {
        if self.is_readable() {
            &self.resource_version
        } else {
            ""
        }
    }
}

/// A change of a VendorToken that was news.
#[derive(Debug)]
pub(crate) struct Change {
    /// The references of the version before; `None` where there was none, or one that could not be read.
    pub(crate) former: Option<Arc<References>>,
    pub(crate) present: Arc<References>,
}

/// All known VendorTokens. Scopes are those of [`Mirror`].
pub(crate) struct Objects {
    inner: Mutex<Inner>,
    metrics: Metrics,
}

struct Inner {
    mirror: Mirror<Known>,
    references: ReferenceIndex,
    /// The number of objects that cannot be read.
    unreadable: usize,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Objects").finish_non_exhaustive()
    }
}

impl Objects {
    /// No objects. Those that cannot be read are counted in `metrics`.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            inner: Mutex::new(Inner {
                mirror: Mirror::default(),
                references: ReferenceIndex::default(),
                unreadable: 0,
            }),
            metrics,
        }
    }

    /// All objects that can be read, parsed one by one.
    pub(crate) fn all(&self) -> impl Iterator<Item = Arc<VendorToken>> {
        self.keys().into_iter().filter_map(|object| self.get(&object))
    }

    /// The names of all objects that can be read.
    pub(crate) fn keys(&self) -> Vec<ObjectKey> {
        let inner = lock(&self.inner);
        let readable = inner.mirror.all().filter(|(_, _, known)| known.is_readable());
        let key = |(namespace, name, _): (&str, &str, _)| ObjectKey {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        readable.map(key).collect()
    }

    /// Finds an object; `None` for one that cannot be read. A large one [lacks its templates](lacks_templates).
    pub(crate) fn get(&self, object: &ObjectKey) -> Option<Arc<VendorToken>> {
        let inner = lock(&self.inner);
        inner.mirror.get(&object.namespace, &object.name)?.parsed()
    }

    /// True for an object that is known and can be read.
    pub(crate) fn has(&self, object: &ObjectKey) -> bool {
        let inner = lock(&self.inner);
        let known = inner.mirror.get(&object.namespace, &object.name);
        known.is_some_and(Known::is_readable)
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        let mut inner = lock(&self.inner);
        inner.mirror.clear();
        inner.references = ReferenceIndex::default();
        inner.unreadable = 0;
        self.metrics.undecodable_objects(Kind::VendorToken, 0);
    }

    /// Takes an object of an event or of an answer. `None` where it is not newer than the known one, or was deleted.
    pub(crate) fn put(&self, token: VendorToken) -> Option<Change> {
        self.take(None, token)
    }

    /// Takes an object of the present list of `scope`. `None` where it is known; see [`Mirror::put_listed`].
    pub(crate) fn put_listed(&self, scope: &str, token: VendorToken) -> Option<Change> {
        self.take(Some(scope), token)
    }

    fn take(&self, scope: Option<&str>, mut token: VendorToken) -> Option<Change> {
        slim(&mut token.metadata);
        let object = key_of(&token);
        let (namespace, name) = (&object.namespace, &object.name);
        let known = Known::readable(&token)?;
        let present = known.references.clone()?;
        let mut inner = lock(&self.inner);
        let before = inner.mirror.get(namespace, name);
        let before = before.map(|known| (known.is_readable(), known.references.clone()));
        let is_news = match scope {
            Some(scope) => inner.mirror.put_listed(scope, namespace, name, known),
            None => inner.mirror.put(namespace, name, known),
        };
        if !is_news {
            return None;
        }
        let (was_readable, mut former) = before.unwrap_or((true, None));
        if let Some(former) = &former {
            inner.references.remove(&object, former);
        }
        inner.references.add(&object, &present);
        if !was_readable {
            former = None;
            inner.unreadable -= 1;
            self.metrics
                .undecodable_objects(Kind::VendorToken, inner.unreadable);
        }
        Some(Change { former, present })
    }

    /// Takes an object that does not fit the schema: of the present list of `scope`, or of an event. False where that
    /// is known.
    pub(crate) fn put_unreadable(&self, scope: Option<&str>, object: &ObjectKey) -> bool {
        let (namespace, name) = (&object.namespace, &object.name);
        let mut inner = lock(&self.inner);
        let before = inner.mirror.get(namespace, name);
        let is_news = before.is_none_or(Known::is_readable);
        let known = Known::unreadable(before);
        inner.mirror.replace(scope, namespace, name, known);
        if is_news {
            inner.unreadable += 1;
            self.metrics
                .undecodable_objects(Kind::VendorToken, inner.unreadable);
        }
        is_news
    }

    /// Takes the deletion of an object, and gives its last references. `None` where a newer object is known, or none.
    pub(crate) fn remove(&self, token: &VendorToken) -> Option<Arc<References>> {
        let object = key_of(token);
        let version = token.resource_version().unwrap_or_default();
        let mut inner = lock(&self.inner);
        let known = inner.mirror.remove(&object.namespace, &object.name, &version)?;
        self.gone(&mut inner, &object, known)
    }

    /// Takes the deletion of an object that does not fit the schema, and gives the last references where any are known.
    pub(crate) fn remove_unreadable(&self, object: &ObjectKey) -> Option<Arc<References>> {
        let mut inner = lock(&self.inner);
        let known = inner.mirror.forget(&object.namespace, &object.name)?;
        self.gone(&mut inner, object, known)
    }

    /// Begins a list of `scope`.
    pub(crate) fn begin_list(&self, scope: &str) {
        lock(&self.inner).mirror.begin_list(scope);
    }

    /// Ends the list of `scope`, and gives the objects that are gone with their last references.
    pub(crate) fn end_list(&self, scope: &str) -> Vec<(ObjectKey, Arc<References>)> {
        let mut inner = lock(&self.inner);
        let gone = inner.mirror.end_list(scope);
        gone.into_iter()
            .filter_map(|(namespace, name, known)| {
                let object = ObjectKey { namespace, name };
                let references = self.gone(&mut inner, &object, known)?;
                Some((object, references))
            })
            .collect()
    }

    /// True for a scope with a complete list.
    pub(crate) fn is_listed(&self, scope: &str) -> bool {
        lock(&self.inner).mirror.is_listed(scope)
    }

    /// The VendorTokens that name this Secret.
    pub(crate) fn referrers(&self, namespace: &str, secret: &str) -> Vec<ObjectKey> {
        lock(&self.inner).references.referrers(namespace, secret)
    }

    /// The first VendorToken other than `me` that reads this Secret.
    pub(crate) fn reader_of(&self, me: &ObjectKey, secret: &str) -> Option<String> {
        lock(&self.inner).references.reader_of(me, secret)
    }

    /// The VendorTokens other than `me` with this Secret as their target, the first in rank first, with their creation
    /// times.
    pub(crate) fn rivals(&self, me: &ObjectKey, secret: &str) -> Vec<(String, Option<Timestamp>)> {
        lock(&self.inner).references.rivals(me, secret).collect()
    }

    /// The two rivals that can keep `me` from the target, however many there are: the first in rank, and `incumbent`,
    /// the holder of the Secret.
    pub(crate) fn strongest_rivals(
        &self,
        me: &ObjectKey,
        secret: &str,
        incumbent: Option<&str>,
    ) -> Vec<(String, Option<Timestamp>)> {
        let inner = lock(&self.inner);
        let first = inner.references.rivals(me, secret).next();
        let incumbent = incumbent.filter(|name| *name != me.name).and_then(|name| {
            let known = inner.mirror.get(&me.namespace, name)?;
            let is_rival = *known.references.as_ref()?.target == *secret;
            // The holder of the Secret keeps it whatever its rank, so its creation time is not needed.
            is_rival.then(|| (name.to_owned(), None))
        });
        first.into_iter().chain(incumbent).collect()
    }

    /// Takes an object out of the index, after its record was removed from the mirror.
    fn gone(&self, inner: &mut Inner, object: &ObjectKey, known: Known) -> Option<Arc<References>> {
        if !known.is_readable() {
            inner.unreadable -= 1;
            self.metrics
                .undecodable_objects(Kind::VendorToken, inner.unreadable);
        }
        let references = known.references?;
        inner.references.remove(object, &references);
        Some(references)
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

    fn key(name: &str) -> ObjectKey {
        key_of(&token(name, "0"))
    }

    fn version(objects: &Objects, name: &str) -> Option<String> {
        objects.get(&key(name))?.resource_version()
    }

    /// The number of references of the VendorToken `x` in the index: its target, its source.
    fn claims(objects: &Objects) -> usize {
        let rival = key("rival");
        objects.rivals(&rival, "t").len() + objects.reader_of(&rival, "c").iter().len()
    }

    fn objects() -> Objects {
        let objects = Objects::new(Metrics::new());
        assert!(objects.put(token("x", "1")).is_some());
        objects
    }

    fn undecodable(objects: &Objects) -> Option<String> {
        let text = objects.metrics.encode().unwrap();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix("vendortoken_undecodable_objects "));
        value.map(str::to_owned)
    }

    #[test]
    fn an_older_version_changes_nothing_and_a_removed_object_is_gone() {
        let objects = objects();
        assert!(objects.put(token("x", "2")).is_some());
        assert!(objects.put(token("x", "1")).is_none());
        assert_eq!(version(&objects, "x").as_deref(), Some("2"));
        assert!(objects.remove(&token("x", "3")).is_some());
        assert_eq!((version(&objects, "x"), claims(&objects)), (None, 0));
    }

    #[test]
    fn an_object_that_is_in_no_list_any_more_names_nothing() {
        let objects = objects();
        objects.begin_list("a");
        let gone = objects.end_list("a");
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0].0, key("x"));
        assert_eq!((version(&objects, "x"), claims(&objects)), (None, 0));
    }

    #[test]
    fn an_object_that_cannot_be_read_keeps_what_it_names() {
        let objects = objects();
        assert!(objects.put_unreadable(None, &key("x")));
        assert!(!objects.put_unreadable(None, &key("x")), "that is known");
        objects.begin_list("a");
        objects.put_unreadable(Some("a"), &key("x"));
        assert!(objects.end_list("a").is_empty());
        assert_eq!((version(&objects, "x"), claims(&objects)), (None, 2));
    }

    #[test]
    fn an_object_that_cannot_be_read_names_nothing_when_it_is_gone() {
        let objects = objects();
        objects.put_unreadable(None, &key("x"));
        assert!(objects.remove_unreadable(&key("x")).is_some());
        assert_eq!(claims(&objects), 0);
        assert!(objects.remove_unreadable(&key("x")).is_none());
    }

    #[test]
    fn an_object_that_can_be_read_again_is_worked_on_again() {
        let objects = objects();
        objects.put_unreadable(None, &key("x"));
        assert!(objects.put(token("x", "2")).is_some());
        assert_eq!(version(&objects, "x").as_deref(), Some("2"));
    }

    #[test]
    fn objects_that_cannot_be_read_are_counted_until_they_can_be_or_are_gone() {
        let objects = objects();
        for name in ["x", "y", "z"] {
            objects.put_unreadable(None, &key(name));
        }
        assert_eq!(undecodable(&objects).as_deref(), Some("3"));
        objects.put(token("x", "2"));
        assert_eq!(undecodable(&objects).as_deref(), Some("2"));
        objects.remove_unreadable(&key("y"));
        assert_eq!(undecodable(&objects).as_deref(), Some("1"));
        objects.begin_list("a");
        objects.end_list("a");
        assert_eq!(undecodable(&objects).as_deref(), Some("0"));
    }

    #[test]
    fn a_spec_with_full_templates_is_kept_without_them() {
        let data: std::collections::BTreeMap<String, String> = (0..16)
            .map(|number| (format!("key-{number}"), "\u{20ac}".repeat(4096)))
            .collect();
        let mut large = token("x", "1");
        large.spec.target.data = data;
        let whole = serde_json::to_vec(&large).unwrap().len();
        let objects = Objects::new(Metrics::new());
        objects.put(large);
        let kept = objects.get(&key("x")).unwrap();
        assert!(lacks_templates(&kept) && !lacks_templates(&token("y", "1")));
        assert_eq!(kept.spec.credentials_secret_ref.name, "c");
        let inner = lock(&objects.inner);
        let bytes = inner.mirror.get("a", "x").unwrap().json.as_deref().unwrap().len();
        println!("{bytes} bytes are kept of a VendorToken of {whole}");
        assert!(bytes < 1024, "{bytes}");
    }

    #[test]
    fn of_many_rivals_for_a_target_two_are_looked_at() {
        let objects = Objects::new(Metrics::new());
        for number in 0..1000 {
            objects.put(token(&format!("x{number:03}"), "1"));
        }
        let names = |me: &str, incumbent: Option<&str>| -> Vec<String> {
            let rivals = objects.strongest_rivals(&key(me), "t", incumbent);
            rivals.into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names("x500", None), ["x000"]);
        assert_eq!(names("x000", Some("x700")), ["x001", "x700"]);
        assert_eq!(names("x000", Some("x000")), ["x001"]);
        assert_eq!(names("x000", Some("somebody-else")), ["x001"]);
        assert_eq!(objects.reader_of(&key("x000"), "c").as_deref(), Some("x001"));
    }
}
