//! The VendorToken custom resource.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Asks for a vendor's access token.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[kube(group = "vendortoken.io", version = "v1alpha1", kind = "VendorToken", plural = "vendortokens", shortname = "vtok", namespaced, status = "VendorTokenStatus")]
#[serde(rename_all = "camelCase")]
pub struct VendorTokenSpec {
    pub vendor: VendorName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub six_map: Option<SixMapSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub six_clicks: Option<SixClicksSpec>,
    #[serde(default, rename = "checkmarxSCA", skip_serializing_if = "Option::is_none")]
    pub checkmarx_sca: Option<CheckmarxScaSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapiq: Option<MapiqSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picus: Option<PicusSpec>,
    pub credentials_secret_ref: CredentialsSecretRef,
    #[serde(default)]
    pub target: TargetSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshSpec>,
    #[serde(default)]
    pub suspend: bool,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum VendorName {
    SixMap,
    SixClicks,
    CheckmarxSCA,
    Mapiq,
    Picus,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SixMapSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SixClicksSpec {
    pub region: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_secret_ref: Option<ClientCertificateSecretRef>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificateSecretRef {
    pub name: String,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CheckmarxScaSpec {
    pub region: CheckmarxScaRegion,
    pub tenant: String,
    #[serde(default = "default_checkmarx_scopes")]
    pub scopes: Vec<CheckmarxScaScope>,
}

fn default_checkmarx_scopes() -> Vec<CheckmarxScaScope> {
    vec![CheckmarxScaScope::ScaApi]
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckmarxScaRegion {
    US,
    EU,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum CheckmarxScaScope {
    ScaApi,
    AccessControlApi,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MapiqSpec {}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PicusSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token_expiration_time: Option<Time>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsSecretRef {
    pub name: String,
    /// Canonical key to key in that Secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TargetSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(rename = "type", default = "default_target_type")]
    pub type_: String,
    #[serde(default = "default_target_data")]
    pub data: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

fn default_target_type() -> String {
    "Opaque".to_owned()
}

fn default_target_data() -> BTreeMap<String, String> {
    BTreeMap::from([("token".to_owned(), "$(token)".to_owned())])
}

impl Default for TargetSpec {
    fn default() -> Self {
        Self {
            name: None,
            type_: default_target_type(),
            data: default_target_data(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            deletion_policy: DeletionPolicy::default(),
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    #[default]
    Delete,
    Retain,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RefreshSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_lifetime_percent: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_expiry_seconds: Option<i32>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VendorTokenStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_time: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_refresh_time: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_refresh_request: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureStatus>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct Binding {
    pub name: String,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FailureStatus {
    pub reason: String,
    pub message: String,
    pub count: i32,
    pub last_attempt_time: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_time: Option<Time>,
    pub inputs: String,
}
