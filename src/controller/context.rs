//! What all reconciles share.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::events::Recorder;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::api::VendorToken;
use crate::clock::{Clock, Deadline, Timeline};
use crate::controller::cluster::list_watch::WatchError;
use crate::controller::cluster::secrets::SecretIndex;
use crate::controller::cluster::tokens::{Tokens, key_of, sources, target_name};
use crate::error_text::with_causes;
use crate::fingerprint::{Account, Fingerprint, FingerprintKey, KnownInputs};
use crate::grants::{Grants, ObjectKey};
use crate::metrics::Metrics;
use crate::policy::PublishBlock;
use crate::providers::{Endpoint, Vendor};
use crate::server::Health;

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
    /// Each object, and the Secret of the operator's key, is looked at this often at least: [`crate::controller::LONGEST_WAIT`].
    pub longest_wait: Duration,
}

impl Settings {
    /// The scopes of the watches: the listed namespaces, or one empty name for all.
    pub(in crate::controller) fn scopes(&self) -> Vec<String> {
        if self.watch_namespaces.is_empty() {
            vec![String::new()]
        } else {
            self.watch_namespaces.clone()
        }
    }
}

/// Which credentials a VendorToken was last seen to have.
#[derive(Clone, Debug)]
pub(in crate::controller) struct Memo {
    /// `uid/resourceVersion` of the Secrets that were read.
    pub(in crate::controller) version: String,
    pub(in crate::controller) known: KnownInputs,
    pub(in crate::controller) fingerprint: Fingerprint,
    pub(in crate::controller) account: Option<Account>,
}

/// A target that could not be written.
#[derive(Clone, Debug)]
pub(in crate::controller) struct BlockMemo {
    pub(in crate::controller) block: PublishBlock,
    /// When it ends.
    pub(in crate::controller) until: Deadline,
    pub(in crate::controller) count: i32,
    /// What it was tried with: a change brings another attempt at once.
    pub(in crate::controller) generation: Option<i64>,
    pub(in crate::controller) target_version: Option<String>,
}

/// What all reconciles share.
pub(in crate::controller) struct Context {
    pub(in crate::controller) client: Client,
    pub(in crate::controller) settings: Settings,
    pub(in crate::controller) clock: Arc<dyn Clock>,
    pub(in crate::controller) timeline: Arc<Timeline>,
    pub(in crate::controller) grants: Arc<Grants>,
    pub(in crate::controller) tokens: Tokens,
    pub(in crate::controller) secrets: SecretIndex,
    pub(in crate::controller) recorder: Recorder,
    pub(in crate::controller) metrics: Metrics,
    pub(in crate::controller) health: Health,
    /// Told when a watch has read its list whole.
    pub(in crate::controller) initial_lists: Notify,
    /// Told when the fingerprint key is there.
    pub(in crate::controller) key_found: Notify,
    /// Told when the fingerprint key's Secret was deleted.
    pub(in crate::controller) key_deleted: Notify,
    triggers: mpsc::UnboundedSender<ObjectKey>,
    key: Mutex<Option<Arc<FingerprintKey>>>,
    memos: Mutex<HashMap<ObjectKey, Memo>>,
    blocks: Mutex<HashMap<ObjectKey, BlockMemo>>,
    undecodable: Mutex<HashSet<ObjectKey>>,
    /// By watch and scope: when something came last.
    heard: Mutex<BTreeMap<(&'static str, String), Timestamp>>,
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
pub(in crate::controller) struct Parts {
    pub(in crate::controller) client: Client,
    pub(in crate::controller) settings: Settings,
    pub(in crate::controller) clock: Arc<dyn Clock>,
    pub(in crate::controller) timeline: Arc<Timeline>,
    pub(in crate::controller) grants: Arc<Grants>,
    pub(in crate::controller) metrics: Metrics,
    pub(in crate::controller) health: Health,
    pub(in crate::controller) triggers: mpsc::UnboundedSender<ObjectKey>,
}

impl Context {
    pub(in crate::controller) fn new(parts: Parts) -> Self {
        let recorder = Recorder::new(
            parts.client.clone(),
            crate::controller::reconcile::events::reporter(),
        );
        Self {
            client: parts.client,
            settings: parts.settings,
            clock: parts.clock,
            timeline: parts.timeline,
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
            heard: Mutex::default(),
        }
    }

    /// Has `object` reconciled.
    pub(in crate::controller) fn trigger(&self, object: ObjectKey) {
        // The receiver is gone at shutdown only.
        let _ = self.triggers.send(object);
    }

    /// Has every VendorToken but `object` reconciled that names this Secret.
    pub(in crate::controller) fn trigger_others(&self, object: &ObjectKey, secret: &str) {
        for other in self.tokens.referrers(&object.namespace, secret) {
            if other != *object {
                self.trigger(other);
            }
        }
    }

    /// Has every VendorToken reconciled that names this Secret.
    pub(in crate::controller) fn trigger_referrers(&self, namespace: &str, secret: &str) {
        for object in self.tokens.referrers(namespace, secret) {
            self.trigger(object);
        }
    }

    pub(in crate::controller) fn secret_gone(&self, namespace: &str, name: &str) {
        if namespace == self.settings.operator_namespace
            && name == crate::controller::leading::key::SECRET_NAME
        {
            self.key_deleted.notify_one();
        }
        self.trigger_referrers(namespace, name);
    }

    /// A VendorToken was deleted: gives back what is kept for it, and lets others take its target over.
    pub(in crate::controller) fn token_gone(&self, token: &VendorToken) {
        let object = key_of(token);
        self.forget(&object);
        self.trigger_referrers(&object.namespace, &target_name(token));
        self.trigger_claimants(&object, token);
    }

    /// Has the VendorTokens reconciled whose target is a Secret that `token` reads (or has read): while it does, they
    /// do not make it.
    pub(in crate::controller) fn trigger_claimants(&self, object: &ObjectKey, token: &VendorToken) {
        for secret in sources(token) {
            for (name, _) in self.tokens.rivals(object, &secret) {
                let namespace = object.namespace.clone();
                self.trigger(ObjectKey { namespace, name });
            }
        }
    }

    /// A VendorToken names other Secrets than before: who lost one to it may take that over.
    pub(in crate::controller) fn references_changed(
        &self,
        object: &ObjectKey,
        before: &VendorToken,
        after: &VendorToken,
    ) {
        let former = target_name(before);
        if former != target_name(after) {
            self.trigger_referrers(&object.namespace, &former);
        }
        if sources(before) != sources(after) {
            self.trigger_claimants(object, before);
        }
    }

    /// The watches have ended: nothing is known of objects any more, and no sign of life of a watch is expected.
    pub(in crate::controller) fn stands_down(&self) {
        self.grants.step_down();
        self.health.watches_ended();
        self.metrics.watches_ended();
        lock(&self.heard).clear();
        lock(&self.undecodable).clear();
        self.metrics.undecodable_objects(0);
        self.metrics.all_objects_removed();
    }

    /// Gives back what is kept for objects that went while nobody watched.
    pub(in crate::controller) fn forget_the_gone(&self) {
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

    /// Gives back what a reconcile has noted of an object that was deleted meanwhile.
    pub(in crate::controller) fn forget_if_gone(&self, object: &ObjectKey) {
        if self.tokens.get(object).is_none() {
            self.forget(object);
        }
    }

    /// Gives back what is kept for an object.
    pub(in crate::controller) fn forget(&self, object: &ObjectKey) {
        self.grants.forget(object);
        lock(&self.memos).remove(object);
        lock(&self.blocks).remove(object);
        self.metrics.object_removed(&object.namespace, &object.name);
    }

    pub(in crate::controller) fn undecodable(&self, object: &ObjectKey, invalid: &InvalidObject) {
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

    pub(in crate::controller) fn decodable(&self, object: &ObjectKey) {
        let mut all = lock(&self.undecodable);
        if all.remove(object) {
            self.metrics.undecodable_objects(all.len());
        }
    }

    pub(in crate::controller) fn watch_failed(&self, watch: &'static str, scope: &str, error: &WatchError) {
        let namespace = if scope.is_empty() { "all" } else { scope };
        tracing::warn!(
            watch,
            namespace,
            error = with_causes(error),
            "a watch failed and is tried again"
        );
        self.metrics.watch_failure(watch);
    }

    /// Something came, if only a sign that the watch is there.
    pub(in crate::controller) fn watch_heard(&self, watch: &'static str, scope: &str) {
        let mut heard = lock(&self.heard);
        heard.insert((watch, scope.to_owned()), self.clock.now());
        let of_watch = heard.iter().filter(|((other, _), _)| *other == watch);
        if let Some(longest_ago) = of_watch.map(|(_, at)| *at).min() {
            self.metrics.watch_event(watch, longest_ago);
        }
    }

    pub(in crate::controller) fn watch_alive(&self, watch: &'static str, scope: &str) {
        self.health.watch_alive(watch, scope);
    }

    pub(in crate::controller) fn key(&self) -> Option<Arc<FingerprintKey>> {
        lock(&self.key).clone()
    }

    pub(in crate::controller) fn set_key(&self, key: FingerprintKey) {
        *lock(&self.key) = Some(Arc::new(key));
        self.key_found.notify_waiters();
        self.health.set_ready("fingerprint-key", Ok(()));
    }

    pub(in crate::controller) fn key_missing(&self, why: &str) {
        self.health.set_ready("fingerprint-key", Err(why.to_owned()));
    }

    pub(in crate::controller) fn memo(&self, object: &ObjectKey) -> Option<Memo> {
        lock(&self.memos).get(object).cloned()
    }

    pub(in crate::controller) fn set_memo(&self, object: &ObjectKey, memo: Option<Memo>) {
        match memo {
            Some(memo) => lock(&self.memos).insert(object.clone(), memo),
            None => lock(&self.memos).remove(object),
        };
    }

    pub(in crate::controller) fn block(&self, object: &ObjectKey) -> Option<BlockMemo> {
        let mut memo = lock(&self.blocks).get(object).cloned()?;
        memo.block.next_attempt = memo.until.until(self.clock.now(), Instant::now());
        Some(memo)
    }

    pub(in crate::controller) fn set_block(&self, object: &ObjectKey, block: Option<BlockMemo>) {
        match block {
            Some(block) => lock(&self.blocks).insert(object.clone(), block),
            None => lock(&self.blocks).remove(object),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::names::Reason;
    use crate::clock::TokioClock;
    use crate::controller::fake;
    use crate::policy::Problem;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_holds_up_no_write_of_a_target() {
        let clock = Arc::new(TokioClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        let (context, _, _) = fake::context_by(Arc::clone(&clock) as Arc<dyn Clock>, 500, |sent| sent);
        let object = ObjectKey {
            namespace: "a".to_owned(),
            name: "t".to_owned(),
        };
        let next_attempt = crate::times::later(clock.now(), 60);
        let memo = BlockMemo {
            block: PublishBlock {
                problem: Problem::new(Reason::ApiDenied, "no"),
                next_attempt,
            },
            until: Deadline::new(next_attempt, clock.now(), Instant::now()),
            count: 1,
            generation: None,
            target_version: None,
        };
        context.set_block(&object, Some(memo));
        let left = || {
            let next = context.block(&object).unwrap().block.next_attempt;
            next.duration_since(clock.now()).as_secs()
        };
        assert_eq!(left(), 60);
        clock.step(jiff::SignedDuration::from_hours(-1));
        assert_eq!(left(), 61);
    }

    #[tokio::test]
    async fn the_metric_tells_of_the_namespace_that_was_silent_for_longest() {
        let (context, _, _) = fake::context(|sent| sent);
        let told = || {
            let text = context.metrics.encode().unwrap();
            let series = "vendortoken_watch_last_event_timestamp_seconds{watch=\"secrets\"} ";
            let value = text.lines().find_map(|line| line.strip_prefix(series));
            value.map(|value| value.parse::<i64>().unwrap())
        };
        context.watch_heard("secrets", "a");
        context.watch_heard("vendortokens", "b");
        let long_ago = Timestamp::from_second(1_700_000_000).unwrap();
        lock(&context.heard).insert(("secrets", "b".to_owned()), long_ago);
        context.watch_heard("secrets", "a");
        assert_eq!(told(), Some(1_700_000_000));
        context.watch_heard("secrets", "b");
        assert_ne!(told(), Some(1_700_000_000));
        context.stands_down();
        assert_eq!(told(), None);
    }
}
