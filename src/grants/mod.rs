//! The book of grants: every request in flight, the last token and the last failure of each grant, and the budget and
//! queue of each endpoint. It is the one component between decisions and vendors. A reconcile never waits for a vendor:
//! it [reserves](Grants::reserve) a request and queues it, and is woken when the attempt has ended. The credentials are
//! read when the request's turn has come, through a [`CallSource`].
//!
//! May use: `providers`, `policy` (holds, back-off, schedule), `http`, `clock`, `election`, `fingerprint`, `inputs`,
//! `token`, `failure`, `sync`, `times`, `api` (reasons). Knows no Kubernetes, and is tested with a paused clock.

mod accounts;
mod book;
mod call;
mod evidence;
mod grant;
mod limiter;
mod object;
mod observation;
mod options;
mod permit;
mod retention;
mod seed;
mod sender;
mod table;

pub use self::book::Grants;
pub use self::call::{CallSource, VendorCall};
pub use self::object::ObjectKey;
pub use self::observation::Observation;
pub use self::options::{GrantObserver, GrantsOptions};
pub use self::permit::{Permit, Reservation};
pub(crate) use self::seed::{COUNTED_FOR, requests_before};

#[cfg(test)]
mod tests;
