//! The transport against real TLS servers on loopback that misbehave byte by byte.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is a failed test

mod answers;
mod authorities;
mod client_certificates;
mod logs;
mod proxies;
mod requests;
mod servers;
mod timeouts;
mod tls;
