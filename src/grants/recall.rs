//! What a process that begins to lead takes over from the time before: requests that count against a budget, attempts
//! that count against an account, rejections and pauses.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::inner::endpoint_state;
use super::{Grants, ObjectKey, entry};
use crate::api::names::Reason;
use crate::clock::Deadline;
use crate::fingerprint::Fingerprint;
use crate::policy::PastFailure;
use crate::policy::backoff::holds;
use crate::providers::{Endpoint, Vendor};

/// An answer that is read back came by then, after the whole second in which its request was sent.
const RECALLED_ANSWER: Duration = Duration::from_secs(5);
/// Requests this old still count.
pub(crate) const RECALLED_FOR: SignedDuration = SignedDuration::from_secs(65);

impl Grants {
    /// Counts the attempts of a former process that `object`'s status tells of against its account. `password` is the one
    /// that was tried, which may be another by now.
    pub fn recall_attempts(&self, object: &ObjectKey, password: Fingerprint, failure: &PastFailure) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let entry = inner
            .objects
            .get(object)
            .and_then(|fingerprint| inner.entries.get(fingerprint));
        if let Some(account) = entry.and_then(|entry| entry.account) {
            inner
                .accounts
                .recall(account, password, failure.last_attempt, failure.count);
        }
    }

    /// Takes what `object`'s status tells of a failure of its grant from before a restart: the pause that a vendor asked
    /// for, and, where an account could be locked, the rejection, which holds for all that share the grant. Nothing
    /// where this process has asked or knows better.
    pub fn recall(&self, object: &ObjectKey, endpoint: &Endpoint, vendor: Vendor, failure: &PastFailure) {
        let (now, at) = (self.clock.now(), Instant::now());
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(fingerprint) = inner.objects.get(object).copied() else {
            return;
        };
        let Some(entry) = inner.entries.get_mut(&fingerprint) else {
            return;
        };
        // What this process has asked at that time or later, it knows better.
        if entry
            .sent
            .is_some_and(|sent| entry::whole_seconds(sent) >= failure.last_attempt)
        {
            return;
        }
        let from_before = inner.began_at.is_some_and(|began| failure.last_attempt <= began);
        // The process that led since has asked after this one.
        entry
            .failure
            .take_if(|own| from_before && !own.hearsay && own.at < failure.last_attempt);
        if entry.account.is_some()
            && entry.failure.is_none()
            && !entry.proven
            && failure.reason == Reason::CredentialsRejected
        {
            entry.failure = Some(entry::Attempt {
                reason: failure.reason,
                message: failure.message.clone(),
                at: failure.last_attempt,
                next_attempt: failure.next_attempt.map(|next| Deadline::new(next, now, at)),
                hearsay: true,
            });
            entry.count = failure.count;
        }
        // A deadline from before is not far from the attempt that met it, nor is that attempt one of this process' time:
        // such a status was written by somebody else.
        if let Some(until) = failure.next_attempt
            && failure.reason == Reason::RateLimited
            && holds(until, now)
            && from_before
            && holds(until, failure.last_attempt)
            && entry.recalled_pause != Some(until)
        {
            // Once: looked at again after the clock was set back, it would last so much longer.
            entry.recalled_pause = Some(until);
            entry.endpoint = Some(endpoint.clone());
            let (endpoints, began) = (&mut inner.endpoints, inner.began);
            endpoint_state(endpoints, endpoint, vendor, &self.options, began).throttled(
                fingerprint,
                until,
                now,
                at,
            );
            self.observer.throttled_until(vendor, until);
        }
    }

    /// This process does not lead any more: nothing is sent until it [begins](Self::begins) again.
    ///
    /// What waits is given up, and its credentials are wiped: by the time this process leads again another one may have
    /// asked, and the credentials may be others. Whoever still needs a token is decided anew then.
    pub fn stands_down(&self) {
        let mut inner = self.lock();
        inner.stands_by = true;
        inner.give_up_queued();
    }

    /// From now on this process sends; before, another one may have.
    pub fn begins(&self) {
        let mut inner = self.lock();
        // A reconcile that was under way when this process stood down may have asked since.
        if std::mem::take(&mut inner.stands_by) {
            inner.give_up_queued();
        }
        inner.begins(Instant::now(), self.clock.now());
    }

    /// Counts requests to `endpoint` that were sent before this process began, as far as targets and statuses tell, which
    /// is in whole seconds.
    pub fn recall_requests(&self, endpoint: &Endpoint, vendor: Vendor, sent: &[Timestamp]) {
        let (now, wall) = (Instant::now(), self.clock.now());
        let mut inner = self.lock();
        let inner = &mut *inner;
        let (endpoints, began) = (&mut inner.endpoints, inner.began);
        let state = endpoint_state(endpoints, endpoint, vendor, &self.options, began);
        for sent in sent {
            if let Ok(age) = Duration::try_from(wall.duration_since(*sent))
                && let Some(at) = now.checked_sub(age)
            {
                state.budget.recall(at + RECALLED_ANSWER);
            }
        }
    }
}

/// The last request, and those before it not before `oldest`, where each was at least `between` after the one before.
pub(crate) fn requests_before(
    last: Timestamp,
    between: SignedDuration,
    oldest: Timestamp,
) -> impl Iterator<Item = Timestamp> {
    std::iter::successors(Some(last), move |sent| {
        let before = sent.checked_sub(between.max(SignedDuration::from_secs(1))).ok()?;
        (before >= oldest).then_some(before)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn a_token_that_lives_a_minute_has_had_two_requests_in_it() {
        let requests = |last, between, oldest| -> Vec<i64> {
            requests_before(time(last), SignedDuration::from_secs(between), time(oldest))
                .map(|sent| sent.as_second() - 1_800_000_000)
                .collect()
        };
        assert_eq!(requests(-10, 30, -65), [-10, -40]);
        assert_eq!(requests(-10, 5, -20), [-10, -15, -20]);
        assert_eq!(requests(-10, 2880, -65), [-10]);
        // It was created since, or is older than what counts.
        assert_eq!(requests(-10, 30, -12), [-10]);
        assert_eq!(requests(-100, 30, -65), [-100]);
    }
}
