//! What a simulator is started with.

use std::time::Duration;

use crate::budget::Budget;
use crate::ledger::Detail;
use crate::vendor::Vendor;

/// How to start a simulator. The default suits a test: free ports, no admin API, no budget, the vendors' own
/// lifetimes, every call kept.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The port of each vendor, in the order of [`Vendor::ALL`]; 0 takes a free one.
    pub ports: [u16; 5],
    /// The port of the trap; 0 takes a free one.
    pub trap_port: u16,
    /// The port of the admin API; 0 takes a free one, `None` leaves it out.
    pub admin_port: Option<u16>,
    /// Lifetimes in seconds in the order of [`Vendor::ALL`]; `None` is the vendor's own.
    pub lifetimes: [Option<u64>; 5],
    /// Budgets in the order of [`Vendor::ALL`]; `None` is no limit.
    pub budgets: [Option<Budget>; 5],
    /// Accept any well-formed credential that is not registered.
    pub wildcard_credentials: bool,
    /// Waited before each answer.
    pub latency: Duration,
    /// What the ledger keeps.
    pub detail: Detail,
    /// How long Checkmarx' lockout lasts; `None` is 300 s.
    pub lockout: Option<Duration>,
}

impl Options {
    /// Sets the lifetime of a vendor's tokens in seconds.
    pub fn lifetime(mut self, vendor: Vendor, seconds: u64) -> Self {
        self.lifetimes[vendor.index()] = Some(seconds);
        self
    }

    /// Limits the requests to a vendor.
    pub fn budget(mut self, vendor: Vendor, budget: Budget) -> Self {
        self.budgets[vendor.index()] = Some(budget);
        self
    }
}
