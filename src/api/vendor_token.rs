//! The spec of the VendorToken custom resource.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::status::VendorTokenStatus;
use super::vendor_members::{CheckmarxScaSpec, MapiqSpec, PicusSpec, SixClicksSpec, SixMapSpec, VendorName};
use super::{constraints, lenient};

/// What to get, from whom, with which credentials, and where to put it.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[kube(
    group = "vendortoken.io",
    version = "v1alpha1",
    kind = "VendorToken",
    plural = "vendortokens",
    singular = "vendortoken",
    shortname = "vtok",
    namespaced,
    derive = "PartialEq",
    status = "VendorTokenStatus",
    doc = "A VendorToken keeps a vendor's short-lived access token in a Secret: it runs the vendor's grant with the credentials of another Secret, and runs it again shortly before the token expires.",
    selectable = ".spec.vendor",
    printcolumn = r#"{"name": "Vendor", "type": "string", "jsonPath": ".spec.vendor",
        "description": "The vendor whose token this is."}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status",
        "description": "Whether the Secret holds a valid token."}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].reason",
        "description": "Why it is ready, or is not."}"#,
    printcolumn = r#"{"name": "Secret", "type": "string", "jsonPath": ".status.binding.name",
        "description": "The Secret that holds the token."}"#,
    // `kubectl` prints a `date` that lies in the future as `<invalid>`, hence `string`.
    printcolumn = r#"{"name": "Expires", "type": "string", "jsonPath": ".status.expirationTime",
        "description": "When the token expires (UTC)."}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
        "description": "Time since the VendorToken was created."}"#,
    printcolumn = r#"{"name": "Next Refresh", "type": "string", "jsonPath": ".status.nextRefreshTime", "priority": 1,
        "description": "When the token is refreshed next (UTC)."}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].message", "priority": 1,
        "description": "What is wrong and what to do, or that all is well."}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = constraints::spec)]
pub struct VendorTokenSpec {
    /// The vendor: `SixMap`, `SixClicks`, `CheckmarxSCA`, `Mapiq` or `Picus`. Its settings stand in the member of
    /// that name (`sixMap`, `sixClicks`, `checkmarxSCA`, `mapiq`, `picus`); any other member is refused.
    /// Required, no default. Example: `CheckmarxSCA`.
    pub vendor: VendorName,
    /// Settings of SixMap; only with `vendor: SixMap`, and optional there. Default: every scope of the client.
    /// Example: `{scopes: [read:assets]}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub six_map: Option<SixMapSpec>,
    /// Settings of 6clicks; only with `vendor: SixClicks`, and required there. Example: `{region: au}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub six_clicks: Option<SixClicksSpec>,
    /// Settings of Checkmarx SCA; only with `vendor: CheckmarxSCA`, and required there. (Checkmarx One is another
    /// product, with other endpoints, and is not supported.) Example: `{region: EU, tenant: acme}`.
    #[serde(default, rename = "checkmarxSCA", skip_serializing_if = "Option::is_none")]
    pub checkmarx_sca: Option<CheckmarxScaSpec>,
    /// Settings of Mapiq; only with `vendor: Mapiq`, and optional there. There are none today, so that it may be
    /// left out. Default: absent. Example: `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapiq: Option<MapiqSpec>,
    /// Settings of Picus; only with `vendor: Picus`, and optional there. Default: no warning before the refresh
    /// token expires. Example: `{refreshTokenExpirationTime: "2027-03-31T00:00:00Z"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picus: Option<PicusSpec>,
    /// The Secret with the long-lived credentials, in the namespace of the VendorToken. A change of its data is
    /// used at once. Required. Example: `{name: sca-credentials}`.
    #[schemars(transform = constraints::atomic)]
    pub credentials_secret_ref: CredentialsSecretRef,
    /// The Secret that the token is written to, in the namespace of the VendorToken. Default: a Secret with the
    /// name of the VendorToken and the token under the key `token`. Example: `{name: sca-token}`.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    #[schemars(transform = constraints::default_empty_object)]
    pub target: TargetSpec,
    /// When to refresh the token. Default: when 80 percent of its life has passed, a little earlier by a jitter
    /// of up to 5 percent of its life. Example: `{beforeExpirySeconds: 900}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshSpec>,
    /// Whether to pause: while `true`, the vendor is not called and the target Secret is not written; what it
    /// holds stays, and may expire. Default: `false`. Example: `true`.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub suspend: bool,
}

/// The Secret with the credentials.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsSecretRef {
    /// Name of the Secret, in the namespace of the VendorToken; at most 253 characters. It must not be of type
    /// `kubernetes.io/service-account-token`, nor be the target. Required, no default. Example: `sca-credentials`.
    #[schemars(transform = constraints::secret_name)]
    pub name: String,
    /// Where the credentials stand in the Secret, if not under their usual keys: from the usual key to the key in
    /// your Secret (at most 253 characters). The usual keys are `client-id` and `client-secret` for SixMap and
    /// Mapiq, `api-key` for SixClicks, `username` and `password` for CheckmarxSCA, and `refresh-token` for Picus.
    /// Default: the usual keys. Example: `{password: PASSWORD}`.
    #[serde(
        default,
        deserialize_with = "lenient::null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(transform = constraints::credential_keys)]
    pub keys: BTreeMap<String, String>,
}

/// The Secret that holds the token.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TargetSpec {
    /// Name of the Secret; at most 253 characters. It must be neither the credentials Secret nor the client
    /// certificate's. A Secret of this name that belongs to someone else is left untouched, unless it carries the
    /// annotation `vendortoken.io/adoptable-by` with the name of this VendorToken. Default: the name of the
    /// VendorToken. Example: `sca-token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = constraints::secret_name)]
    pub name: Option<String>,
    /// Type of the Secret; 1 to 253 characters. Kubernetes does not let the type of an existing Secret change: to
    /// use another one, choose another `name` or delete the Secret. `kubernetes.io/service-account-token` and
    /// `bootstrap.kubernetes.io/token` are refused. Default: `Opaque`. Example: `example.com/api-token`.
    #[serde(
        rename = "type",
        default = "default_target_type",
        deserialize_with = "null_as_default_type"
    )]
    #[schemars(transform = constraints::target_type)]
    pub type_: String,
    /// What the Secret holds: from key to text, 1 to 16 keys of up to 253 characters, each text up to 4096
    /// characters. In a text, `$(token)` is replaced by the token, `$(tokenType)` by its type (`Bearer`),
    /// `$(expirationTime)` and `$(issuedTime)` by times in RFC 3339 (UTC, whole seconds). For a literal `$(`
    /// write `$$(`. Replaced as a whole by a server-side apply; with other ways of editing, a key that the default has
    /// put here stays until it is removed. Default: `{token: $(token)}`. Example: `{authorization: "Bearer $(token)"}`.
    #[serde(default = "default_target_data", deserialize_with = "null_as_default_data")]
    #[schemars(transform = constraints::target_data)]
    pub data: BTreeMap<String, String>,
    /// Labels to put on the Secret, beside the operator's own: at most 32, each value at most 63 characters.
    /// `app.kubernetes.io/managed-by` and all of `vendortoken.io/` are the operator's and refused.
    /// Default: none. Example: `{team: appsec}`.
    #[serde(
        default,
        deserialize_with = "lenient::null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(transform = constraints::target_labels)]
    pub labels: BTreeMap<String, String>,
    /// Annotations to put on the Secret, beside the operator's own: at most 32, each value at most 4096
    /// characters. All of `vendortoken.io/` are the operator's and refused.
    /// Default: none. Example: `{example.com/contact: appsec@example.com}`.
    #[serde(
        default,
        deserialize_with = "lenient::null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(transform = constraints::target_annotations)]
    pub annotations: BTreeMap<String, String>,
    /// What becomes of the Secret when the VendorToken is deleted: `Delete` (it is garbage collected) or `Retain`
    /// (it stays, with a token that expires and is not refreshed any more). Default: `Delete`. Example: `Retain`.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub deletion_policy: DeletionPolicy,
}

fn default_target_type() -> String {
    "Opaque".to_owned()
}

fn default_target_data() -> BTreeMap<String, String> {
    BTreeMap::from([("token".to_owned(), "$(token)".to_owned())])
}

fn null_as_default_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(default_target_type))
}

fn null_as_default_data<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(default_target_data))
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

/// What becomes of the target Secret with its VendorToken.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// It has an owner reference, and is garbage collected.
    #[default]
    Delete,
    /// It stays as it is.
    Retain,
}

/// When to refresh the token. The operator keeps away from both ends of the token's life, whatever is set here.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = constraints::refresh)]
pub struct RefreshSpec {
    /// Refresh when this much of the token's life has passed, in percent; 10 to 90. Not together with
    /// `beforeExpirySeconds`. Default: 80, where that is not set either. Example: `70`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 90))]
    pub at_lifetime_percent: Option<i32>,
    /// Refresh this long before the token expires, in seconds; 30 to 86400. Not together with
    /// `atLifetimePercent`. Default: not set, `atLifetimePercent` decides. Example: `900`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30, max = 86400))]
    pub before_expiry_seconds: Option<i32>,
}
