//! Names users meet: condition types, reasons, labels and annotations.

/// The field manager of every write to a target Secret.
pub const FIELD_MANAGER: &str = "vendor-token-operator";
/// The field manager of status writes.
pub const STATUS_FIELD_MANAGER: &str = "vendor-token-operator/status";

/// Condition types.
pub mod condition {
    pub const READY: &str = "Ready";
    pub const RECONCILING: &str = "Reconciling";
    pub const STALLED: &str = "Stalled";
    pub const REFRESH_FAILING: &str = "RefreshFailing";
    pub const SUSPENDED: &str = "Suspended";
    pub const EXPIRY_ASSUMED: &str = "ExpiryAssumed";
    pub const CLOCK_SKEW_SUSPECTED: &str = "ClockSkewSuspected";
    pub const TOKEN_NOT_YET_VALID: &str = "TokenNotYetValid";
    pub const CREDENTIAL_EXPIRING: &str = "CredentialExpiring";
}

/// Reasons of conditions and events, and values of metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    Published,
    Progressing,
    Suspended,
    CredentialsNotFound,
    CredentialsInvalid,
    CredentialsRejected,
    RateLimited,
    VendorUnavailable,
    InvalidResponse,
    EndpointRefused,
    InvalidSpec,
    TargetNotOwned,
    TargetConflict,
    TargetInvalid,
    TokenExpired,
    ApiDenied,
}

impl Reason {
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
}

/// On a VendorToken: asks for one refresh now.
pub const REFRESH_REQUESTED_AT: &str = "vendortoken.io/refresh-requested-at";
/// On a Secret: its owner's consent to be used as the target of the VendorToken of this name.
pub const ADOPTABLE_BY: &str = "vendortoken.io/adoptable-by";
/// On a target: when the token was issued (RFC 3339, UTC, whole seconds).
pub const ISSUED_TIME: &str = "vendortoken.io/issued-time";
/// On a target: when the token expires.
pub const EXPIRATION_TIME: &str = "vendortoken.io/expiration-time";
/// On a target: what the token was made from (keyed hashes).
pub const INPUTS: &str = "vendortoken.io/inputs";
/// On a target: fingerprint of the target's templates.
pub const CONTENT: &str = "vendortoken.io/content";
/// On a target: `uid/resourceVersion` of the credentials Secret that was used.
pub const CREDENTIALS_VERSION: &str = "vendortoken.io/credentials-version";
/// On a target: the last refresh request that was handled.
pub const REFRESH_HANDLED: &str = "vendortoken.io/refresh-handled";
/// Label of a target: the VendorToken's name.
pub const NAME_LABEL: &str = "vendortoken.io/name";
/// Label of a target.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
