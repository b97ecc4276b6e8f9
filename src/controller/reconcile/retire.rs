//! Act: empties the former target of a VendorToken whose target was renamed.

use std::collections::BTreeSet;

use serde_json::json;

use crate::api::names;
use crate::controller::cluster::answers::Place;
use crate::controller::cluster::secret_calls::SecretCalls;
use crate::controller::cluster::secret_name::SecretName;
use crate::controller::context::Context;
use crate::controller::reconcile::error::{Error, read_problem, write_problem};
use crate::controller::reconcile::read_target::read_record;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::controller::reconcile::target::{sealed_facts, standing_owners};
use crate::error_text::with_causes;
use crate::policy::ownership;
use crate::seal;

/// Empties the former target of a VendorToken whose target was renamed, by an apply without data: the data of others
/// stays. The operator has no right to delete Secrets; garbage collection deletes it with its owner.
///
/// # Errors
/// When the API server could not be asked. A refusal that a person must act on is logged only: the token itself is in
/// the Secret that the spec names.
pub(crate) async fn retire(snapshot: &Snapshot, former: &str, context: &Context) -> Result<(), Error> {
    let Some(name) = SecretName::new(former) else {
        // The operator writes no such name into a status, so somebody else has.
        return Ok(());
    };
    let refused = match empty(snapshot, &name, context).await {
        Err(Error::ReadSecret { source, .. }) if read_problem(&source, former).is_some() => source,
        Err(Error::WriteTarget { source, .. }) if write_problem(&source, former).is_some() => source,
        result => return result,
    };
    tracing::warn!(
        object = %snapshot.object, former, error = with_causes(&refused),
        "the former target could not be emptied: delete that Secret"
    );
    Ok(())
}

async fn empty(snapshot: &Snapshot, former: &SecretName, context: &Context) -> Result<(), Error> {
    let namespace = &snapshot.object.namespace;
    let read_error = |source| Error::ReadSecret {
        namespace: namespace.clone(),
        name: former.to_string(),
        source,
    };
    let Some(record) = read_record(context, namespace, former).await? else {
        return Ok(());
    };
    if ownership::incumbent(&record) != Some(&*snapshot.object.name) {
        return Ok(());
    }
    // The type cannot be left out of the apply: it would be set back to the default, which is refused.
    let calls = SecretCalls::new(&context.answers, namespace);
    let no_keys = BTreeSet::new();
    let type_ = calls.read(former, &no_keys, 0, |secret| secret.data.type_);
    let Some(type_) = type_.await.map_err(read_error)? else {
        return Ok(());
    };
    let mut metadata =
        json!({ "name": &**former, "uid": record.uid, "resourceVersion": record.resource_version });
    let owners = standing_owners(&record);
    if !owners.is_empty() {
        metadata["ownerReferences"] = json!(owners);
    }
    let place = seal::Place {
        namespace,
        secret: former,
        vendor_token: &snapshot.object.name,
    };
    let sealed = sealed_facts(&record, &snapshot.key, place);
    if record.controller.is_none() && !ownership::is_adopted(Some(&record), &snapshot.object.name, sealed) {
        // Without an owner the label alone shows whose it is: the rename may be undone.
        metadata["labels"] = json!({ names::NAME_LABEL: snapshot.object.name });
    }
    let body = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": type_ });
    match calls.apply(former, &body, &mut Place::default()).await {
        Ok(written) => {
            if let Some(record) = written
                && context.secrets.put(namespace, former, record)
            {
                context.triggers.secret_changed_by(&snapshot.object, former);
            }
            tracing::info!(object = %snapshot.object, %former, "emptied the former target");
            Ok(())
        }
        Err(source) => Err(Error::WriteTarget {
            namespace: namespace.clone(),
            name: former.to_string(),
            source,
        }),
    }
}
