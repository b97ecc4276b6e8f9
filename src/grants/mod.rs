//! The book of grants: every request in flight, the last token and the last failure of each grant, and the budget and
//! queue of each endpoint. It is the one component between decisions and vendors. A reconcile never waits for a vendor:
//! it [reserves](Grants::reserve) a request and sends it, and is woken when the attempt has ended.
//!
//! May use: `providers`, `policy` (holds, back-off, schedule), `http`, `clock`, `election`, `fingerprint`, `inputs`,
//! `token`, `failure`, `sync`, `times`, `api` (reasons). Knows no Kubernetes, and is tested with a paused clock.

mod accounts;
mod evidence;
mod grant;
mod limiter;
mod permit;
mod retention;
mod seed;
mod sender;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};

pub use self::grant::VendorCall;
use self::grant::{GrantRecord, Phase};
pub use self::permit::{Permit, Reservation};
pub(crate) use self::seed::{COUNTED_FOR, requests_before};
use self::table::GrantTable;
use crate::clock::{Moment, Timeline};
use crate::election::Leadership;
use crate::failure::FailureClass;
use crate::fingerprint::{Account, Fingerprint};
use crate::http::Transport;
use crate::inputs::Inputs;
use crate::policy::{ACCOUNT_WINDOW, Evidence, Hold, PastFailure, Standing, backoff};
use crate::providers::{Endpoint, Vendor};
use crate::sync::lock;
use crate::token::AccessToken;

/// The namespace and name of a VendorToken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// The limits on requests to vendors.
#[derive(Clone, Debug)]
pub struct GrantsOptions {
    /// Requests in any 60 s to one endpoint, by vendor; a vendor that is left out has no limit.
    pub per_minute: BTreeMap<Vendor, u32>,
    /// Requests in flight to one endpoint. In all, four times as many may be in flight, and half as many are kept for
    /// each vendor.
    pub max_concurrent: usize,
}

/// An observer of requests, for metrics.
pub trait GrantObserver: Send + Sync + 'static {
    /// Called when a request has ended: with a token, or with a failure of this class.
    fn request_ended(&self, vendor: Vendor, outcome: Result<(), FailureClass>, took: Duration);
    /// Called when a vendor has asked to wait until this time.
    fn throttled_until(&self, vendor: Vendor, until: Timestamp);
}

/// One VendorToken whose credentials were read, with the evidence of its status and its target.
#[derive(Clone, Debug)]
pub struct Observation<'a> {
    pub object: &'a ObjectKey,
    pub fingerprint: Fingerprint,
    /// The account that a failed attempt counts against; `None` at a vendor that locks no accounts.
    pub account: Option<Account>,
    pub endpoint: &'a Endpoint,
    pub vendor: Vendor,
    /// The published inputs of the grant, in the object's namespace.
    pub inputs: &'a Inputs,
    pub evidence: Evidence,
}

/// The book of grants (see [the module](self)).
pub struct Grants {
    transport: Arc<dyn Transport>,
    timeline: Arc<Timeline>,
    observer: Arc<dyn GrantObserver>,
    wake: mpsc::UnboundedSender<ObjectKey>,
    /// Checked before each reservation and each request: a process that does not lead sends none.
    leadership: Leadership,
    changed: Notify,
    table: Mutex<GrantTable>,
}

impl fmt::Debug for Grants {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Grants").finish_non_exhaustive()
    }
}

impl Grants {
    /// Gives an empty book that sends nothing yet (see [`Self::run`]). Objects to reconcile are sent to `wake`.
    pub fn new(
        options: GrantsOptions,
        transport: Arc<dyn Transport>,
        timeline: Arc<Timeline>,
        observer: Arc<dyn GrantObserver>,
        wake: mpsc::UnboundedSender<ObjectKey>,
        leadership: Leadership,
    ) -> Arc<Self> {
        let table = GrantTable::new(options, timeline.now().moment);
        Arc::new(Self {
            transport,
            timeline,
            observer,
            wake,
            leadership,
            changed: Notify::new(),
            table: Mutex::new(table),
        })
    }

    fn lock(&self) -> MutexGuard<'_, GrantTable> {
        lock(&self.table)
    }

    fn wake(&self, object: ObjectKey) {
        // The receiver is gone at shutdown only.
        let _ = self.wake.send(object);
    }

    /// Takes the observation of a VendorToken, and gives the standing of its grant.
    pub fn observe(&self, observation: &Observation<'_>) -> Standing {
        let mut table = self.lock();
        self.standing(&mut table, observation)
    }

    fn standing(&self, table: &mut GrantTable, observation: &Observation<'_>) -> Standing {
        let now = self.timeline.now();
        table.use_grant(
            observation.object,
            observation.fingerprint,
            observation.account,
            &now,
        );
        if let Some(until) = table.take_evidence(observation, &now) {
            self.observer
                .throttled_until(observation.vendor, now.wall_at(until));
        }
        table.standing(observation, &now)
    }

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
            Phase::Queued(_) => {
                let since = grant.wait(object, refresh_request, now.moment);
                if let Some(endpoint) = table.endpoints.get_mut(observation.endpoint) {
                    endpoint.queue.promote(fingerprint, live_until);
                }
                return Reservation::UnderWay(since);
            }
        }
        if standing.hold(refresh_request.is_some()) != Hold::Free {
            return Reservation::Held;
        }
        let earlier = earlier_failures(observation, standing.counts_for_account, now.wall());
        grant.failures = grant.failures.max(earlier);
        let is_held = standing
            .failure
            .as_ref()
            .is_some_and(|failure| failure.holds(now.wall()));
        let count = grant.failures.saturating_add(1);
        let since = grant.wait(object, refresh_request, now.moment);
        table.permits += 1;
        grant.phase = Phase::Reserved(table.permits);
        let account = grant.account.filter(|_| standing.counts_for_account);
        if let Some(account) = account {
            table.count_attempt(fingerprint, account, &now);
            table.note_attempted(std::iter::once(object));
        }
        Reservation::Permitted(Box::new(Permit {
            grants: Arc::clone(self),
            number: table.permits,
            fingerprint,
            object: object.clone(),
            since,
            live_until,
            attempt: account.map(|_| {
                let next = backoff::after_transient(count, observation.inputs.jitter, now.wall());
                PastFailure::about_to_be_sent(count, now.wall(), next, observation.inputs.clone())
            }),
            overrides: refresh_request.is_some() && is_held,
            is_used: false,
        }))
    }

    /// Ends the use of its grant by `object`, whose credentials cannot be used: no token leaves memory for it.
    pub fn release(&self, object: &ObjectKey) {
        self.lock().leave(object, &self.timeline.now());
    }

    /// Forgets `object`, which is gone.
    pub fn forget(&self, object: &ObjectKey) {
        let mut table = self.lock();
        table.leave(object, &self.timeline.now());
        table.objects.remove(object);
    }

    /// Forgets the objects that do not exist.
    pub fn forget_unless(&self, exists: impl Fn(&ObjectKey) -> bool) {
        let mut table = self.lock();
        let now = self.timeline.now();
        let gone: Vec<_> = table
            .objects
            .keys()
            .filter(|object| !exists(object))
            .cloned()
            .collect();
        for object in gone {
            table.leave(&object, &now);
            table.objects.remove(&object);
        }
    }

    /// Ends the wait of `object` for its grant (it was suspended, say). A request that nobody else waits for leaves the
    /// queue; one in flight goes on.
    pub fn withdraw(&self, object: &ObjectKey) {
        let mut table = self.lock();
        if let Some(fingerprint) = table.objects.get(object).and_then(|record| record.fingerprint) {
            table.withdraw(object, fingerprint);
        }
    }

    /// All objects that use a grant with a last token or a last failure in memory.
    pub fn objects_with_outcome(&self) -> Vec<ObjectKey> {
        let table = self.lock();
        table
            .grants
            .values()
            .filter(|grant| grant.token.is_some() || grant.failure.is_some())
            .flat_map(|grant| grant.users.iter().cloned())
            .collect()
    }

    /// The last token of the grant that `object` uses, while it is valid.
    pub fn token(&self, object: &ObjectKey) -> Option<Arc<AccessToken>> {
        let now = self.timeline.now();
        self.lock().grant_of(object)?.usable(&now).cloned()
    }

    /// The moment since which `object` waits for an attempt; `None` where it waits for none.
    pub fn waits_since(&self, object: &ObjectKey) -> Option<Moment> {
        let table = self.lock();
        let waiter = table.grant_of(object)?.waiters.get(object)?;
        Some(waiter.since)
    }

    /// True while an attempt for the grant that `object` uses is under way: it can be joined without credentials.
    pub fn is_under_way(&self, object: &ObjectKey) -> bool {
        self.lock()
            .grant_of(object)
            .is_some_and(GrantRecord::is_under_way)
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

#[cfg(test)]
mod tests;
