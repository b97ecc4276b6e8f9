//! What all reconciles share.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Client;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::events::Recorder;
use tokio::sync::{Notify, mpsc};

use super::secrets::SecretIndex;
use super::tokens::{Tokens, key_of, sources, target_name};
use super::watch::{SecretSink, Sink, TokenSink};
use crate::api::VendorToken;
use crate::clock::Clock;
use crate::error_text::with_causes;
use crate::fingerprint::{Account, Fingerprint, FingerprintKey, KnownInputs};
use crate::grants::{Grants, ObjectKey};
use crate::metrics::Metrics;
use crate::policy::PublishBlock;
use crate::server::Health;
use crate::vendor::{Endpoint, Vendor};

/// How the operator was told to work.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the operator's own Secrets and its Lease are.
    pub operator_namespace: String,
    /// Namespaces to work in; empty for all.
    pub watch_namespaces: Vec<String>,
    /// Whether Secrets are watched; otherwise they are read when they are needed.
    pub secret_watch: bool,
    /// Endpoints that an administrator put in the place of a vendor's own.
    pub endpoints: BTreeMap<Vendor, Endpoint>,
    /// Reconciles at a time.
    pub concurrency: u16,
    /// Each object, and the Secret of the operator's key, is looked at this often at least: [`super::LONGEST_WAIT`].
    pub longest_wait: Duration,
}

impl Settings {
    /// The scopes of the watches: the listed namespaces, or one empty name for all.
    pub(super) fn scopes(&self) -> Vec<String> {
        if self.watch_namespaces.is_empty() {
            vec![String::new()]
        } else {
            self.watch_namespaces.clone()
        }
    }
}

/// Which credentials a VendorToken was last seen to have.
#[derive(Clone, Debug)]
pub(super) struct Memo {
    /// `uid/resourceVersion` of the Secrets that were read.
    pub(super) version: String,
    pub(super) known: KnownInputs,
    pub(super) fingerprint: Fingerprint,
    pub(super) account: Option<Account>,
}

/// A target that could not be written.
#[derive(Clone, Debug)]
pub(super) struct BlockMemo {
    pub(super) block: PublishBlock,
    pub(super) count: i32,
    /// What it was tried with: a change brings another attempt at once.
    pub(super) generation: Option<i64>,
    pub(super) target_version: Option<String>,
}

/// What all reconciles share.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) settings: Settings,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) grants: Arc<Grants>,
    pub(super) tokens: Tokens,
    pub(super) secrets: SecretIndex,
    pub(super) recorder: Recorder,
    pub(super) metrics: Metrics,
    pub(super) health: Health,
    /// Told when a watch has read its list whole.
    pub(super) initial_lists: Notify,
    /// Told when the fingerprint key is there.
    pub(super) key_found: Notify,
    /// Told when the fingerprint key's Secret was deleted.
    pub(super) key_deleted: Notify,
    triggers: mpsc::UnboundedSender<ObjectKey>,
    key: Mutex<Option<Arc<FingerprintKey>>>,
    memos: Mutex<HashMap<ObjectKey, Memo>>,
    blocks: Mutex<HashMap<ObjectKey, BlockMemo>>,
    undecodable: Mutex<HashSet<ObjectKey>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Context")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The parts that a [`Context`] is made of.
pub(super) struct Parts {
    pub(super) client: Client,
    pub(super) settings: Settings,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) grants: Arc<Grants>,
    pub(super) metrics: Metrics,
    pub(super) health: Health,
    pub(super) triggers: mpsc::UnboundedSender<ObjectKey>,
}

impl Context {
    pub(super) fn new(parts: Parts) -> Self {
        let recorder = Recorder::new(parts.client.clone(), super::events::reporter());
        Self {
            client: parts.client,
            settings: parts.settings,
            clock: parts.clock,
            grants: parts.grants,
            tokens: Tokens::default(),
            secrets: SecretIndex::default(),
            recorder,
            metrics: parts.metrics,
            health: parts.health,
            initial_lists: Notify::new(),
            key_found: Notify::new(),
            key_deleted: Notify::new(),
            triggers: parts.triggers,
            key: Mutex::default(),
            memos: Mutex::default(),
            blocks: Mutex::default(),
            undecodable: Mutex::default(),
        }
    }

    /// Has `object` reconciled.
    pub(super) fn trigger(&self, object: ObjectKey) {
        // The receiver is gone at shutdown only.
        let _ = self.triggers.send(object);
    }

    /// Has every VendorToken but `object` reconciled that names this Secret.
    pub(super) fn trigger_others(&self, object: &ObjectKey, secret: &str) {
        for other in self.tokens.referrers(&object.namespace, secret) {
            if other != *object {
                self.trigger(other);
            }
        }
    }

    /// Has every VendorToken reconciled that names this Secret.
    pub(super) fn trigger_referrers(&self, namespace: &str, secret: &str) {
        for object in self.tokens.referrers(namespace, secret) {
            self.trigger(object);
        }
    }

    pub(super) fn secret_gone(&self, namespace: &str, name: &str) {
        if namespace == self.settings.operator_namespace && name == super::key::SECRET_NAME {
            self.key_deleted.notify_one();
        }
        self.trigger_referrers(namespace, name);
    }

    /// A VendorToken was deleted: gives back what is kept for it, and lets others take its target over.
    pub(super) fn token_gone(&self, token: &VendorToken) {
        let object = key_of(token);
        self.forget(&object);
        self.trigger_referrers(&object.namespace, &target_name(token));
        self.trigger_claimants(&object, token);
    }

    /// Has the VendorTokens reconciled whose target is a Secret that `token` reads (or has read): while it does, they
    /// do not make it.
    pub(super) fn trigger_claimants(&self, object: &ObjectKey, token: &VendorToken) {
        for secret in sources(token) {
            for (name, _) in self.tokens.rivals(object, &secret) {
                let namespace = object.namespace.clone();
                self.trigger(ObjectKey { namespace, name });
            }
        }
    }

    /// The watches have ended: nothing is known of objects any more, and no sign of life of a watch is expected.
    pub(super) fn stands_down(&self) {
        self.grants.stand_down();
        self.health.watch_ended(TokenSink::WATCH);
        self.health.watch_ended(SecretSink::WATCH);
        lock(&self.undecodable).clear();
        self.metrics.undecodable_objects(0);
        self.metrics.all_objects_removed();
    }

    /// Gives back what is kept for objects that went while nobody watched.
    pub(super) fn forget_the_gone(&self) {
        let known: HashSet<ObjectKey> = lock(&self.memos)
            .keys()
            .chain(lock(&self.blocks).keys())
            .cloned()
            .collect();
        let gone: Vec<_> = known
            .into_iter()
            .filter(|object| self.tokens.get(object).is_none())
            .collect();
        for object in gone {
            self.forget(&object);
        }
    }

    fn forget(&self, object: &ObjectKey) {
        self.grants.release(object);
        lock(&self.memos).remove(object);
        lock(&self.blocks).remove(object);
        self.metrics.object_removed(&object.namespace, &object.name);
    }

    pub(super) fn undecodable(&self, object: &ObjectKey, invalid: &InvalidObject) {
        let mut all = lock(&self.undecodable);
        if all.insert(object.clone()) {
            tracing::error!(
                %object, error = invalid.error,
                "skipped a VendorToken that does not fit the schema: apply it again with the present \
                 CustomResourceDefinition installed"
            );
        }
        self.metrics.undecodable_objects(all.len());
    }

    pub(super) fn decodable(&self, object: &ObjectKey) {
        let mut all = lock(&self.undecodable);
        if all.remove(object) {
            self.metrics.undecodable_objects(all.len());
        }
    }

    pub(super) fn watch_failed(
        &self,
        watch: &'static str,
        scope: &str,
        error: &kube::runtime::watcher::Error,
    ) {
        let namespace = if scope.is_empty() { "all" } else { scope };
        tracing::warn!(
            watch,
            namespace,
            error = with_causes(error),
            "a watch failed and is tried again"
        );
        self.metrics.watch_failure(watch);
        self.health.watch_alive(watch);
    }

    pub(super) fn watch_advanced(&self, watch: &'static str, _scope: &str) {
        self.metrics.watch_event(watch, self.clock.now());
        self.health.watch_alive(watch);
    }

    pub(super) fn key(&self) -> Option<Arc<FingerprintKey>> {
        lock(&self.key).clone()
    }

    pub(super) fn set_key(&self, key: FingerprintKey) {
        *lock(&self.key) = Some(Arc::new(key));
        self.key_found.notify_waiters();
        self.health.set_ready("fingerprint-key", Ok(()));
    }

    pub(super) fn key_missing(&self, why: &str) {
        self.health.set_ready("fingerprint-key", Err(why.to_owned()));
    }

    pub(super) fn memo(&self, object: &ObjectKey) -> Option<Memo> {
        lock(&self.memos).get(object).cloned()
    }

    pub(super) fn set_memo(&self, object: &ObjectKey, memo: Option<Memo>) {
        match memo {
            Some(memo) => lock(&self.memos).insert(object.clone(), memo),
            None => lock(&self.memos).remove(object),
        };
    }

    pub(super) fn block(&self, object: &ObjectKey) -> Option<BlockMemo> {
        lock(&self.blocks).get(object).cloned()
    }

    pub(super) fn set_block(&self, object: &ObjectKey, block: Option<BlockMemo>) {
        match block {
            Some(block) => lock(&self.blocks).insert(object.clone(), block),
            None => lock(&self.blocks).remove(object),
        };
    }
}
