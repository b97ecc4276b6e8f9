//! Reads the credentials of VendorTokens. Values are never kept beyond the request; the fingerprint of the grant that they
//! make is noted for all VendorTokens that name the Secret.

mod contents;
mod notes;

use std::collections::BTreeSet;
use std::sync::Arc;

use self::contents::{certificate_in, credentials_in, in_secret, keys_of_certificates, keys_of_credentials};
use self::notes::{is_known, note_for_all};
use crate::api::names::Reason;
use crate::controller::cluster::pacing::CallKind;
use crate::controller::cluster::references::certificate_secret;
use crate::controller::cluster::secret_data::SecretData;
use crate::controller::cluster::secret_name::SecretName;
use crate::controller::cluster::secrets::Lookup;
use crate::controller::context::Context;
use crate::controller::reconcile::validated::{ValidatedSpec, vendor};
use crate::policy::Problem;
use crate::token::Credentials;

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

/// The problem of a Secret that does not exist. `watched` says how soon a new Secret is seen: without a watch, at the
/// next look.
pub(crate) fn not_found(name: &str, watched: bool) -> Problem {
    let soon = if watched { "seconds" } else { "5 minutes" };
    Problem::new(
        Reason::CredentialsNotFound,
        format!("Secret '{name}' does not exist: create it in this namespace; it is used within {soon}"),
    )
}

/// Reads and checks the credentials Secret, and the client certificate's where the spec names one.
pub(crate) async fn read(
    context: &Arc<Context>,
    namespace: &str,
    checked: &ValidatedSpec,
) -> Result<Read, ReadError> {
    // The certificate is read first, so that its digest is known when the read of the credentials notes the
    // fingerprints.
    let certificate = match &checked.certificate_secret {
        Some(name) => {
            let data = get(context, namespace, name, keys_of_certificates()).await?;
            let now = context.timeline.now().wall();
            let certificate = certificate_in(name, &data, now).map_err(|(problem, _)| problem);
            Some((data.version.clone(), certificate.map_err(ReadError::Unusable)?))
        }
        None => None,
    };
    let keys = keys_of_credentials(checked);
    let data = get(context, namespace, &checked.credentials_secret, keys).await?;
    let mut values = credentials_in(checked, &data).map_err(ReadError::Unusable)?;
    let mut version = data.version.clone();
    if let Some((of_certificate, certificate)) = certificate {
        version = format!("{version}+{of_certificate}");
        values.client_certificate = Some(certificate);
    }
    Ok(Read { version, values })
}

/// Reads a Secret together with all others who want it now.
async fn get(
    context: &Arc<Context>,
    namespace: &str,
    name: &SecretName,
    keys: BTreeSet<String>,
) -> Result<Arc<SecretData>, ReadError> {
    // All who name it are gone through for a read: not for one that would not be sent.
    let may_read = context.pacer.check(CallKind::ReadSecret, namespace);
    may_read.map_err(|held| ReadError::Api {
        name: name.to_string(),
        source: kube::Error::Service(Box::new(held)),
    })?;
    let (wanted, watched) = match context.secrets.get(namespace, name) {
        Lookup::Found(record) => (Some(record.version()), true),
        Lookup::Absent => (None, true),
        Lookup::Unknown => (None, false),
    };
    let note = {
        let (context, namespace, name) = (Arc::clone(context), namespace.to_owned(), name.to_string());
        move |data: Arc<SecretData>| async move { note_for_all(&context, &namespace, &name, &data).await }
    };
    let found = context
        .secret_reads
        .read(
            (namespace, name),
            wanted.as_deref(),
            &keys,
            || named_keys(context, namespace, name, wanted.as_deref()),
            note,
        )
        .await;
    match found {
        Ok(Some(data)) => Ok(data),
        Ok(None) => Err(ReadError::Unusable(not_found(name, watched))),
        Err(source) => Err(ReadError::Api {
            name: name.to_string(),
            source,
        }),
    }
}

/// The keys of a Secret that VendorTokens name, without those of VendorTokens that know this version of it.
fn named_keys(context: &Context, namespace: &str, secret: &str, version: Option<&str>) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for object in context.objects.referrers(namespace, secret) {
        if version.is_some_and(|version| is_known(context, &object, version)) {
            continue;
        }
        let Some(token) = context.objects.get(&object) else {
            continue;
        };
        let reference = &token.spec.credentials_secret_ref;
        if reference.name == secret {
            let canonical = vendor(&token).credential_keys().iter();
            named.extend(canonical.map(|canonical| in_secret(&reference.keys, canonical)));
        }
        if certificate_secret(&token).is_some_and(|name| name == secret) {
            named.extend(keys_of_certificates());
        }
    }
    named
}

#[cfg(test)]
mod tests;
