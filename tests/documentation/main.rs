//! The documentation agrees with the repository: its links lead somewhere, the paths that it names exist, and the tables
//! of `docs/reference.md` and `docs/architecture.md` list what the code has.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod architecture;
mod examples;
mod layout;
mod links;
mod page;
mod reference;
