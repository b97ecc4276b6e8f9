//! The limits of the book of grants, and the observer of its requests.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::failure::FailureClass;
use crate::providers::Vendor;

/// The limits on requests to vendors.
#[derive(Clone, Debug)]
pub struct GrantsOptions {
    /// Requests in any 60 s to one endpoint, by vendor; a vendor that is left out has no limit.
    pub per_minute: BTreeMap<Vendor, u32>,
    /// Requests in flight to one endpoint. In all, four times as many may be in flight, and half as many are kept for
    /// each vendor.
    pub max_concurrent: usize,
}

/// An observer of requests, for metrics.
pub trait GrantObserver: Send + Sync + 'static {
    /// Called when a request has ended: with a token, or with a failure of this class.
    fn request_ended(&self, vendor: Vendor, outcome: Result<(), FailureClass>, took: Duration);
    /// Called when a vendor has asked to wait until this time.
    fn throttled_until(&self, vendor: Vendor, until: Timestamp);
}
