//! One term of leadership: what it begins with, works through and ends with.

pub(in crate::controller) mod key;
pub(in crate::controller) mod recall;
pub(in crate::controller) mod session;
