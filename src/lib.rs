//! vendor-token-operator.
pub mod api;
pub mod failure;
pub mod token;
pub mod vendor;
