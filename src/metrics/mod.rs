//! The operator's metrics, as OpenMetrics text. Names and labels are part of the contract (`docs/reference.md`, "Metrics").
//!
//! Label values come from closed sets (vendors, outcomes, reasons) or are names of Kubernetes objects; never from
//! what a vendor or a user wrote into a value. May use: `failure` and `providers` (names only).

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

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the process. Cheap to clone; clones share the values.
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
    /// Registers every metric. Call it once for a process: `process_*` is about the process itself.
    pub fn new() -> Self {
        let inner = Registered::new();
        Self {
            inner: Arc::new(inner),
        }
    }

    /// What `kubectl get` would show of one VendorToken now, and what it needs of its vendor, where it has a token to keep
    /// fresh. Replaces what was shown before; a time that is not known has no series.
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

    /// The VendorToken is gone: so are its series, whichever vendor they were for.
    pub fn object_removed(&self, namespace: &str, name: &str) {
        self.inner.objects.remove(namespace, name);
    }

    /// This process looks after no VendorToken any more: another that leads has their series now.
    pub fn all_objects_removed(&self) {
        self.inner.objects.clear();
        self.inner.throttles.clear();
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

    /// The vendor asked to wait until this time. Of several waits the latest is shown, until it has passed.
    pub fn vendor_throttled_until(&self, vendor: Vendor, until: Timestamp) {
        self.inner.throttles.note(vendor.as_str(), until);
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

#[cfg(test)]
mod tests;
