//! The handles that reconciles and terms of leadership share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{Notify, mpsc, watch};

use crate::clock::Timeline;
use crate::controller::cluster::answers::Answers;
use crate::controller::cluster::event_recorder::EventRecorder;
use crate::controller::cluster::monitor::WatchMonitor;
use crate::controller::cluster::objects::Objects;
use crate::controller::cluster::pacing::{Pacer, paced};
use crate::controller::cluster::remembered::Remembered;
use crate::controller::cluster::secret_reads::SecretReads;
use crate::controller::cluster::secrets::Secrets;
use crate::controller::cluster::triggers::Triggers;
use crate::fingerprint::FingerprintKey;
use crate::grants::{Grants, ObjectKey};
use crate::metrics::Metrics;
use crate::providers::{Endpoint, Vendor};
use crate::server::Health;

/// The longest time between two looks at an object. Neither a step of the clock nor a sleep of the machine moves a
/// timer, and without a watch no event shows a change.
pub const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The options of the controller.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace of the operator's own Secrets and of its Lease.
    pub operator_namespace: String,
    /// Namespaces to work in; empty for all.
    pub watch_namespaces: Vec<String>,
    /// Secrets are watched; otherwise they are read one by one.
    pub secret_watch: bool,
    /// Endpoints that an administrator put in the place of a vendor's own.
    pub endpoints: BTreeMap<Vendor, Endpoint>,
    /// The number of reconciles at a time.
    pub concurrency: u16,
    /// The longest time between two looks at an object, and at the Secret of the operator's key: [`LONGEST_WAIT`].
    pub longest_wait: Duration,
}

impl Settings {
    /// The scopes of the watches: the listed namespaces, or one empty name for all.
    pub(crate) fn scopes(&self) -> Vec<String> {
        if self.watch_namespaces.is_empty() {
            vec![String::new()]
        } else {
            self.watch_namespaces.clone()
        }
    }
}

/// The key of the fingerprints, once it was read.
pub(crate) type KeyReceiver = watch::Receiver<Option<Arc<FingerprintKey>>>;

/// The handles that reconciles and terms of leadership share.
pub(crate) struct Context {
    /// Its calls go through the gates of [`Self::pacer`].
    pub(crate) client: Client,
    pub(crate) pacer: Arc<Pacer>,
    pub(crate) settings: Settings,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) answers: Answers,
    pub(crate) secret_reads: SecretReads,
    pub(crate) remembered: Arc<Remembered>,
    pub(crate) triggers: Triggers,
    pub(crate) watches: Arc<WatchMonitor>,
    pub(crate) recorder: EventRecorder,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) key: KeyReceiver,
    /// Notified when the Secret of the fingerprint key was deleted.
    pub(crate) key_deleted: Arc<Notify>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Context")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The parts that a [`Context`] is made of.
pub(crate) struct Parts {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) recorder: EventRecorder,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) key: KeyReceiver,
    /// The queue of the objects to be reconciled.
    pub(crate) queue: mpsc::UnboundedSender<ObjectKey>,
}

impl Context {
    /// A context that knows no objects yet.
    pub(crate) fn new(parts: Parts) -> Self {
        let objects = Arc::new(Objects::new(parts.metrics.clone()));
        let pacer = Pacer::new(Arc::clone(&parts.timeline), parts.queue.clone());
        let client = paced(parts.client, Arc::clone(&pacer));
        let answers = Answers::new(client.clone());
        Self {
            remembered: Arc::new(Remembered::new(
                Arc::clone(&parts.grants),
                Arc::clone(&pacer),
                parts.metrics.clone(),
            )),
            triggers: Triggers::new(Arc::clone(&objects), parts.queue),
            watches: Arc::new(WatchMonitor::new(
                Arc::clone(&parts.timeline),
                parts.health.clone(),
                parts.metrics.clone(),
            )),
            objects,
            secrets: Arc::new(Secrets::new(parts.metrics.clone())),
            secret_reads: SecretReads::new(answers.clone()),
            answers,
            client,
            pacer,
            settings: parts.settings,
            timeline: parts.timeline,
            grants: parts.grants,
            recorder: parts.recorder,
            metrics: parts.metrics,
            health: parts.health,
            key: parts.key,
            key_deleted: Arc::default(),
        }
    }

    /// The key of the fingerprints, once it was read.
    pub(crate) fn key(&self) -> Option<Arc<FingerprintKey>> {
        self.key.borrow().clone()
    }
}
