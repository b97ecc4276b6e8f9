//! Terms of leadership: the wait for one, its start, its work and its end.

pub(crate) mod key;
mod seed;
mod session;
mod stand_by;
mod turns;

pub(crate) use self::session::run;
pub(crate) use self::stand_by::{Next, stand_by};
