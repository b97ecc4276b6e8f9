//! One gate: open, or closed for a pause after which one call at a time may try it.

use std::time::Duration;

use crate::clock::Moment;
use crate::metrics::api::LONGEST_CALL;

/// The wait of others while a call tries a gate.
const ATTEMPT: Duration = Duration::from_secs(1);
/// The patience for a call that tries a gate: after it another one is sent beside it, since its connection may be dead. A
/// call ends after [`LONGEST_CALL`], so two are under way at most.
const PATIENCE: Duration = Duration::from_secs(LONGEST_CALL.as_secs() / 2);

/// The number of closings of a gate that a call has seen: a failure of a call from before the last one counts no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen(u64);

/// A gate.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Failures in a row; zero while it is open.
    failures: u32,
    closings: u64,
    /// The end of the pause.
    opens: Option<Moment>,
    /// The end of the patience for the call that tries it.
    trying: Option<Moment>,
    since: Option<Moment>,
    /// The last moment at which calls failed, by what is known.
    failed: Option<Moment>,
    reminded: Option<Moment>,
}

impl Gate {
    pub(super) fn is_open(&self) -> bool {
        self.failures == 0
    }

    /// The time until a call may go through, at least `courtesy` after the pause; `None`: now.
    pub(super) fn wait(&self, now: Moment, courtesy: Duration) -> Option<Duration> {
        if self.is_open() {
            return None;
        }
        let pause = self
            .opens
            .map_or(Duration::ZERO, |opens| (opens + courtesy).since(now));
        if !pause.is_zero() {
            return Some(pause);
        }
        self.trying.filter(|patience| *patience > now).map(|_| ATTEMPT)
    }

    /// Lets a call through. Where the gate is closed, no other goes through before this one has ended.
    pub(super) fn try_now(&mut self, now: Moment) -> Seen {
        if !self.is_open() {
            self.trying = Some(now + PATIENCE);
        }
        Seen(self.closings)
    }

    /// The call that tried the gate says nothing.
    pub(super) fn give_back(&mut self, seen: Seen) {
        if seen.0 == self.closings {
            self.trying = None;
        }
    }

    /// Closes the gate, since a call failed at the moment `failed`, for what `pause` makes of the number of failures in a
    /// row. Those of calls that were sent at the same time count as one.
    pub(super) fn close(&mut self, seen: Seen, failed: Moment, now: Moment, pause: impl Fn(u32) -> Duration) {
        self.failed = self.failed.max(Some(failed));
        if seen.0 == self.closings || self.is_open() {
            self.failures = self.failures.saturating_add(1);
            self.closings += 1;
            self.opens = None;
            self.trying = None;
            self.since = self.since.or(Some(now));
        }
        let opens = now + pause(self.failures);
        self.opens = Some(self.opens.map_or(opens, |before| before.max(opens)));
    }

    /// Lets the next try be made at `moment`, if it is not made sooner.
    pub(super) fn try_at(&mut self, moment: Moment) {
        self.opens = self.opens.map(|opens| opens.min(moment));
    }

    /// Opens the gate, and gives the moment of the first failure where it was closed.
    pub(super) fn open(&mut self) -> Option<Moment> {
        let since = self.since.filter(|_| !self.is_open());
        *self = Self {
            closings: self.closings,
            ..Self::default()
        };
        since
    }

    /// True where the last failure came after `answered`.
    pub(super) fn has_failed_since(&self, answered: Option<Moment>) -> bool {
        self.failed
            .is_some_and(|failed| answered.is_none_or(|answered| failed > answered))
    }

    pub(super) fn failing_for(&self, now: Moment) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// True at the first failure, and then once in `interval`.
    pub(super) fn reminds(&mut self, now: Moment, interval: Duration) -> bool {
        let due = self
            .reminded
            .is_none_or(|reminded| now.since(reminded) >= interval);
        if due {
            self.reminded = Some(now);
        }
        due
    }

    /// True where its pause ended at least `retention` ago, and no call has tried it since.
    pub(super) fn is_stale(&self, now: Moment, retention: Duration) -> bool {
        self.opens.is_none_or(|opens| now.since(opens) >= retention)
    }
}
