//! The users of grants, and the time for which grants, tokens and endpoints are kept.

use std::time::Duration;

use super::grant::GrantRecord;
use super::object::ObjectKey;
use super::table::GrantTable;
use crate::clock::Now;
use crate::fingerprint::{Fingerprint, Login};

/// Interval at which state that nobody needs is dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// A latch without a deadline outlives the last VendorToken that used its grant by this long: a VendorToken that is
/// deleted and made again, or edited there and back, must not have a rejected password tried again.
const LATCH_OUTLIVES: Duration = Duration::from_secs(24 * 3600);
/// Grants without a user that are kept at most.
const MOST_UNUSED_GRANTS: usize = 10_000;

impl GrantTable {
    /// Makes `object` a user of the grant of its present credentials. Its former grant leaves the queue where nobody
    /// else waits for it, and is forgotten where nobody else uses it.
    pub(super) fn use_grant(
        &mut self,
        object: &ObjectKey,
        fingerprint: Fingerprint,
        login: Option<Login>,
        now: &Now,
    ) {
        let used = self.objects.get(object).and_then(|record| record.fingerprint);
        if used == Some(fingerprint) {
            return;
        }
        self.leave(object, now);
        self.objects.entry(object.clone()).or_default().fingerprint = Some(fingerprint);
        let grant = self.grants.entry(fingerprint).or_default();
        let outlived = grant
            .unused_since
            .take()
            .is_some_and(|since| now.moment.since(since) >= LATCH_OUTLIVES);
        if outlived && grant.users.is_empty() {
            **grant = GrantRecord::default();
        }
        grant.login = login;
        grant.users.insert(object.clone());
    }

    /// Drops credentials that are at hand for too long, and once in [`SWEEP_EVERY`] expired tokens, grants without a
    /// user, endpoints that are idle, and attempts that no longer count.
    pub(super) fn sweep(&mut self, now: &Now) {
        self.in_hand.drop_old(now.moment);
        if now.moment.since(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now.moment;
        self.grants.retain(|_, grant| {
            let is_unused = grant.users.is_empty() && !grant.is_under_way();
            let is_new = is_unused && grant.is_new(now);
            grant.drop_token_if(now.moment, is_unused && !is_new);
            !is_unused || is_new || grant.is_held(now.moment)
        });
        self.kept.retain(|kept| self.grants.contains_key(kept));
        self.endpoints.retain(|_, endpoint| !endpoint.is_idle(now.moment));
        self.accounts.sweep(now.moment);
    }

    /// Ends the use of its grant by `object`.
    pub(super) fn leave(&mut self, object: &ObjectKey, now: &Now) {
        let Some(fingerprint) = self
            .objects
            .get_mut(object)
            .and_then(|record| record.fingerprint.take())
        else {
            return;
        };
        self.withdraw(object, fingerprint);
        if let Some(grant) = self.grants.get_mut(&fingerprint) {
            grant.users.remove(object);
            grant.completed.remove(object);
            if grant.users.is_empty() && !grant.is_under_way() {
                self.give_back(fingerprint, now);
            }
        }
    }

    /// Forgets a grant without a user, unless it has a latch, a back-off or a new token.
    pub(super) fn give_back(&mut self, fingerprint: Fingerprint, now: &Now) {
        if let Some(grant) = self.grants.get_mut(&fingerprint)
            && (grant.is_held(now.moment) || grant.is_new(now))
        {
            let is_new = grant.is_new(now);
            grant.drop_token_if(now.moment, !is_new);
            grant.unused_since = Some(now.moment);
            self.kept.retain(|kept| *kept != fingerprint);
            self.kept.push_back(fingerprint);
        } else {
            self.grants.remove(&fingerprint);
        }
        while let Some(oldest) = self.kept.front().copied() {
            let is_over = match self.grants.get(&oldest) {
                None => true,
                Some(grant) if !grant.users.is_empty() || grant.is_under_way() => true,
                Some(grant) => {
                    let outlived = grant
                        .unused_since
                        .is_some_and(|since| now.moment.since(since) >= LATCH_OUTLIVES);
                    let is_needed = grant.is_held(now.moment) || grant.is_new(now);
                    let is_over = outlived || !is_needed || self.kept.len() > MOST_UNUSED_GRANTS;
                    if is_over {
                        self.grants.remove(&oldest);
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
}
