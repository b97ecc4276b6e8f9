//! The operator's metrics, as OpenMetrics text. Names and labels are part of the contract (README, "Metrics").
//!
//! Label values come from closed sets (vendors, outcomes, reasons) or are names of Kubernetes objects; never from
//! what a vendor or a user wrote into a value. May use: `failure` and `vendor` (names only).

pub mod api;
mod objects;
mod process;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use objects::ObjectLabels;
use objects::{ObjectState, Objects};
use process::Process;

use crate::failure::FailureClass;
use crate::vendor::Vendor;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labelled<L> = Family<L, Counter>;
type HistogramFamily<L> = Family<L, Histogram, fn() -> Histogram>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VendorLabels {
    vendor: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    vendor: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WatchLabels {
    watch: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ApiLabels {
    verb: &'static str,
    resource: String,
    code: String,
}

/// All metrics of the process. Cheap to clone; clones share the values.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    objects: Arc<Objects>,
    vendor_requests: Labelled<RequestLabels>,
    vendor_request_duration: HistogramFamily<VendorLabels>,
    vendor_throttled_until: Family<VendorLabels, Gauge>,
    vendor_budget_required: Family<VendorLabels, Gauge<f64, AtomicU64>>,
    vendor_budget: Family<VendorLabels, Gauge<f64, AtomicU64>>,
    refresh_lateness: Histogram,
    api_requests: Labelled<ApiLabels>,
    reconciles: Labelled<ResultLabels>,
    reconcile_duration: Histogram,
    leader: Gauge,
    watch_failures: Labelled<WatchLabels>,
    watch_last_event: Family<WatchLabels, Gauge>,
    undecodable_objects: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn request_duration_histogram() -> Histogram {
    // Up to the total deadline of a vendor request.
    Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

impl Metrics {
    /// Registers every metric. Call it once for a process: `process_*` is about the process itself.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let objects = Arc::new(Objects::default());
        registry.register_collector(Box::new(Arc::clone(&objects)));
        registry.register_collector(Box::new(Process));
        registry.register(
            "vendortoken_build",
            "The running version of the operator",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        let inner = Inner {
            objects,
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
            vendor_throttled_until: register_seconds_with(
                &mut registry,
                "vendortoken_vendor_throttled_until_timestamp",
                "Until when the vendor has asked to wait at the latest; in the past once that is over",
                Family::default(),
            ),
            vendor_budget_required: register(
                &mut registry,
                "vendortoken_vendor_budget_required_per_minute",
                "Requests a minute that the present tokens of the vendor need to stay fresh",
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
                "VendorTokens that this version cannot read and skips",
            ),
            registry,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// What `kubectl get` would show of one VendorToken now. Replaces what was shown before; a time that is not
    /// known has no series.
    pub fn object_observed(
        &self,
        labels: &ObjectLabels,
        ready: bool,
        expires: Option<Timestamp>,
        next_refresh: Option<Timestamp>,
    ) {
        let seconds = |time: Timestamp| time.as_second();
        let state = ObjectState {
            ready,
            expires: expires.map(seconds),
            next_refresh: next_refresh.map(seconds),
        };
        self.inner.objects.set(labels, state);
    }

    /// The VendorToken is gone: so are its series, whichever vendor they were for.
    pub fn object_removed(&self, namespace: &str, name: &str) {
        self.inner.objects.remove(namespace, name);
    }

    /// This process looks after no VendorToken any more: another that leads has their series now.
    pub fn all_objects_removed(&self) {
        self.inner.objects.clear();
    }

    /// One request to a vendor has ended: with a token, or with a failure of this class.
    pub fn vendor_request(&self, vendor: Vendor, outcome: Result<(), FailureClass>, duration: Duration) {
        let (vendor, outcome) = (
            vendor.as_str(),
            outcome.map_or_else(FailureClass::as_str, |()| "ok"),
        );
        self.inner
            .vendor_requests
            .get_or_create(&RequestLabels { vendor, outcome })
            .inc();
        self.inner
            .vendor_request_duration
            .get_or_create(&VendorLabels { vendor })
            .observe(duration.as_secs_f64());
    }

    /// The vendor asked to wait until this time. Of several waits the latest is shown.
    pub fn vendor_throttled_until(&self, vendor: Vendor, until: Timestamp) {
        let labels = VendorLabels {
            vendor: vendor.as_str(),
        };
        let gauge = self.inner.vendor_throttled_until.get_or_create(&labels);
        gauge.set(gauge.get().max(until.as_second()));
    }

    /// What the present tokens of this vendor need, in requests a minute.
    pub fn vendor_budget_required(&self, vendor: Vendor, required: f64) {
        let labels = VendorLabels {
            vendor: vendor.as_str(),
        };
        self.inner
            .vendor_budget_required
            .get_or_create(&labels)
            .set(required);
    }

    /// What the rate limit allows to one endpoint of this vendor, in requests a minute (`None`: no limit).
    pub fn vendor_budget(&self, vendor: Vendor, allowed: Option<u32>) {
        let labels = VendorLabels {
            vendor: vendor.as_str(),
        };
        match allowed {
            Some(allowed) => {
                self.inner
                    .vendor_budget
                    .get_or_create(&labels)
                    .set(f64::from(allowed));
            }
            None => {
                self.inner.vendor_budget.remove(&labels);
            }
        }
    }

    /// A token was refreshed and published `lateness` after its due time (zero when early).
    pub fn refreshed(&self, lateness: Duration) {
        self.inner.refresh_lateness.observe(lateness.as_secs_f64());
    }

    /// A reconcile has ended. `result` is `ok` or `error`.
    pub fn reconciled(&self, result: &'static str, duration: Duration) {
        self.inner
            .reconciles
            .get_or_create(&ResultLabels { result })
            .inc();
        self.inner.reconcile_duration.observe(duration.as_secs_f64());
    }

    /// Whether this process may act.
    pub fn leader(&self, leader: bool) {
        self.inner.leader.set(i64::from(leader));
    }

    /// The watch of this name (`vendortokens`, `secrets`, …) received something; of several namespaces, the one that was
    /// silent for longest.
    pub fn watch_event(&self, watch: &'static str, at: Timestamp) {
        self.inner
            .watch_last_event
            .get_or_create(&WatchLabels { watch })
            .set(at.as_second());
    }

    /// Nothing is watched any more: a process that stands by is not one whose watches are silent.
    pub fn watches_ended(&self) {
        self.inner.watch_last_event.clear();
    }

    /// The watch of this name failed, and will be tried again.
    pub fn watch_failure(&self, watch: &'static str) {
        self.inner
            .watch_failures
            .get_or_create(&WatchLabels { watch })
            .inc();
    }

    /// How many VendorTokens are skipped because this version cannot read them.
    pub fn undecodable_objects(&self, count: usize) {
        self.inner
            .undecodable_objects
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// One call to the API server has ended.
    fn api_request(&self, verb: &'static str, resource: String, code: String) {
        self.inner
            .api_requests
            .get_or_create(&ApiLabels { verb, resource, code })
            .inc();
    }

    /// Everything as OpenMetrics text (see [`CONTENT_TYPE`]).
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.inner.registry)?;
        Ok(text)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn labels(name: &str) -> ObjectLabels {
        ObjectLabels {
            namespace: "appsec".into(),
            name: name.into(),
            vendor: "Picus",
        }
    }

    fn time(second: i64) -> Option<Timestamp> {
        Some(Timestamp::from_second(second).unwrap())
    }

    /// Every metric with at least one series.
    fn filled() -> Metrics {
        let metrics = Metrics::new();
        metrics.object_observed(&labels("a"), true, time(1_800_000_000), time(1_799_999_000));
        metrics.vendor_request(
            Vendor::Mapiq,
            Err(FailureClass::Throttled),
            Duration::from_millis(120),
        );
        metrics.vendor_throttled_until(Vendor::Mapiq, Timestamp::from_second(1_800_000_289).unwrap());
        metrics.vendor_budget_required(Vendor::Mapiq, 12.5);
        metrics.vendor_budget(Vendor::Mapiq, Some(20));
        metrics.refreshed(Duration::from_secs(2));
        metrics.reconciled("ok", Duration::from_millis(3));
        metrics.leader(true);
        metrics.watch_event("secrets", Timestamp::from_second(1_800_000_001).unwrap());
        metrics.watch_failure("secrets");
        metrics.undecodable_objects(3);
        metrics.api_request("PATCH", "vendortokens/status".into(), "200".into());
        metrics
    }

    fn series(text: &str, start: &str) -> Vec<String> {
        text.lines()
            .filter(|line| line.starts_with(start))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_documented_metric_is_there_with_its_labels() {
        let text = filled().encode().unwrap();
        for line in [
            r#"vendortoken_ready{namespace="appsec",name="a",vendor="Picus"} 1"#,
            r#"vendortoken_expiration_timestamp_seconds{namespace="appsec",name="a",vendor="Picus"} 1800000000"#,
            r#"vendortoken_next_refresh_timestamp_seconds{namespace="appsec",name="a",vendor="Picus"} 1799999000"#,
            r#"vendortoken_vendor_requests_total{vendor="Mapiq",outcome="throttled"} 1"#,
            r#"vendortoken_vendor_request_duration_seconds_bucket{le="0.25",vendor="Mapiq"} 1"#,
            r#"vendortoken_vendor_throttled_until_timestamp_seconds{vendor="Mapiq"} 1800000289"#,
            r#"vendortoken_vendor_budget_required_per_minute{vendor="Mapiq"} 12.5"#,
            r#"vendortoken_vendor_budget_per_minute{vendor="Mapiq"} 20.0"#,
            r#"vendortoken_refresh_lateness_seconds_sum 2.0"#,
            r#"vendortoken_api_requests_total{verb="PATCH",resource="vendortokens/status",code="200"} 1"#,
            r#"vendortoken_reconcile_total{result="ok"} 1"#,
            r#"vendortoken_reconcile_duration_seconds_count 1"#,
            r#"vendortoken_leader 1"#,
            r#"vendortoken_watch_failures_total{watch="secrets"} 1"#,
            r#"vendortoken_watch_last_event_timestamp_seconds{watch="secrets"} 1800000001"#,
            r#"vendortoken_undecodable_objects 3"#,
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line}\nis not in\n{text}"
            );
        }
        let version = format!(
            r#"vendortoken_build_info{{version="{}"}} 1"#,
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(series(&text, "vendortoken_build_info"), [version]);
    }

    #[test]
    fn the_series_of_an_object_vanish_with_it_and_others_stay() {
        let metrics = filled();
        metrics.object_observed(&labels("b"), false, None, time(5));
        metrics.object_removed("appsec", "a");
        let text = metrics.encode().unwrap();
        assert!(!text.contains(r#"name="a""#), "{text}");
        assert_eq!(series(&text, "vendortoken_ready{").len(), 1);
        assert_eq!(
            series(&text, "vendortoken_expiration_timestamp_seconds{").len(),
            0,
            "unknown: no series"
        );
    }

    #[test]
    fn an_object_that_changes_its_vendor_has_one_series() {
        let metrics = filled();
        let changed = ObjectLabels {
            vendor: "SixMap",
            ..labels("a")
        };
        metrics.object_observed(&changed, false, None, None);
        let text = metrics.encode().unwrap();
        assert_eq!(
            series(&text, "vendortoken_ready{"),
            [r#"vendortoken_ready{namespace="appsec",name="a",vendor="SixMap"} 0"#]
        );
    }

    #[test]
    fn a_limit_that_is_off_has_no_series() {
        let metrics = filled();
        metrics.vendor_budget(Vendor::Mapiq, None);
        let text = metrics.encode().unwrap();
        assert_eq!(series(&text, "vendortoken_vendor_budget_per_minute{").len(), 0);
    }

    #[test]
    fn of_several_waits_the_latest_is_shown() {
        let metrics = filled();
        for second in [1_800_000_300, 1_800_000_001] {
            metrics.vendor_throttled_until(Vendor::Mapiq, Timestamp::from_second(second).unwrap());
        }
        assert_eq!(
            series(
                &metrics.encode().unwrap(),
                "vendortoken_vendor_throttled_until_timestamp_seconds{"
            ),
            [r#"vendortoken_vendor_throttled_until_timestamp_seconds{vendor="Mapiq"} 1800000300"#]
        );
    }

    #[test]
    fn a_process_that_stands_down_shows_no_object() {
        let metrics = filled();
        metrics.all_objects_removed();
        metrics.watch_event("secrets", Timestamp::UNIX_EPOCH);
        metrics.watches_ended();
        for gone in ["vendortoken_ready{", "vendortoken_watch_last_event"] {
            assert_eq!(
                series(&metrics.encode().unwrap(), gone),
                Vec::<String>::new(),
                "{gone}"
            );
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_is_described() {
        let text = filled().encode().unwrap();
        let value = |name: &str| -> f64 {
            let line = series(&text, &format!("{name} "))
                .pop()
                .unwrap_or_else(|| panic!("{name} in {text}"));
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e5);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_cpu_seconds_total") >= 0.0);
        let age = Timestamp::now().as_second() as f64 - value("process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "{age}");
    }

    /// The rules `promtool check metrics` applies, and those of OpenMetrics 1.0 that scrapers stumble over.
    #[test]
    fn the_text_passes_a_lint() {
        let text = filled().encode().unwrap();
        assert!(text.ends_with("# EOF\n"));
        let mut kinds: BTreeMap<String, String> = BTreeMap::new();
        let mut helps: BTreeMap<String, String> = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(
                    help.len() > 15 && help.ends_with('.') && !help.ends_with(".."),
                    "{line}"
                );
                assert!(helps.insert(name.into(), help.into()).is_none(), "twice: {name}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(helps.contains_key(name), "no help: {name}");
                assert!(
                    name.starts_with("vendortoken_") || name.starts_with("process_"),
                    "{name}"
                );
                assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
                for suffix in [
                    "_total",
                    "_count",
                    "_sum",
                    "_bucket",
                    "_milliseconds",
                    "_gauge",
                    "_counter",
                ] {
                    assert!(!name.ends_with(suffix), "{name}");
                }
                kinds.insert(name.into(), kind.into());
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let (family, kind) = kinds
                    .iter()
                    .filter(|(family, _)| name == *family || name.starts_with(&format!("{family}_")))
                    .max_by_key(|(family, _)| family.len())
                    .unwrap_or_else(|| panic!("no type: {line}"));
                let suffix = &name[family.len()..];
                let allowed: &[&str] = match kind.as_str() {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    "info" => &["_info"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    other => panic!("unknown type {other}"),
                };
                assert!(allowed.contains(&suffix), "{line}");
                assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
                assert!(
                    seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()),
                    "twice: {line}"
                );
            }
        }
        for (name, kind) in &kinds {
            let timed = kind == "histogram" || name.contains("timestamp") || name.contains("duration");
            assert!(!timed || name.ends_with("_seconds"), "no unit: {name}");
            let unit = format!("# UNIT {name} seconds");
            assert!(!name.ends_with("_seconds") || text.contains(&unit), "{unit}");
        }
        assert!(kinds.len() >= 17, "{kinds:?}");
    }
}
