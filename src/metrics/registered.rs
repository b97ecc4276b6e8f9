//! The metric families: their names, help texts, labels and buckets.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::Kind;
use super::objects::Objects;
use super::process::Process;
use super::throttles::Throttles;

pub(super) type Labelled<L> = Family<L, Counter>;
pub(super) type HistogramFamily<L> = Family<L, Histogram, fn() -> Histogram>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct VendorLabels {
    pub(super) vendor: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) vendor: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ResultLabels {
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct WatchLabels {
    pub(super) watch: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ApiLabels {
    pub(super) verb: &'static str,
    pub(super) resource: String,
    pub(super) code: String,
}

/// All families, and the registry that exposes them.
pub(super) struct Registered {
    pub(super) registry: Registry,
    pub(super) objects: Arc<Objects>,
    pub(super) vendor_requests: Labelled<RequestLabels>,
    pub(super) vendor_request_duration: HistogramFamily<VendorLabels>,
    pub(super) throttles: Arc<Throttles>,
    pub(super) vendor_budget: Family<VendorLabels, Gauge<f64, AtomicU64>>,
    pub(super) refresh_lateness: Histogram,
    pub(super) api_requests: Labelled<ApiLabels>,
    pub(super) reconciles: Labelled<ResultLabels>,
    pub(super) reconcile_duration: Histogram,
    pub(super) leader: Gauge,
    pub(super) watch_failures: Labelled<WatchLabels>,
    pub(super) watch_last_event: Family<WatchLabels, Gauge>,
    pub(super) undecodable_objects: Gauge,
    /// The summands of it.
    pub(super) undecodable: Mutex<BTreeMap<Kind, usize>>,
}

fn request_duration_histogram() -> Histogram {
    // Up to the total timeout of a vendor request.
    Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

impl Registered {
    pub(super) fn new() -> Self {
        let mut registry = Registry::default();
        let objects = Arc::new(Objects::default());
        registry.register_collector(Box::new(Arc::clone(&objects)));
        let throttles = Arc::new(Throttles::default());
        registry.register_collector(Box::new(Arc::clone(&throttles)));
        registry.register_collector(Box::new(Process));
        registry.register(
            "vendortoken_build",
            "The running version of the operator",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self {
            objects,
            throttles,
            vendor_requests: register(
                &mut registry,
                "vendortoken_vendor_requests",
                "Requests to vendors' token endpoints, by what came of them",
            ),
            vendor_request_duration: register_seconds_with(
                &mut registry,
                "vendortoken_vendor_request_duration",
                "Time from sending a request to a vendor to its answer or failure",
                Family::new_with_constructor(request_duration_histogram),
            ),
            vendor_budget: register(
                &mut registry,
                "vendortoken_vendor_budget_per_minute",
                "Requests a minute that the rate limit allows to one endpoint of the vendor; absent without a limit",
            ),
            refresh_lateness: register_seconds_with(
                &mut registry,
                "vendortoken_refresh_lateness",
                "How long after its due time a refreshed token was published",
                Histogram::new([0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0]),
            ),
            api_requests: register(
                &mut registry,
                "vendortoken_api_requests",
                "Requests to the Kubernetes API server; the code is the HTTP status, or timeout, or error",
            ),
            reconciles: register(
                &mut registry,
                "vendortoken_reconcile",
                "Finished reconciles of VendorTokens, by result",
            ),
            reconcile_duration: register_seconds_with(
                &mut registry,
                "vendortoken_reconcile_duration",
                "Time one reconcile took",
                Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0]),
            ),
            leader: register(
                &mut registry,
                "vendortoken_leader",
                "1 while this process holds the lease, else 0",
            ),
            watch_failures: register(
                &mut registry,
                "vendortoken_watch_failures",
                "Failed attempts to list or watch; a watch that is refused by RBAC counts at every retry",
            ),
            watch_last_event: register_seconds_with(
                &mut registry,
                "vendortoken_watch_last_event_timestamp",
                "When the watch last received a list, an event or a bookmark; of several namespaces, the one that was silent for longest",
                Family::default(),
            ),
            undecodable_objects: register(
                &mut registry,
                "vendortoken_undecodable_objects",
                "VendorTokens and Secrets that this version cannot read and skips",
            ),
            undecodable: Mutex::default(),
            registry,
        }
    }
}

fn register<M: prometheus_client::registry::Metric + Default + Clone>(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn register_seconds_with<M: prometheus_client::registry::Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    metric: M,
) -> M {
    registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
    metric
}
