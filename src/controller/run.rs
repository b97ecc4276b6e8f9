//! Puts the controller together and runs it, term by term.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::clock::Timeline;
use crate::controller::cluster::event_recorder::EventRecorder;
use crate::controller::context::{Context, Parts, Settings};
use crate::controller::leading::{self, Next, Triggered};
use crate::controller::reconcile::ask::QueuedCalls;
use crate::controller::reconcile::events::reporter;
use crate::election::Leadership;
use crate::failure::FailureClass;
use crate::grants::{GrantObserver, Grants, GrantsOptions, ObjectKey};
use crate::http::Transport;
use crate::metrics::Metrics;
use crate::providers::Vendor;
use crate::server::Health;

/// The parts that the controller works with.
pub struct Parameters {
    pub client: Client,
    pub settings: Settings,
    pub grants: GrantsOptions,
    pub transport: Arc<dyn Transport>,
    pub timeline: Arc<Timeline>,
    pub metrics: Metrics,
    pub health: Health,
    /// The right of this process to act.
    pub leadership: Leadership,
}

impl std::fmt::Debug for Parameters {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Parameters")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Runs until `shutdown` completes; then lets requests in flight end, publishes what arrived, and returns.
///
/// Works while this process leads. Otherwise it stands by: no vendor calls, no writes, no watches; tokens in memory
/// are kept.
pub async fn run(parameters: Parameters, shutdown: impl Future<Output = ()> + Send + 'static) {
    let (queue, looks) = mpsc::unbounded_channel::<ObjectKey>();
    let (wake, outcomes) = mpsc::unbounded_channel::<ObjectKey>();
    let mut triggered = Triggered { looks, outcomes };
    let mut leadership = parameters.leadership;
    for vendor in Vendor::ALL {
        let allowed = parameters.grants.per_minute.get(&vendor).copied();
        parameters.metrics.vendor_budget(vendor, allowed);
    }
    let grants = Grants::new(
        parameters.grants,
        parameters.transport,
        Arc::clone(&parameters.timeline),
        Arc::new(GrantMetrics(parameters.metrics.clone())),
        wake,
        leadership.clone(),
    );
    let (key_sender, key) = watch::channel(None);
    let context = Arc::new(Context::new(Parts {
        recorder: EventRecorder::new(parameters.client.clone(), reporter()),
        client: parameters.client,
        settings: parameters.settings,
        timeline: parameters.timeline,
        grants: Arc::clone(&grants),
        metrics: parameters.metrics,
        health: parameters.health,
        key,
        queue,
    }));
    let mut background = JoinSet::new();
    background.spawn(leading::key::obtain_and_keep(Arc::clone(&context), key_sender));
    background.spawn(Arc::clone(&grants).run(Arc::new(QueuedCalls(Arc::clone(&context)))));
    let shutdown = shutdown.shared();
    while leading::stand_by(&context, &mut leadership, shutdown.clone()).await == Next::Lead {
        context.metrics.leader(true);
        let next = leading::run(&context, &mut triggered, &mut leadership, shutdown.clone()).await;
        context.metrics.leader(false);
        if next == Next::Stop {
            break;
        }
    }
    background.abort_all();
}

/// Counts the requests to vendors.
struct GrantMetrics(Metrics);

impl GrantObserver for GrantMetrics {
    fn request_ended(&self, vendor: Vendor, outcome: Result<(), FailureClass>, took: Duration) {
        self.0.vendor_request(vendor, outcome, took);
    }

    fn throttled_until(&self, vendor: Vendor, until: Timestamp) {
        self.0.vendor_throttled_until(vendor, until);
    }
}
