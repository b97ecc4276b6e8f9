//! What was observed of one VendorToken: everything a decision may depend on.

use jiff::{SignedDuration, Timestamp};

use super::hold::{Standing, no_success_since};
use super::past_failure::PastFailure;
use super::schedule::RefreshPolicy;
use super::token_facts::Stored;
use crate::api::VendorTokenStatus;
use crate::api::names::Reason;
use crate::inputs::Inputs;

/// A cause with its reason and a message that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub reason: Reason,
    pub message: String,
}

impl Problem {
    /// Takes a reason and a message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Everything a decision may depend on.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    pub now: Timestamp,
    /// The object has a deletion timestamp.
    pub deleting: bool,
    pub suspended: bool,
    /// Why the spec cannot be used, where the schema let it pass.
    pub spec_problem: Option<Problem>,
    pub refresh: RefreshPolicy,
    /// The value of the annotation `vendortoken.io/refresh-requested-at`.
    pub refresh_request: Option<&'a str>,
    pub status: &'a VendorTokenStatus,
    pub target: Target,
    /// How far the clock was set back since the token in the target was issued, as far as that is known: by what the
    /// clock shows now, the token's times are earlier by this.
    pub set_back: SignedDuration,
    /// The id of the key that fingerprints are made with.
    pub key_id: &'a str,
    /// Over the grant part of the present spec (see [`Inputs::parameters`]).
    pub parameters: &'a str,
    /// Over the names of Secrets and keys in the present spec (see [`Inputs::sources`]).
    pub sources: &'a str,
    pub credentials: Credentials,
    /// What holds of the grant; empty unless the credentials are [`Credentials::Known`].
    pub standing: Standing,
    /// The last attempt to write the target failed.
    pub publish_block: Option<PublishBlock>,
}

/// The target Secret, as far as metadata tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// There is none, or one that may be taken over.
    Free,
    /// It may not be written: `TargetNotOwned` or `TargetConflict`.
    Blocked(Problem),
    /// It is ours.
    Ours {
        /// The token in it, where our own annotations tell; `None` when they are gone or were edited by others.
        stored: Option<Stored>,
        /// All of our keys, labels and annotations are still ours, and made from the present templates.
        as_desired: bool,
    },
}

/// The credentials of a VendorToken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// They cannot be used: `CredentialsNotFound`, `CredentialsInvalid` or `ApiDenied`.
    Unusable(Problem),
    /// They exist and this process has not read them at this version.
    Unread {
        /// `uid/resourceVersion`; `None` where Secrets are not watched.
        version: Option<String>,
    },
    /// This process has computed their fingerprint.
    Known { inputs: Inputs },
}

/// The target could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishBlock {
    /// `TargetInvalid` or `ApiDenied`.
    pub problem: Problem,
    pub next_attempt: Timestamp,
}

/// Whether the stored token is made from what the spec and the credentials say now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Currency {
    Current,
    /// The credentials were changed; the grant part of the spec is the same.
    OtherCredentials,
    /// The grant part of the spec was edited.
    OtherGrant,
    /// Only reading the credentials can tell.
    Unknown,
}

impl Observed<'_> {
    pub(super) fn stored(&self) -> Option<&Stored> {
        match &self.target {
            Target::Ours { stored, .. } => stored.as_ref(),
            Target::Free | Target::Blocked(_) => None,
        }
    }

    /// One of the stored token's times, by the clock as it goes now.
    pub(super) fn by_this_clock(&self, time: Timestamp) -> Timestamp {
        time.saturating_sub(self.set_back).unwrap_or(Timestamp::MIN)
    }

    /// Whether the stored token has not expired.
    pub(super) fn is_valid(&self, stored: &Stored) -> bool {
        self.now < self.by_this_clock(stored.expires)
    }

    pub(super) fn currency(&self, stored: &Stored) -> Currency {
        if stored.inputs.key_id != self.key_id {
            // Made under a key that is lost: counts as unchanged until it is due, so that a lost key costs nothing.
            return Currency::Current;
        }
        if stored.inputs.parameters != self.parameters {
            return Currency::OtherGrant;
        }
        match &self.credentials {
            Credentials::Known { inputs } if inputs.fingerprint == stored.inputs.fingerprint => {
                Currency::Current
            }
            Credentials::Known { .. } => Currency::OtherCredentials,
            Credentials::Unusable(_) => Currency::Current,
            Credentials::Unread { version } => {
                let unchanged = version.is_some() && *version == stored.credentials_version;
                if unchanged && stored.inputs.sources == self.sources {
                    Currency::Current
                } else {
                    Currency::Unknown
                }
            }
        }
    }

    /// The newest failure of the present grant that no success followed.
    pub(super) fn failure(&self) -> Option<PastFailure> {
        let stored = match &self.credentials {
            Credentials::Known { .. } => return self.standing.failure.clone(),
            // Which credential it will be is not known. A rejection must not be forgotten over that: a Secret that is
            // deleted and made again with a rejected password would get it tried again.
            Credentials::Unusable(_) => None,
            Credentials::Unread { .. } => self
                .stored()
                .filter(|stored| self.currency(stored) == Currency::Current),
        };
        let failure = self.status.failure.as_ref().and_then(PastFailure::from_status)?;
        let is_of_present_grant = match stored {
            Some(stored) => stored.inputs.is_same_credential(&failure.inputs),
            None => {
                self.spec_problem.is_some()
                    || failure.inputs.key_id != self.key_id
                    || failure.inputs.parameters == self.parameters
            }
        };
        let issued = self
            .stored()
            .filter(|stored| stored.inputs.is_same_credential(&failure.inputs))
            .map(|stored| stored.issued);
        (is_of_present_grant && no_success_since(&failure, [issued], self.now)).then_some(failure)
    }

    /// The refresh request, unless it was handled.
    pub fn pending_request(&self) -> Option<&str> {
        let request = self.refresh_request?;
        let handled = [
            self.status.last_handled_refresh_request.as_deref(),
            self.stored().and_then(|stored| stored.refresh_handled.as_deref()),
            self.standing.completed_request.as_deref(),
        ];
        (!handled.contains(&Some(request))).then_some(request)
    }
}
