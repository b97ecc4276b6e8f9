//! The state behind the lock of the book: grants, their users, endpoints and accounts, and the end of what nobody
//! needs.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::accounts::Accounts;
use super::grant::{GrantRecord, Phase, VendorCall};
use super::limiter::{Budget, EndpointState, InFlightLimiter};
use super::object::ObjectKey;
use super::observation::Observation;
use super::options::GrantsOptions;
use crate::clock::{Moment, Now};
use crate::fingerprint::{Account, Fingerprint};
use crate::inputs::Inputs;
use crate::policy::{GrantFacts, Standing};
use crate::providers::{Endpoint, Vendor};
use crate::times::whole_seconds;

/// Above this number, an endpoint is kept only while it has requests or a pause: a tenant may name any region of
/// 6clicks, also regions that do not exist.
pub(super) const MOST_IDLE_ENDPOINTS: usize = 64;
/// The longest wait between two looks at the queues: timers stand still while the machine sleeps.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// A request that may be sent now.
pub(super) struct SendJob {
    pub(super) fingerprint: Fingerprint,
    pub(super) call: VendorCall,
    /// The account that a failed attempt counts against; `None` where it counts against none.
    pub(super) account: Option<Account>,
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
    pub(super) endpoints: BTreeMap<Endpoint, EndpointState>,
    pub(super) objects: HashMap<ObjectKey, ObjectRecord>,
    pub(super) accounts: Accounts,
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

    /// The state of an endpoint, made where it is missing.
    pub(super) fn endpoint(
        &mut self,
        endpoint: &Endpoint,
        vendor: Vendor,
        now: Moment,
    ) -> &mut EndpointState {
        if self.endpoints.len() >= MOST_IDLE_ENDPOINTS {
            self.endpoints.retain(|_, state| !state.is_idle(now));
        }
        let options = &self.options;
        let leading_since = self.leading_since;
        self.endpoints.entry(endpoint.clone()).or_insert_with(|| {
            let per_minute = options.per_minute.get(&vendor).copied();
            let budget = Budget::new(per_minute, options.max_concurrent, leading_since, now);
            EndpointState::new(vendor, budget)
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
            Some(observation.endpoint),
            now,
        );
        Standing::new(facts, &observation.evidence, now.wall())
    }

    /// The facts of a grant at this endpoint for `object`, whose published inputs are `inputs`.
    pub(super) fn facts(
        &self,
        fingerprint: Fingerprint,
        object: &ObjectKey,
        inputs: &Inputs,
        endpoint: Option<&Endpoint>,
        now: &Now,
    ) -> GrantFacts {
        let Some(grant) = self.grants.get(&fingerprint) else {
            return GrantFacts::default();
        };
        let paused_until = endpoint
            .and_then(|endpoint| self.endpoints.get(endpoint))
            .and_then(|endpoint| endpoint.paused_until(now.moment));
        let account = grant.account.filter(|_| !grant.proven);
        let free_at = account.and_then(|account| self.accounts.free_at(account, now.moment));
        GrantFacts {
            paused_until: paused_until.map(|until| now.wall_at(until)),
            account_free_at: free_at.map(|free_at| now.wall_at(free_at)),
            ..grant.facts(object, inputs, now)
        }
    }

    /// Counts the attempt that is reserved now against its account.
    pub(super) fn count_attempt(&mut self, fingerprint: Fingerprint, account: Account, now: &Now) {
        let counted = whole_second(now);
        self.accounts.count(account, fingerprint, counted);
        if let Some(grant) = self.grants.get_mut(&fingerprint) {
            grant.counted = Some(counted);
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
        if grant.waiters.is_empty() && matches!(grant.phase, Phase::Queued(_)) {
            self.cancel(fingerprint);
        }
    }

    /// Cancels the attempt that is reserved or queued. The caller sees to the objects that wait for it.
    pub(super) fn cancel(&mut self, fingerprint: Fingerprint) {
        let Some(grant) = self.grants.get_mut(&fingerprint) else {
            return;
        };
        grant.phase = Phase::Idle;
        if let (Some(account), Some(counted)) = (grant.account, grant.counted.take()) {
            self.accounts.withdraw(account, fingerprint, counted);
        }
        if let Some(endpoint) = grant
            .endpoint
            .as_ref()
            .and_then(|endpoint| self.endpoints.get_mut(endpoint))
        {
            endpoint.queue.remove(fingerprint);
        }
    }

    /// Cancels every attempt that is reserved or queued.
    fn give_up_waiting(&mut self) {
        let waiting: Vec<_> = self
            .grants
            .iter()
            .filter(|(_, grant)| matches!(grant.phase, Phase::Queued(_) | Phase::Reserved(_)))
            .map(|(fingerprint, _)| *fingerprint)
            .collect();
        for fingerprint in waiting {
            self.cancel(fingerprint);
            if let Some(grant) = self.grants.get_mut(&fingerprint) {
                grant.waiters.clear();
            }
        }
    }

    /// Takes the requests that may be sent now out of the queues, and gives the wait until the next.
    pub(super) fn ready(&mut self, now: &Now) -> (Vec<SendJob>, Duration) {
        let mut jobs = Vec::new();
        let mut wait = LONGEST_SLEEP;
        // The first endpoint changes with each call, so that endpoints that hang do not keep all the places in flight.
        let count = self.endpoints.len().max(1);
        self.first_endpoint = (self.first_endpoint + 1) % count;
        let (first, last): (Vec<_>, Vec<_>) = self
            .endpoints
            .values_mut()
            .enumerate()
            .partition(|(index, _)| *index >= self.first_endpoint);
        for (_, endpoint) in first.into_iter().chain(last) {
            while !endpoint.queue.is_empty() {
                if endpoint.in_flight >= endpoint.budget.most_in_flight()
                    || !self
                        .in_flight
                        .has_one_for(endpoint.vendor, self.options.max_concurrent)
                {
                    break;
                }
                match endpoint.budget.next_slot(now.moment) {
                    Some(slot) if slot <= now.moment => {}
                    Some(slot) => {
                        wait = wait.min(slot.since(now.moment));
                        break;
                    }
                    None => break,
                }
                let Some(fingerprint) = endpoint.next(now.moment) else {
                    wait = wait.min(endpoint.pause_left(now.moment));
                    break;
                };
                let Some(grant) = self.grants.get_mut(&fingerprint) else {
                    continue;
                };
                if let Phase::Queued(call) = std::mem::replace(&mut grant.phase, Phase::InFlight) {
                    let counted = grant.account.zip(grant.counted.take());
                    if let Some((account, counted)) = counted {
                        self.accounts
                            .sent(account, fingerprint, counted, whole_second(now));
                    }
                    endpoint.budget.sent();
                    endpoint.in_flight += 1;
                    self.in_flight.take(endpoint.vendor);
                    grant.sent = Some(now.wall());
                    jobs.push(SendJob {
                        fingerprint,
                        call: *call,
                        account: counted.map(|(account, _)| account),
                    });
                }
            }
        }
        // At least a millisecond, so that a deadline that has just passed makes no busy loop.
        (jobs, wait.max(Duration::from_millis(1)))
    }
}

/// The moment of the present whole second, by which a status shows an attempt.
fn whole_second(now: &Now) -> Moment {
    now.moment_at(whole_seconds(now.wall()))
}
