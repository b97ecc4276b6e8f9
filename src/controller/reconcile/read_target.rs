//! Reads the metadata of a target that is not watched, says what a failure means, and takes in a record.

use jiff::Timestamp;

use crate::api::VendorToken;
use crate::api::names::Reason;
use crate::controller::cluster::secret_calls::SecretCalls;
use crate::controller::cluster::secret_name::SecretName;
use crate::controller::cluster::secret_record;
use crate::controller::context::Context;
use crate::controller::reconcile::error::{Error, read_problem};
use crate::controller::reconcile::snapshot::Snapshot;
use crate::error_text::with_causes;
use crate::policy::Problem;
use crate::policy::ownership::SecretRecord;
use crate::times::recorded;

/// The problem of a target whose metadata may not be read.
pub(crate) fn denied(error: &Error) -> Option<Problem> {
    match error {
        Error::ReadSecret { name, source, .. } => read_problem(source, name),
        _ => None,
    }
}

/// The problem of a target that cannot be read while the status calls a token ready that has ended: it must not stay ready
/// because one Secret cannot be read.
pub(crate) fn outlived(error: &Error, token: &VendorToken, now: Timestamp) -> Option<Problem> {
    let Error::ReadSecret { name, source, .. } = error else {
        return None;
    };
    let status = token.status.as_ref()?;
    let ended = status
        .expiration_time
        .as_ref()
        .is_some_and(|time| recorded(time.0) <= now);
    ended.then(|| {
        Problem::new(
            Reason::ApiDenied,
            format!(
                "the API server could not read Secret '{name}': {}; the token that was published has expired; it is tried \
                 again, and if this lasts, ask the cluster's administrator",
                with_causes(source)
            ),
        )
    })
}

/// Reads the metadata of a Secret that is not watched.
pub(crate) async fn read_record(
    context: &Context,
    namespace: &str,
    name: &SecretName,
) -> Result<Option<SecretRecord>, Error> {
    let calls = SecretCalls::new(&context.answers, namespace);
    let found = calls.read_metadata(name, secret_record::read).await;
    let found = found.map_err(|source| Error::ReadSecret {
        namespace: namespace.to_owned(),
        name: name.to_string(),
        source,
    })?;
    Ok(found.flatten())
}

/// Takes the present record of the target, `None` where there is none.
pub(crate) fn take_record(snapshot: &mut Snapshot, record: Option<SecretRecord>, context: &Context) {
    let (namespace, name) = (&snapshot.object.namespace, &snapshot.target_name);
    match &record {
        Some(record) => {
            if context.secrets.put(namespace, name, record.clone()) {
                // For the others that name this Secret, as their credentials for example: the watch brings nothing new.
                context.triggers.secret_changed_by(&snapshot.object, name);
            }
        }
        None => {
            context.secrets.forget(namespace, name);
            context.triggers.secret_changed_by(&snapshot.object, name);
        }
    }
    snapshot.record = record;
    snapshot.judge_target(context);
}
