//! The reconciles that a change brings about: of the object, and of the others that name its Secrets.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::controller::cluster::objects::Objects;
use crate::controller::cluster::references::References;
use crate::grants::ObjectKey;

/// Sends objects to be reconciled. Clones share the queue.
#[derive(Clone, Debug)]
pub(crate) struct Triggers {
    objects: Arc<Objects>,
    queue: mpsc::UnboundedSender<ObjectKey>,
}

impl Triggers {
    /// Triggers objects through `queue`.
    pub(crate) fn new(objects: Arc<Objects>, queue: mpsc::UnboundedSender<ObjectKey>) -> Self {
        Self { objects, queue }
    }

    /// Triggers `object`.
    pub(crate) fn trigger(&self, object: ObjectKey) {
        // The receiver is gone at shutdown only.
        let _ = self.queue.send(object);
    }

    /// Triggers every VendorToken that names this Secret.
    pub(crate) fn secret_changed(&self, namespace: &str, secret: &str) {
        for object in self.objects.referrers(namespace, secret) {
            self.trigger(object);
        }
    }

    /// Triggers every VendorToken but `object`, which has changed this Secret itself.
    pub(crate) fn secret_changed_by(&self, object: &ObjectKey, secret: &str) {
        for other in self.objects.referrers(&object.namespace, secret) {
            if other != *object {
                self.trigger(other);
            }
        }
    }

    /// Triggers those that wait for a Secret which `object` named before, and does not name any more.
    pub(crate) fn references_changed(&self, object: &ObjectKey, before: &References, after: &References) {
        if before.target != after.target {
            self.secret_changed(&object.namespace, &before.target);
        }
        if before.sources != after.sources {
            self.sources_released(object, before);
        }
    }

    /// Triggers those that wait for a Secret which `object` named until it was deleted.
    pub(crate) fn object_gone(&self, object: &ObjectKey, references: &References) {
        self.secret_changed(&object.namespace, &references.target);
        self.sources_released(object, references);
    }

    /// No VendorToken makes a Secret that another one reads: those that want to may do so now.
    fn sources_released(&self, object: &ObjectKey, before: &References) {
        for secret in &before.sources {
            for (name, _) in self.objects.rivals(object, secret) {
                let namespace = object.namespace.clone();
                self.trigger(ObjectKey { namespace, name });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::VendorToken;
    use crate::metrics::Metrics;

    fn token(name: &str, target: &str, source: &str) -> VendorToken {
        serde_json::from_value(json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": name, "namespace": "a", "uid": name, "resourceVersion": "1" },
            "spec": { "vendor": "Mapiq", "credentialsSecretRef": { "name": source }, "target": { "name": target } },
        }))
        .unwrap()
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey {
            namespace: "a".to_owned(),
            name: name.to_owned(),
        }
    }

    /// The objects that `change` triggers, where `x` writes `t` and reads `c`, `rival` writes `t`, and `claimant`
    /// writes `c`.
    fn triggered(change: impl FnOnce(&Triggers)) -> Vec<String> {
        let objects = Arc::new(Objects::new(Metrics::new()));
        for (name, target, source) in [("x", "t", "c"), ("rival", "t", "r"), ("claimant", "c", "o")] {
            objects.put(token(name, target, source));
        }
        let (queue, mut triggered) = mpsc::unbounded_channel();
        change(&Triggers::new(objects, queue));
        std::iter::from_fn(|| triggered.try_recv().ok())
            .map(|object| object.name)
            .collect()
    }

    fn references(target: &str, source: &str) -> References {
        References::of(&token("x", target, source))
    }

    #[test]
    fn a_changed_secret_triggers_all_that_name_it() {
        assert_eq!(
            triggered(|triggers| triggers.secret_changed("a", "t")),
            ["rival", "x"]
        );
        assert_eq!(
            triggered(|triggers| triggers.secret_changed("a", "c")),
            ["claimant", "x"]
        );
    }

    #[test]
    fn a_secret_that_an_object_changed_triggers_the_others() {
        assert_eq!(
            triggered(|triggers| triggers.secret_changed_by(&key("x"), "t")),
            ["rival"]
        );
    }

    #[test]
    fn a_target_that_is_named_no_more_is_for_its_rivals() {
        let (before, after) = (references("t", "c"), references("other", "c"));
        let found = triggered(|triggers| triggers.references_changed(&key("x"), &before, &after));
        assert_eq!(found, ["rival", "x"]);
    }

    #[test]
    fn a_source_that_is_named_no_more_is_for_those_who_write_it() {
        let (before, after) = (references("t", "c"), references("t", "other"));
        let found = triggered(|triggers| triggers.references_changed(&key("x"), &before, &after));
        assert_eq!(found, ["claimant"]);
    }

    #[test]
    fn an_edit_of_no_reference_triggers_nobody() {
        let same = references("t", "c");
        let found = triggered(|triggers| triggers.references_changed(&key("x"), &same, &same));
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_deleted_object_leaves_its_target_and_its_sources_to_others() {
        let found = triggered(|triggers| triggers.object_gone(&key("x"), &references("t", "c")));
        assert_eq!(found, ["rival", "x", "claimant"]);
    }
}
