//! Watches, each on a task and with a back-off of its own: one that fails holds up no other.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Secret;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::context::Context;
use super::secrets;
use super::tokens::key_of;
use crate::api::VendorToken;
use crate::grants::ObjectKey;

/// A task that waits for events shows that it is alive this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// Takes the changes of one kind of object in one scope (a namespace, or empty for all).
pub(super) trait Sink<K>: Send + Sync + 'static {
    /// The name of the watch in logs and metrics.
    const WATCH: &'static str;
    fn list_begins(&self, scope: &str);
    fn applied(&self, object: K);
    fn deleted(&self, object: K);
    fn list_ends(&self, scope: &str);
}

/// Watches `api` for ever, and tells `sink`.
pub(super) async fn run<K, S>(api: Api<K>, scope: String, sink: S, context: Arc<Context>)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    S: Sink<K>,
{
    let stream = watch(api, watcher::Config::default()).default_backoff();
    pin_mut!(stream);
    loop {
        let event = match tokio::time::timeout(SIGN_OF_LIFE, stream.next()).await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            // Nothing has changed; the watcher itself ends and renews a watch that went silent.
            Err(_) => {
                context.health.watch_alive(S::WATCH);
                continue;
            }
        };
        match event {
            Ok(Event::Init) => sink.list_begins(&scope),
            Ok(Event::InitApply(object) | Event::Apply(object)) => sink.applied(object),
            Ok(Event::Delete(object)) => sink.deleted(object),
            Ok(Event::InitDone) => {
                sink.list_ends(&scope);
                context.initial_lists.notify_waiters();
            }
            Err(error) => {
                context.watch_failed(S::WATCH, &scope, &error);
                continue;
            }
        }
        context.watch_advanced(S::WATCH, &scope);
    }
}

/// Takes VendorTokens. Undecodable ones are skipped and reported: one of them must not stop the others.
pub(super) struct TokenSink(pub(super) Arc<Context>);

impl Sink<DeserializeGuard<VendorToken>> for TokenSink {
    const WATCH: &'static str = "vendortokens";

    fn list_begins(&self, scope: &str) {
        self.0.tokens.list_begins(scope);
    }

    fn applied(&self, object: DeserializeGuard<VendorToken>) {
        let token = match object.0 {
            Ok(token) => token,
            Err(invalid) => {
                let key = ObjectKey {
                    namespace: invalid.metadata.namespace.clone().unwrap_or_default(),
                    name: invalid.metadata.name.clone().unwrap_or_default(),
                };
                self.0.undecodable(&key, &invalid);
                return;
            }
        };
        let key = key_of(&token);
        self.0.decodable(&key);
        let before = self.0.tokens.get(&key);
        if self.0.tokens.put(token) {
            if let (Some(before), Some(after)) = (before, self.0.tokens.get(&key)) {
                self.0.references_changed(&key, &before, &after);
            }
            self.0.trigger(key);
        }
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
                // It may have been read while it could be: what is known of it must not go on without it.
                if let Some(known) = self.0.tokens.get(&key)
                    && self.0.tokens.remove(&known)
                {
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
}

/// Takes Secrets, as metadata only.
pub(super) struct SecretSink(pub(super) Arc<Context>);

impl Sink<PartialObjectMeta<Secret>> for SecretSink {
    const WATCH: &'static str = "secrets";

    fn list_begins(&self, scope: &str) {
        self.0.secrets.list_begins(scope);
    }

    fn applied(&self, object: PartialObjectMeta<Secret>) {
        let (Some(namespace), Some(name)) = (object.namespace(), object.metadata.name.as_deref()) else {
            return;
        };
        let Some(record) = secrets::record(&object.metadata) else {
            return;
        };
        if self.0.secrets.put(&namespace, name, record) {
            self.0.trigger_referrers(&namespace, name);
        }
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
}
