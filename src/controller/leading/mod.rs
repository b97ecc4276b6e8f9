//! Terms of leadership: the wait for one, its start, its work and its end.

pub(in crate::controller) mod key;
mod recall;
mod session;
mod stand_by;

pub(in crate::controller) use self::session::run;
pub(in crate::controller) use self::stand_by::{Next, stand_by};
