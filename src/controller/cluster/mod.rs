//! The cluster as this process knows it: lists and watches, the mirrors that they feed, and the memory of each object.
//!
//! Knows neither reconciles nor leadership.

pub(crate) mod answers;
pub(crate) mod deleted;
pub(crate) mod event_recorder;
pub(crate) mod list_watch;
pub(crate) mod mirror;
pub(crate) mod monitor;
pub(crate) mod object_json;
pub(crate) mod objects;
pub(crate) mod pacing;
pub(crate) mod packed;
pub(crate) mod pages;
pub(crate) mod references;
pub(crate) mod remembered;
pub(crate) mod repairs;
pub(crate) mod secret_calls;
pub(crate) mod secret_data;
pub(crate) mod secret_name;
pub(crate) mod secret_reads;
pub(crate) mod secret_record;
pub(crate) mod secrets;
pub(crate) mod sinks;
pub(crate) mod triggers;
pub(crate) mod watch_events;
