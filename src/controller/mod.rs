//! Watches VendorTokens and Secrets, and reconciles: gather, decide, act, record.
//!
//! May use everything but `main`. All objects of users are read and written here; `election` has its Lease.
//!
//! `run` uses `leading`, which uses `reconcile`, which uses `cluster`. The handles of `context` hold the parts of
//! `cluster` together, for the other two.

mod cluster;
mod context;
#[cfg(test)]
mod fake;
mod leading;
mod reconcile;
mod run;

pub use self::context::{LONGEST_WAIT, Settings};
pub use self::leading::key::SECRET_NAME as FINGERPRINT_KEY_SECRET;
pub use self::run::{Parameters, run};
