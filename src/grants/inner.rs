//! The state behind the component's lock, and its rules: who leaves, what is sent next, what is given back.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::accounts::Accounts;
use super::endpoint::EndpointState;
use super::entry::{Entry, Phase};
use super::{GrantsOptions, Job, LATCH_OUTLIVES, LONGEST_SLEEP, MOST_KEPT, ObjectKey, SWEEP_EVERY};
use crate::fingerprint::Fingerprint;
use crate::vendor::Endpoint;

#[derive(Default)]
pub(super) struct Inner {
    pub(super) entries: HashMap<Fingerprint, Entry>,
    pub(super) endpoints: BTreeMap<Endpoint, EndpointState>,
    pub(super) objects: HashMap<ObjectKey, Fingerprint>,
    pub(super) accounts: Accounts,
    /// Grants that nobody uses, kept because a vendor refused them, in the order in which they were left.
    pub(super) kept: VecDeque<Fingerprint>,
    pub(super) in_flight: usize,
    /// Which endpoint is served first.
    pub(super) turn: usize,
    pub(super) swept: Option<Instant>,
    pub(super) draining: bool,
}

impl Inner {
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
        for entry in self.entries.values_mut() {
            entry.token.take_if(|token| token.expires <= now);
        }
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
                self.give_back(fingerprint, wall, now);
            }
        }
    }

    /// Forgets a grant that nobody uses, but for its latch or back-off.
    pub(super) fn give_back(&mut self, fingerprint: Fingerprint, wall: Timestamp, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&fingerprint)
            && entry.is_held(wall)
        {
            entry.token = None;
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
                    let is_over = outlived || !entry.is_held(wall) || self.kept.len() > MOST_KEPT;
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
                if endpoint.in_flight >= options.max_concurrent
                    || self.in_flight >= options.max_concurrent * 4
                {
                    break;
                }
                let slot = endpoint.budget.next_slot(now);
                if slot > now {
                    wait = wait.min(slot - now);
                    break;
                }
                let Some(fingerprint) = endpoint.next(wall) else {
                    if let Some(resumes) = endpoint.resumes_at(wall) {
                        wait = wait.min(Duration::try_from(resumes.duration_since(wall)).unwrap_or_default());
                    }
                    break;
                };
                let Some(entry) = self.entries.get_mut(&fingerprint) else {
                    continue;
                };
                if let Phase::Queued(ask) = std::mem::replace(&mut entry.phase, Phase::InFlight) {
                    if let Some((account, noted)) = ask.account {
                        self.accounts.sent(account, fingerprint, noted, wall);
                    }
                    endpoint.budget.take(now);
                    endpoint.in_flight += 1;
                    self.in_flight += 1;
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
