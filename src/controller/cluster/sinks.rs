//! Takes changes from the watches into the mirrors of VendorTokens and Secrets, and triggers the reconciles that depend
//! on them.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::controller::cluster::list_watch::Sink;
use crate::controller::cluster::object_json::{FromJson as _, ReadSecret, ReadVendorToken, Unreadable};
use crate::controller::cluster::objects::{Objects, key_of};
use crate::controller::cluster::references::References;
use crate::controller::cluster::remembered::Remembered;
use crate::controller::cluster::secrets::Secrets;
use crate::controller::cluster::triggers::Triggers;
use crate::grants::ObjectKey;

/// Takes VendorTokens. One that does not fit the schema is reported and holds up no other.
pub(crate) struct ObjectSink {
    pub(crate) objects: Arc<Objects>,
    pub(crate) remembered: Arc<Remembered>,
    pub(crate) triggers: Triggers,
}

impl ObjectSink {
    /// Takes an object of the present list of `scope`, or of an event.
    fn take(&self, scope: Option<&str>, object: ReadVendorToken) {
        let token = match object {
            Ok(token) => token,
            Err(unreadable) => return self.take_unreadable(scope, &unreadable),
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

    fn take_unreadable(&self, scope: Option<&str>, unreadable: &Unreadable) {
        let object = &unreadable.object;
        if self.objects.put_unreadable(scope, object) {
            tracing::error!(
                %object, error = %unreadable.error,
                "skipped a VendorToken that does not fit the schema: apply it again with the present \
                 CustomResourceDefinition installed"
            );
            self.remembered.forget(object);
        }
    }

    /// Forgets an object that was deleted, and lets others have the Secrets that it named.
    fn gone(&self, object: &ObjectKey, references: &References) {
        self.remembered.forget(object);
        self.triggers.object_gone(object, references);
    }
}

impl Sink for ObjectSink {
    type Object = ReadVendorToken;
    const WATCH: &'static str = "vendortokens";
    const METADATA_ONLY: bool = false;

    fn list_begins(&self, scope: &str) {
        self.objects.begin_list(scope);
    }

    fn listed(&self, scope: &str, object: ReadVendorToken) {
        self.take(Some(scope), object);
    }

    fn applied(&self, object: ReadVendorToken) {
        self.take(None, object);
    }

    fn deleted(&self, object: ReadVendorToken) {
        let (object, references) = match object {
            Ok(token) => (key_of(&token), self.objects.remove(&token)),
            Err(Unreadable { object, .. }) => {
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
    /// Takes a Secret's metadata: of the present list of `scope`, or of an event.
    fn take(&self, scope: Option<&str>, object: ReadSecret) {
        match object {
            Ok((ObjectKey { namespace, name }, record)) => {
                let is_news = match scope {
                    Some(scope) => self.secrets.put_listed(scope, &namespace, &name, record),
                    None => self.secrets.put(&namespace, &name, record),
                };
                if is_news {
                    self.triggers.secret_changed(&namespace, &name);
                }
            }
            Err(unreadable) => {
                let Unreadable { object, error, .. } = &unreadable;
                if self.secrets.put_unreadable(scope, &unreadable) {
                    tracing::error!(%object, %error, "a Secret's metadata cannot be read: it counts as not watched");
                }
                self.triggers.secret_changed(&object.namespace, &object.name);
            }
        }
    }

    fn gone(&self, namespace: &str, name: &str) {
        if namespace == self.guarded.namespace && name == self.guarded.name {
            self.guarded.deleted.notify_one();
        }
        self.triggers.secret_changed(namespace, name);
    }
}

impl Sink for SecretSink {
    type Object = ReadSecret;
    const WATCH: &'static str = "secrets";
    const METADATA_ONLY: bool = true;

    fn list_begins(&self, scope: &str) {
        self.secrets.begin_list(scope);
    }

    fn listed(&self, scope: &str, object: ReadSecret) {
        self.take(Some(scope), object);
    }

    fn applied(&self, object: ReadSecret) {
        self.take(None, object);
    }

    fn deleted(&self, object: ReadSecret) {
        let version = object.resource_version().to_owned();
        let ObjectKey { namespace, name } = match object {
            Ok((object, _)) => object,
            Err(unreadable) => unreadable.object,
        };
        if self.secrets.remove(&namespace, &name, &version) {
            self.gone(&namespace, &name);
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
