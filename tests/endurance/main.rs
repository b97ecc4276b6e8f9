//! The program over many lifetimes of its tokens, and with the API server away or half broken: real processes, real
//! time. The tests of this binary take minutes each, and are meant to run side by side.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells what it measured"
)]

mod budget;
mod failing;
mod fairness;
mod ledger;
mod lifetimes;
mod memory;
mod outage;
mod pace;
mod slow;
mod watches;
mod witness;

#[path = "../world/mod.rs"]
#[allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]
mod world;
