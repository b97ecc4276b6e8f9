//! The program itself, as a process with the rights of `deploy/`: what it prints, logs, costs and leaves behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells what it measured"
)]

mod backup;
mod command_line;
mod costs;
mod hanging;
mod kubectl;
mod leaks;
mod memory;
mod modes;
mod probes;
mod replicas;
mod restarts;
mod search;
mod support;
mod terminating;
mod workload;

#[path = "../world/mod.rs"]
#[allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]
mod world;
