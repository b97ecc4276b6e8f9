//! The cluster as this process knows it: lists and watches, the mirrors that they feed, and the memory of each object.
//!
//! Knows neither reconciles nor leadership.

pub(in crate::controller) mod deleted;
pub(in crate::controller) mod list_watch;
pub(in crate::controller) mod mirror;
pub(in crate::controller) mod monitor;
pub(in crate::controller) mod objects;
pub(in crate::controller) mod references;
pub(in crate::controller) mod remembered;
pub(in crate::controller) mod secret_record;
pub(in crate::controller) mod secrets;
pub(in crate::controller) mod sinks;
pub(in crate::controller) mod triggers;
