//! The operator on a real API server, against the simulator, with exactly the rights of `deploy/`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod key;
mod publishing;
mod support;
