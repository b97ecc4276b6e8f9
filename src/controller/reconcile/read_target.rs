//! Reads the metadata of a target that is not watched, and says what a failure means.

use jiff::Timestamp;

use crate::api::VendorToken;
use crate::api::names::Reason;
use crate::controller::cluster::secret_calls::SecretCalls;
use crate::controller::cluster::secret_name::SecretName;
use crate::controller::cluster::secret_record;
use crate::controller::context::Context;
use crate::controller::reconcile::error::{Error, read_problem};
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
