//! The program itself, as a process with the rights of `deploy/`: what it prints, logs, costs and leaves behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod command_line;
mod costs;
mod kubectl;
mod leaks;
mod modes;
mod probes;
mod replicas;
mod restarts;
mod search;
mod support;
mod workload;
