//! Notes the grant that a Secret's values make for all VendorTokens that name the Secret, so that one edit of it costs one
//! read.

use jiff::Timestamp;

use super::contents::{certificate_in, credentials_in, keys_of_certificates, keys_of_credentials};
use crate::api::VendorToken;
use crate::controller::cluster::references::certificate_secret;
use crate::controller::cluster::remembered::{GrantIdentity, KnownCertificate, KnownCredentials, number_of};
use crate::controller::cluster::secret_data::SecretData;
use crate::controller::cluster::secrets::Lookup;
use crate::controller::context::Context;
use crate::controller::reconcile::validated::ValidatedSpec;
use crate::fingerprint::FingerprintKey;
use crate::grants::ObjectKey;

/// So many VendorTokens of a Secret are looked at before others have their turn.
const NOTED_AT_A_TIME: usize = 16;

/// True where the grant that this version of its only Secret makes is known.
pub(super) fn is_known(context: &Context, object: &ObjectKey, version: &str) -> bool {
    let known = context.remembered.credentials(object);
    known.is_some_and(|known| *known.version == *version)
}

/// Notes the certificate or the grant that the values of this Secret make, for each VendorToken that names the Secret and
/// does not know this version of it yet.
pub(super) async fn note_for_all(context: &Context, namespace: &str, secret: &str, data: &SecretData) {
    let Some(key) = context.key() else { return };
    let mut certificate = None;
    for (count, object) in context
        .objects
        .referrers(namespace, secret)
        .into_iter()
        .enumerate()
    {
        if count % NOTED_AT_A_TIME == NOTED_AT_A_TIME - 1 {
            tokio::task::yield_now().await;
        }
        if is_known(context, &object, &data.version) {
            continue;
        }
        let Some(token) = context.objects.get(&object) else {
            continue;
        };
        if certificate_secret(&token).is_some_and(|name| name == secret)
            && data.has_asked_for(&keys_of_certificates())
        {
            let now = context.timeline.now().wall();
            let known = certificate.get_or_insert_with(|| known_certificate(&key, secret, data, now));
            // `None` for a certificate that has ended since: it makes no grant any more.
            context.remembered.set_certificate(&object, known.clone());
        }
        if token.spec.credentials_secret_ref.name == secret {
            note_credentials(context, &key, &object, &token, data);
        }
    }
}

/// The certificate in a Secret. `None` for one that has ended or is not valid yet, since time changes that.
fn known_certificate(
    key: &FingerprintKey,
    secret: &str,
    data: &SecretData,
    now: Timestamp,
) -> Option<KnownCertificate> {
    let found = match certificate_in(secret, data, now) {
        Ok(certificate) => Ok(key.certificate(&certificate)),
        Err((problem, true)) => Err(problem),
        Err((_, false)) => return None,
    };
    Some(KnownCertificate {
        version: data.version.clone(),
        found,
    })
}

/// Notes the grant of one VendorToken, unless its certificate is not known or its keys were not asked for.
fn note_credentials(
    context: &Context,
    key: &FingerprintKey,
    object: &ObjectKey,
    token: &VendorToken,
    data: &SecretData,
) {
    let mut version = data.version.clone();
    let mut certificate = None;
    if let Some(name) = certificate_secret(token) {
        let Lookup::Found(present) = context.secrets.get(&object.namespace, name) else {
            return;
        };
        let known = context.remembered.certificate(object);
        let Some(known) = known.filter(|known| known.version == present.version()) else {
            return;
        };
        let Ok(digest) = known.found else { return };
        certificate = Some(digest);
        version = format!("{version}+{}", known.version);
    }
    let known = context.remembered.credentials(object);
    if known.is_some_and(|known| *known.version == *version) {
        return;
    }
    let Ok(checked) = ValidatedSpec::new(token, &context.settings.endpoints) else {
        return;
    };
    if !data.has_asked_for(&keys_of_credentials(&checked)) {
        // The VendorToken came, or was edited, after the read had begun.
        return;
    }
    let found = credentials_in(&checked, data).map(|values| GrantIdentity {
        fingerprint: key.fingerprint_with(&checked.endpoint, &checked.grant, &values, certificate.as_ref()),
        login: key.login(&checked.endpoint, &checked.grant, &values),
    });
    let known = KnownCredentials {
        version: version.into(),
        known: number_of(&checked.known_inputs(key, &object.namespace)),
        found,
    };
    context.remembered.set_credentials(object, Some(known));
}
