//! The evidence of statuses and targets about the time before this process led.

use super::grant::FailedAttempt;
use super::observation::Observation;
use super::table::GrantTable;
use crate::api::names::Reason;
use crate::clock::{Moment, Now};
use crate::fingerprint::Fingerprint;
use crate::policy::{PastFailure, backoff};
use crate::times::whole_seconds;

impl GrantTable {
    /// Takes in the evidence of a VendorToken's status and target about the time before this process led. Gives the end
    /// of the endpoint's pause, where the evidence has shown a new one.
    pub(super) fn take_evidence(&mut self, observation: &Observation<'_>, now: &Now) -> Option<Moment> {
        self.count_earlier_attempts(observation, now);
        let leading_since = self.leading_since;
        let grant = self.grants.get_mut(&observation.fingerprint)?;
        grant.note_evidence(&observation.evidence);
        // A former process has had a token since the failure that this one met in an earlier term.
        grant.failure.take_if(|failure| {
            observation
                .evidence
                .issued
                .is_some_and(|issued| issued > failure.sent)
                && now.moment_at(failure.sent) < leading_since
        });
        let shown = observation.evidence.own_failure()?;
        // This process has sent a request at that time or later, and knows its outcome.
        if grant
            .sent
            .is_some_and(|sent| whole_seconds(sent) >= shown.last_attempt)
        {
            return None;
        }
        // A failure from the term of this process that it did not see itself was written by somebody else.
        let from_before = now.moment_at(shown.last_attempt) <= leading_since;
        grant
            .failure
            .take_if(|own| from_before && !own.only_from_other_status && own.sent < shown.last_attempt);
        if grant.login.is_some()
            && grant.failure.is_none()
            && !grant.proven
            && shown.reason == Reason::CredentialsRejected
        {
            grant.failure = Some(FailedAttempt::rejection_in_status(shown, now));
            grant.failures = shown.count;
            grant.rejections = shown.count;
        }
        if !from_before || grant.seeded_pause == shown.next_attempt {
            return None;
        }
        let until = pause_in_status(shown, now)?;
        grant.seeded_pause = shown.next_attempt;
        let server = observation.server();
        grant.server = Some(server.clone());
        self.endpoint(&server, now.moment).throttled(
            observation.fingerprint,
            &observation.object.namespace,
            until,
        );
        Some(until)
    }

    /// Counts the attempts of a former process that a status shows, also those with another password, and takes in the
    /// lock of their account.
    fn count_earlier_attempts(&mut self, observation: &Observation<'_>, now: &Now) {
        let (Some(failure), Some(login)) = (&observation.evidence.failure, observation.login) else {
            return;
        };
        let account = login.account;
        let record = self.objects.entry(observation.object.clone()).or_default();
        let attempt = Some((account, failure.last_attempt));
        if record.attempted || record.counted_from_status == attempt {
            return;
        }
        record.counted_from_status = attempt;
        let password = if observation.evidence.is_same_credential {
            observation.fingerprint
        } else {
            Fingerprint::stand_in(&failure.inputs)
        };
        let last = now.moment_at(failure.last_attempt).min(now.moment);
        let namespace = &observation.object.namespace;
        self.accounts
            .count_earlier(account, password, namespace, last, failure.count);
        let lock = failure
            .next_attempt
            .filter(|_| failure.is_lock() && failure.holds(now.wall()));
        if let Some(until) = lock {
            self.accounts.show_lock(account, now.moment_at(until), now.moment);
        }
    }
}

/// The end of the pause that a vendor asked a former process for; `None` where the deadline lies too far from the
/// attempt or from now, because somebody else wrote it.
fn pause_in_status(failure: &PastFailure, now: &Now) -> Option<Moment> {
    let until = failure.next_attempt?;
    let is_credible = failure.reason == Reason::RateLimited
        && backoff::holds(until, now.wall())
        && backoff::holds(until, failure.last_attempt);
    is_credible.then(|| now.moment_at(until))
}
