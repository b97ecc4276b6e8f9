//! Act: writes the token to the target Secret.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::names::{self, Reason};
use crate::controller::cluster::pacing::CallKind;
use crate::controller::cluster::remembered::PublishBackoff;
use crate::controller::cluster::secret_calls::SecretCalls;
use crate::controller::cluster::secret_name::SecretName;
use crate::controller::cluster::secret_record;
use crate::controller::context::Context;
use crate::controller::reconcile::content::{Content, read_content, take_record};
use crate::controller::reconcile::error::{Error, withholding, write_problem};
use crate::controller::reconcile::read_target::read_record;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::controller::reconcile::target::{Origin, Owners, body, size, too_large};
use crate::error_text::with_causes;
use crate::policy::contest::Undone;
use crate::policy::ownership::SecretRecord;
use crate::policy::{Problem, Target, backoff};
use crate::seal::Verified;
use crate::token::{AccessToken, ExposeSecret};

/// The result of a write.
pub(crate) enum Published {
    /// It is there.
    Written,
    /// The Secret was changed in between: look again.
    Conflict,
    /// The API server refused it for a cause that a person must remove.
    Refused,
}

/// Applies the target with `token`, and takes the answer into `snapshot`.
pub(crate) async fn publish(
    snapshot: &mut Snapshot,
    token: &AccessToken,
    context: &Context,
) -> Result<Published, Error> {
    let Some(inputs) = snapshot.inputs().cloned() else {
        return Ok(Published::Conflict);
    };
    let origin = Origin {
        inputs,
        credentials_version: snapshot.credentials_version.as_deref().map(Into::into),
        refresh_handled: handled(snapshot, context),
        lost_seal: None,
    };
    apply(snapshot, token, &origin, context).await
}

/// Applies the target with the token that is in it, and takes the answer into `snapshot`: after a restart memory has no token
/// to write, and the owner or the labels are not as they should be.
pub(crate) async fn repair(snapshot: &mut Snapshot, context: &Context) -> Result<Published, Error> {
    let (facts, lost_seal) = match snapshot.verified() {
        Some(Verified::Sealed(facts)) => (facts.clone(), None),
        // Facts under a lost key are written with the seal that was found: a new seal would prove what nobody has
        // verified.
        Some(Verified::LostKey(facts, seal)) => (facts.clone(), Some(seal)),
        None => return Ok(Published::Conflict),
    };
    let Ok(checked) = &snapshot.validated else {
        return Ok(Published::Conflict);
    };
    let templates = checked.target.data.clone();
    let (namespace, name) = (snapshot.object.namespace.clone(), checked.target.name.clone());
    // Checked first: nothing is read for a write that the gate would hold back.
    context
        .pacer
        .check(CallKind::WriteSecret, &namespace)
        .map_err(|held| Error::WriteTarget {
            namespace: namespace.clone(),
            name: name.to_string(),
            source: kube::Error::Service(Box::new(held)),
        })?;
    let token = match read_content(snapshot, &templates, &facts, context).await? {
        Content::Sealed(token) => token,
        Content::Changed => return Ok(Published::Conflict),
        // A grant brings a token where the target may not be read.
        Content::Denied | Content::Unreadable => {
            snapshot.has_no_readable_token(context);
            return Ok(Published::Conflict);
        }
        Content::Exchanged => {
            snapshot.token_was_exchanged(context);
            return Ok(Published::Conflict);
        }
    };
    let origin = Origin {
        inputs: snapshot
            .inputs()
            .filter(|_| lost_seal.is_none())
            .cloned()
            .unwrap_or(facts.inputs),
        credentials_version: snapshot
            .credentials_version
            .as_deref()
            .filter(|_| lost_seal.is_none())
            .map(Into::into)
            .or(facts.credentials_version),
        refresh_handled: facts.refresh_handled,
        lost_seal,
    };
    apply(snapshot, &token, &origin, context).await
}

/// Applies the target with `token` and its origin, and takes the answer into `snapshot`.
async fn apply(
    snapshot: &mut Snapshot,
    token: &AccessToken,
    origin: &Origin,
    context: &Context,
) -> Result<Published, Error> {
    let Ok(checked) = &snapshot.validated else {
        return Ok(Published::Conflict);
    };
    let (namespace, name) = (snapshot.object.namespace.clone(), checked.target.name.clone());
    if let Some(problem) = too_large(&checked.target, token) {
        return Ok(refuse(snapshot, problem, context));
    }
    let calls = SecretCalls::new(&context.answers, &namespace);
    let write = snapshot.target_write(token.issued);
    let now = context.timeline.now().moment;
    // The next write hides who has undone the last ones, so that is read before it.
    let undone = if context
        .remembered
        .is_repair_too_many(&snapshot.object, write, now)
    {
        undone(&calls, &name).await
    } else {
        Undone::Unknown
    };
    let (answer, owners_stay) = send(snapshot, &calls, token, origin).await;
    match answer {
        Ok(record) => {
            let target = &snapshot.object;
            context
                .remembered
                .target_written(target, write, undone, context.timeline.now().moment);
            if let Some(record) = record {
                take_record(snapshot, Some(record), context);
            }
            snapshot.set_owners_stay(owners_stay, context);
            if !matches!(snapshot.target, Target::Ours { as_desired: true, .. }) {
                return Ok(refuse(snapshot, does_not_keep(&name), context));
            }
            context.remembered.set_publish_backoff(&snapshot.object, None);
            snapshot.block = None;
            if let Some(version) = snapshot.target_version() {
                context
                    .remembered
                    .set_known_target(&snapshot.object, &version, false);
            }
            Ok(Published::Written)
        }
        Err(kube::Error::Api(status)) if status.is_conflict() => {
            // It was written by others, deleted or created meanwhile.
            let seen = snapshot.target_version();
            let found = read_record(context, &namespace, &name).await?;
            take_record(snapshot, found, context);
            if snapshot.target_version() == seen {
                // It was not: an admission webhook or a quota answers so, and would again.
                return Err(Error::WriteTarget {
                    namespace,
                    name: name.to_string(),
                    source: kube::Error::Api(status),
                });
            }
            context
                .remembered
                .target_written(&snapshot.object, write, undone, context.timeline.now().moment);
            Ok(Published::Conflict)
        }
        Err(source) => match write_problem(&source, &name) {
            Some(problem) => Ok(refuse(snapshot, problem, context)),
            None => Err(Error::WriteTarget {
                namespace,
                name: name.to_string(),
                source,
            }),
        },
    }
}

/// Sends the apply of the target, and gives its answer, without what it repeats of the written data; and true where the
/// owners stay as they are. A large target has its place while it is in memory.
async fn send(
    snapshot: &Snapshot,
    calls: &SecretCalls,
    token: &AccessToken,
    origin: &Origin,
) -> (Result<Option<SecretRecord>, kube::Error>, bool) {
    let Ok(checked) = &snapshot.validated else {
        return (Ok(None), false);
    };
    let mut place = calls.place_for(size(&checked.target, token)).await;
    let mut send = async |owners| {
        let record = snapshot.record.as_ref();
        let body = body(
            checked,
            &snapshot.key,
            &snapshot.token,
            record,
            owners,
            token,
            origin,
        );
        let answer = calls.apply(&checked.target.name, &body, &mut place).await;
        answer.map_err(|error| withholding(error, &written(token, &body)))
    };
    if snapshot.keeps_owners(token.issued) {
        return (send(Owners::Standing).await, true);
    }
    let answer = send(Owners::Desired).await;
    if let Err(kube::Error::Api(status)) = &answer
        && status.code == 403
        && snapshot.has_undesired_owners()
    {
        // To change owner references may ask for a right that to write the token does not.
        let answer = send(Owners::Standing).await;
        let owners_stay = answer.is_ok();
        return (answer, owners_stay);
    }
    (answer, false)
}

/// The way in which the last write of the Secret was undone: the field manager that has written to it last, beside our own
/// apply, or our own name where somebody else uses it.
async fn undone(calls: &SecretCalls, name: &SecretName) -> Undone {
    let manager = calls.read_metadata(name, secret_record::last_other_manager).await;
    match manager {
        Ok(Some(manager)) => Undone::ChangedBy(manager.unwrap_or_else(|| names::FIELD_MANAGER.into())),
        Ok(None) => Undone::Deleted,
        Err(error) => {
            tracing::debug!(
                secret = %name, error = with_causes(&error), "it could not be read who has changed a target"
            );
            Undone::Unknown
        }
    }
}

/// The problem of a target that differs from what was just written to it, and would again.
fn does_not_keep(name: &str) -> Problem {
    Problem::new(
        Reason::TargetInvalid,
        format!(
            "Secret '{name}' was written and does not keep what was written to it: look for an admission webhook or policy that \
             changes it, and for another owner of its labels, annotations or owner references in its `managedFields`"
        ),
    )
}

/// Notes that the target cannot be written, and the time of the next attempt.
fn refuse(snapshot: &mut Snapshot, problem: Problem, context: &Context) -> Published {
    let count = snapshot
        .present_backoff(context)
        .map_or(1, |backoff| backoff.count.saturating_add(1));
    let now = context.timeline.now();
    let next_attempt = backoff::after_transient(count, 0, now.wall()).unwrap_or(Timestamp::MAX);
    let backoff = PublishBackoff {
        problem,
        ends: now.moment_at(next_attempt),
        count,
        generation: snapshot.token.metadata.generation,
        target_version: snapshot.target_version(),
    };
    snapshot.block = Some(backoff.block(&now));
    context
        .remembered
        .set_publish_backoff(&snapshot.object, Some(backoff));
    Published::Refused
}

/// The secret texts in a write.
fn written<'a>(token: &'a AccessToken, body: &'a Value) -> Vec<&'a str> {
    let data = body.get("data").and_then(Value::as_object);
    data.into_iter()
        .flat_map(|data| data.values())
        .filter_map(Value::as_str)
        .chain([token.value.expose_secret()])
        .collect()
}

/// The refresh request to be kept on the target: the one that this token serves, or else the present one.
fn handled(snapshot: &Snapshot, context: &Context) -> Option<Box<str>> {
    let completed = snapshot.observe(context).standing.completed_request;
    let handled = completed.or_else(|| match &snapshot.target {
        Target::Ours {
            stored: Some(stored), ..
        } => stored.refresh_handled.clone(),
        _ => None,
    });
    handled.map(Into::into)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::clock::SystemClock;
    use crate::controller::fake;

    /// The way in which a write was undone, where the API server answers a read of the metadata with this code.
    async fn told(code: u16) -> Undone {
        let (context, _) = fake::context_at(Arc::new(SystemClock), move |_, _, _| {
            let secret = json!({ "metadata": { "name": "s", "managedFields": [
                { "manager": "kubectl-edit", "operation": "Update", "apiVersion": "v1", "time": "2026-05-04T10:00:00Z" } ] } });
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                "reason": if code == 404 { "NotFound" } else { "" }, "message": "m" });
            (code, if code == 200 { secret } else { status })
        });
        let calls = SecretCalls::new(&context.answers, "a");
        undone(&calls, &SecretName::new("s").unwrap()).await
    }

    #[tokio::test]
    async fn a_read_that_fails_is_not_taken_for_a_deleted_secret() {
        assert_eq!(told(200).await, Undone::ChangedBy("kubectl-edit".into()));
        assert_eq!(told(404).await, Undone::Deleted);
        for code in [500, 403, 429] {
            assert_eq!(told(code).await, Undone::Unknown, "{code}");
        }
    }
}
