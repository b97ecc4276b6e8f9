//! One grant: its users, the objects that wait for it, its last token and its last failed attempt.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret;

use super::limiter::VendorEndpoint;
use super::object::ObjectKey;
use crate::clock::{Moment, Now};
use crate::failure::{Failure, FailureClass};
use crate::fingerprint::{Fingerprint, Login};
use crate::inputs::Inputs;
use crate::policy::backoff::{Rejections, next_attempt};
use crate::policy::{Evidence, GrantFacts, GrantToken, PastFailure, Warnings, reason_of, schedule};
use crate::providers::Vendor;
use crate::times::{later, whole_seconds};
use crate::token::AccessToken;

/// A refresh request overrides a latch or a back-off at most once in this time.
const OVERRIDE_EVERY: Duration = Duration::from_secs(15 * 60);
/// A refresh request waits at most this long after the last token.
const GAP_ON_REQUEST: Duration = Duration::from_secs(30);

/// The progress of an attempt.
#[derive(Debug, Default)]
pub(super) enum Phase {
    #[default]
    Idle,
    /// The permit with this number is given out, and the request is not queued yet.
    Reserved(u64),
    /// The request waits for its slot.
    Queued,
    /// Its slot has come: the credentials are read, or the request was sent and has not ended.
    InFlight,
}

/// An object that waits for a grant.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) since: Moment,
    request: Option<String>,
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct FailedAttempt {
    pub(super) class: FailureClass,
    pub(super) message: String,
    /// The time at which it was sent, as a status shows it.
    pub(super) sent: Timestamp,
    /// The earliest moment of another attempt; `None` when only a change may bring one.
    pub(super) next_attempt: Option<Moment>,
    /// True when it is known from a status only, and this process has not seen the answer.
    pub(super) only_from_other_status: bool,
}

impl FailedAttempt {
    /// The rejection that a status shows.
    pub(super) fn rejection_in_status(failure: &PastFailure, now: &Now) -> Self {
        Self {
            class: FailureClass::Rejected,
            message: failure.message.clone(),
            sent: failure.last_attempt,
            next_attempt: failure.next_attempt.map(|next| now.moment_at(next)),
            only_from_other_status: true,
        }
    }
}

/// A token in memory.
#[derive(Debug)]
pub(super) struct HeldToken {
    token: Arc<AccessToken>,
    ends: Moment,
}

/// The book's record of one grant.
#[derive(Debug, Default)]
pub(super) struct GrantRecord {
    pub(super) users: HashSet<ObjectKey>,
    pub(super) waiters: HashMap<ObjectKey, Waiter>,
    /// The refresh request that the last attempt served, by object.
    pub(super) completed: HashMap<ObjectKey, String>,
    /// The vendor's endpoint that the last request was queued for.
    pub(super) server: Option<VendorEndpoint>,
    pub(super) phase: Phase,
    pub(super) token: Option<HeldToken>,
    pub(super) failure: Option<FailedAttempt>,
    /// The number of failures in a row.
    pub(super) failures: i32,
    /// The number of rejections among them.
    pub(super) rejections: i32,
    /// The time at which the last request was sent.
    pub(super) sent: Option<Timestamp>,
    /// The moment at which the last token came, also when it was the same as the one before.
    token_came: Option<Moment>,
    /// The time at which the last attempt was sent, where it succeeded.
    succeeded: Option<Timestamp>,
    /// The account of this grant's credentials and the password for it, at a vendor that locks accounts.
    pub(super) login: Option<Login>,
    /// True when the credentials have brought a token.
    pub(super) proven: bool,
    /// True when a target shows that they have.
    proven_by_target: bool,
    /// True when the credentials have replaced others, and have brought no token yet.
    is_replacement: bool,
    /// The end of the pause that was taken over from a status.
    pub(super) seeded_pause: Option<Timestamp>,
    /// The moment at which its last user left.
    pub(super) unused_since: Option<Moment>,
    /// The moment at which a refresh request last overrode a latch or a back-off.
    overridden: Option<Moment>,
}

impl GrantRecord {
    /// Notes that `object` waits for the attempt, and gives the moment since which it waits. `request` is the refresh
    /// request that the attempt serves.
    pub(super) fn wait(&mut self, object: &ObjectKey, request: Option<&str>, now: Moment) -> Moment {
        let waiter = self.waiters.entry(object.clone()).or_insert(Waiter {
            since: now,
            request: None,
        });
        if let Some(request) = request {
            waiter.request = Some(request.to_owned());
        }
        waiter.since
    }

    /// Notes that a refresh request overrides a latch or a back-off now.
    pub(super) fn note_override(&mut self, now: Moment) {
        self.overridden = Some(now);
    }

    /// Notes what the evidence of one VendorToken says of the credentials.
    pub(super) fn note_evidence(&mut self, evidence: &Evidence) {
        self.proven_by_target |= evidence.issued.is_some();
        // A target that holds the token of the credentials before is not written yet.
        self.is_replacement |= evidence.is_replacement && !self.proven;
    }

    /// True while a request is reserved, queued or in flight.
    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self.phase, Phase::Idle)
    }

    /// True while a latch or a back-off holds.
    pub(super) fn is_held(&self, now: Moment) -> bool {
        let next = self.failure.as_ref().map(|failure| failure.next_attempt);
        next.is_some_and(|next| next.is_none_or(|next| now < next))
    }

    /// True during the shorter gap after the last token, while it is valid. A grant without users is kept that long: an
    /// object that is deleted and made again, or edited there and back, gets the token without another request.
    pub(super) fn is_new(&self, now: &Now) -> bool {
        self.usable(now).is_some() && self.gap_ends(true, now.moment).is_some()
    }

    /// The last token, while it is valid by the timeline and by the wall clock. `None` also where its issue lies ahead
    /// of a clock that was set back: a target with it would count as one without a token.
    pub(super) fn usable(&self, now: &Now) -> Option<&Arc<AccessToken>> {
        let held = self.token.as_ref()?;
        let is_valid = now.moment < held.ends && now.wall() < held.token.expires;
        (is_valid && schedule::is_credible_issue(held.token.issued, now.wall())).then_some(&held.token)
    }

    /// Drops the token where it has expired, or where it is unneeded.
    pub(super) fn drop_token_if(&mut self, now: Moment, is_unneeded: bool) {
        self.token.take_if(|held| is_unneeded || held.ends <= now);
    }

    /// The end of the least gap after the last token; `None` where it has passed. The gap is shorter for a refresh
    /// request.
    fn gap_ends(&self, on_request: bool, now: Moment) -> Option<Moment> {
        let token_came = self.token_came?;
        let held = self.token.as_ref()?;
        let least = schedule::least_gap(held.token.issued, held.token.expires).unsigned_abs();
        let gap = if on_request {
            least.min(GAP_ON_REQUEST)
        } else {
            least
        };
        // A vendor that repeats a token until its expiry gives another one then: the gap ends with the token.
        let end = held
            .ends
            .max(token_came + gap.min(GAP_ON_REQUEST))
            .min(token_came + gap);
        (now < end).then_some(end)
    }

    /// Takes the outcome of the request, and gives the objects to wake.
    pub(super) fn finish(
        &mut self,
        vendor: Vendor,
        fingerprint: Fingerprint,
        result: Result<AccessToken, Failure>,
        now: &Now,
    ) -> Vec<ObjectKey> {
        self.phase = Phase::Idle;
        match result {
            Ok(token) => self.succeed(token, now),
            Err(failure) => self.fail(vendor, fingerprint, failure, now),
        }
        self.release_waiters();
        self.users.iter().cloned().collect()
    }

    /// Ends an attempt that was not sent, and gives the objects that waited for it.
    pub(super) fn give_up(&mut self) -> Vec<ObjectKey> {
        self.phase = Phase::Idle;
        self.waiters.drain().map(|(object, _)| object).collect()
    }

    fn succeed(&mut self, token: AccessToken, now: &Now) {
        self.failure = None;
        self.proven = true;
        self.failures = 0;
        self.rejections = 0;
        self.is_replacement = false;
        self.token_came = Some(now.moment);
        self.succeeded = Some(token.issued);
        // A vendor's cache may give the same token again, which needs no publishing. One that had expired by its former
        // times is taken as new: the vendor says that it lives longer.
        let is_same = self
            .usable(now)
            .is_some_and(|old| old.value.expose_secret() == token.value.expose_secret());
        if is_same {
            return;
        }
        // After a step back of the clock, two tokens may have the same issue time, and would count as one token.
        let is_ambiguous = self
            .token
            .as_ref()
            .is_some_and(|old| old.token.issued == token.issued);
        let token = AccessToken {
            issued: later(token.issued, -i64::from(is_ambiguous)),
            ..token
        };
        self.token = Some(HeldToken {
            ends: now.moment_at(token.expires),
            token: Arc::new(token),
        });
    }

    fn fail(&mut self, vendor: Vendor, fingerprint: Fingerprint, failure: Failure, now: &Now) {
        self.failures = self.failures.saturating_add(1);
        self.succeeded = None;
        let is_rejection = failure.class == FailureClass::Rejected;
        self.rejections = self.rejections.saturating_add(i32::from(is_rejection));
        let rejections = Rejections {
            count: self.rejections,
            locks_accounts: vendor.locks_accounts(),
            is_proven: self.proven || self.proven_by_target,
            is_replacement: self.is_replacement,
        };
        // The jitter changes with each attempt, so that grants that failed together do not return together.
        let jitter = fingerprint
            .jitter()
            .wrapping_add((self.failures as u8).wrapping_mul(97));
        self.failure = Some(FailedAttempt {
            class: failure.class,
            next_attempt: next_attempt(&failure, self.failures, rejections, jitter, now.wall())
                .map(|next| now.moment_at(next)),
            message: failure.message,
            sent: whole_seconds(self.sent.unwrap_or(now.wall())),
            only_from_other_status: false,
        });
    }

    /// Ends the wait of all objects, and completes their refresh requests.
    fn release_waiters(&mut self) {
        // Not drained: an emptied map keeps its places.
        for (object, waiter) in std::mem::take(&mut self.waiters) {
            if let Some(request) = waiter.request {
                self.completed.insert(object, request);
            }
        }
    }

    /// The facts of this grant for `object`, whose published inputs are `inputs`.
    pub(super) fn facts(&self, object: &ObjectKey, inputs: &Inputs, now: &Now) -> GrantFacts {
        let token = self.usable(now).map(|token| GrantToken {
            issued: token.issued,
            expires: token.expires,
            warnings: Warnings {
                expiry_assumed: token.expiry_assumed,
                clock_skew_suspected: token.clock_skew_suspected,
                unusually_long: token.unusually_long,
                not_before: token.not_before,
            },
        });
        let gap_ends = |on_request| self.gap_ends(on_request, now.moment).map(|end| now.wall_at(end));
        GrantFacts {
            token,
            failure: self.failure.as_ref().map(|failure| PastFailure {
                reason: reason_of(failure.class),
                message: failure.message.clone(),
                count: self.failures,
                last_attempt: failure.sent,
                next_attempt: failure.next_attempt.map(|next| now.wall_at(next)),
                inputs: inputs.clone(),
                only_from_other_status: failure.only_from_other_status,
            }),
            succeeded: self.succeeded,
            completed_request: self.completed.get(object).cloned(),
            gap_ends: gap_ends(false),
            gap_on_request_ends: gap_ends(true),
            may_override: self
                .overridden
                .is_none_or(|overridden| now.moment.since(overridden) >= OVERRIDE_EVERY),
            paused_until: None,
            is_proven: self.proven,
            has_account: self.login.is_some(),
            is_in_doubt: false,
            account_free_at: None,
            account_lock: None,
            under_way: self.is_under_way(),
        }
    }
}
