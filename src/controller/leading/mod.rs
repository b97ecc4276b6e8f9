//! Terms of leadership: the wait for one, its start, its work and its end.

pub(crate) mod key;
mod queue;
mod seed;
mod session;
mod stand_by;

pub(crate) use self::session::{Triggered, run};
pub(crate) use self::stand_by::{Next, stand_by};

#[cfg(test)]
mod tests;
