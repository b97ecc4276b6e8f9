//! The program over many lifetimes of its tokens, and with the API server away or half broken: real processes, real
//! time. The tests of this binary take minutes each, and are meant to run side by side.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells what it measured"
)]

#[path = "../binary/support.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the program, which use all of it"
)]
mod support;

mod budget;
mod lifetimes;
mod outage;
mod watches;
mod witness;
