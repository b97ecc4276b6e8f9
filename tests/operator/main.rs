//! The operator on a real API server, against the simulator, with exactly the rights of its manifests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod admission;
mod attempts;
mod clock_steps;
mod contest;
mod credentials;
mod events;
mod fences;
mod forgery;
mod freshness;
mod gateway;
mod hammering;
mod hostility;
mod in_flight;
mod key;
mod lockout;
mod modes;
mod motion;
mod odd_metadata;
mod owners;
mod pacing;
mod publishing;
mod quiet;
mod rejection;
mod renaming;
mod repair;
mod responses;
mod restart;
mod restores;
mod scenarios;
mod sharing;
mod spec;
mod support;
mod targets;
mod throttling;
mod undecodable;
mod writes;

#[path = "../world/mod.rs"]
#[allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]
mod world;
