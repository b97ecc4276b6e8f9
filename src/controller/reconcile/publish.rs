//! Act: writes the token to the target Secret.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use serde_json::Value;

use crate::api::names::{self, Reason};
use crate::controller::cluster::remembered::PublishBackoff;
use crate::controller::cluster::secret_record;
use crate::controller::context::Context;
use crate::controller::reconcile::credentials::wipe;
use crate::controller::reconcile::error::{Error, read_problem, withholding, write_problem};
use crate::controller::reconcile::target::{Facts, body, too_large};
use crate::controller::reconcile::view::{View, read_record};
use crate::policy::ownership::SecretRecord;
use crate::policy::{Problem, Stored, Target, backoff};
use crate::template;
use crate::token::{AccessToken, ExposeSecret, SecretString};

/// The result of a write.
pub(in crate::controller) enum Published {
    /// It is there.
    Written,
    /// The Secret was changed in between: look again.
    Conflict,
    /// The API server refused it for a cause that a person must remove.
    Refused,
}

/// Applies the target with `token`, and takes the answer into `view`.
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
    apply(view, token, &facts, context).await
}

/// Applies the target with the token that is in it, and takes the answer into `view`: after a restart memory has no token
/// to write, and the owner or the labels are not as they should be.
pub(in crate::controller) async fn repair(view: &mut View, context: &Context) -> Result<Published, Error> {
    let (Some(stored), Ok(checked)) = (view.stored().cloned(), &view.checked) else {
        return Ok(Published::Conflict);
    };
    let templates = checked.target.data.clone();
    let (namespace, name) = (view.object.namespace.clone(), view.target_name.clone());
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let found = match api.get_opt(&name).await {
        // A grant brings a token where the target may not be read.
        Err(source) if read_problem(&source, &name).is_some() => {
            view.has_no_readable_token(context);
            return Ok(Published::Conflict);
        }
        found => found.map_err(|source| Error::ReadSecret {
            namespace,
            name,
            source,
        })?,
    };
    let seen = view.target_version();
    let token = found
        .as_ref()
        .and_then(|secret| token_in(secret, &templates, &stored));
    let record = found.and_then(|mut secret| {
        wipe(&mut secret.data);
        secret_record::read(&secret.metadata)
    });
    take_record(view, record, context);
    if view.target_version() != seen {
        return Ok(Published::Conflict);
    }
    let Some(token) = token else {
        view.has_no_readable_token(context);
        return Ok(Published::Conflict);
    };
    let facts = Facts {
        // Under a lost key nobody knows whether the present credentials brought it.
        inputs: view
            .inputs()
            .filter(|inputs| inputs.key_id == stored.inputs.key_id)
            .unwrap_or(stored.inputs),
        credentials_version: view.credentials_version.clone().or(stored.credentials_version),
        refresh_handled: stored.refresh_handled,
    };
    apply(view, &token, &facts, context).await
}

/// The token in a target that was made by these templates.
fn token_in(secret: &Secret, templates: &BTreeMap<String, String>, stored: &Stored) -> Option<AccessToken> {
    let facts = AccessToken {
        value: SecretString::from(""),
        // Vendors give no other.
        token_type: "Bearer".to_owned(),
        issued: stored.issued,
        expires: stored.expires,
        expiry_assumed: false,
        clock_skew_suspected: false,
        not_before: None,
    };
    let data = secret.data.as_ref()?;
    let value = templates.iter().find_map(|(key, template)| {
        let text = std::str::from_utf8(&data.get(key)?.0).ok()?;
        template::token_in(template, text, &facts).map(SecretString::from)
    })?;
    Some(AccessToken { value, ..facts })
}

/// Applies the target with `token` and `facts`, and takes the answer into `view`.
async fn apply(
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
                    // For the others that name this Secret, as their credentials for example: the watch brings nothing
                    // new.
                    context.triggers.secret_changed_by(&view.object, &name);
                }
                view.record = Some(record);
            }
            view.judge_target(context);
            if !matches!(view.target, Target::Ours { as_desired: true, .. }) {
                return Ok(refuse(view, does_not_keep(&name), context));
            }
            context.remembered.set_publish_backoff(&view.object, None);
            view.block = None;
            Ok(Published::Written)
        }
        Err(kube::Error::Api(status)) if status.is_conflict() => {
            // It was written by others, deleted or created meanwhile.
            let seen = view.target_version();
            let found = read_record(context, &namespace, &name).await?;
            take_record(view, found, context);
            if view.target_version() == seen {
                // It was not: an admission webhook or a quota answers so, and would again.
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

/// Takes the present record of the target, `None` where there is none.
fn take_record(view: &mut View, record: Option<SecretRecord>, context: &Context) {
    let (namespace, name) = (&view.object.namespace, &view.target_name);
    match &record {
        Some(record) => {
            if context.secrets.put(namespace, name, record.clone()) {
                context.triggers.secret_changed_by(&view.object, name);
            }
        }
        None => {
            context.secrets.forget(namespace, name);
            context.triggers.secret_changed_by(&view.object, name);
        }
    }
    view.record = record;
    view.judge_target(context);
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
fn refuse(view: &mut View, problem: Problem, context: &Context) -> Published {
    let count = view
        .present_backoff(context)
        .map_or(1, |backoff| backoff.count.saturating_add(1));
    let now = context.timeline.now();
    let next_attempt = backoff::after_no_answer(count, 0, now.wall()).unwrap_or(Timestamp::MAX);
    let backoff = PublishBackoff {
        problem,
        ends: now.moment_at(next_attempt),
        count,
        generation: view.token.metadata.generation,
        target_version: view.target_version(),
    };
    view.block = Some(backoff.block(&now));
    context
        .remembered
        .set_publish_backoff(&view.object, Some(backoff));
    Published::Refused
}

/// The problem that a failed write is for the user, or the error of one that is none. Neither repeats the written data.
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

/// The refresh request to be kept on the target: the one that this token serves, or else the present one.
fn handled(view: &View, context: &Context) -> Option<String> {
    let completed = view.observed(context).standing.completed_request;
    completed.or_else(|| match &view.target {
        Target::Ours {
            stored: Some(stored), ..
        } => stored.refresh_handled.clone(),
        _ => None,
    })
}
