//! Names users meet: condition types, reasons, labels and annotations.
//!
//! They are part of the API: scripts, alerts and GitOps tools match on them, so a change is a breaking change.

use std::fmt;

/// The field manager of every write to a target Secret.
pub const FIELD_MANAGER: &str = "vendor-token-operator";
/// The field manager of status writes. Another one than [`FIELD_MANAGER`], so that what the operator owns in a
/// VendorToken can be told from what it owns in a Secret.
pub const STATUS_FIELD_MANAGER: &str = "vendor-token-operator/status";

/// Types of the conditions in `status.conditions`.
///
/// [`READY`](condition::READY) is always there once the object was looked at. All others are there only while
/// they are `True`, as kstatus (the library by which Flux and others tell whether an object is ready) asks for.
pub mod condition {
    /// `True` while the target Secret holds a valid token of the current spec. The one to wait for.
    pub const READY: &str = "Ready";
    /// No valid token yet, and it may come without anyone's help.
    pub const RECONCILING: &str = "Reconciling";
    /// No progress before a person changes something.
    pub const STALLED: &str = "Stalled";
    /// The last attempt to refresh failed while the stored token is still valid.
    pub const REFRESH_FAILING: &str = "RefreshFailing";
    /// `spec.suspend` is set: no vendor call, and no write to the target.
    pub const SUSPENDED: &str = "Suspended";
    /// The vendor gave no expiry, so its documented default is assumed.
    pub const EXPIRY_ASSUMED: &str = "ExpiryAssumed";
    /// The local clock and the vendor's differ.
    pub const CLOCK_SKEW_SUSPECTED: &str = "ClockSkewSuspected";
    /// The published token says that it cannot be used yet.
    pub const TOKEN_NOT_YET_VALID: &str = "TokenNotYetValid";
    /// The long-lived credential itself is about to expire.
    pub const CREDENTIAL_EXPIRING: &str = "CredentialExpiring";

    /// All of them.
    pub const ALL: [&str; 9] = [
        READY,
        RECONCILING,
        STALLED,
        REFRESH_FAILING,
        SUSPENDED,
        EXPIRY_ASSUMED,
        CLOCK_SKEW_SUSPECTED,
        TOKEN_NOT_YET_VALID,
        CREDENTIAL_EXPIRING,
    ];
}

/// Why a condition has its status: one set of words for conditions, events and metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The token of the current spec is in the target Secret.
    Published,
    /// The first grant is under way or queued, or the part of the spec that reaches the vendor was edited.
    Progressing,
    /// `spec.suspend` is set.
    Suspended,
    /// The credentials Secret (or the client certificate's) does not exist.
    CredentialsNotFound,
    /// The credentials Secret lacks a key, or a value in it cannot be sent; no request was made.
    CredentialsInvalid,
    /// The vendor refused the credential.
    CredentialsRejected,
    /// The vendor asked to wait.
    RateLimited,
    /// The vendor cannot be reached, or answers with a server error.
    VendorUnavailable,
    /// The vendor's answer is not what its documentation describes.
    InvalidResponse,
    /// The endpoint refused the request for a cause other than the credential: a redirect, 404, TLS, a licence.
    EndpointRefused,
    /// The spec cannot be carried out as it stands.
    InvalidSpec,
    /// The target Secret exists and belongs to someone else; it was left untouched.
    TargetNotOwned,
    /// Another VendorToken publishes to the same target Secret.
    TargetConflict,
    /// The API server refuses the target Secret as specified.
    TargetInvalid,
    /// The stored token has expired, and no cause is known.
    TokenExpired,
    /// The API server denies the operator a read or a write: RBAC, quota, admission, a namespace being deleted.
    ApiDenied,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 16] = [
        Self::Published,
        Self::Progressing,
        Self::Suspended,
        Self::CredentialsNotFound,
        Self::CredentialsInvalid,
        Self::CredentialsRejected,
        Self::RateLimited,
        Self::VendorUnavailable,
        Self::InvalidResponse,
        Self::EndpointRefused,
        Self::InvalidSpec,
        Self::TargetNotOwned,
        Self::TargetConflict,
        Self::TargetInvalid,
        Self::TokenExpired,
        Self::ApiDenied,
    ];

    /// The PascalCase text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Published => "Published",
            Self::Progressing => "Progressing",
            Self::Suspended => "Suspended",
            Self::CredentialsNotFound => "CredentialsNotFound",
            Self::CredentialsInvalid => "CredentialsInvalid",
            Self::CredentialsRejected => "CredentialsRejected",
            Self::RateLimited => "RateLimited",
            Self::VendorUnavailable => "VendorUnavailable",
            Self::InvalidResponse => "InvalidResponse",
            Self::EndpointRefused => "EndpointRefused",
            Self::InvalidSpec => "InvalidSpec",
            Self::TargetNotOwned => "TargetNotOwned",
            Self::TargetConflict => "TargetConflict",
            Self::TargetInvalid => "TargetInvalid",
            Self::TokenExpired => "TokenExpired",
            Self::ApiDenied => "ApiDenied",
        }
    }

    /// The reason of this text, as it is read back from a status.
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// On a VendorToken: any new value (up to 256 bytes) asks for one refresh now.
pub const REFRESH_REQUESTED_AT: &str = "vendortoken.io/refresh-requested-at";
/// On a Secret: its owner's consent to be used as the target of the VendorToken of this name.
pub const ADOPTABLE_BY: &str = "vendortoken.io/adoptable-by";
/// On a target: when the token was issued (RFC 3339, UTC, whole seconds).
pub const ISSUED_TIME: &str = "vendortoken.io/issued-time";
/// On a target: when the token expires (RFC 3339, UTC, whole seconds).
pub const EXPIRATION_TIME: &str = "vendortoken.io/expiration-time";
/// On a target: what the token was made from (keyed hashes, no credential).
pub const INPUTS: &str = "vendortoken.io/inputs";
/// On a target: fingerprint of the target's templates, so that an edit made while the operator was away is seen.
pub const CONTENT: &str = "vendortoken.io/content";
/// On a target: `uid/resourceVersion` of the credentials Secret that was used.
pub const CREDENTIALS_VERSION: &str = "vendortoken.io/credentials-version";
/// On a target: the last refresh request that was handled.
pub const REFRESH_HANDLED: &str = "vendortoken.io/refresh-handled";
/// Label of a target: the VendorToken's name.
pub const NAME_LABEL: &str = "vendortoken.io/name";
/// Label of a target; its value is [`FIELD_MANAGER`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Reason;

    #[test]
    fn reasons_are_pascal_case_words() {
        for reason in Reason::ALL {
            let text = reason.as_str();
            assert!(
                text.starts_with(|first: char| first.is_ascii_uppercase()),
                "{text}"
            );
            assert!(
                text.chars().all(|character| character.is_ascii_alphabetic()),
                "{text}"
            );
            assert_eq!(text, format!("{reason:?}"), "the text is the variant's name");
            assert_eq!(text, reason.to_string());
        }
    }

    #[test]
    fn reasons_are_listed_once_each_and_read_back() {
        let texts: BTreeSet<_> = Reason::ALL.into_iter().map(Reason::as_str).collect();
        assert_eq!(texts.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_text(reason.as_str()), Some(reason));
        }
        assert_eq!(Reason::from_text("published"), None);
    }
}
