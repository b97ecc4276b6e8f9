//! The operator's metrics, as OpenMetrics text. Names and labels are part of the contract (`docs/reference.md`, "Metrics").
//!
//! Label values come from closed sets (vendors, outcomes, reasons) or are names of Kubernetes objects, never texts of a
//! vendor or values of a user. May use: `failure`, `providers` (names only) and `sync`.

pub mod api;
mod demand;
mod objects;
mod process;
mod registered;
mod throttles;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::text::encode;

pub use demand::Need;
pub use objects::ObjectLabels;
use objects::ObjectState;
use registered::{ApiLabels, Registered, RequestLabels, ResultLabels, VendorLabels, WatchLabels};

use crate::failure::FailureClass;
use crate::providers::Vendor;
use crate::sync::lock;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A kind of objects that the operator watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    VendorToken,
    Secret,
}

/// All metrics of the process. Clones share the values.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Registered>,
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

impl Metrics {
    /// Registers all metrics; once in a process, since `process_*` describes the process.
    pub fn new() -> Self {
        let inner = Registered::new();
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Sets the series of one VendorToken: its state as in `kubectl get`, and the rate that it needs of its vendor,
    /// where it has a token to keep fresh. An unknown time has no series.
    pub fn object_observed(
        &self,
        labels: &ObjectLabels,
        ready: bool,
        expires: Option<Timestamp>,
        next_refresh: Option<Timestamp>,
        need: Option<Need>,
    ) {
        let seconds = |time: Timestamp| time.as_second();
        let state = ObjectState {
            ready,
            expires: expires.map(seconds),
            next_refresh: next_refresh.map(seconds),
            need,
        };
        self.inner.objects.set(labels, state);
    }

    /// Removes the series of a VendorToken that is gone, for any vendor.
    pub fn object_removed(&self, namespace: &str, name: &str) {
        self.inner.objects.remove(namespace, name);
    }

    /// Removes the series of all VendorTokens and waits: the process that leads now has them.
    pub fn all_objects_removed(&self) {
        self.inner.objects.clear();
        self.inner.throttles.clear();
    }

    /// Counts a finished request to a vendor, with a token or with a failure of this class.
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

    /// Sets the time until which the vendor asked to wait. The latest of several is shown until it has passed.
    pub fn vendor_throttled_until(&self, vendor: Vendor, until: Timestamp) {
        self.inner.throttles.note(vendor.as_str(), until);
    }

    /// Sets the rate limit of one endpoint of this vendor, in requests a minute (`None`: no limit).
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

    /// Counts a refreshed token that was published `lateness` after its due time (zero when early).
    pub fn refreshed(&self, lateness: Duration) {
        self.inner.refresh_lateness.observe(lateness.as_secs_f64());
    }

    /// Counts a finished reconcile. `result` is `ok` or `error`.
    pub fn reconciled(&self, result: &'static str, duration: Duration) {
        self.inner
            .reconciles
            .get_or_create(&ResultLabels { result })
            .inc();
        self.inner.reconcile_duration.observe(duration.as_secs_f64());
    }

    /// Sets the leadership of this process.
    pub fn leader(&self, leader: bool) {
        self.inner.leader.set(i64::from(leader));
    }

    /// Sets the time of the last event of the watch of this name (`vendortokens`, `secrets`, …); of watches in several
    /// namespaces, that of the one that was silent for longest.
    pub fn watch_event(&self, watch: &'static str, at: Timestamp) {
        self.inner
            .watch_last_event
            .get_or_create(&WatchLabels { watch })
            .set(at.as_second());
    }

    /// Removes the series of all watches: a standby has none, and they must not look silent.
    pub fn watches_ended(&self) {
        self.inner.watch_last_event.clear();
    }

    /// Counts a failure of the watch of this name, which is tried again.
    pub fn watch_failure(&self, watch: &'static str) {
        self.inner
            .watch_failures
            .get_or_create(&WatchLabels { watch })
            .inc();
    }

    /// Sets the number of objects of one kind that this version cannot read and skips.
    pub fn undecodable_objects(&self, kind: Kind, count: usize) {
        let mut undecodable = lock(&self.inner.undecodable);
        undecodable.insert(kind, count);
        let sum = undecodable.values().sum::<usize>();
        self.inner
            .undecodable_objects
            .set(i64::try_from(sum).unwrap_or(i64::MAX));
    }

    /// Counts a finished call to the API server.
    fn api_request(&self, verb: &'static str, resource: String, code: String) {
        self.inner
            .api_requests
            .get_or_create(&ApiLabels { verb, resource, code })
            .inc();
    }

    /// Writes all metrics as OpenMetrics text (see [`CONTENT_TYPE`]).
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.inner.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
