//! The rules: what was observed and `now` go in, decisions and the status come out. Pure: no I/O, no clock, no client.
//!
//! May use: `token`, `failure`, `inputs`, `seal`, `text`, `times`, `api`.
//!
//! - [`decide`]: the next step for one VendorToken.
//! - [`status`]: the status, which shows users the decision and its reasons.
//! - [`schedule`]: the due time of a token; [`backoff`]: the time of the next attempt after a failure.
//! - [`Standing`]: the holds of a grant, each with its end and its cause.
//! - [`ownership`]: the right to write a Secret as a target; [`contest`]: the pauses between repairs of one.

pub mod backoff;
mod conditions;
pub mod contest;
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
pub use hold::{AccountLock, Evidence, GrantFacts, Hold, Standing, reason_of};
pub use observed::{Credentials, Observed, Problem, PublishBlock, Target};
pub use past_failure::PastFailure;
pub use status::{ACCOUNT_WINDOW, StatusContext, says_that_owners_stay, status, status_before_asking};
pub use token_facts::{GrantToken, Stored, Warnings};

#[cfg(test)]
mod tests;
