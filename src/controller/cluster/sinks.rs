//! Takes changes from the watches into the mirrors of VendorTokens and Secrets, and triggers the reconciles that depend
//! on them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::error_boundary::InvalidObject;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use tokio::sync::Notify;

use crate::api::VendorToken;
use crate::controller::cluster::list_watch::Sink;
use crate::controller::cluster::objects::{Objects, key_of};
use crate::controller::cluster::references::References;
use crate::controller::cluster::remembered::Remembered;
use crate::controller::cluster::secret_record;
use crate::controller::cluster::secrets::Secrets;
use crate::controller::cluster::triggers::Triggers;
use crate::grants::ObjectKey;
use crate::policy::ownership::SecretRecord;

/// Takes VendorTokens. One that does not fit the schema is reported and holds up no other.
pub(crate) struct ObjectSink {
    pub(crate) objects: Arc<Objects>,
    pub(crate) remembered: Arc<Remembered>,
    pub(crate) triggers: Triggers,
}

impl ObjectSink {
    /// Takes an object of the present list of `scope`, or of an event.
    fn take(&self, scope: Option<&str>, object: DeserializeGuard<VendorToken>) {
        let token = match object.0 {
            Ok(token) => token,
            Err(invalid) => return self.take_unreadable(scope, invalid),
        };
        let object = key_of(&token);
        let change = match scope {
            Some(scope) => self.objects.put_listed(scope, token),
            None => self.objects.put(token),
        };
        let Some(change) = change else { return };
        if let Some(former) = &change.former {
            self.triggers.references_changed(&object, former, &change.present);
        }
        self.triggers.trigger(object);
    }

    fn take_unreadable(&self, scope: Option<&str>, invalid: InvalidObject) {
        let object = unreadable_key(invalid.metadata);
        if self.objects.put_unreadable(scope, &object) {
            tracing::error!(
                %object, error = invalid.error,
                "skipped a VendorToken that does not fit the schema: apply it again with the present \
                 CustomResourceDefinition installed"
            );
            self.remembered.forget(&object);
        }
    }

    /// Forgets an object that was deleted, and lets others have the Secrets that it named.
    fn gone(&self, object: &ObjectKey, references: &References) {
        self.remembered.forget(object);
        self.triggers.object_gone(object, references);
    }
}

fn unreadable_key(metadata: ObjectMeta) -> ObjectKey {
    ObjectKey {
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
    }
}

impl Sink<DeserializeGuard<VendorToken>> for ObjectSink {
    const WATCH: &'static str = "vendortokens";
    const METADATA_ONLY: bool = false;

    fn list_begins(&self, scope: &str) {
        self.objects.begin_list(scope);
    }

    fn listed(&self, scope: &str, object: DeserializeGuard<VendorToken>) {
        self.take(Some(scope), object);
    }

    fn applied(&self, object: DeserializeGuard<VendorToken>) {
        self.take(None, object);
    }

    fn deleted(&self, object: DeserializeGuard<VendorToken>) {
        let (object, references) = match object.0 {
            Ok(token) => (key_of(&token), self.objects.remove(&token)),
            Err(invalid) => {
                let object = unreadable_key(invalid.metadata);
                let references = self.objects.remove_unreadable(&object);
                (object, references)
            }
        };
        if let Some(references) = references {
            self.gone(&object, &references);
        }
    }

    fn list_ends(&self, scope: &str) {
        for (object, references) in self.objects.end_list(scope) {
            self.gone(&object, &references);
        }
    }

    /// The last known state goes on: tokens must not expire for want of news about edits.
    fn lost(&self, _: &str) {}
}

/// A Secret whose deletion somebody waits for.
pub(crate) struct Guarded {
    pub(crate) namespace: String,
    pub(crate) name: &'static str,
    pub(crate) deleted: Arc<Notify>,
}

/// Takes Secrets, as metadata only.
pub(crate) struct SecretSink {
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) triggers: Triggers,
    pub(crate) guarded: Guarded,
}

impl SecretSink {
    /// Takes a Secret's metadata; `put` gives false for one that is known.
    fn take(&self, object: &PartialObjectMeta<Secret>, put: impl FnOnce(&str, &str, SecretRecord) -> bool) {
        let Some((namespace, name)) = name_of(object) else {
            return;
        };
        let Some(record) = secret_record::read(&object.metadata) else {
            return;
        };
        if put(namespace, name, record) {
            self.triggers.secret_changed(namespace, name);
        }
    }

    fn gone(&self, namespace: &str, name: &str) {
        if namespace == self.guarded.namespace && name == self.guarded.name {
            self.guarded.deleted.notify_one();
        }
        self.triggers.secret_changed(namespace, name);
    }
}

fn name_of(object: &PartialObjectMeta<Secret>) -> Option<(&str, &str)> {
    let metadata = &object.metadata;
    Some((metadata.namespace.as_deref()?, metadata.name.as_deref()?))
}

impl Sink<PartialObjectMeta<Secret>> for SecretSink {
    const WATCH: &'static str = "secrets";
    const METADATA_ONLY: bool = true;

    fn list_begins(&self, scope: &str) {
        self.secrets.begin_list(scope);
    }

    fn listed(&self, scope: &str, object: PartialObjectMeta<Secret>) {
        self.take(&object, |namespace, name, record| {
            self.secrets.put_listed(scope, namespace, name, record)
        });
    }

    fn applied(&self, object: PartialObjectMeta<Secret>) {
        self.take(&object, |namespace, name, record| {
            self.secrets.put(namespace, name, record)
        });
    }

    fn deleted(&self, object: PartialObjectMeta<Secret>) {
        let Some((namespace, name)) = name_of(&object) else {
            return;
        };
        let version = object.metadata.resource_version.as_deref().unwrap_or_default();
        if self.secrets.remove(namespace, name, version) {
            self.gone(namespace, name);
        }
    }

    fn list_ends(&self, scope: &str) {
        for (namespace, name) in self.secrets.end_list(scope) {
            self.gone(&namespace, &name);
        }
    }

    /// Secrets are read one by one then, as without a watch.
    fn lost(&self, scope: &str) {
        if self.secrets.lose(scope) {
            tracing::warn!(
                namespace = if scope.is_empty() { "all" } else { scope },
                "Secrets are read one by one until their watch works again; changes are seen within 5 minutes"
            );
        }
    }
}
