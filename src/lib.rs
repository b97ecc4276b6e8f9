//! vendor-token-operator.
pub mod api;
pub mod arguments;
pub mod clock;
pub mod failure;
pub mod http;
pub mod metrics;
pub mod server;
pub mod telemetry;
pub mod token;
pub mod vendor;
