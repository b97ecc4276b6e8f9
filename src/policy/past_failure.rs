//! A failed attempt, as a status shows it.

use jiff::Timestamp;

use super::backoff;
use crate::api::FailureStatus;
use crate::api::names::Reason;
use crate::failure::LOCKED_UNTIL;
use crate::inputs::Inputs;
use crate::times::{recorded, whole_seconds};

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastFailure {
    /// The reason that users see.
    pub reason: Reason,
    pub message: String,
    /// The number of failures in a row, this one included.
    pub count: i32,
    /// The time at which it was sent, in whole seconds.
    pub last_attempt: Timestamp,
    /// The earliest time of another attempt; `None` when only a change may bring one.
    pub next_attempt: Option<Timestamp>,
    /// The published inputs of the grant that was asked for.
    pub inputs: Inputs,
    /// True when this process knows of it from the status of a VendorToken alone, and has not seen the answer itself.
    pub only_from_other_status: bool,
}

/// The start of the message of an attempt that was recorded before it was sent.
const UNANSWERED: &str = "asked at ";

impl PastFailure {
    /// The record of an attempt that is sent at `now`, written before it is sent so that a crash does not lose it.
    /// `count` is the number of failures in a row, should it fail.
    pub fn about_to_be_sent(
        count: i32,
        now: Timestamp,
        next_attempt: Option<Timestamp>,
        inputs: Inputs,
    ) -> Self {
        let now = whole_seconds(now);
        Self {
            reason: Reason::VendorUnavailable,
            message: format!("{UNANSWERED}{now}, no answer recorded; it is asked again by itself"),
            count,
            last_attempt: now,
            next_attempt,
            inputs,
            only_from_other_status: false,
        }
    }

    /// True while no other attempt may follow.
    pub fn holds(&self, now: Timestamp) -> bool {
        let holds = if self.is_lock() {
            backoff::lock_holds
        } else {
            backoff::holds
        };
        self.next_attempt.is_none_or(|next| holds(next, now))
    }

    /// True for a rejection whose answer names the end of the account's lock.
    pub fn is_lock(&self) -> bool {
        self.reason == Reason::CredentialsRejected && self.message.contains(LOCKED_UNTIL)
    }

    /// True for a rejection that is followed by an early attempt, as after a change of the credential.
    pub fn is_early(&self) -> bool {
        let is_early = |next| backoff::is_early(self.last_attempt, next);
        self.reason == Reason::CredentialsRejected
            && !self.is_lock()
            && self.next_attempt.is_some_and(is_early)
    }

    /// True when it was recorded before it was sent, and no answer has been recorded since.
    pub fn is_unanswered(&self) -> bool {
        self.reason == Reason::VendorUnavailable && self.message.starts_with(UNANSWERED)
    }

    /// Reads `status.failure`; `None` where its reason or its inputs cannot be read, because somebody else wrote it.
    pub fn parse(failure: &FailureStatus) -> Option<Self> {
        Some(Self {
            reason: Reason::from_text(&failure.reason)?,
            message: failure.message.clone(),
            count: failure.count.max(1),
            last_attempt: recorded(failure.last_attempt_time.0),
            next_attempt: failure.next_attempt_time.as_ref().map(|time| recorded(time.0)),
            inputs: Inputs::parse(&failure.inputs)?,
            only_from_other_status: false,
        })
    }
}
