//! Names for users: condition types, reasons, labels and annotations.
//!
//! Scripts, alerts and GitOps tools match on them, so a change is a breaking change of the API.

use std::fmt;

/// Field manager of writes to target Secrets.
pub const FIELD_MANAGER: &str = "vendor-token-operator";
/// Field manager of status writes, distinct from [`FIELD_MANAGER`], so that `managedFields` show both kinds of
/// ownership.
pub const STATUS_FIELD_MANAGER: &str = "vendor-token-operator/status";

/// Types of the conditions in `status.conditions`.
///
/// [`READY`](condition::READY) exists once the operator has seen the object. The others exist only while they are
/// `True`, as kstatus requires, the library by which Flux and others compute readiness.
pub mod condition {
    /// The target Secret holds a valid token of the current spec. The condition for `kubectl wait`.
    pub const READY: &str = "Ready";
    /// There is no valid token yet, and one may come without a person's action.
    pub const RECONCILING: &str = "Reconciling";
    /// There is no progress without a person's action.
    pub const STALLED: &str = "Stalled";
    /// The last attempt to refresh failed while the stored token is still valid.
    pub const REFRESH_FAILING: &str = "RefreshFailing";
    /// `spec.suspend` is set: no vendor call, and no write to the target.
    pub const SUSPENDED: &str = "Suspended";
    /// The vendor gave no expiry, so its documented default is assumed.
    pub const EXPIRY_ASSUMED: &str = "ExpiryAssumed";
    /// The local clock and the vendor's differ.
    pub const CLOCK_SKEW_SUSPECTED: &str = "ClockSkewSuspected";
    /// The published token is not valid yet by its own claim.
    pub const TOKEN_NOT_YET_VALID: &str = "TokenNotYetValid";
    /// The long-lived credential itself is about to expire.
    pub const CREDENTIAL_EXPIRING: &str = "CredentialExpiring";
    /// Somebody else keeps changing or deleting the target.
    pub const TARGET_CONTESTED: &str = "TargetContested";

    /// All types.
    pub const ALL: [&str; 10] = [
        READY,
        RECONCILING,
        STALLED,
        REFRESH_FAILING,
        SUSPENDED,
        EXPIRY_ASSUMED,
        CLOCK_SKEW_SUSPECTED,
        TOKEN_NOT_YET_VALID,
        CREDENTIAL_EXPIRING,
        TARGET_CONTESTED,
    ];
}

/// Reason of a condition's status, the same words in conditions, events and metric labels.
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
    /// The vendor's documentation describes no such answer.
    InvalidResponse,
    /// The endpoint refused the request for a cause other than the credential: a redirect, 404, TLS, a licence.
    EndpointRefused,
    /// The spec cannot be carried out as it stands.
    InvalidSpec,
    /// The target Secret belongs to someone else and was left untouched.
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

    /// The reason of this text, as in a status.
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// On a VendorToken: a new value (up to 256 bytes) requests one refresh now.
pub const REFRESH_REQUESTED_AT: &str = "vendortoken.io/refresh-requested-at";
/// On a Secret: its owner's consent to its use as the target of the VendorToken of this name.
pub const ADOPTABLE_BY: &str = "vendortoken.io/adoptable-by";
/// On a target: time of the token's issue (RFC 3339, UTC, whole seconds).
pub const ISSUED_TIME: &str = "vendortoken.io/issued-time";
/// On a target: expiry of the token (RFC 3339, UTC, whole seconds).
pub const EXPIRATION_TIME: &str = "vendortoken.io/expiration-time";
/// On a target: keyed hashes of the token's inputs, without a credential.
pub const INPUTS: &str = "vendortoken.io/inputs";
/// On a target: fingerprint of its templates, which shows edits that were made while the operator was away.
pub const CONTENT: &str = "vendortoken.io/content";
/// On a target: `uid/resourceVersion` of the credentials Secret behind the token.
pub const CREDENTIALS_VERSION: &str = "vendortoken.io/credentials-version";
/// On a target: the last handled refresh request.
pub const REFRESH_HANDLED: &str = "vendortoken.io/refresh-handled";
/// On a target: proof that the operator wrote the token and the facts about it.
pub const SEAL: &str = "vendortoken.io/seal";
/// Label of a target: the VendorToken's name.
pub const NAME_LABEL: &str = "vendortoken.io/name";
/// Label of a target with the value [`FIELD_MANAGER`].
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
    fn each_reason_is_listed_once() {
        let texts: BTreeSet<_> = Reason::ALL.into_iter().map(Reason::as_str).collect();
        assert_eq!(texts.len(), Reason::ALL.len());
    }

    #[test]
    fn reasons_are_read_from_their_exact_text() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_text(reason.as_str()), Some(reason));
        }
        assert_eq!(Reason::from_text("published"), None);
    }
}
