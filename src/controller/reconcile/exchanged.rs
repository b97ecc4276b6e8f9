//! Verifies the token in a target that somebody else has written.

use std::collections::BTreeMap;

use crate::controller::cluster::secret_record;
use crate::controller::context::Context;
use crate::controller::reconcile::credentials::wipe;
use crate::controller::reconcile::error::{Error, read_problem};
use crate::controller::reconcile::publish::{take_record, token_in};
use crate::controller::reconcile::secret_calls::SecretCalls;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::seal::{TokenFacts, Verified};
use crate::template;

/// Reads a target that somebody else has written since this process last knew what is in it, and verifies the token.
/// A writer under the name of our field manager can replace the sealed token, and the metadata does not show it. The
/// first look at a target reads nothing: a restart reads no Secret data where all is in order.
///
/// # Errors
/// When the target could not be read, and that may pass.
pub(crate) async fn verify_token(snapshot: &mut Snapshot, context: &Context) -> Result<(), Error> {
    let Some((facts, templates, version)) = to_verify(snapshot) else {
        return Ok(());
    };
    if context.remembered.knows_target(&snapshot.object, &version) {
        return Ok(());
    }
    let Ok(checked) = &snapshot.validated else {
        return Ok(());
    };
    let (namespace, name) = (snapshot.object.namespace.clone(), checked.target.name.clone());
    let found = match SecretCalls::new(&context.client, &namespace).read(&name).await {
        Err(source) if read_problem(&source, &name).is_some() => return Ok(()),
        found => found.map_err(|source| Error::ReadSecret {
            namespace,
            name: name.to_string(),
            source,
        })?,
    };
    let is_sealed = found
        .as_ref()
        .and_then(|secret| token_in(secret, &templates, &facts))
        .is_some_and(|token| snapshot.is_sealed(&token));
    let record = found.and_then(|mut secret| {
        wipe(&mut secret.data);
        secret_record::read(&secret.metadata)
    });
    take_record(snapshot, record, context);
    if snapshot.target_version().as_ref() != Some(&version) {
        return Ok(());
    }
    if is_sealed {
        context.remembered.set_known_target(&snapshot.object, &version);
    } else {
        tracing::warn!(object = %snapshot.object, "the target holds another token than was written to it");
        snapshot.token_was_exchanged(context);
    }
    Ok(())
}

/// The facts and the templates that verify the token in the target, and the target's version. `None` where nothing can
/// verify the token, or the target will be written anyway.
fn to_verify(snapshot: &Snapshot) -> Option<(TokenFacts, BTreeMap<String, String>, String)> {
    let is_idle = snapshot.token.spec.suspend || snapshot.token.metadata.deletion_timestamp.is_some();
    if is_idle || !snapshot.stored()?.is_readable {
        return None;
    }
    let Verified::Sealed(facts) = snapshot.verified()? else {
        return None;
    };
    let templates = &snapshot.validated.as_ref().ok()?.target.data;
    templates
        .values()
        .any(|text| template::shows_token(text))
        .then(|| {
            (
                facts.clone(),
                templates.clone(),
                snapshot.target_version().unwrap_or_default(),
            )
        })
}
