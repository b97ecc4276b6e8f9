//! The facts of a token: of the one in a target, and of the one in memory.

use jiff::{SignedDuration, Timestamp};

use super::schedule::{self, RefreshPolicy};
use crate::inputs::Inputs;

/// The token in the target, as the annotations that our own field manager owns describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub issued: Timestamp,
    pub expires: Timestamp,
    pub inputs: Inputs,
    /// `uid/resourceVersion` of the credentials Secret that brought it; `None` where Secrets are not watched.
    pub credentials_version: Option<String>,
    /// The refresh request that was handled when it was published.
    pub refresh_handled: Option<String>,
    /// The target's data is as our last apply left it, by the present templates: the token can be read from it.
    pub is_readable: bool,
}

impl Stored {
    /// True when it has not expired at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        now < self.expires
    }

    /// The time at which it is due for a refresh.
    pub fn due(&self, policy: RefreshPolicy) -> Timestamp {
        schedule::due(policy, self.issued, self.expires, self.inputs.jitter)
    }

    /// The time from its issue until it is due.
    pub fn refresh_interval(&self, policy: RefreshPolicy) -> SignedDuration {
        self.due(policy).duration_since(self.issued)
    }
}

/// The facts of a token in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantToken {
    pub issued: Timestamp,
    pub expires: Timestamp,
    pub warnings: Warnings,
}

/// The warnings about a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings {
    /// The vendor gave no expiry: the documented default life is assumed.
    pub expiry_assumed: bool,
    /// The vendor's clock and this node's differ, or the vendor's expiry fields disagree.
    pub clock_skew_suspected: bool,
    /// The token lives more than ten times as long as the vendor documents.
    pub unusually_long: bool,
    /// The time before which the token is not usable.
    pub not_before: Option<Timestamp>,
}
