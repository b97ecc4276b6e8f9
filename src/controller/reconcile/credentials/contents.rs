//! Makes credentials or a client certificate of the data of a Secret, or names the problem that a person must mend.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::api::names::Reason;
use crate::controller::cluster::secret_data::{SecretData, SecretValue};
use crate::controller::reconcile::validated::ValidatedSpec;
use crate::http::{ClientCertificateError, check_client_certificate};
use crate::policy::Problem;
use crate::token::{
    CERTIFICATE_LIMIT, ClientCertificate, CredentialError, CredentialProblem, Credentials, PRIVATE_KEY_LIMIT,
    SecretString,
};

/// The keys of a `kubernetes.io/tls` Secret, and the longest value of each.
const CERTIFICATE_KEYS: [(&str, usize); 2] = [("tls.crt", CERTIFICATE_LIMIT), ("tls.key", PRIVATE_KEY_LIMIT)];

fn invalid(message: String) -> Problem {
    Problem::new(Reason::CredentialsInvalid, message)
}

/// The name in the Secret of a canonical key, which the spec may give another name.
pub(super) fn in_secret(keys: &BTreeMap<String, String>, canonical: &str) -> String {
    keys.get(canonical).map_or(canonical, String::as_str).to_owned()
}

/// The keys of the credentials Secret that the vendor of the spec needs.
pub(super) fn keys_of_credentials(checked: &ValidatedSpec) -> BTreeSet<String> {
    let canonical = checked.grant.credential_keys().iter();
    canonical
        .map(|canonical| in_secret(&checked.keys, canonical))
        .collect()
}

/// The keys of a client certificate's Secret.
pub(super) fn keys_of_certificates() -> BTreeSet<String> {
    CERTIFICATE_KEYS
        .iter()
        .map(|(key, _)| (*key).to_owned())
        .collect()
}

/// The credentials in a Secret.
pub(super) fn credentials_in(checked: &ValidatedSpec, secret: &SecretData) -> Result<Credentials, Problem> {
    let name = &checked.credentials_secret;
    if secret.type_ == "kubernetes.io/service-account-token" {
        return Err(invalid(format!(
            "Secret '{name}' holds a ServiceAccount's token, which is never sent to a vendor: name the Secret with the \
             vendor's credentials in `spec.credentialsSecretRef.name`"
        )));
    }
    let wrong = |error: CredentialError| invalid(format!("Secret '{name}': {error}"));
    for canonical in checked.grant.credential_keys() {
        let key = in_secret(&checked.keys, canonical);
        if let Some(SecretValue::TooLong) = secret.get(&key) {
            let problem = CredentialProblem::TooLong;
            return Err(wrong(CredentialError { key, problem }));
        }
    }
    let data = |key: &str| match secret.get(key) {
        Some(SecretValue::Bytes(bytes)) => Some(bytes.as_slice()),
        Some(SecretValue::TooLong) | None => None,
    };
    Credentials::from_data(checked.grant.credential_keys(), &checked.keys, data).map_err(wrong)
}

/// The client certificate in a Secret, or its problem, and true where that stays until the Secret changes: a certificate
/// that has ended, or is not valid yet, depends on the clock.
pub(super) fn certificate_in(
    name: &str,
    secret: &SecretData,
    now: Timestamp,
) -> Result<ClientCertificate, (Problem, bool)> {
    let lasting = |message: String| (invalid(message), true);
    let part = |(key, limit): (&str, usize)| -> Result<SecretString, (Problem, bool)> {
        let bytes = match secret.get(key) {
            Some(SecretValue::Bytes(bytes)) if bytes.len() <= limit => bytes,
            Some(SecretValue::Bytes(_) | SecretValue::TooLong) => {
                return Err(lasting(format!(
                    "Secret '{name}': key {key} is longer than {} KiB: store the client certificate with its intermediate \
                     certificates alone, without the vendor's or the system's authorities",
                    limit / 1024
                )));
            }
            None => {
                return Err(lasting(format!(
                    "Secret '{name}' has no key {key}: store the client certificate as a `kubernetes.io/tls` Secret"
                )));
            }
        };
        let text = std::str::from_utf8(bytes).map_err(|_| {
            lasting(format!(
                "Secret '{name}': key {key} is not text: store the certificate and its key as PEM"
            ))
        })?;
        Ok(SecretString::from(text))
    };
    let [chain, key] = CERTIFICATE_KEYS;
    let certificate = ClientCertificate {
        certificate_chain: part(chain)?,
        private_key: part(key)?,
    };
    check_client_certificate(&certificate, now).map_err(|error| {
        let passes = matches!(
            error,
            ClientCertificateError::Expired(_) | ClientCertificateError::NotYetValid(_)
        );
        (invalid(format!("Secret '{name}': {error}")), !passes)
    })?;
    Ok(certificate)
}
