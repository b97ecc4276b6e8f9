//! The simulator as its clients see it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod answers;
mod common;
mod credentials;
mod faults;
mod ledger;
mod limits;
mod listeners;
mod refusals;
