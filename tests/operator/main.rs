//! The operator on a real API server, against the simulator, with exactly the rights of `deploy/`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod credentials;
mod events;
mod forgery;
mod freshness;
mod hostility;
mod key;
mod lockout;
mod modes;
mod publishing;
mod rejection;
mod renaming;
mod responses;
mod restart;
mod scenarios;
mod spec;
mod support;
mod targets;
mod throttling;
mod undecodable;
mod vendors;
mod writes;
