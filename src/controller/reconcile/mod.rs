//! Reconciles one VendorToken at a time: gather, decide, act, record. Never waits for a vendor.

pub(crate) mod ask;
mod content;
pub(crate) mod credentials;
pub(crate) mod error;
pub(crate) mod events;
mod exchanged;
mod fences;
mod owners;
pub(crate) mod publish;
pub(crate) mod read_target;
pub(crate) mod record;
pub(crate) mod retire;
mod retry;
pub(crate) mod snapshot;
pub(crate) mod status;
mod steps;
pub(crate) mod target;
pub(crate) mod validated;
mod vendor_token_calls;

pub(crate) use self::retry::{Failed, after_error};
pub(crate) use self::steps::reconcile;
