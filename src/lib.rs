//! vendor-token-operator: keeps short-lived vendor access tokens fresh in Kubernetes Secrets.
//!
//! ```text
//! main -> controller -> { policy, providers, api, grants, http, metrics }
//!         grants     -> { providers, policy, http, election, fingerprint }
//!         policy     -> { api, token, failure, inputs, seal }
//!         providers  -> { token, failure, times }
//!         api        -> nothing of ours
//! main -> connection -> proxy <- http
//! ```
//! The documentation of each module names the modules that it may use; `tests/layering` checks it.

pub mod api;
pub mod arguments;
pub mod clock;
pub mod connection;
pub mod controller;
pub mod election;
pub mod error_text;
pub mod failure;
pub mod fingerprint;
pub mod grants;
pub mod http;
pub mod inputs;
pub mod metrics;
pub mod policy;
pub mod providers;
pub mod proxy;
pub mod seal;
pub mod server;
pub mod sync;
pub mod telemetry;
pub mod template;
pub mod text;
pub mod times;
pub mod token;
