//! The status of the VendorToken custom resource.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{constraints, lenient};

/// What the operator last saw and did. Written by the operator only.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VendorTokenStatus {
    /// The `metadata.generation` that this status speaks about; `-1` before the operator has looked at the object.
    /// Smaller than `metadata.generation`: an edit has not been handled yet. Example: `3`.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(transform = constraints::observed_generation)]
    pub observed_generation: Option<i64>,
    /// `Ready` is `True` while the target Secret holds a valid token of the current spec; its reason and message
    /// say why it is not, and what to do. The others stand here only while they are `True`: `Reconciling` (it may
    /// pass by itself), `Stalled` (a person must act), `RefreshFailing`, `Suspended`, and the warnings
    /// `ExpiryAssumed`, `ClockSkewSuspected`, `TokenNotYetValid` and `CredentialExpiring`.
    #[serde(
        default,
        deserialize_with = "lenient::items",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "Vec<String>", transform = constraints::conditions)]
    pub conditions: Vec<Condition>,
    /// The target Secret, in the form of a provisioned service of the Service Binding specification.
    /// Example: `{name: sca-token}`.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(transform = constraints::atomic)]
    pub binding: Option<Binding>,
    /// When the token in the target Secret was issued; RFC 3339, UTC. Example: `2026-05-04T10:00:00Z`.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>", transform = constraints::time)]
    pub issued_time: Option<Time>,
    /// When the token in the target Secret expires; RFC 3339, UTC. Example: `2026-05-04T11:00:00Z`.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>", transform = constraints::time)]
    pub expiration_time: Option<Time>,
    /// When the token is refreshed next; RFC 3339, UTC. Example: `2026-05-04T10:47:12Z`.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>", transform = constraints::time)]
    pub next_refresh_time: Option<Time>,
    /// The value of the annotation `vendortoken.io/refresh-requested-at` whose attempt has ended, whatever came of
    /// it. Example: `2026-05-04T10:20:00Z`.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 256))]
    pub last_handled_refresh_request: Option<String>,
    /// The host that is asked for the token. Example: `eu.platform.checkmarx.net`.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 320))]
    pub endpoint: Option<String>,
    /// The last failure; here only while attempts fail.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub failure: Option<FailureStatus>,
}

impl VendorTokenStatus {
    /// The condition of this type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == kind)
    }
}

/// The Secret that holds the token.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct Binding {
    /// Name of the Secret, in the namespace of the VendorToken. Example: `sca-token`.
    #[schemars(length(max = 253))]
    pub name: String,
}

/// A failed attempt, and when the next one is due.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FailureStatus {
    /// Why it failed, one of the reasons of the condition `Ready`. Example: `CredentialsRejected`.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What is wrong and what to do. Never holds a credential, a token or a vendor's answer.
    /// Example: `the vendor refused the refresh token (401): create a new one in the Picus console`.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// How many attempts in a row have failed with the same inputs. Example: `2`.
    #[schemars(range(min = 0, max = 2147483647))]
    pub count: i32,
    /// When the last attempt was made; RFC 3339, UTC. Example: `2026-05-04T10:47:12Z`.
    #[schemars(with = "String", transform = constraints::time)]
    pub last_attempt_time: Time,
    /// No attempt is made before this time; RFC 3339, UTC. Absent: not before the credential, the spec or the
    /// refresh request changes. Example: `2026-05-04T10:52:01Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", transform = constraints::time)]
    pub next_attempt_time: Option<Time>,
    /// What was tried: a keyed hash over the grant and the credential, from which neither can be computed. The
    /// failure counts only while they are the same.
    #[schemars(length(max = 256))]
    pub inputs: String,
}
