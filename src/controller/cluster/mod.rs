//! The cluster as this process knows it: lists and watches, and what is kept of VendorTokens and Secrets.

pub(in crate::controller) mod deleted;
pub(in crate::controller) mod list_watch;
pub(in crate::controller) mod secret_record;
pub(in crate::controller) mod secrets;
pub(in crate::controller) mod tokens;
pub(in crate::controller) mod watch;
