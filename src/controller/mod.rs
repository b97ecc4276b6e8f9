//! Watches VendorTokens and Secrets, and reconciles: gather, decide, act, record.
//!
//! May use everything but `main`. The only module that talks to the API server.

mod cluster;
mod context;
#[cfg(test)]
mod fake;
mod leading;
mod reconcile;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::context::{Context, Parts};
use crate::clock::{Clock, Timeline};
use crate::election::Leadership;
use crate::failure::FailureClass;
use crate::grants::{GrantObserver, Grants, GrantsOptions, ObjectKey};
use crate::http::Transport;
use crate::metrics::Metrics;
use crate::providers::Vendor;
use crate::server::Health;

pub use self::context::Settings;
pub use self::leading::key::SECRET_NAME as FINGERPRINT_KEY_SECRET;

/// Timers are checked against the wall clock at least this often: a clock that was stepped, or a machine that slept,
/// moves no timer. And what no watch tells is seen within this time.
pub const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// The scheduler shows that it comes round this often.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What the controller works with.
pub struct Parameters {
    pub client: Client,
    pub settings: Settings,
    pub grants: GrantsOptions,
    pub transport: Arc<dyn Transport>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Metrics,
    pub health: Health,
    /// Whether this process may act.
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
    let (triggers, mut queue) = mpsc::unbounded_channel::<ObjectKey>();
    let mut leadership = parameters.leadership;
    for vendor in Vendor::ALL {
        let allowed = parameters.grants.per_minute.get(&vendor).copied();
        parameters.metrics.vendor_budget(vendor, allowed);
    }
    let timeline = Arc::new(Timeline::new(Arc::clone(&parameters.clock)));
    let grants = Grants::new(
        parameters.grants,
        parameters.transport,
        Arc::clone(&timeline),
        Arc::new(GrantMetrics(parameters.metrics.clone())),
        triggers.clone(),
        leadership.clone(),
    );
    let context = Arc::new(Context::new(Parts {
        client: parameters.client,
        settings: parameters.settings,
        clock: parameters.clock,
        timeline,
        grants: Arc::clone(&grants),
        metrics: parameters.metrics,
        health: parameters.health,
        triggers,
    }));
    let mut background = JoinSet::new();
    background.spawn(leading::key::obtain_and_keep(Arc::clone(&context)));
    background.spawn(Arc::clone(&grants).run());
    let shutdown = shutdown.shared();
    while stand_by(&context, &mut leadership, shutdown.clone()).await == Next::Lead {
        context.metrics.leader(true);
        let next = leading::session::lead(&context, &mut queue, &mut leadership, shutdown.clone()).await;
        context.metrics.leader(false);
        if next == Next::Stop {
            break;
        }
    }
    background.abort_all();
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    StandBy,
    Lead,
    Stop,
}

/// Waits until this process leads. A standby is ready and alive.
async fn stand_by(
    context: &Context,
    leadership: &mut Leadership,
    shutdown: impl Future<Output = ()> + Send,
) -> Next {
    context.metrics.leader(false);
    context.health.set_ready("watches", Ok(()));
    tokio::pin!(shutdown);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            () = leadership.becomes(true) => return Next::Lead,
            () = &mut shutdown => return Next::Stop,
            _ = heartbeat.tick() => context.health.tick(),
        }
    }
}

/// Counts what the Grants component tells.
struct GrantMetrics(Metrics);

impl GrantObserver for GrantMetrics {
    fn request_ended(&self, vendor: Vendor, outcome: Result<(), FailureClass>, took: Duration) {
        self.0.vendor_request(vendor, outcome, took);
    }

    fn throttled_until(&self, vendor: Vendor, until: Timestamp) {
        self.0.vendor_throttled_until(vendor, until);
    }
}
