//! Reconciles one VendorToken at a time: gather, decide, act, record. Never waits for a vendor.

pub(in crate::controller) mod ask;
pub(in crate::controller) mod credentials;
pub(in crate::controller) mod error;
pub(in crate::controller) mod events;
pub(in crate::controller) mod publish;
pub(in crate::controller) mod read_target;
pub(in crate::controller) mod record;
pub(in crate::controller) mod retire;
pub(in crate::controller) mod snapshot;
pub(in crate::controller) mod status;
mod steps;
pub(in crate::controller) mod target;
pub(in crate::controller) mod validated;

pub(in crate::controller) use self::steps::{after_error, reconcile};
