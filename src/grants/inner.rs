//! The state behind the component's lock, and its rules: who leaves, what is sent next, what is given back.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::accounts::Accounts;
use super::budget::Budget;
use super::endpoint::EndpointState;
use super::entry::{Entry, Phase};
use super::places::Places;
use super::sending::{Job, LONGEST_SLEEP};
use super::{GrantsOptions, LATCH_OUTLIVES, MOST_KEPT, ObjectKey, SWEEP_EVERY};
use crate::fingerprint::{Account, Fingerprint};
use crate::providers::{Endpoint, Vendor};

#[derive(Default)]
pub(super) struct Inner {
    pub(super) entries: HashMap<Fingerprint, Entry>,
    pub(super) endpoints: BTreeMap<Endpoint, EndpointState>,
    pub(super) objects: HashMap<ObjectKey, Fingerprint>,
    pub(super) accounts: Accounts,
    /// Grants that nobody uses, kept because a vendor refused them or has just given a token, in the order in which they
    /// were left.
    pub(super) kept: VecDeque<Fingerprint>,
    pub(super) places: Places,
    /// When this process began to send; before, another one may have.
    pub(super) began: Option<Instant>,
    /// The same by the wall clock.
    pub(super) began_at: Option<Timestamp>,
    /// Which endpoint is served first.
    pub(super) turn: usize,
    pub(super) swept: Option<Instant>,
    pub(super) draining: bool,
    /// This process has led, and does not now.
    pub(super) stands_by: bool,
}

/// The state of an endpoint, which may be new.
pub(super) fn endpoint_state<'a>(
    endpoints: &'a mut BTreeMap<Endpoint, EndpointState>,
    endpoint: &Endpoint,
    vendor: Vendor,
    options: &GrantsOptions,
    began: Option<Instant>,
) -> &'a mut EndpointState {
    endpoints.entry(endpoint.clone()).or_insert_with(|| {
        let now = Instant::now();
        let per_minute = options.per_minute.get(&vendor).copied();
        let began = began.unwrap_or(now);
        EndpointState::new(
            vendor,
            Budget::new(per_minute, options.max_concurrent, began, now),
        )
    })
}

impl Inner {
    /// From now on this process sends.
    pub(super) fn begins(&mut self, now: Instant, wall: Timestamp) {
        self.began = Some(now);
        self.began_at = Some(wall);
        for endpoint in self.endpoints.values_mut() {
            endpoint.budget.begins(now);
        }
    }

    /// Keeps no slot of a budget for this grant's token any more.
    pub(super) fn expect_nothing_of(&mut self, fingerprint: Fingerprint) {
        if let Some(endpoint) = self
            .entries
            .get(&fingerprint)
            .and_then(|entry| entry.endpoint.as_ref())
            .and_then(|endpoint| self.endpoints.get_mut(endpoint))
        {
            endpoint.upcoming.forget(fingerprint);
        }
    }

    /// Gives back what nobody needs: tokens that have expired, attempts that no longer count, endpoints that have been
    /// idle.
    pub(super) fn sweep(&mut self, now: Timestamp, at: Instant) {
        if self
            .swept
            .is_some_and(|swept| at.duration_since(swept) < SWEEP_EVERY)
        {
            return;
        }
        self.swept = Some(at);
        self.entries.retain(|_, entry| {
            let is_left = entry.users.is_empty() && matches!(entry.phase, Phase::Idle);
            let is_new = is_left && entry.is_new(now, at);
            entry
                .token
                .take_if(|token| token.expires <= now || (is_left && !is_new));
            !is_left || is_new || entry.is_held(now, at)
        });
        self.kept.retain(|kept| self.entries.contains_key(kept));
        self.endpoints.retain(|_, endpoint| !endpoint.is_idle(at, now));
        self.accounts.sweep(now);
    }

    /// Whether anything waits to be sent.
    pub(super) fn has_queued(&self) -> bool {
        self.endpoints.values().any(|endpoint| !endpoint.queue.is_empty())
    }

    pub(super) fn leave(&mut self, object: &ObjectKey, wall: Timestamp, now: Instant) {
        let Some(fingerprint) = self.objects.remove(object) else {
            return;
        };
        self.withdraw(object, fingerprint);
        if let Some(entry) = self.entries.get_mut(&fingerprint) {
            entry.users.remove(object);
            entry.completed.remove(object);
            if entry.users.is_empty() && !matches!(entry.phase, Phase::InFlight) {
                self.expect_nothing_of(fingerprint);
                self.give_back(fingerprint, wall, now);
            }
        }
    }

    /// Forgets a grant that nobody uses, but for its latch or back-off, and for a moment its token.
    pub(super) fn give_back(&mut self, fingerprint: Fingerprint, wall: Timestamp, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&fingerprint)
            && (entry.is_held(wall, now) || entry.is_new(wall, now))
        {
            if !entry.is_new(wall, now) {
                entry.token = None;
            }
            entry.left = Some(now);
            self.kept.retain(|kept| *kept != fingerprint);
            self.kept.push_back(fingerprint);
        } else {
            self.entries.remove(&fingerprint);
        }
        while let Some(oldest) = self.kept.front().copied() {
            let is_over = match self.entries.get(&oldest) {
                None => true,
                Some(entry) if !entry.users.is_empty() || !matches!(entry.phase, Phase::Idle) => true,
                Some(entry) => {
                    let outlived = entry.left.is_some_and(|left| now - left >= LATCH_OUTLIVES);
                    let is_needed = entry.is_held(wall, now) || entry.is_new(wall, now);
                    let is_over = outlived || !is_needed || self.kept.len() > MOST_KEPT;
                    if is_over {
                        self.entries.remove(&oldest);
                    }
                    is_over
                }
            };
            if !is_over {
                break;
            }
            self.kept.pop_front();
        }
    }

    pub(super) fn withdraw(&mut self, object: &ObjectKey, fingerprint: Fingerprint) {
        let Some(entry) = self.entries.get_mut(&fingerprint) else {
            return;
        };
        entry.waiters.remove(object);
        if entry.users.iter().all(|user| user == object) {
            self.expect_nothing_of(fingerprint);
        }
        let Some(entry) = self.entries.get_mut(&fingerprint) else {
            return;
        };
        if entry.waiters.is_empty() && matches!(entry.phase, Phase::Queued(_)) {
            if let Phase::Queued(pending) = std::mem::take(&mut entry.phase)
                && let Some((account, noted)) = pending.account
            {
                self.accounts.withdraw(account, fingerprint, noted);
            }
            if let Some(endpoint) = entry
                .endpoint
                .as_ref()
                .and_then(|endpoint| self.endpoints.get_mut(endpoint))
            {
                endpoint.queue.remove(fingerprint);
            }
        }
    }

    /// Whether a latch, a back-off, an account or the least gap holds this grant back. `account` is `None` where the
    /// credentials are proven, and `stored_issued` when they brought the token that the asking object has.
    pub(super) fn holds_back(
        &mut self,
        fingerprint: Fingerprint,
        account: Option<Account>,
        stored_issued: Option<Timestamp>,
        requested: bool,
        wall: Timestamp,
        now: Instant,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(&fingerprint) else {
            return account.is_some_and(|account| self.accounts.free_at(account, wall).is_some());
        };
        // What another's status says proves nothing against credentials that have brought a token.
        entry
            .failure
            .take_if(|failure| account.is_none() && failure.hearsay);
        // Nor does a failure of an earlier term, where the process that led since has had a token after it.
        let began = self.began_at;
        entry.failure.take_if(|failure| {
            stored_issued.is_some_and(|issued| issued > failure.at)
                && began.is_some_and(|began| failure.at < began)
        });
        let may_pass = requested && entry.may_pass(wall, now) && !entry.is_throttled();
        let account = account.filter(|_| !entry.proven);
        (entry.is_held(wall, now) && !may_pass)
            || entry.earliest(requested, wall, now).is_some()
            || account.is_some_and(|account| self.accounts.free_at(account, wall).is_some())
    }

    /// Takes out of the queues all that waits.
    pub(super) fn give_up_queued(&mut self) {
        let queued = self
            .objects
            .iter()
            .filter(|(_, fingerprint)| {
                let entry = self.entries.get(*fingerprint);
                entry.is_some_and(|entry| matches!(entry.phase, Phase::Queued(_)))
            })
            .map(|(object, fingerprint)| (object.clone(), *fingerprint))
            .collect::<Vec<_>>();
        for (object, fingerprint) in queued {
            self.withdraw(&object, fingerprint);
        }
    }

    /// The requests that may be sent now, and how long to wait for the next.
    pub(super) fn ready(
        &mut self,
        options: &GrantsOptions,
        now: Instant,
        wall: Timestamp,
    ) -> (Vec<Job>, Duration) {
        let mut jobs = Vec::new();
        let mut wait = LONGEST_SLEEP;
        // Another endpoint begins each time, so that some which hang cannot keep the places in all to themselves.
        let count = self.endpoints.len().max(1);
        self.turn = (self.turn + 1) % count;
        let (first, last): (Vec<_>, Vec<_>) = self
            .endpoints
            .values_mut()
            .enumerate()
            .partition(|(index, _)| *index >= self.turn);
        for (_, endpoint) in first.into_iter().chain(last) {
            while !endpoint.queue.is_empty() {
                if endpoint.in_flight >= endpoint.budget.most_in_flight()
                    || !self.places.has_one_for(endpoint.vendor, options.max_concurrent)
                {
                    break;
                }
                match endpoint.budget.next_slot(now) {
                    Some(slot) if slot <= now => {}
                    Some(slot) => {
                        wait = wait.min(slot - now);
                        break;
                    }
                    None => break,
                }
                if let Some(left) = endpoint.pace_left(now, wall) {
                    wait = wait.min(left);
                    break;
                }
                let Some(fingerprint) = endpoint.next(now, wall) else {
                    wait = wait.min(endpoint.pause_left(now, wall));
                    break;
                };
                let Some(entry) = self.entries.get_mut(&fingerprint) else {
                    continue;
                };
                if let Phase::Queued(ask) = std::mem::replace(&mut entry.phase, Phase::InFlight) {
                    if let Some((account, noted)) = ask.account {
                        self.accounts.sent(account, fingerprint, noted, wall);
                    }
                    endpoint.budget.sent(now);
                    endpoint.in_flight += 1;
                    self.places.take(endpoint.vendor);
                    entry.sent = Some(wall);
                    jobs.push(Job {
                        fingerprint,
                        ask: *ask,
                    });
                }
            }
        }
        // A deadline that has just passed is looked at again at once, and never in a busy loop.
        (jobs, wait.max(Duration::from_millis(1)))
    }
}
