//! The spec of a VendorToken, validated once, so that later code cannot fail on it.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use jiff::Timestamp;

use crate::api::names::{self, Reason};
use crate::api::{CheckmarxScaRegion, CheckmarxScaScope, DeletionPolicy, VendorName, VendorToken};
use crate::controller::cluster::references::target_name;
use crate::controller::cluster::secret_name::SecretName;
use crate::controller::cluster::secret_record::owned_digest;
use crate::controller::reconcile::fences;
use crate::fingerprint::{FingerprintKey, KnownInputs, Sources, hex};
use crate::grants::VendorCall;
use crate::policy::Problem;
use crate::policy::schedule::RefreshPolicy;
use crate::providers::{CheckmarxRegion, Endpoint, Grant, Vendor};
use crate::template;
use crate::token::Credentials;

/// A valid spec.
#[derive(Clone, Debug)]
pub(crate) struct ValidatedSpec {
    pub(crate) grant: Grant,
    /// The vendor's own endpoint, or the administrator's replacement.
    pub(crate) endpoint: Endpoint,
    pub(crate) credentials_secret: SecretName,
    /// Canonical key to key in the Secret, where they differ.
    pub(crate) keys: BTreeMap<String, String>,
    pub(crate) certificate_secret: Option<SecretName>,
    pub(crate) target: DesiredTarget,
    pub(crate) refresh: RefreshPolicy,
    /// The end of the credential itself, where the user stated it.
    pub(crate) credential_expires: Option<Timestamp>,
}

/// The target as the spec describes it.
#[derive(Clone, Debug)]
pub(crate) struct DesiredTarget {
    pub(crate) name: SecretName,
    pub(crate) type_: String,
    pub(crate) data: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) delete_with_owner: bool,
    /// A digest of type, templates, labels and annotations.
    pub(crate) content: String,
    /// A digest of the paths that our apply entry will own.
    pub(crate) owned: u64,
    pub(crate) owned_data: u64,
}

impl ValidatedSpec {
    /// The request that these credentials make.
    pub(crate) fn call(&self, credentials: Credentials) -> VendorCall {
        VendorCall {
            grant: self.grant.clone(),
            endpoint: self.endpoint.clone(),
            credentials,
        }
    }

    /// Validates the spec of a whole object, with the templates of its target.
    pub(crate) fn of_whole(
        token: &VendorToken,
        endpoints: &BTreeMap<Vendor, Endpoint>,
    ) -> Result<Self, Problem> {
        fences::check_templates(token)?;
        Self::new(token, endpoints)
    }

    /// Validates a spec beyond the schema, which may be an older one. The object may be kept without its templates:
    /// grant and credentials need none.
    pub(crate) fn new(token: &VendorToken, endpoints: &BTreeMap<Vendor, Endpoint>) -> Result<Self, Problem> {
        let spec = &token.spec;
        fences::check(token)?;
        let grant = grant(token)?;
        let endpoint = endpoints
            .get(&grant.vendor())
            .cloned()
            .unwrap_or_else(|| grant.endpoint());
        let certificate = spec
            .six_clicks
            .as_ref()
            .and_then(|spec| spec.client_certificate_secret_ref.as_ref());
        let target = DesiredTarget::new(token)?;
        let field = "spec.credentialsSecretRef.name";
        let credentials_secret = fences::secret_name(field, &spec.credentials_secret_ref.name)?;
        let certificate_field = "spec.sixClicks.clientCertificateSecretRef.name";
        let certificate_secret = certificate
            .map(|reference| fences::secret_name(certificate_field, &reference.name))
            .transpose()?;
        for (secret, field) in [
            (Some(&credentials_secret), field),
            (certificate_secret.as_ref(), certificate_field),
        ] {
            if secret == Some(&target.name) {
                return Err(invalid(format!(
                    "the target Secret '{}' is also `{field}`: set `spec.target.name` to another name",
                    target.name
                )));
            }
        }
        Ok(Self {
            endpoint,
            credentials_secret,
            keys: spec.credentials_secret_ref.keys.clone(),
            certificate_secret,
            target,
            refresh: RefreshPolicy::from_spec(spec.refresh.as_ref()),
            credential_expires: spec
                .picus
                .as_ref()
                .and_then(|picus| picus.refresh_token_expiration_time.as_ref())
                .map(|time| time.0),
            grant,
        })
    }

    /// The part of the published inputs that needs no Secret to be read.
    pub(crate) fn known_inputs(&self, key: &FingerprintKey, namespace: &str) -> KnownInputs {
        key.known_inputs(namespace, &self.endpoint, &self.grant, self.sources())
    }

    /// The Secrets and keys of the credentials.
    pub(crate) fn sources(&self) -> Sources<'_> {
        Sources {
            credentials_secret: &self.credentials_secret,
            keys: &self.keys,
            client_certificate_secret: self.certificate_secret.as_deref(),
        }
    }
}

fn invalid(message: String) -> Problem {
    Problem::new(Reason::InvalidSpec, message)
}

fn missing(member: &str, vendor: Vendor) -> Problem {
    invalid(format!(
        "`spec.{member}` is missing: it is required for `spec.vendor` '{vendor}'"
    ))
}

fn grant(token: &VendorToken) -> Result<Grant, Problem> {
    let spec = &token.spec;
    let grant = match spec.vendor {
        VendorName::SixMap => Grant::SixMap {
            scopes: spec
                .six_map
                .as_ref()
                .and_then(|member| member.scopes.clone())
                .unwrap_or_default(),
        },
        VendorName::SixClicks => {
            let member = spec
                .six_clicks
                .as_ref()
                .ok_or_else(|| missing("sixClicks", Vendor::SixClicks))?;
            Grant::SixClicks {
                region: member.region.clone(),
            }
        }
        VendorName::CheckmarxSCA => {
            let member = spec
                .checkmarx_sca
                .as_ref()
                .ok_or_else(|| missing("checkmarxSCA", Vendor::CheckmarxSca))?;
            Grant::CheckmarxSca {
                region: match member.region {
                    CheckmarxScaRegion::US => CheckmarxRegion::Us,
                    CheckmarxScaRegion::EU => CheckmarxRegion::Eu,
                },
                tenant: member.tenant.clone(),
                scopes: member
                    .scopes
                    .iter()
                    .map(|scope| match scope {
                        CheckmarxScaScope::ScaApi => "sca_api".to_owned(),
                        CheckmarxScaScope::AccessControlApi => "access_control_api".to_owned(),
                    })
                    .collect(),
            }
        }
        VendorName::Mapiq => Grant::Mapiq,
        VendorName::Picus => Grant::Picus,
    };
    grant.check().map_err(|error| invalid(error.to_string()))?;
    Ok(grant)
}

/// The vendor that a spec names.
pub(crate) fn vendor(token: &VendorToken) -> Vendor {
    match token.spec.vendor {
        VendorName::SixMap => Vendor::SixMap,
        VendorName::SixClicks => Vendor::SixClicks,
        VendorName::CheckmarxSCA => Vendor::CheckmarxSca,
        VendorName::Mapiq => Vendor::Mapiq,
        VendorName::Picus => Vendor::Picus,
    }
}

impl DesiredTarget {
    fn new(token: &VendorToken) -> Result<Self, Problem> {
        let spec = &token.spec.target;
        let name = fences::secret_name("spec.target.name", &target_name(token))?;
        for (key, value) in &spec.data {
            template::check(value).map_err(|what| {
                invalid(format!(
                    "`spec.target.data[{key}]` holds {what}: use $(token), $(tokenType), $(expirationTime) or \
                     $(issuedTime), and write $$( for a literal $("
                ))
            })?;
        }
        let owned_labels = [names::NAME_LABEL, names::MANAGED_BY_LABEL];
        let owned_annotations = [
            names::ISSUED_TIME,
            names::EXPIRATION_TIME,
            names::INPUTS,
            names::CONTENT,
            names::CREDENTIALS_VERSION,
            names::SEAL,
        ];
        let keys = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
        let (data, labels, annotations) = (keys(&spec.data), keys(&spec.labels), keys(&spec.annotations));
        let with = |own: &[&'static str], all: &[String]| -> Vec<String> {
            own.iter()
                .map(|key| (*key).to_owned())
                .chain(all.iter().cloned())
                .collect()
        };
        let (labels, annotations) = (
            with(&owned_labels, &labels),
            with(&owned_annotations, &annotations),
        );
        Ok(Self {
            content: content_digests(token),
            owned: owned_digest(&texts(&data), &texts(&labels), &texts(&annotations)),
            owned_data: owned_digest(&texts(&data), &[], &[]),
            name,
            type_: spec.type_.clone(),
            data: spec.data.clone(),
            labels: spec.labels.clone(),
            annotations: spec.annotations.clone(),
            delete_with_owner: spec.deletion_policy == DeletionPolicy::Delete,
        })
    }
}

fn texts(keys: &[String]) -> Vec<&str> {
    keys.iter().map(String::as_str).collect()
}

/// The digests of the templates: see [`Desired::content`](crate::policy::ownership::Desired::content).
fn content_digests(token: &VendorToken) -> String {
    let spec = &token.spec.target;
    let data = ("data", &spec.data);
    let all = [data, ("labels", &spec.labels), ("annotations", &spec.annotations)];
    format!(
        "{}.{}",
        content_digest(&spec.type_, &all),
        content_digest(&spec.type_, &[data])
    )
}

fn content_digest(type_: &str, parts: &[(&str, &BTreeMap<String, String>)]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut field = |text: &str| {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    };
    field(type_);
    for (kind, map) in parts {
        field(kind);
        for (key, value) in *map {
            field(key);
            field(value);
        }
    }
    hex(&context.finish().as_ref()[..8])
}
