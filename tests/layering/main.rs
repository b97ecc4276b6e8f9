//! The dependency rules of the workspace, read from its sources with `syn`: who may use whom and what stays out of the
//! modules that decide (`modules`), no import circle between files or modules (`circles`), the length of test names
//! (`names`), and who asks for Secrets (`calls`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod calls;
mod circles;
mod modules;
mod names;
mod source;
mod tree;
