//! Act: writes the token to the target Secret.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use crate::api::names::{self, Reason};
use crate::controller::cluster::pacing::CallKind;
use crate::controller::cluster::remembered::PublishBackoff;
use crate::controller::cluster::secret_name::SecretName;
use crate::controller::cluster::secret_record;
use crate::controller::context::Context;
use crate::controller::reconcile::credentials::wipe;
use crate::controller::reconcile::error::{Error, read_problem, withholding, write_problem};
use crate::controller::reconcile::read_target::read_record;
use crate::controller::reconcile::secret_calls::SecretCalls;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::controller::reconcile::target::{Origin, Owners, body, too_large};
use crate::policy::ownership::SecretRecord;
use crate::policy::{Problem, Target, backoff};
use crate::seal::{TokenFacts, Verified};
use crate::template;
use crate::token::{AccessToken, ExposeSecret, SecretString};

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
    let found = match SecretCalls::new(&context.client, &namespace).read(&name).await {
        // A grant brings a token where the target may not be read.
        Err(source) if read_problem(&source, &name).is_some() => {
            snapshot.has_no_readable_token(context);
            return Ok(Published::Conflict);
        }
        found => found.map_err(|source| Error::ReadSecret {
            namespace,
            name: name.to_string(),
            source,
        })?,
    };
    let seen = snapshot.target_version();
    let token = found
        .as_ref()
        .and_then(|secret| token_in(secret, &templates, &facts));
    let is_sealed = token.as_ref().is_none_or(|token| snapshot.is_sealed(token));
    let record = found.and_then(|mut secret| {
        wipe(&mut secret.data);
        secret_record::read(&secret.metadata)
    });
    take_record(snapshot, record, context);
    if snapshot.target_version() != seen {
        return Ok(Published::Conflict);
    }
    if !is_sealed {
        snapshot.token_was_exchanged(context);
        return Ok(Published::Conflict);
    }
    let Some(token) = token else {
        snapshot.has_no_readable_token(context);
        return Ok(Published::Conflict);
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

/// The token in a target that was made by these templates.
pub(crate) fn token_in(
    secret: &Secret,
    templates: &BTreeMap<String, String>,
    facts: &TokenFacts,
) -> Option<AccessToken> {
    let facts = AccessToken {
        value: SecretString::from(""),
        // Vendors give no other, at most in other letters: then the data is not what this makes of the templates.
        token_type: "Bearer".to_owned(),
        type_is_unusual: false,
        issued: facts.issued,
        expires: facts.expires,
        expiry_assumed: false,
        clock_skew_suspected: false,
        unusually_long: false,
        not_before: None,
    };
    let data = secret.data.as_ref()?;
    let value = templates.iter().find_map(|(key, template)| {
        let text = std::str::from_utf8(&data.get(key)?.0).ok()?;
        template::token_in(template, text, &facts).map(SecretString::from)
    })?;
    let token = AccessToken { value, ..facts };
    let is_made_of_it = |(key, template): (&String, &String)| {
        let value = data.get(key).map(|bytes| bytes.0.as_slice());
        value == Some(template::render(template, &token).as_bytes())
    };
    templates.iter().all(is_made_of_it).then_some(token)
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
    let calls = SecretCalls::new(&context.client, &namespace);
    let make = |owners| {
        body(
            checked,
            &snapshot.key,
            &snapshot.token,
            snapshot.record.as_ref(),
            owners,
            token,
            origin,
        )
    };
    let write = snapshot.target_write(token.issued);
    let now = context.timeline.now().moment;
    // The next write hides who has undone the last ones, so the field manager is read before it.
    let manager = if context
        .remembered
        .is_repair_too_many(&snapshot.object, write, now)
    {
        other_manager(&calls, &name).await
    } else {
        None
    };
    let mut body = make(if snapshot.keeps_owners(token.issued) {
        Owners::Standing
    } else {
        Owners::Desired
    });
    let mut answer = calls.apply(&name, &body).await;
    let mut owners_stay = snapshot.keeps_owners(token.issued);
    if let Err(kube::Error::Api(status)) = &answer
        && status.code == 403
        && snapshot.has_undesired_owners()
        && !owners_stay
    {
        // A change of owner references may need a right that a write of the token does not need.
        body = make(Owners::Standing);
        answer = calls.apply(&name, &body).await;
        owners_stay = answer.is_ok();
    }
    match answer {
        Ok(written) => {
            let record = secret_record::read(&written.metadata);
            let target = &snapshot.object;
            context
                .remembered
                .target_written(target, write, manager, context.timeline.now().moment);
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
                context.remembered.set_known_target(&snapshot.object, &version);
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
                let source = withholding(kube::Error::Api(status), &written(token, &body));
                return Err(Error::WriteTarget {
                    namespace,
                    name: name.to_string(),
                    source,
                });
            }
            context.remembered.target_written(
                &snapshot.object,
                write,
                manager,
                context.timeline.now().moment,
            );
            Ok(Published::Conflict)
        }
        Err(source) => match refused(source, token, &body, &name) {
            Ok(problem) => Ok(refuse(snapshot, problem, context)),
            Err(source) => Err(Error::WriteTarget {
                namespace,
                name: name.to_string(),
                source,
            }),
        },
    }
}

/// The field manager of the last write that was not our apply; our own name where somebody else writes under it; `None`
/// where there is no Secret.
async fn other_manager(calls: &SecretCalls, name: &SecretName) -> Option<Box<str>> {
    let secret = calls.read_metadata(name).await.ok()??;
    let other = secret_record::last_other_manager(&secret.metadata);
    Some(other.unwrap_or_else(|| names::FIELD_MANAGER.into()))
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
