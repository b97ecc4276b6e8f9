//! What was observed of one VendorToken and its grant.

use super::limiter::VendorEndpoint;
use super::object::ObjectKey;
use crate::fingerprint::{Fingerprint, Login};
use crate::inputs::Inputs;
use crate::policy::Evidence;
use crate::providers::{Endpoint, Vendor};

/// One VendorToken whose credentials were read, with the evidence of its status and its target.
#[derive(Clone, Debug)]
pub struct Observation<'a> {
    pub object: &'a ObjectKey,
    pub fingerprint: Fingerprint,
    /// The account that a failed attempt counts against, and the password for it; `None` at a vendor that locks no
    /// accounts.
    pub login: Option<Login>,
    pub endpoint: &'a Endpoint,
    pub vendor: Vendor,
    /// The published inputs of the grant, in the object's namespace.
    pub inputs: &'a Inputs,
    pub evidence: Evidence,
}

impl Observation<'_> {
    /// The vendor at its endpoint.
    pub(super) fn server(&self) -> VendorEndpoint {
        VendorEndpoint::new(self.vendor, self.endpoint)
    }
}
