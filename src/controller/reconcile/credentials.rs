//! Reads the credentials of a VendorToken. Values are never kept beyond the request.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use zeroize::Zeroize;

use crate::api::names::Reason;
use crate::controller::cluster::secret_name::SecretName;
use crate::controller::reconcile::secret_calls::SecretCalls;
use crate::controller::reconcile::validated::ValidatedSpec;
use crate::http::check_client_certificate;
use crate::policy::Problem;
use crate::token::{ClientCertificate, Credentials, SecretString};

/// The credentials that were read.
pub(crate) struct Read {
    /// `uid/resourceVersion` of each Secret, joined by `+`.
    pub(crate) version: String,
    pub(crate) values: Credentials,
}

/// The cause of missing credentials.
pub(crate) enum ReadError {
    /// A person must act.
    Unusable(Problem),
    /// The API server did not give the Secret.
    Api { name: String, source: kube::Error },
}

/// The problem of a Secret that does not exist. Without a watch, a new Secret is found at the next look.
pub(crate) fn not_found(name: &str, watched: bool) -> Problem {
    let soon = if watched { "seconds" } else { "5 minutes" };
    Problem::new(
        Reason::CredentialsNotFound,
        format!("Secret '{name}' does not exist: create it in this namespace; it is used within {soon}"),
    )
}

fn invalid(message: String) -> ReadError {
    ReadError::Unusable(Problem::new(Reason::CredentialsInvalid, message))
}

/// Reads and checks the credentials Secret, and the client certificate's where the spec names one.
pub(crate) async fn read(
    client: &Client,
    namespace: &str,
    checked: &ValidatedSpec,
    now: Timestamp,
    watched: bool,
) -> Result<Read, ReadError> {
    let calls = SecretCalls::new(client, namespace);
    let name = &checked.credentials_secret;
    let mut secret = get(&calls, name, watched).await?;
    let mut version = version_of(&secret);
    let values = credentials(checked, &secret);
    wipe(&mut secret.data);
    let mut values = values?;
    if let Some(name) = &checked.certificate_secret {
        let mut secret = get(&calls, name, watched).await?;
        version = format!("{version}+{}", version_of(&secret));
        let certificate = client_certificate(name, &secret, now);
        wipe(&mut secret.data);
        values.client_certificate = Some(certificate?);
    }
    Ok(Read { version, values })
}

async fn get(calls: &SecretCalls, name: &SecretName, watched: bool) -> Result<Secret, ReadError> {
    match calls.read(name).await {
        Ok(Some(secret)) => Ok(secret),
        Ok(None) => Err(ReadError::Unusable(not_found(name, watched))),
        Err(source) => Err(ReadError::Api {
            name: name.to_string(),
            source,
        }),
    }
}

fn version_of(secret: &Secret) -> String {
    let metadata = &secret.metadata;
    format!(
        "{}/{}",
        metadata.uid.as_deref().unwrap_or_default(),
        metadata.resource_version.as_deref().unwrap_or_default()
    )
}

fn credentials(checked: &ValidatedSpec, secret: &Secret) -> Result<Credentials, ReadError> {
    let name = &checked.credentials_secret;
    if secret.type_.as_deref() == Some("kubernetes.io/service-account-token") {
        return Err(invalid(format!(
            "Secret '{name}' holds a ServiceAccount's token, which is never sent to a vendor: name the Secret with the \
             vendor's credentials in `spec.credentialsSecretRef.name`"
        )));
    }
    let data = |key: &str| secret.data.as_ref()?.get(key).map(|bytes| bytes.0.as_slice());
    Credentials::from_data(checked.grant.credential_keys(), &checked.keys, data)
        .map_err(|error| invalid(format!("Secret '{name}': {error}")))
}

fn client_certificate(name: &str, secret: &Secret, now: Timestamp) -> Result<ClientCertificate, ReadError> {
    let part = |key: &str| -> Result<SecretString, ReadError> {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key)).ok_or_else(|| {
            invalid(format!("Secret '{name}' has no key {key}: store the client certificate as a `kubernetes.io/tls` Secret"))
        })?;
        let text = std::str::from_utf8(&bytes.0).map_err(|_| {
            invalid(format!(
                "Secret '{name}': key {key} is not text: store the certificate and its key as PEM"
            ))
        })?;
        Ok(SecretString::from(text))
    };
    let certificate = ClientCertificate {
        certificate_chain: part("tls.crt")?,
        private_key: part("tls.key")?,
    };
    check_client_certificate(&certificate, now)
        .map_err(|error| invalid(format!("Secret '{name}': {error}")))?;
    Ok(certificate)
}

/// Wipes a Secret's data, which kube keeps in plain buffers.
pub(crate) fn wipe(data: &mut Option<BTreeMap<String, ByteString>>) {
    for bytes in data.iter_mut().flat_map(BTreeMap::values_mut) {
        bytes.0.zeroize();
    }
}
