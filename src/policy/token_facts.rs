//! What is known of a token: of the one in a target, and of the one in memory.

use jiff::{SignedDuration, Timestamp};

use super::schedule::{self, RefreshPolicy};
use crate::inputs::Inputs;

/// The token in the target, from annotations that our own field manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub issued: Timestamp,
    pub expires: Timestamp,
    pub inputs: Inputs,
    /// `uid/resourceVersion` of the credentials that were used.
    pub credentials_version: Option<String>,
    pub refresh_handled: Option<String>,
    /// The target's data is as our last apply left it, by the present templates: the token can be read from it.
    pub is_readable: bool,
}

impl Stored {
    /// The expiry is in the future.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        now < self.expires
    }

    /// When it is due for a refresh.
    pub fn due(&self, policy: RefreshPolicy) -> Timestamp {
        schedule::due(policy, self.issued, self.expires, self.inputs.jitter)
    }

    /// How long after its issue it is due.
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

/// What to warn of about a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings {
    pub expiry_assumed: bool,
    pub clock_skew_suspected: bool,
    pub not_before: Option<Timestamp>,
}
