//! A failed attempt, as a status shows it.

use jiff::Timestamp;

use super::backoff;
use crate::api::FailureStatus;
use crate::api::names::Reason;
use crate::inputs::Inputs;
use crate::times::whole_seconds;

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastFailure {
    pub reason: Reason,
    pub message: String,
    /// Failures in a row.
    pub count: i32,
    pub last_attempt: Timestamp,
    /// Not before this time; `None` when only a change may bring another attempt.
    pub next_attempt: Option<Timestamp>,
    pub inputs: Inputs,
    /// This process knows of it by the status of another VendorToken only.
    pub from_status: bool,
}

/// How the message of an attempt begins that was recorded before it was sent.
const UNANSWERED: &str = "asked at ";

impl PastFailure {
    /// An attempt that is about to be sent: what a crash leaves behind of it.
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
            from_status: false,
        }
    }

    /// No other attempt may follow it yet.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.next_attempt.is_none_or(|next| backoff::holds(next, now))
    }

    /// It was recorded before it was sent, and no answer has been recorded since.
    pub fn is_unanswered(&self) -> bool {
        self.reason == Reason::VendorUnavailable && self.message.starts_with(UNANSWERED)
    }

    /// Reads `status.failure`; `None` when somebody else wrote it in another form.
    pub fn from_status(failure: &FailureStatus) -> Option<Self> {
        Some(Self {
            reason: Reason::from_text(&failure.reason)?,
            message: failure.message.clone(),
            count: failure.count.max(1),
            last_attempt: failure.last_attempt_time.0,
            next_attempt: failure.next_attempt_time.as_ref().map(|time| time.0),
            inputs: Inputs::parse(&failure.inputs)?,
            from_status: false,
        })
    }
}
