//! What the watches tell goes into the indexes of VendorTokens and Secrets, and to the reconciles that depend on it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::core::{DeserializeGuard, PartialObjectMeta};

use crate::api::VendorToken;
use crate::controller::cluster::secret_record;
use crate::controller::cluster::tokens::key_of;
use crate::controller::context::Context;
use crate::grants::ObjectKey;
use crate::policy::ownership::SecretRecord;

/// Takes the changes of one kind of object in one scope (a namespace, or empty for all).
pub(in crate::controller) trait Sink<K>: Send + Sync + 'static {
    /// The name of the watch in logs and metrics.
    const WATCH: &'static str;
    fn list_begins(&self, scope: &str);
    /// An object of the list that has begun.
    fn listed(&self, scope: &str, object: K);
    fn applied(&self, object: K);
    fn deleted(&self, object: K);
    fn list_ends(&self, scope: &str);
    /// Nobody tells any more what becomes of what is known, until the next list ends.
    fn lost(&self, scope: &str);
}

/// Takes VendorTokens. Undecodable ones are skipped and reported: one of them must not stop the others.
pub(in crate::controller) struct TokenSink(pub(in crate::controller) Arc<Context>);

impl TokenSink {
    /// Takes an object of a list of `scope`, or of an event.
    fn take(&self, object: DeserializeGuard<VendorToken>, scope: Option<&str>) {
        let token = match object.0 {
            Ok(token) => token,
            Err(invalid) => {
                let key = ObjectKey {
                    namespace: invalid.metadata.namespace.clone().unwrap_or_default(),
                    name: invalid.metadata.name.clone().unwrap_or_default(),
                };
                self.0.undecodable(&key, &invalid);
                if self.0.tokens.became_unreadable(&key, scope) {
                    self.0.forget(&key);
                }
                return;
            }
        };
        let key = key_of(&token);
        self.0.decodable(&key);
        let before = self.0.tokens.get(&key);
        let is_news = match scope {
            Some(scope) => self.0.tokens.put_listed(scope, token),
            None => self.0.tokens.put(token),
        };
        if is_news {
            if let (Some(before), Some(after)) = (before, self.0.tokens.get(&key)) {
                self.0.references_changed(&key, &before, &after);
            }
            self.0.trigger(key);
        }
    }
}

impl Sink<DeserializeGuard<VendorToken>> for TokenSink {
    const WATCH: &'static str = "vendortokens";

    fn list_begins(&self, scope: &str) {
        self.0.tokens.list_begins(scope);
    }

    fn listed(&self, scope: &str, object: DeserializeGuard<VendorToken>) {
        self.take(object, Some(scope));
    }

    fn applied(&self, object: DeserializeGuard<VendorToken>) {
        self.take(object, None);
    }

    fn deleted(&self, object: DeserializeGuard<VendorToken>) {
        match object.0 {
            Ok(token) => {
                if self.0.tokens.remove(&token) {
                    self.0.token_gone(&token);
                }
            }
            Err(invalid) => {
                let key = ObjectKey {
                    namespace: invalid.metadata.namespace.unwrap_or_default(),
                    name: invalid.metadata.name.unwrap_or_default(),
                };
                self.0.decodable(&key);
                // What it named while it could be read is free now.
                if let Some(known) = self.0.tokens.remove_unreadable(&key) {
                    self.0.token_gone(&known);
                }
            }
        }
    }

    fn list_ends(&self, scope: &str) {
        for token in self.0.tokens.list_ends(scope) {
            self.0.token_gone(&token);
        }
    }

    /// What was last known goes on: tokens must not expire because nobody tells of edits.
    fn lost(&self, _: &str) {}
}

/// Takes Secrets, as metadata only.
pub(in crate::controller) struct SecretSink(pub(in crate::controller) Arc<Context>);

impl SecretSink {
    /// Takes a Secret's metadata; `put` says whether it is news.
    fn take(&self, object: &PartialObjectMeta<Secret>, put: impl FnOnce(&str, &str, SecretRecord) -> bool) {
        let (Some(namespace), Some(name)) = (object.namespace(), object.metadata.name.as_deref()) else {
            return;
        };
        let Some(record) = secret_record::read(&object.metadata) else {
            return;
        };
        if put(&namespace, name, record) {
            self.0.trigger_referrers(&namespace, name);
        }
    }
}

impl Sink<PartialObjectMeta<Secret>> for SecretSink {
    const WATCH: &'static str = "secrets";

    fn list_begins(&self, scope: &str) {
        self.0.secrets.list_begins(scope);
    }

    fn listed(&self, scope: &str, object: PartialObjectMeta<Secret>) {
        self.take(&object, |namespace, name, record| {
            self.0.secrets.put_listed(scope, namespace, name, record)
        });
    }

    fn applied(&self, object: PartialObjectMeta<Secret>) {
        self.take(&object, |namespace, name, record| {
            self.0.secrets.put(namespace, name, record)
        });
    }

    fn deleted(&self, object: PartialObjectMeta<Secret>) {
        let (Some(namespace), Some(name)) = (object.namespace(), object.metadata.name.as_deref()) else {
            return;
        };
        if self.0.secrets.remove(
            &namespace,
            name,
            object.metadata.resource_version.as_deref().unwrap_or_default(),
        ) {
            self.0.secret_gone(&namespace, name);
        }
    }

    fn list_ends(&self, scope: &str) {
        for (namespace, name) in self.0.secrets.list_ends(scope) {
            self.0.secret_gone(&namespace, &name);
        }
    }

    /// Secrets are read one by one then, as without a watch.
    fn lost(&self, scope: &str) {
        if self.0.secrets.lost(scope) {
            tracing::warn!(
                namespace = if scope.is_empty() { "all" } else { scope },
                "Secrets are read one by one until their watch works again; changes are seen within 5 minutes"
            );
        }
    }
}
