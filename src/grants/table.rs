//! The state behind the lock of the book: grants, their users, endpoints and accounts, and the end of what nobody
//! needs.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::accounts::{Accounts, Gate};
use super::call::{CallsInHand, VendorCall};
use super::grant::{GrantRecord, Phase};
use super::limiter::{Budget, EndpointState, InFlightLimiter, VendorEndpoint};
use super::object::ObjectKey;
use super::observation::Observation;
use super::options::GrantsOptions;
use crate::clock::{Moment, Now};
use crate::fingerprint::{Account, Fingerprint, Login};
use crate::inputs::Inputs;
use crate::policy::{AccountLock, GrantFacts, Standing};
use crate::providers::Vendor;
use crate::times::whole_seconds;

/// Above this number, an endpoint is kept only while it has requests or a pause: a tenant may name any region of
/// 6clicks, also regions that do not exist.
pub(super) const MOST_IDLE_ENDPOINTS: usize = 64;
/// The longest wait between two looks at the queues: timers stand still while the machine sleeps.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// A request whose slot has come.
pub(super) struct SendJob {
    pub(super) fingerprint: Fingerprint,
    pub(super) vendor: Vendor,
    /// The account that the attempt is made on, where its vendor locks accounts.
    pub(super) login: Option<Login>,
    /// One of the objects that wait for it: the credentials are read for this one.
    pub(super) object: ObjectKey,
    /// The request itself, where its credentials were just read.
    pub(super) call: Option<VendorCall>,
}

/// One VendorToken, as the book of grants knows it.
#[derive(Debug, Default)]
pub(super) struct ObjectRecord {
    /// The grant that its credentials make; `None` while they cannot be used.
    pub(super) fingerprint: Option<Fingerprint>,
    /// The account, and the time of the attempt in the status that was counted against it.
    pub(super) counted_from_status: Option<(Account, jiff::Timestamp)>,
    /// True when this process has made an attempt for it in this term, so that its status shows no attempt of another
    /// process.
    pub(super) attempted: bool,
}

/// The state behind the lock (see [the module](self)).
#[derive(Debug)]
pub(super) struct GrantTable {
    pub(super) options: GrantsOptions,
    /// Boxed, because half of the places in a hash map may be empty.
    pub(super) grants: HashMap<Fingerprint, Box<GrantRecord>>,
    pub(super) endpoints: BTreeMap<VendorEndpoint, EndpointState>,
    pub(super) objects: HashMap<ObjectKey, ObjectRecord>,
    pub(super) accounts: Accounts,
    pub(super) in_hand: CallsInHand,
    /// Grants without a user that are kept for a latch, a back-off or a new token, in the order in which their last
    /// users left.
    pub(super) kept: VecDeque<Fingerprint>,
    pub(super) in_flight: InFlightLimiter,
    /// The moment at which this process began to send; another one may have sent before.
    pub(super) leading_since: Moment,
    /// The index of the endpoint that is served first.
    first_endpoint: usize,
    /// The moment of the last sweep.
    pub(super) swept: Moment,
    /// The number of the last permit.
    pub(super) permits: u64,
    /// True when the process ends and sends nothing more.
    pub(super) draining: bool,
    /// True while this process, which has led, does not lead.
    pub(super) standing_by: bool,
}

impl GrantTable {
    pub(super) fn new(options: GrantsOptions, now: Moment) -> Self {
        Self {
            options,
            grants: HashMap::new(),
            endpoints: BTreeMap::new(),
            objects: HashMap::new(),
            accounts: Accounts::default(),
            in_hand: CallsInHand::default(),
            kept: VecDeque::new(),
            in_flight: InFlightLimiter::default(),
            leading_since: now,
            first_endpoint: 0,
            swept: now,
            permits: 0,
            draining: false,
            standing_by: false,
        }
    }

    /// The grant that `object` uses.
    pub(super) fn grant_of(&self, object: &ObjectKey) -> Option<&GrantRecord> {
        let grant = self.grants.get(&self.objects.get(object)?.fingerprint?)?;
        Some(grant)
    }

    /// The state of a vendor's endpoint, made where it is missing.
    pub(super) fn endpoint(&mut self, server: &VendorEndpoint, now: Moment) -> &mut EndpointState {
        if self.endpoints.len() >= MOST_IDLE_ENDPOINTS {
            self.endpoints.retain(|_, state| !state.is_idle(now));
        }
        let options = &self.options;
        let leading_since = self.leading_since;
        self.endpoints.entry(server.clone()).or_insert_with(|| {
            let per_minute = options.per_minute.get(&server.vendor).copied();
            let budget = Budget::new(per_minute, options.max_concurrent, leading_since, now);
            EndpointState::new(server.vendor, budget)
        })
    }

    /// Starts to send. Requests that another process may have in flight count against the budgets.
    pub(super) fn start_leading(&mut self, now: Moment) {
        // A reconcile that was under way at the step-down may have reserved or queued a request since.
        if std::mem::take(&mut self.standing_by) {
            self.give_up_waiting();
        }
        self.leading_since = now;
        // Another process may have made attempts before this term, which the statuses show.
        for object in self.objects.values_mut() {
            object.attempted = false;
            object.counted_from_status = None;
        }
        for endpoint in self.endpoints.values_mut() {
            endpoint.budget.start_leading(now);
        }
    }

    /// Stops sending, and gives up the requests that wait.
    pub(super) fn step_down(&mut self) {
        self.standing_by = true;
        self.give_up_waiting();
    }

    /// The standing of the grant for the VendorToken that was observed.
    pub(super) fn standing(&self, observation: &Observation<'_>, now: &Now) -> Standing {
        let facts = self.facts(
            observation.fingerprint,
            observation.object,
            observation.inputs,
            Some(&observation.server()),
            now,
        );
        Standing::new(facts, &observation.evidence, now.wall())
    }

    /// The facts of a grant of this vendor for `object`, whose published inputs are `inputs`.
    pub(super) fn facts(
        &self,
        fingerprint: Fingerprint,
        object: &ObjectKey,
        inputs: &Inputs,
        server: Option<&VendorEndpoint>,
        now: &Now,
    ) -> GrantFacts {
        let Some(grant) = self.grants.get(&fingerprint) else {
            return GrantFacts::default();
        };
        let paused_until = server
            .and_then(|server| self.endpoints.get(server))
            .and_then(|endpoint| endpoint.paused_until(now.moment));
        let account = grant.login.map(|login| login.account);
        let free_at =
            account.and_then(|account| self.accounts.free_at(account, &object.namespace, now.moment));
        let lock = account.and_then(|account| self.accounts.lock(account, now.moment));
        GrantFacts {
            paused_until: paused_until.map(|until| now.wall_at(until)),
            is_in_doubt: grant.login.is_some_and(|login| self.accounts.is_in_doubt(login)),
            account_free_at: free_at.map(|free_at| now.wall_at(free_at)),
            account_lock: lock.map(|lock| AccountLock {
                until: now.wall_at(lock.until),
                only_from_status: lock.only_from_status,
            }),
            ..grant.facts(object, inputs, now)
        }
    }

    /// Notes that this process makes or has made an attempt for these objects.
    pub(super) fn note_attempted<'a>(&mut self, objects: impl Iterator<Item = &'a ObjectKey>) {
        for object in objects {
            if let Some(record) = self.objects.get_mut(object) {
                record.attempted = true;
            }
        }
    }

    /// True when a grant waits to be sent.
    pub(super) fn has_queued(&self) -> bool {
        self.endpoints.values().any(|endpoint| !endpoint.queue.is_empty())
    }

    /// Ends the wait of `object` for its grant.
    pub(super) fn withdraw(&mut self, object: &ObjectKey, fingerprint: Fingerprint) {
        let Some(grant) = self.grants.get_mut(&fingerprint) else {
            return;
        };
        grant.waiters.remove(object);
        if grant.waiters.is_empty() && matches!(grant.phase, Phase::Queued) {
            self.cancel(fingerprint);
        }
    }

    /// Cancels the attempt that is reserved or queued. The caller sees to the objects that wait for it.
    pub(super) fn cancel(&mut self, fingerprint: Fingerprint) {
        let Some(grant) = self.grants.get_mut(&fingerprint) else {
            return;
        };
        grant.phase = Phase::Idle;
        self.in_hand.take(fingerprint);
        if let Some(login) = grant.login {
            self.accounts.withdraw(login.account, fingerprint);
        }
        if let Some(endpoint) = grant
            .server
            .as_ref()
            .and_then(|server| self.endpoints.get_mut(server))
        {
            endpoint.queue.remove(fingerprint);
        }
    }

    /// Cancels every attempt that is reserved or queued.
    fn give_up_waiting(&mut self) {
        let waiting: Vec<_> = self
            .grants
            .iter()
            .filter(|(_, grant)| matches!(grant.phase, Phase::Queued | Phase::Reserved(_)))
            .map(|(fingerprint, _)| *fingerprint)
            .collect();
        for fingerprint in waiting {
            self.cancel(fingerprint);
            if let Some(grant) = self.grants.get_mut(&fingerprint) {
                grant.waiters.clear();
            }
        }
    }

    /// Takes the requests whose slot has come out of the queues, and gives the wait until the next.
    pub(super) fn ready(&mut self, now: &Now) -> (Vec<SendJob>, Duration) {
        let mut jobs = Vec::new();
        let mut wait = LONGEST_SLEEP;
        // The first endpoint changes with each call, so that endpoints that hang do not keep all the places in flight.
        // Endpoints where a grant with a live token waits come first: an endpoint that does not exist has brought no
        // token.
        let first = (self.first_endpoint + 1) % self.endpoints.len().max(1);
        self.first_endpoint = first;
        let mut endpoints: Vec<_> = self.endpoints.values_mut().collect();
        endpoints.rotate_left(first);
        endpoints.retain(|endpoint| !endpoint.queue.is_empty());
        endpoints.sort_by_cached_key(|endpoint| {
            let end = endpoint.queue.first_end();
            (end.is_none(), end)
        });
        for endpoint in endpoints {
            let vendor = endpoint.vendor;
            while !endpoint.queue.is_empty()
                && self.in_flight.has_one_for(vendor, self.options.max_concurrent)
            {
                let may = |fingerprint: Fingerprint| {
                    let login = self.grants.get(&fingerprint).and_then(|grant| grant.login);
                    login.is_none_or(|login| self.accounts.gate(login, fingerprint, now.moment) != Gate::Busy)
                };
                let served = match endpoint.next(now.moment, may) {
                    Ok(served) => served,
                    Err(next) => {
                        wait = next.map_or(wait, |next| wait.min(next.since(now.moment)));
                        break;
                    }
                };
                let fingerprint = served.fingerprint;
                let Some(grant) = self.grants.get_mut(&fingerprint) else {
                    continue;
                };
                let waiters = || grant.waiters.keys();
                let of_turn = waiters().find(|object| *object.namespace == *served.namespace);
                let Some(object) = of_turn.or_else(|| waiters().next()).cloned() else {
                    grant.phase = Phase::Idle;
                    if let Some(login) = grant.login {
                        self.accounts.withdraw(login.account, fingerprint);
                    }
                    continue;
                };
                grant.phase = Phase::InFlight;
                if let Some(login) = grant.login {
                    self.accounts
                        .start(login.account, fingerprint, &object.namespace, now.moment);
                }
                endpoint.sent(served, now.moment);
                self.in_flight.take(vendor);
                jobs.push(SendJob {
                    fingerprint,
                    vendor,
                    login: grant.login,
                    object,
                    call: self.in_hand.take(fingerprint),
                });
            }
        }
        // At least a millisecond, so that a deadline that has just passed makes no busy loop.
        (jobs, wait.max(Duration::from_millis(1)))
    }

    /// Asks the account once more, and notes that the request of `fingerprint` is sent now; false where it may not be
    /// sent.
    pub(super) fn begin(&mut self, fingerprint: Fingerprint, login: Option<Login>, now: &Now) -> bool {
        if let Some(login) = login {
            if self.accounts.gate(login, fingerprint, now.moment) == Gate::Closed {
                return false;
            }
            let shown = whole_second(now);
            self.accounts.send(login.account, fingerprint, shown, now.moment);
        }
        if let Some(grant) = self.grants.get_mut(&fingerprint) {
            grant.sent = Some(now.wall());
        }
        true
    }
}

/// The moment of the present whole second, by which a status shows an attempt.
pub(super) fn whole_second(now: &Now) -> Moment {
    now.moment_at(whole_seconds(now.wall()))
}
