//! Every grant in flight, the last token of each grant, and each endpoint's budget and queue: the one component
//! between decisions and vendors. Reconciles never wait for a vendor: they [`Grants::ask`], and are woken when the
//! grant has ended.
//!
//! May use: `providers`, `policy` (back-off, schedule, what was observed), `http`, `clock`, `election`, `fingerprint`, `inputs`,
//! `token`, `failure`, `api` (reasons). Knows no Kubernetes, and is tested with a paused clock.

mod accounts;
mod budget;
mod endpoint;
mod entry;
mod inner;
mod places;
mod queue;
mod recall;
mod sending;
mod upcoming;

pub(crate) use self::recall::{RECALLED_FOR, requests_before};

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use self::entry::{Entry, Phase};
use self::inner::{Inner, endpoint_state};
use crate::clock::Clock;
use crate::election::Leadership;
use crate::failure::FailureClass;
use crate::fingerprint::{Account, Fingerprint};
use crate::http::Transport;
use crate::inputs::Inputs;
use crate::policy::GrantState;
use crate::providers::{Endpoint, Grant, Vendor};
use crate::token::{AccessToken, Credentials};

/// What nobody needs is given back this often.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// More endpoints than this are only kept while there is something to remember of them: a tenant may name any region
/// of 6clicks', also regions that do not exist.
const MOST_IDLE_ENDPOINTS: usize = 64;
/// A latch without a deadline outlives the last VendorToken that used its grant by this long: deleting a VendorToken and
/// making it anew, or editing it there and back, must not try a rejected password again.
const LATCH_OUTLIVES: Duration = Duration::from_secs(24 * 3600);
/// So many grants that nobody uses are kept for their latch or back-off at most.
const MOST_KEPT: usize = 10_000;

/// Namespace and name of a VendorToken.
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

/// Limits of the component.
#[derive(Clone, Debug)]
pub struct GrantsOptions {
    /// Requests a minute by vendor; none means no limit.
    pub per_minute: BTreeMap<Vendor, u32>,
    /// Requests in flight for one endpoint; four times that in all, of which half as many as for one endpoint are kept
    /// for each vendor.
    pub max_concurrent: usize,
}

/// What is told of each request, for metrics.
pub trait GrantObserver: Send + Sync + 'static {
    /// A request has ended: with a token, or with a failure of this class.
    fn request_ended(&self, vendor: Vendor, outcome: Result<(), FailureClass>, took: Duration);
    /// The vendor asked to wait until this time.
    fn throttled_until(&self, vendor: Vendor, until: Timestamp);
}

/// Asks for a token.
#[derive(Debug)]
pub struct Ask {
    pub fingerprint: Fingerprint,
    pub grant: Grant,
    pub endpoint: Endpoint,
    /// Kept until the request was sent, then wiped.
    pub credentials: Credentials,
    pub object: ObjectKey,
    /// The account that a failed attempt counts against; `None` where there is none, or the credentials are proven.
    pub account: Option<Account>,
    /// Until when the asking object's token is valid; `None` without one.
    pub live_until: Option<Timestamp>,
    /// When the asking object's token was issued, where these credentials have brought it.
    pub stored_issued: Option<Timestamp>,
    /// Failures in a row that a status remembers from before a restart.
    pub failures_before: i32,
    /// A latch or a back-off that only a status remembers holds, and the refresh request goes past it.
    pub passes_remembered: bool,
    /// The refresh request that this serves.
    pub refresh_request: Option<String>,
}

/// See the module's documentation.
pub struct Grants {
    options: GrantsOptions,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn GrantObserver>,
    wake: mpsc::UnboundedSender<ObjectKey>,
    /// Asked before each request: a process that does not lead sends none.
    leadership: Leadership,
    changed: Notify,
    inner: Mutex<Inner>,
}

impl fmt::Debug for Grants {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Grants")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Grants {
    /// The component, and nothing running yet: see [`Self::run`]. Objects to reconcile are sent to `wake`.
    pub fn new(
        options: GrantsOptions,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn GrantObserver>,
        wake: mpsc::UnboundedSender<ObjectKey>,
        leadership: Leadership,
    ) -> Arc<Self> {
        Arc::new(Self {
            options,
            transport,
            clock,
            observer,
            wake,
            leadership,
            changed: Notify::new(),
            inner: Mutex::new(Inner {
                began: Some(Instant::now()),
                ..Inner::default()
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock was held is a defect; the state is still the best there is.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `object`'s credentials make `fingerprint` now. Its former grant is given up: taken out of the queue
    /// where nobody else waits for it, and forgotten where nobody else uses it.
    pub fn uses(&self, object: &ObjectKey, fingerprint: Fingerprint, account: Option<Account>) {
        let now = self.clock.now();
        let mut inner = self.lock();
        if inner.objects.get(object) == Some(&fingerprint) {
            return;
        }
        inner.leave(object, now, Instant::now());
        inner.objects.insert(object.clone(), fingerprint);
        let entry = inner.entries.entry(fingerprint).or_default();
        let outlived = entry
            .left
            .take()
            .is_some_and(|left| left.elapsed() >= LATCH_OUTLIVES);
        if outlived && entry.users.is_empty() {
            *entry = Entry::default();
        }
        entry.account = account;
        entry.users.insert(object.clone());
    }

    /// The credentials that `object` uses have brought a token to this process.
    pub fn is_proven(&self, object: &ObjectKey) -> bool {
        let inner = self.lock();
        let entry = inner
            .objects
            .get(object)
            .and_then(|fingerprint| inner.entries.get(fingerprint));
        entry.is_some_and(|entry| entry.proven)
    }

    /// All objects that use a grant whose last token or failure is in memory.
    pub fn objects_with_outcome(&self) -> Vec<ObjectKey> {
        let inner = self.lock();
        inner
            .entries
            .values()
            .filter(|entry| entry.token.is_some() || entry.failure.is_some())
            .flat_map(|entry| entry.users.iter().cloned())
            .collect()
    }

    /// `object` is gone, or its credentials are.
    pub fn release(&self, object: &ObjectKey) {
        self.lock().leave(object, self.clock.now(), Instant::now());
    }

    /// `object` no longer waits for a grant (it was suspended, say); a request in flight goes on.
    pub fn withdraw(&self, object: &ObjectKey) {
        let mut inner = self.lock();
        if let Some(fingerprint) = inner.objects.get(object).copied() {
            inner.withdraw(object, fingerprint);
        }
    }

    /// What is known of the grant that `object` uses, for the decision. `inputs` is what `object`'s namespace calls it.
    pub fn state(&self, object: &ObjectKey, inputs: &Inputs) -> GrantState {
        let now = self.clock.now();
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(entry) = inner
            .objects
            .get(object)
            .and_then(|fingerprint| inner.entries.get(fingerprint))
        else {
            return GrantState {
                may_pass_latch: true,
                ..GrantState::default()
            };
        };
        let at = Instant::now();
        let paused_until = entry
            .endpoint
            .as_ref()
            .and_then(|endpoint| inner.endpoints.get(endpoint))
            .and_then(|endpoint| endpoint.paused_until(now, at));
        let account = entry.account.filter(|_| !entry.proven);
        GrantState {
            account_free_at: account.and_then(|account| inner.accounts.free_at(account, now)),
            ..entry.state(object, inputs, paused_until, now, at)
        }
    }

    /// The last token of the grant that `object` uses, while it is valid.
    pub fn token(&self, object: &ObjectKey) -> Option<Arc<AccessToken>> {
        let now = self.clock.now();
        let inner = self.lock();
        let entry = inner.entries.get(inner.objects.get(object)?)?;
        entry.usable(now).cloned()
    }

    /// Since when `object` waits for a request that is queued or in flight.
    pub fn waits_since(&self, object: &ObjectKey) -> Option<Instant> {
        let inner = self.lock();
        let entry = inner.entries.get(inner.objects.get(object)?)?;
        entry.waiters.get(object).map(|waiter| waiter.since)
    }

    /// Joins the request that is queued or in flight for the grant that `object` uses; `None` where there is none and
    /// [`Self::ask`] is needed. Takes no credentials, so none have to be read for it.
    pub fn join(
        &self,
        object: &ObjectKey,
        refresh_request: Option<&str>,
        live_until: Option<Timestamp>,
    ) -> Option<Instant> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let fingerprint = inner.objects.get(object).copied()?;
        let entry = inner.entries.get_mut(&fingerprint)?;
        match entry.phase {
            Phase::Idle => return None,
            Phase::InFlight => {}
            Phase::Queued(_) => {
                if let Some(endpoint) = entry
                    .endpoint
                    .as_ref()
                    .and_then(|key| inner.endpoints.get_mut(key))
                {
                    endpoint.queue.hasten(fingerprint, live_until);
                }
            }
        }
        Some(entry.wait(object, refresh_request.map(str::to_owned), Instant::now()))
    }

    /// Whether [`Self::ask`] would give `None` now: for the same fingerprint, account, time of issue and request. What has
    /// to be noted before asking need not be noted then.
    pub fn holds_back(
        &self,
        fingerprint: Fingerprint,
        account: Option<Account>,
        stored_issued: Option<Timestamp>,
        requested: bool,
    ) -> bool {
        let (wall, now) = (self.clock.now(), Instant::now());
        self.lock()
            .holds_back(fingerprint, account, stored_issued, requested, wall, now)
    }

    /// Asks for a token, and gives the time since when `object` waits; `None` where an attempt has ended between the
    /// decision and this, or this process leads no more, so that it is to be decided again. Objects with the same
    /// fingerprint share one request; `object` is woken when it has ended.
    pub fn ask(&self, ask: Ask) -> Option<Instant> {
        if !self.leadership.holds() {
            return None;
        }
        let account = self
            .lock()
            .entries
            .get(&ask.fingerprint)
            .and_then(|entry| entry.account);
        self.uses(&ask.object, ask.fingerprint, account.or(ask.account));
        let now = Instant::now();
        let mut inner = self.lock();
        let inner = &mut *inner;
        let entry = inner.entries.entry(ask.fingerprint).or_default();
        entry.users.insert(ask.object.clone());
        let since = entry.wait(&ask.object, ask.refresh_request.clone(), now);
        match entry.phase {
            Phase::Idle => {}
            Phase::InFlight => return Some(since),
            Phase::Queued(_) => {
                if let Some(endpoint) = inner.endpoints.get_mut(&ask.endpoint) {
                    endpoint.queue.hasten(ask.fingerprint, ask.live_until);
                }
                return Some(since);
            }
        }
        let wall = self.clock.now();
        let requested = ask.refresh_request.is_some();
        let account = ask.account.filter(|_| !entry.proven);
        if inner.holds_back(
            ask.fingerprint,
            ask.account,
            ask.stored_issued,
            requested,
            wall,
            now,
        ) {
            if let Some(entry) = inner.entries.get_mut(&ask.fingerprint) {
                entry.waiters.remove(&ask.object);
            }
            return None;
        }
        let entry = inner.entries.entry(ask.fingerprint).or_default();
        entry.count = entry.count.max(ask.failures_before);
        entry.note_pass(requested && ask.passes_remembered, wall, now);
        entry.endpoint = Some(ask.endpoint.clone());
        let vendor = ask.grant.vendor();
        if inner.endpoints.len() >= MOST_IDLE_ENDPOINTS {
            inner.endpoints.retain(|_, endpoint| !endpoint.is_idle(now, wall));
        }
        let (endpoints, began) = (&mut inner.endpoints, inner.began);
        let endpoint = endpoint_state(endpoints, &ask.endpoint, vendor, &self.options, began);
        endpoint
            .queue
            .push(ask.fingerprint, ask.live_until, &ask.object.namespace);
        entry.phase = Phase::Queued(Box::new(entry::Pending {
            grant: ask.grant,
            endpoint: ask.endpoint,
            credentials: ask.credentials,
            account: account.map(|account| (account, wall)),
        }));
        if let Some(account) = account {
            inner.accounts.note(account, ask.fingerprint, wall);
        }
        self.changed.notify_one();
        Some(since)
    }
}

#[cfg(test)]
mod tests;
