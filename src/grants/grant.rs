//! One grant: its users, who waits for it, its last token and its last failed attempt.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret;

use super::ObjectKey;
use crate::clock::{Moment, Now};
use crate::failure::{Failure, FailureClass};
use crate::fingerprint::{Account, Fingerprint};
use crate::inputs::Inputs;
use crate::policy::backoff::{Probe, next_attempt};
use crate::policy::{GrantFacts, GrantToken, PastFailure, Warnings, reason_of, schedule};
use crate::providers::{Endpoint, Grant, Vendor};
use crate::times::{later, whole_seconds};
use crate::token::{AccessToken, Credentials};

/// A refresh request overrides a latch or a back-off at most once in this time.
const OVERRIDE_EVERY: Duration = Duration::from_secs(15 * 60);
/// A refresh request waits at most this long after the last token.
const GAP_ON_REQUEST: Duration = Duration::from_secs(30);

/// What is needed to ask a vendor.
#[derive(Debug)]
pub struct VendorCall {
    pub grant: Grant,
    pub endpoint: Endpoint,
    /// Kept until the request is sent, then wiped.
    pub credentials: Credentials,
}

/// How far an attempt has come.
#[derive(Debug, Default)]
pub(super) enum Phase {
    #[default]
    Idle,
    /// It may be sent; the holder of the permit with this number records it first where it must.
    Reserved(u64),
    Queued(Box<VendorCall>),
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
    /// When it was sent, as a status shows it.
    pub(super) sent: Timestamp,
    /// `None` when only a change may bring another.
    pub(super) next_attempt: Option<Moment>,
    /// Known from a status only, not seen by this process.
    pub(super) from_status: bool,
}

impl FailedAttempt {
    /// A rejection that a status shows.
    pub(super) fn rejection_in_status(failure: &PastFailure, now: &Now) -> Self {
        Self {
            class: FailureClass::Rejected,
            message: failure.message.clone(),
            sent: failure.last_attempt,
            next_attempt: failure.next_attempt.map(|next| now.moment_at(next)),
            from_status: true,
        }
    }
}

/// A token in memory.
#[derive(Debug)]
pub(super) struct HeldToken {
    token: Arc<AccessToken>,
    ends: Moment,
}

/// One grant.
#[derive(Debug, Default)]
pub(super) struct GrantRecord {
    pub(super) users: HashSet<ObjectKey>,
    pub(super) waiters: HashMap<ObjectKey, Waiter>,
    /// By object, the refresh request that the last attempt served.
    pub(super) completed: HashMap<ObjectKey, String>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) phase: Phase,
    pub(super) token: Option<HeldToken>,
    pub(super) failure: Option<FailedAttempt>,
    /// Failures in a row.
    pub(super) failures: i32,
    /// When the last request was sent.
    pub(super) sent: Option<Timestamp>,
    /// When the last token came, also when it was the one before.
    granted: Option<Moment>,
    /// When the last attempt was sent, where it succeeded.
    succeeded: Option<Timestamp>,
    /// The account of this grant's credentials, at a vendor that locks accounts.
    pub(super) account: Option<Account>,
    /// The attempt that is reserved or queued is counted against its account since this moment.
    pub(super) counted: Option<Moment>,
    /// The credentials have brought a token.
    pub(super) proven: bool,
    /// The end of the pause that was taken over from a status.
    pub(super) seeded_pause: Option<Timestamp>,
    /// Since when nobody uses it.
    pub(super) unused_since: Option<Moment>,
    /// When a refresh request last overrode a latch or a back-off.
    overridden: Option<Moment>,
}

impl GrantRecord {
    /// Notes that `object` waits for the attempt, and gives the moment since when.
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

    /// A refresh request overrides a latch or a back-off now.
    pub(super) fn note_override(&mut self, now: Moment) {
        self.overridden = Some(now);
    }

    /// Returns true if a request is reserved, queued or in flight.
    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self.phase, Phase::Idle)
    }

    /// Returns true if a latch or a back-off holds.
    pub(super) fn is_held(&self, now: Moment) -> bool {
        let next = self.failure.as_ref().map(|failure| failure.next_attempt);
        next.is_some_and(|next| next.is_none_or(|next| now < next))
    }

    /// Returns true if the last token came just now. It is kept for a moment when nobody uses it: an object that is
    /// deleted and made again, or edited there and back, has it again, and asks for no other.
    pub(super) fn is_new(&self, now: &Now) -> bool {
        self.usable(now).is_some() && self.gap_ends(true, now.moment).is_some()
    }

    /// The last token, while it is valid by the timeline and by the wall clock. Not where its issue lies ahead of a clock that was set back: its Secret would
    /// count as one without a token.
    pub(super) fn usable(&self, now: &Now) -> Option<&Arc<AccessToken>> {
        let held = self.token.as_ref()?;
        let is_valid = now.moment < held.ends && now.wall() < held.token.expires;
        (is_valid && schedule::is_credible_issue(held.token.issued, now.wall())).then_some(&held.token)
    }

    /// Drops a token that has ended, or that nobody may need.
    pub(super) fn drop_token_if(&mut self, now: Moment, is_unneeded: bool) {
        self.token.take_if(|held| is_unneeded || held.ends <= now);
    }

    /// The end of the least gap between two tokens.
    fn gap_ends(&self, on_request: bool, now: Moment) -> Option<Moment> {
        let granted = self.granted?;
        let held = self.token.as_ref()?;
        let least = schedule::least_gap(held.token.issued, held.token.expires).unsigned_abs();
        let gap = if on_request {
            least.min(GAP_ON_REQUEST)
        } else {
            least
        };
        // A vendor that gives the same token until its end gives another one then: the gap ends with the token.
        let end = held
            .ends
            .max(granted + gap.min(GAP_ON_REQUEST))
            .min(granted + gap);
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

    fn succeed(&mut self, token: AccessToken, now: &Now) {
        self.failure = None;
        self.proven = true;
        self.failures = 0;
        self.granted = Some(now.moment);
        self.succeeded = Some(token.issued);
        // A vendor's cache may give the same token again: nothing is to be published then. Unless its end has passed by
        // what was known of it: the vendor says that it lives longer.
        let is_same = self
            .usable(now)
            .is_some_and(|old| old.value.expose_secret() == token.value.expose_secret());
        if is_same {
            return;
        }
        // Where the clock was set back by the time in between, both would seem to be one token.
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
        let probe = if vendor.locks_accounts() {
            Probe::Never
        } else {
            Probe::Hourly
        };
        // The attempt's own part of the jitter, so that grants which failed together do not return together.
        let jitter = fingerprint
            .jitter()
            .wrapping_add((self.failures as u8).wrapping_mul(97));
        self.failure = Some(FailedAttempt {
            class: failure.class,
            next_attempt: next_attempt(&failure, self.failures, probe, jitter, now.wall())
                .map(|next| now.moment_at(next)),
            message: failure.message,
            sent: whole_seconds(self.sent.unwrap_or(now.wall())),
            from_status: false,
        });
    }

    /// Nobody waits any more; the refresh requests of those who waited are completed.
    fn release_waiters(&mut self) {
        for (object, waiter) in self.waiters.drain() {
            if let Some(request) = waiter.request {
                self.completed.insert(object, request);
            }
        }
    }

    /// What this process knows of this grant, for `object`, which calls it `inputs`.
    pub(super) fn facts(&self, object: &ObjectKey, inputs: &Inputs, now: &Now) -> GrantFacts {
        let token = self.usable(now).map(|token| GrantToken {
            issued: token.issued,
            expires: token.expires,
            warnings: Warnings {
                expiry_assumed: token.expiry_assumed,
                clock_skew_suspected: token.clock_skew_suspected,
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
                from_status: failure.from_status,
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
            has_account: self.account.is_some(),
            account_free_at: None,
            under_way: self.is_under_way(),
        }
    }
}
