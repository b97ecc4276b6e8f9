//! The facts of a token: of the one in a target, and of the one in memory.

use jiff::{SignedDuration, Timestamp};

use super::schedule::{self, RefreshPolicy};
use crate::inputs::Inputs;
use crate::seal::Verified;

/// The token in the target, as the facts beside it describe it. Either the operator's present key has sealed them, or the
/// inputs in them carry the id of a key that is lost (see [`Stored::is_sealed_by`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub issued: Timestamp,
    pub expires: Timestamp,
    pub inputs: Inputs,
    /// `uid/resourceVersion` of the credentials Secret that brought it; `None` where Secrets are not watched.
    pub credentials_version: Option<String>,
    /// The refresh request that was handled when it was published.
    pub refresh_handled: Option<String>,
    /// The target's data is as our last apply left it, by the present templates: workloads find the token there.
    pub is_in_place: bool,
    /// The token can be read from the target: it is in place, and a read has not found otherwise.
    pub is_readable: bool,
}

impl Stored {
    /// Takes the facts of a target. Those under a lost key cannot be verified: they give no more than the token's times,
    /// and its expiry by the documented life of the vendor's tokens at the latest.
    pub fn new(verified: Verified<'_>, documented_life: SignedDuration) -> Self {
        let (facts, is_sealed) = match verified {
            Verified::Sealed(facts) => (facts, true),
            Verified::LostKey(facts, _) => (facts, false),
        };
        let latest = facts
            .issued
            .saturating_add(documented_life)
            .unwrap_or(Timestamp::MAX);
        Self {
            issued: facts.issued,
            expires: if is_sealed {
                facts.expires
            } else {
                facts.expires.min(latest)
            },
            inputs: facts.inputs.clone(),
            credentials_version: facts.credentials_version.as_deref().map(str::to_owned),
            refresh_handled: facts
                .refresh_handled
                .as_deref()
                .filter(|_| is_sealed)
                .map(str::to_owned),
            // The templates decide: see `ownership::judge`.
            is_in_place: false,
            is_readable: false,
        }
    }

    /// True when the key with this id, the present one, has sealed these facts. Others give no priority and no proof.
    pub fn is_sealed_by(&self, key_id: &str) -> bool {
        self.inputs.key_id == key_id
    }

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
