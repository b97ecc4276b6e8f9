//! Act: writes the token to the target Secret.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use serde_json::Value;
use tokio::time::Instant;

use crate::api::names;
use crate::api::names::Reason;
use crate::clock::Deadline;
use crate::controller::cluster::secret_record;
use crate::controller::context::{BlockMemo, Context};
use crate::controller::reconcile::error::{Error, withholding, write_problem};
use crate::controller::reconcile::target::{Facts, body, too_large};
use crate::controller::reconcile::view::{View, read_record};
use crate::policy::ownership::SecretRecord;
use crate::policy::{Problem, PublishBlock, Target, backoff};
use crate::token::{AccessToken, ExposeSecret};

/// What became of a write.
pub(in crate::controller) enum Published {
    /// It is there.
    Written,
    /// The Secret was changed in between: look again.
    Conflict,
    /// The API server refused it for a cause that a person must mend.
    Refused,
}

/// Writes `token` to the target, and takes the answer into `view`.
pub(in crate::controller) async fn publish(
    view: &mut View,
    token: &AccessToken,
    context: &Context,
) -> Result<Published, Error> {
    let Some(inputs) = view.inputs() else {
        return Ok(Published::Conflict);
    };
    let facts = Facts {
        inputs,
        credentials_version: view.credentials_version.clone(),
        refresh_handled: handled(view, context),
    };
    write(view, token, &facts, context).await
}

/// Takes in what the API server says of the target.
fn take_record(view: &mut View, record: Option<SecretRecord>, context: &Context) {
    let (namespace, name) = (&view.object.namespace, &view.target_name);
    match &record {
        Some(record) => {
            if context.secrets.put(namespace, name, record.clone()) {
                context.trigger_others(&view.object, name);
            }
        }
        None => {
            context.secrets.forget(namespace, name);
            context.trigger_others(&view.object, name);
        }
    }
    view.record = record;
    view.judge_target(context);
}

/// Applies the target with this token, and takes the answer into `view`.
async fn write(
    view: &mut View,
    token: &AccessToken,
    facts: &Facts,
    context: &Context,
) -> Result<Published, Error> {
    let Ok(checked) = &view.checked else {
        return Ok(Published::Conflict);
    };
    let (namespace, name) = (view.object.namespace.clone(), checked.target.name.clone());
    if let Some(problem) = too_large(&checked.target, token) {
        return Ok(refuse(view, problem, context));
    }
    let body = body(checked, &view.token, view.record.as_ref(), token, facts);
    let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(context.client.clone(), &namespace);
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    match api.patch(&name, &parameters, &Patch::Apply(&body)).await {
        Ok(written) => {
            if let Some(record) = secret_record::read(&written.metadata) {
                if context.secrets.put(&namespace, &name, record.clone()) {
                    // The watch has nothing new to tell the others that name this Secret, as their credentials, say.
                    context.trigger_others(&view.object, &name);
                }
                view.record = Some(record);
            }
            view.judge_target(context);
            if !matches!(view.target, Target::Ours { as_desired: true, .. }) {
                return Ok(refuse(view, does_not_keep(&name), context));
            }
            context.set_block(&view.object, None);
            view.block = None;
            Ok(Published::Written)
        }
        Err(kube::Error::Api(status)) if status.is_conflict() => {
            // Somebody else wrote it, or it was deleted or created meanwhile: see what is there.
            let seen = view.target_version();
            let found = read_record(context, &namespace, &name).await?;
            take_record(view, found, context);
            if view.target_version() == seen {
                // Nobody did: an admission webhook or a quota says so, and asking again at once changes nothing.
                let source = withholding(kube::Error::Api(status), &written(token, &body));
                return Err(Error::WriteTarget {
                    namespace,
                    name,
                    source,
                });
            }
            Ok(Published::Conflict)
        }
        Err(source) => match refused(source, token, &body, &name) {
            Ok(problem) => Ok(refuse(view, problem, context)),
            Err(source) => Err(Error::WriteTarget {
                namespace,
                name,
                source,
            }),
        },
    }
}

/// The API server took the write, and what stands there is something else: written again, it would be so again.
fn does_not_keep(name: &str) -> Problem {
    Problem::new(
        Reason::TargetInvalid,
        format!(
            "Secret '{name}' was written and does not keep what was written to it: look for an admission webhook or policy that \
             changes it, and for another owner of its labels, annotations or owner references in its `managedFields`"
        ),
    )
}

/// Notes that the target cannot be written, and when to try again.
fn refuse(view: &mut View, problem: Problem, context: &Context) -> Published {
    let count = view
        .present_block(context)
        .map_or(1, |memo| memo.count.saturating_add(1));
    let now = context.clock.now();
    let next_attempt = backoff::after_no_answer(count, 0, now).unwrap_or(Timestamp::MAX);
    let block = PublishBlock {
        problem,
        next_attempt,
    };
    view.block = Some(block.clone());
    context.set_block(
        &view.object,
        Some(BlockMemo {
            block,
            until: Deadline::new(next_attempt, now, Instant::now()),
            count,
            generation: view.token.metadata.generation,
            target_version: view.target_version(),
        }),
    );
    Published::Refused
}

/// What a failed write means for the user, or the error where that is nothing; neither repeats what was written.
fn refused(
    error: kube::Error,
    token: &AccessToken,
    body: &Value,
    name: &str,
) -> Result<Problem, kube::Error> {
    let error = withholding(error, &written(token, body));
    write_problem(&error, name).ok_or(error)
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

/// The refresh request to be kept on the target: the one that this token serves, else the one that stands there.
fn handled(view: &View, context: &Context) -> Option<String> {
    let completed = view.observed(context).standing.completed_request;
    completed.or_else(|| match &view.target {
        Target::Ours {
            stored: Some(stored), ..
        } => stored.refresh_handled.clone(),
        _ => None,
    })
}
