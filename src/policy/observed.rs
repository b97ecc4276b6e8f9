//! Everything that was observed of one VendorToken: the inputs of a decision.

use jiff::{SignedDuration, Timestamp};

use super::contest::Contest;
use super::hold::{Standing, no_success_since};
use super::past_failure::PastFailure;
use super::schedule::RefreshPolicy;
use super::token_facts::Stored;
use crate::api::VendorTokenStatus;
use crate::api::names::Reason;
use crate::inputs::Inputs;

/// A problem: its reason, and a message that says what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub reason: Reason,
    pub message: String,
}

impl Problem {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Everything that a decision may depend on.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The time of day of the decision.
    pub now: Timestamp,
    /// True when the object has a deletion timestamp.
    pub deleting: bool,
    /// The value of `spec.suspend`.
    pub suspended: bool,
    /// The problem of a spec that the schema let pass and that cannot be used.
    pub spec_problem: Option<Problem>,
    /// The refresh setting of the spec.
    pub refresh: RefreshPolicy,
    /// The value of the annotation `vendortoken.io/refresh-requested-at`.
    pub refresh_request: Option<&'a str>,
    /// The present status of the object.
    pub status: &'a VendorTokenStatus,
    pub target: Target,
    /// The sum of the clock's steps back since the token in the target was issued, as far as this process knows them.
    /// By the clock as it goes now, the token's times are earlier by this.
    pub set_back: SignedDuration,
    /// The id of the present key of fingerprints.
    pub key_id: &'a str,
    /// The digest of the grant part of the present spec (see [`Inputs::parameters`]).
    pub parameters: &'a str,
    /// The digest of the names of Secrets and keys in the present spec (see [`Inputs::sources`]).
    pub sources: &'a str,
    pub credentials: Credentials,
    /// The standing of the grant; empty unless the credentials are [`Credentials::Known`].
    pub standing: Standing,
    /// The last attempt to write the target, where it failed.
    pub publish_block: Option<PublishBlock>,
    /// True where the target has other owners than the spec wants, since the API server forbids to change them.
    pub owners_stay: bool,
    /// The contest for the target, while somebody else keeps changing or deleting it.
    pub contest: Option<Contest>,
    /// The problem of Kubernetes calls that have failed for a while, and are tried again by themselves.
    pub api_trouble: Option<Problem>,
}

/// The target Secret, as its metadata shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// There is no Secret of this name, or one that may be taken over.
    Free,
    /// It may not be written: `TargetNotOwned` or `TargetConflict`.
    Blocked(Problem),
    /// It belongs to this VendorToken.
    Ours {
        /// The token in it, as the facts beside it describe it; `None` where they are gone, or others have edited them.
        stored: Option<Stored>,
        /// True when all of our keys, labels and annotations are still ours and made from the present templates, and
        /// the owner reference is the desired one.
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

/// A failed attempt to write the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishBlock {
    /// `TargetInvalid` or `ApiDenied`.
    pub problem: Problem,
    /// The earliest time of another attempt.
    pub next_attempt: Timestamp,
}

/// The relation of the stored token to the present spec and credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Currency {
    /// It was made from them.
    Current,
    /// The credentials were changed; the grant part of the spec is the same.
    OtherCredentials,
    /// The grant part of the spec was edited.
    OtherGrant,
    /// Not known before the credentials are read.
    Unknown,
}

impl Observed<'_> {
    /// The token in the target, where the target is ours and describes one.
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

    /// True when the stored token has not expired, by the clock as it goes now.
    pub(super) fn is_valid(&self, stored: &Stored) -> bool {
        self.now < self.by_this_clock(stored.expires)
    }

    /// Compares the inputs of the stored token with the present ones.
    pub(super) fn currency(&self, stored: &Stored) -> Currency {
        if stored.inputs.key_id != self.key_id {
            // The inputs of a lost key compare with nothing: the token counts as current until it is due, so that a
            // lost key costs no request.
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
            // The next credential is not known. The failure is kept: a Secret that is deleted and made again with a
            // rejected password must not have it tried again.
            Credentials::Unusable(_) => None,
            // Facts under a lost key are no proof that a failure is of other credentials.
            Credentials::Unread { .. } => self.stored().filter(|stored| {
                stored.is_sealed_by(self.key_id) && self.currency(stored) == Currency::Current
            }),
        };
        let failure = self.status.failure.as_ref().and_then(PastFailure::parse)?;
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

    /// The refresh request in the annotation, unless it was handled.
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
