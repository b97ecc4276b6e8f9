//! Decides: what was observed goes in, with `now`, and what to do comes out. Pure: no I/O, no clock, no client.
//!
//! May use: `token`, `failure`, `inputs`, `text`, `times`, `api`.
//!
//! - [`decide`]: what to do next for one VendorToken.
//! - [`status`]: the status that tells users what was decided and why.
//! - [`schedule`]: when a token is due; [`backoff`]: when to try again after a failure.
//! - [`Standing`]: whether the grant may be asked, and if not, until when.
//! - [`ownership`]: whether a Secret may be written by a VendorToken.

pub mod backoff;
mod conditions;
mod decide;
mod hold;
mod observed;
pub mod ownership;
mod past_failure;
pub mod schedule;
mod status;
mod token_facts;

pub use conditions::{Facts, Progress, StoredFacts, conditions};
pub use decide::{Decision, decide};
pub use hold::{Evidence, GrantFacts, Hold, HoldCause, Standing, reason_of};
pub use observed::{Credentials, Observed, Problem, PublishBlock, Target};
pub use past_failure::PastFailure;
pub use status::{ACCOUNT_WINDOW, StatusContext, status, status_before_asking};
pub use token_facts::{GrantToken, Stored, Warnings};

#[cfg(test)]
mod tests;
