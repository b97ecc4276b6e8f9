//! One grant: who uses it, who waits for it, its last token and its last failure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::ObjectKey;
use crate::api::names::Reason;
use crate::clock::Deadline;
use crate::failure::{Failure, FailureClass};
use crate::fingerprint::{Account, Fingerprint};
use crate::inputs::Inputs;
use crate::policy::backoff::{Probe, holds, next_attempt};
use crate::policy::{GrantState, GrantToken, PastFailure, Warnings, schedule};
use crate::providers::{Endpoint, Grant, Vendor};
use crate::token::{AccessToken, Credentials};

/// A refresh request passes a latch at most once in this time.
const PASS_EVERY: SignedDuration = SignedDuration::from_mins(15);
/// A refresh request waits at most this long after the last grant.
const REQUESTED_GAP: SignedDuration = SignedDuration::from_secs(30);

/// What a waiting grant needs to be sent.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) grant: Grant,
    pub(super) endpoint: Endpoint,
    pub(super) credentials: Credentials,
    /// The account that a failed attempt counts against, and when the attempt was noted there.
    pub(super) account: Option<(Account, Timestamp)>,
}

/// Where a grant stands.
#[derive(Debug, Default)]
pub(super) enum Phase {
    #[default]
    Idle,
    Queued(Box<Pending>),
    InFlight,
}

/// An object that waits for a grant.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) since: Instant,
    pub(super) request: Option<String>,
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) reason: Reason,
    pub(super) message: String,
    pub(super) at: Timestamp,
    /// `None` when only a change may bring another.
    pub(super) next_attempt: Option<Deadline>,
    /// Known from a status only, not seen by this process.
    pub(super) hearsay: bool,
}

/// One grant.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) users: HashSet<ObjectKey>,
    pub(super) waiters: HashMap<ObjectKey, Waiter>,
    /// By object, the refresh request that the last attempt served.
    pub(super) completed: HashMap<ObjectKey, String>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) phase: Phase,
    pub(super) token: Option<Arc<AccessToken>>,
    pub(super) failure: Option<Attempt>,
    /// Failures in a row.
    pub(super) count: i32,
    /// When the last request was sent.
    pub(super) sent: Option<Timestamp>,
    /// When the last token came, also when it was the one before: by both clocks, for either may stand still or jump.
    granted: Option<(Timestamp, Instant)>,
    /// When the request of the last attempt was sent, where it was a success.
    succeeded: Option<Timestamp>,
    /// The account of this grant's credentials, at a vendor that locks accounts.
    pub(super) account: Option<Account>,
    /// The credentials have brought a token.
    pub(super) proven: bool,
    /// The end of the pause that a status told of, and that was taken over.
    pub(super) recalled_pause: Option<Timestamp>,
    /// Since when nobody uses it.
    pub(super) left: Option<Instant>,
    /// When a refresh request last went past a latch, by both clocks.
    passed: Option<(Timestamp, Instant)>,
}

impl Entry {
    /// Notes that `object` waits for the request, and gives the time since when.
    pub(super) fn wait(&mut self, object: &ObjectKey, request: Option<String>, now: Instant) -> Instant {
        let waiter = self.waiters.entry(object.clone()).or_insert_with(|| Waiter {
            since: now,
            request: None,
        });
        if request.is_some() {
            waiter.request = request;
        }
        waiter.since
    }

    /// Notes that an attempt goes past a latch or a back-off: one that is known here, or one that a status `remembered`
    /// from before a restart.
    pub(super) fn note_pass(&mut self, remembered: bool, now: Timestamp, at: Instant) {
        if remembered || self.is_held(now, at) {
            self.passed = Some((now, at));
        }
    }

    /// A refresh request may go past a latch or a back-off now.
    pub(super) fn may_pass(&self, now: Timestamp, at: Instant) -> bool {
        self.passed
            .is_none_or(|(passed, passed_at)| elapsed(passed, passed_at, now, at) >= PASS_EVERY)
    }

    /// The vendor itself asked to wait, which no request goes past.
    pub(super) fn is_throttled(&self) -> bool {
        self.failure
            .as_ref()
            .is_some_and(|failure| failure.reason == Reason::RateLimited)
    }

    /// A latch or a back-off holds.
    pub(super) fn is_held(&self, now: Timestamp, at: Instant) -> bool {
        self.failure.as_ref().is_some_and(|failure| {
            failure
                .next_attempt
                .is_none_or(|next| holds(next.until(now, at), now))
        })
    }

    /// The last token came just now, and is kept for a moment when nobody uses it: an object that is deleted and made anew,
    /// or edited there and back, has it again, and asks for no other.
    pub(super) fn is_new(&self, now: Timestamp, at: Instant) -> bool {
        self.usable(now).is_some() && self.earliest(true, now, at).is_some()
    }

    /// The last token, where it can be used by what the clock says now.
    pub(super) fn usable(&self, now: Timestamp) -> Option<&Arc<AccessToken>> {
        self.token
            .as_ref()
            .filter(|token| now < token.expires && schedule::is_credible_issue(token.issued, now))
    }

    /// Not before this time may the next request be sent, to keep two grants apart.
    pub(super) fn earliest(&self, requested: bool, now: Timestamp, at: Instant) -> Option<Timestamp> {
        let (granted, granted_at) = self.granted?;
        let token = self.token.as_ref()?;
        let least = schedule::least_gap(token.issued, token.expires);
        let gap = if requested {
            least.min(REQUESTED_GAP)
        } else {
            least
        };
        let elapsed = elapsed(granted, granted_at, now, at);
        // A vendor that gives the same token until its end gives another one then: the gap ends with the token.
        let left = token
            .expires
            .duration_since(now)
            .max(gap.min(REQUESTED_GAP).saturating_sub(elapsed))
            .min(gap.saturating_sub(elapsed));
        (left > SignedDuration::ZERO).then(|| now.saturating_add(left).unwrap_or(Timestamp::MAX))
    }

    /// Takes the outcome of the request, and gives the objects to wake.
    pub(super) fn finish(
        &mut self,
        vendor: Vendor,
        fingerprint: Fingerprint,
        result: Result<AccessToken, Failure>,
        now: Timestamp,
        at: Instant,
    ) -> Vec<ObjectKey> {
        self.phase = Phase::Idle;
        match result {
            Ok(token) => {
                self.failure = None;
                self.proven = true;
                self.count = 0;
                self.granted = Some((now, at));
                self.succeeded = Some(token.issued);
                // A vendor's cache may give the same token again: nothing is to be published then. Unless its end has
                // passed by what was known of it: the vendor says that it lives longer.
                let same = self
                    .usable(now)
                    .is_some_and(|old| old.value.expose_secret() == token.value.expose_secret());
                if !same {
                    // Where the clock was set back by what lies between, both would seem to be one token.
                    let is_ambiguous = self.token.as_ref().is_some_and(|old| old.issued == token.issued);
                    let earlier = schedule::later(token.issued, -i64::from(is_ambiguous));
                    self.token = Some(Arc::new(AccessToken {
                        issued: earlier,
                        ..token
                    }));
                }
            }
            Err(failure) => {
                self.count = self.count.saturating_add(1);
                self.succeeded = None;
                let probe = if vendor.locks_accounts() {
                    Probe::Never
                } else {
                    Probe::Hourly
                };
                // The attempt's own part of the jitter, so that grants which failed together do not return together.
                let jitter = fingerprint
                    .jitter()
                    .wrapping_add((self.count as u8).wrapping_mul(97));
                self.failure = Some(Attempt {
                    reason: reason(failure.class),
                    next_attempt: next_attempt(&failure, self.count, probe, jitter, now)
                        .map(|next| Deadline::new(next, now, at)),
                    message: failure.message,
                    at: whole_seconds(self.sent.unwrap_or(now)),
                    hearsay: false,
                });
            }
        }
        for (object, waiter) in self.waiters.drain() {
            if let Some(request) = waiter.request {
                self.completed.insert(object, request);
            }
        }
        self.users.iter().cloned().collect()
    }

    /// What `object` may know of this grant.
    pub(super) fn state(
        &self,
        object: &ObjectKey,
        inputs: &Inputs,
        paused_until: Option<Timestamp>,
        now: Timestamp,
        at: Instant,
    ) -> GrantState {
        let token = self.usable(now).map(|token| GrantToken {
            issued: token.issued,
            expires: token.expires,
            warnings: Warnings {
                expiry_assumed: token.expiry_assumed,
                clock_skew_suspected: token.clock_skew_suspected,
                not_before: token.not_before,
            },
        });
        GrantState {
            failure: self.failure.as_ref().map(|failure| PastFailure {
                reason: failure.reason,
                message: failure.message.clone(),
                count: self.count,
                last_attempt: failure.at,
                next_attempt: failure.next_attempt.map(|next| next.until(now, at)),
                inputs: inputs.clone(),
                hearsay: failure.hearsay,
            }),
            token,
            completed_request: self.completed.get(object).cloned(),
            succeeded: self.succeeded,
            earliest_next: self.earliest(false, now, at),
            earliest_on_request: self.earliest(true, now, at),
            may_pass_latch: self.may_pass(now, at),
            paused_until,
            counts_for_account: self.account.is_some() && !self.proven,
            account_free_at: None,
            under_way: !matches!(self.phase, Phase::Idle),
        }
    }
}

/// The time since a moment that was noted by both clocks, by the one that says more: a wall clock that was set back
/// must not hold a grant for hours, nor a monotonic one that stood still while the machine slept.
fn elapsed(wall: Timestamp, timer: Instant, now: Timestamp, at: Instant) -> SignedDuration {
    let by_timer =
        SignedDuration::try_from(at.saturating_duration_since(timer)).unwrap_or(SignedDuration::MAX);
    by_timer.max(now.duration_since(wall))
}

/// The reason that users see for a failure class.
const fn reason(class: FailureClass) -> Reason {
    match class {
        FailureClass::Rejected => Reason::CredentialsRejected,
        FailureClass::Refused => Reason::EndpointRefused,
        FailureClass::Throttled => Reason::RateLimited,
        FailureClass::Transient => Reason::VendorUnavailable,
        FailureClass::Malformed => Reason::InvalidResponse,
    }
}

pub(super) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
