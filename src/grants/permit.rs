//! The permission to ask a vendor once for one grant.

use std::sync::Arc;

use jiff::Timestamp;

use super::book::Grants;
use super::call::VendorCall;
use super::grant::Phase;
use super::limiter::VendorEndpoint;
use super::object::ObjectKey;
use super::observation::Observation;
use super::table::whole_second;
use crate::api::names::Reason;
use crate::clock::Moment;
use crate::fingerprint::Fingerprint;
use crate::policy::{ACCOUNT_WINDOW, Hold, PastFailure, backoff};

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
    grants: Arc<Grants>,
    number: u64,
    fingerprint: Fingerprint,
    object: ObjectKey,
    since: Moment,
    live_until: Option<Moment>,
    server: VendorEndpoint,
    attempt: Option<PastFailure>,
    /// True when the attempt serves a refresh request that overrides a hold.
    overrides: bool,
    is_used: bool,
}

impl Grants {
    /// Reserves a request for the grant of the observed VendorToken, or joins the one that is under way.
    /// `refresh_request` is the request of a person that the attempt serves; it may override a back-off or a latch.
    pub fn reserve(
        self: &Arc<Self>,
        observation: &Observation<'_>,
        refresh_request: Option<&str>,
    ) -> Reservation {
        let mut table = self.lock();
        if table.draining || !self.leadership.holds() {
            return Reservation::Held;
        }
        let standing = self.standing(&mut table, observation);
        let now = self.timeline.now();
        let (object, fingerprint) = (observation.object, observation.fingerprint);
        let live_until = observation.evidence.live_until.map(|end| now.moment_at(end));
        let table = &mut *table;
        let grant = table.grants.entry(fingerprint).or_default();
        match grant.phase {
            Phase::Idle => {}
            Phase::Reserved(_) | Phase::InFlight => {
                return Reservation::UnderWay(grant.wait(object, refresh_request, now.moment));
            }
            Phase::Queued => {
                let since = grant.wait(object, refresh_request, now.moment);
                if let Some(endpoint) = table.endpoints.get_mut(&observation.server()) {
                    endpoint.queue.push(fingerprint, live_until, &object.namespace);
                }
                return Reservation::UnderWay(since);
            }
        }
        if standing.hold(refresh_request.is_some()) != Hold::Free {
            return Reservation::Held;
        }
        let earlier = earlier_failures(observation, standing.counts_for_account, now.wall());
        grant.failures = grant.failures.max(earlier);
        grant.rejections = grant.rejections.max(earlier_rejections(observation));
        let is_held = standing
            .failure
            .as_ref()
            .is_some_and(|failure| failure.holds(now.wall()));
        let count = grant.failures.saturating_add(1);
        let since = grant.wait(object, refresh_request, now.moment);
        table.permits += 1;
        grant.phase = Phase::Reserved(table.permits);
        let login = grant.login.filter(|_| standing.counts_for_account);
        if let Some(login) = login {
            let at = whole_second(&now);
            table
                .accounts
                .reserve(login.account, fingerprint, &object.namespace, at);
            table.note_attempted(std::iter::once(object));
        }
        Reservation::Permitted(Box::new(Permit {
            grants: Arc::clone(self),
            number: table.permits,
            fingerprint,
            object: object.clone(),
            since,
            live_until,
            server: observation.server(),
            attempt: login.map(|_| {
                let next = backoff::after_transient(count, observation.inputs.jitter, now.wall());
                PastFailure::about_to_be_sent(count, now.wall(), next, observation.inputs.clone())
            }),
            overrides: refresh_request.is_some() && is_held,
            is_used: false,
        }))
    }
}

/// The number of failures in a row that the status shows: of these same credentials and, where an account could be
/// locked, of any that were tried within [`ACCOUNT_WINDOW`].
fn earlier_failures(observation: &Observation<'_>, counts_for_account: bool, now: Timestamp) -> i32 {
    let failure = observation.evidence.failure.as_ref();
    let is_recent = |failure: &PastFailure| now.duration_since(failure.last_attempt) < ACCOUNT_WINDOW;
    failure
        .filter(|failure| {
            failure.inputs.fingerprint == observation.inputs.fingerprint
                || (counts_for_account && is_recent(failure))
        })
        .map_or(0, |failure| failure.count)
}

/// The number of rejections of these same credentials that the status shows. Where an account could be locked, each
/// failure before the last one may have been a rejection.
fn earlier_rejections(observation: &Observation<'_>) -> i32 {
    let failure = observation.evidence.own_failure();
    failure.map_or(0, |failure| match failure.reason {
        Reason::CredentialsRejected => failure.count,
        _ if observation.vendor.locks_accounts() => failure.count - 1,
        _ => 0,
    })
}

impl Permit {
    /// The record of the attempt that must be in the status before it is sent, so that a crash does not lose it; `None`
    /// where a failed attempt can lock no account.
    pub fn attempt_to_record(&self) -> Option<&PastFailure> {
        self.attempt.as_ref()
    }

    /// Queues the request. Its credentials are read when its turn has come; where that is in a moment, those of `call`
    /// are used. Gives the moment since which the object waits; `None` where this process has stopped leading since the
    /// reservation, or the object is gone.
    pub fn send(mut self, call: Option<VendorCall>) -> Option<Moment> {
        let grants = Arc::clone(&self.grants);
        let now = grants.timeline.now();
        let mut table = grants.lock();
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
        grant.server = Some(self.server.clone());
        grant.phase = Phase::Queued;
        let endpoint = table.endpoint(&self.server, now.moment);
        let is_open = endpoint.is_open(now.moment);
        endpoint
            .queue
            .push(self.fingerprint, self.live_until, &self.object.namespace);
        if let Some(call) = call.filter(|_| is_open) {
            table.in_hand.keep(self.fingerprint, call, now.moment);
        }
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
