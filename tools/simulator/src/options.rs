//! The settings that a simulator starts with.

use std::time::Duration;

use crate::budget::Budget;
use crate::ledger::Detail;
use crate::vendor::Vendor;

/// Settings of a new simulator. The default suits a test: no budget, the vendors' own lifetimes, every call kept.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Lifetimes in seconds in the order of [`Vendor::ALL`]; `None` is the vendor's own.
    pub lifetimes: [Option<u64>; 5],
    /// Budgets in the order of [`Vendor::ALL`]; `None` is no limit.
    pub budgets: [Option<Budget>; 5],
    /// Accept any well-formed credential that is not registered.
    pub wildcard_credentials: bool,
    /// The calls and counts that the ledger keeps.
    pub detail: Detail,
    /// Length of Checkmarx' lockout; `None` is 300 s.
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
