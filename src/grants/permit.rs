//! The permission to ask a vendor once for one grant.

use std::sync::Arc;

use super::grant::Phase;
use super::{Grants, ObjectKey, VendorCall};
use crate::clock::Moment;
use crate::fingerprint::Fingerprint;
use crate::policy::PastFailure;

/// The answer to a wish to ask a vendor.
#[derive(Debug)]
pub enum Reservation {
    /// A request for this grant is under way. The object waits for it since this moment, and is woken when it ends.
    UnderWay(Moment),
    /// The vendor may be asked once.
    Permitted(Box<Permit>),
    /// The vendor may not be asked now, or this process does not lead.
    Held,
}

/// The permission to ask a vendor once. While it lives, nobody else may ask for the same grant. Dropped unused, it
/// takes back the attempt that was counted against an account, and wakes one of the others who wait.
#[derive(Debug)]
pub struct Permit {
    pub(super) grants: Arc<Grants>,
    pub(super) number: u64,
    pub(super) fingerprint: Fingerprint,
    pub(super) object: ObjectKey,
    pub(super) since: Moment,
    pub(super) live_until: Option<Moment>,
    pub(super) attempt: Option<PastFailure>,
    /// True when the attempt serves a refresh request that overrides a hold.
    pub(super) overrides: bool,
    pub(super) is_used: bool,
}

impl Permit {
    /// The record of the attempt that must be in the status before it is sent, so that a crash does not lose it; `None`
    /// where a failed attempt can lock no account.
    pub fn attempt_to_record(&self) -> Option<&PastFailure> {
        self.attempt.as_ref()
    }

    /// Queues the request. Gives the moment since which the object waits; `None` where this process has stopped leading
    /// since the reservation, or the object is gone.
    pub fn send(mut self, call: VendorCall) -> Option<Moment> {
        let grants = Arc::clone(&self.grants);
        let now = grants.timeline.now();
        let mut table = grants.lock();
        let vendor = call.grant.vendor();
        let grant = table.grants.get_mut(&self.fingerprint)?;
        let is_reserved = matches!(grant.phase, Phase::Reserved(number) if number == self.number);
        // An object that was deleted meanwhile waits no more.
        if !is_reserved || grant.waiters.is_empty() {
            return None;
        }
        self.is_used = true;
        if self.overrides {
            grant.note_override(now.moment);
        }
        grant.endpoint = Some(call.endpoint.clone());
        let endpoint = call.endpoint.clone();
        grant.phase = Phase::Queued(Box::new(call));
        table.endpoint(&endpoint, vendor, now.moment).queue.push(
            self.fingerprint,
            self.live_until,
            &self.object.namespace,
        );
        drop(table);
        grants.changed.notify_one();
        Some(self.since)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_used {
            return;
        }
        let now = self.grants.timeline.now();
        let mut table = self.grants.lock();
        let Some(grant) = table.grants.get(&self.fingerprint) else {
            return;
        };
        if !matches!(grant.phase, Phase::Reserved(number) if number == self.number) {
            return;
        }
        table.cancel(self.fingerprint);
        let Some(grant) = table.grants.get_mut(&self.fingerprint) else {
            return;
        };
        grant.waiters.remove(&self.object);
        // Another one asks in its place, and the end of that attempt wakes all.
        let next = grant.waiters.keys().next().cloned();
        if grant.users.is_empty() {
            table.give_back(self.fingerprint, &now);
        }
        if let Some(object) = next {
            self.grants.wake(object);
        }
    }
}
