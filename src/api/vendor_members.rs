//! The vendors, and the member of each in the spec.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::constraints;

/// The vendor whose token endpoint is asked.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VendorName {
    /// SixMap, whose tokens Stytch issues.
    SixMap,
    /// 6clicks Developer API.
    SixClicks,
    /// Checkmarx SCA; not Checkmarx One.
    CheckmarxSCA,
    /// Mapiq, version 2 of the API.
    Mapiq,
    /// Picus Security.
    Picus,
}

impl VendorName {
    /// Every vendor, in the order of the documentation.
    pub const ALL: [Self; 5] = [
        Self::SixMap,
        Self::SixClicks,
        Self::CheckmarxSCA,
        Self::Mapiq,
        Self::Picus,
    ];

    /// The value of `spec.vendor`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SixMap => "SixMap",
            Self::SixClicks => "SixClicks",
            Self::CheckmarxSCA => "CheckmarxSCA",
            Self::Mapiq => "Mapiq",
            Self::Picus => "Picus",
        }
    }
}

impl fmt::Display for VendorName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Settings of SixMap.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SixMapSpec {
    /// Scopes to ask for: 1 to 32, each at most 128 printable ASCII characters without white space. Default: none
    /// are sent, and SixMap grants every scope of the client. Example: `[read:assets, read:findings]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = constraints::six_map_scopes)]
    pub scopes: Option<Vec<String>>,
}

/// Settings of 6clicks.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SixClicksSpec {
    /// The region of your 6clicks tenant: in the address of its web application, the part between `app-` and
    /// `.6clicks.io`. At most 15 lower-case letters, digits and `-`, the first one a letter. Required, no default.
    /// Example: `au`, for a tenant at `https://app-au.6clicks.io`.
    #[schemars(transform = constraints::six_clicks_region)]
    pub region: String,
    /// The client certificate for mutual TLS. Needed only when a certificate was uploaded with the API key.
    /// Default: none is presented. Example: `{name: sixclicks-client-certificate}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = constraints::atomic)]
    pub client_certificate_secret_ref: Option<ClientCertificateSecretRef>,
}

/// A Secret that holds a client certificate.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificateSecretRef {
    /// Name of a Secret of type `kubernetes.io/tls` in the namespace of the VendorToken: `tls.crt` holds the
    /// certificate and its chain, `tls.key` the private key, both PEM and not encrypted. At most 253 characters.
    /// Required, no default. Example: `sixclicks-client-certificate`.
    #[schemars(transform = constraints::secret_name)]
    pub name: String,
}

/// Settings of Checkmarx SCA.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CheckmarxScaSpec {
    /// Where the Checkmarx SCA account lives: `US` (`platform.checkmarx.net`) or `EU`
    /// (`eu.platform.checkmarx.net`). Required, no default. Example: `EU`.
    pub region: CheckmarxScaRegion,
    /// Name of the tenant account, without the prefix `Tenant:` and without white space; 1 to 128 characters.
    /// Required, no default. Example: `acme`.
    #[schemars(transform = constraints::checkmarx_tenant)]
    pub tenant: String,
    /// What the token is good for: `sca_api` (the SCA APIs), `access_control_api` (the Access Control APIs), or
    /// both. Default: `[sca_api]`. Example: `[sca_api, access_control_api]`.
    #[serde(
        default = "default_checkmarx_scopes",
        deserialize_with = "null_as_default_scopes"
    )]
    #[schemars(transform = constraints::checkmarx_scopes)]
    pub scopes: Vec<CheckmarxScaScope>,
}

fn default_checkmarx_scopes() -> Vec<CheckmarxScaScope> {
    vec![CheckmarxScaScope::ScaApi]
}

fn null_as_default_scopes<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<CheckmarxScaScope>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(default_checkmarx_scopes))
}

/// The regions of Checkmarx SCA.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckmarxScaRegion {
    /// `platform.checkmarx.net`.
    US,
    /// `eu.platform.checkmarx.net`.
    EU,
}

/// `sca_api` opens the SCA APIs, `access_control_api` the Access Control APIs. Example: `sca_api`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum CheckmarxScaScope {
    /// The SCA APIs.
    ScaApi,
    /// The Access Control APIs.
    AccessControlApi,
}

/// Settings of Mapiq. There are none today.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MapiqSpec {}

/// Settings of Picus.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PicusSpec {
    /// When the refresh token in the credentials Secret expires, as the Picus console shows it under Settings,
    /// Rest API Token; RFC 3339, between the years 2000 and 2100. The condition `CredentialExpiring` warns 30, 14
    /// and 3 days before. Default: none, and no warning, because Picus does not tell it with a token.
    /// Example: `2027-03-31T00:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", transform = constraints::refresh_token_expiration_time)]
    pub refresh_token_expiration_time: Option<Time>,
}
