//! Act: writes the token to the target Secret. The one place that writes Secrets.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::checked::{Checked, DesiredTarget};
use super::context::{BlockMemo, Context};
use super::credentials::wipe;
use super::error::{Error, withholding, write_problem};
use super::secrets;
use super::view::{View, read_record};
use crate::api::names::Reason;
use crate::api::{VendorToken, names};
use crate::error_text::with_causes;
use crate::inputs::Inputs;
use crate::policy::backoff;
use crate::policy::ownership::{self, SecretRecord};
use crate::policy::{Problem, PublishBlock, Target};
use crate::template;
use crate::token::{AccessToken, ExposeSecret};
use kube::Resource;

/// An apply with this version creates when the Secret is absent and conflicts when it is present.
pub(super) const CREATE_ONLY: &str = "1";

/// The bytes that the values of a Secret's data may have together; the API server refuses more.
const LARGEST_DATA: usize = 1024 * 1024;

/// What became of a write.
pub(super) enum Published {
    /// It is there.
    Written,
    /// The Secret was changed in between: look again.
    Conflict,
    /// The API server refused it for a cause that a person must mend.
    Refused,
}

/// Writes `token` to the target, and takes the answer into `view`.
pub(super) async fn publish(
    view: &mut View,
    token: &AccessToken,
    context: &Context,
) -> Result<Published, Error> {
    let (Ok(checked), Some(inputs)) = (&view.checked, view.inputs()) else {
        return Ok(Published::Conflict);
    };
    if let Some(problem) = too_large(&checked.target, token) {
        return Ok(refuse(view, problem, context));
    }
    let data = checked
        .target
        .data
        .iter()
        .map(|(key, template)| (key.as_str(), template::render(template, token)))
        .map(|(key, value)| (key, STANDARD.encode(value.as_bytes())))
        .collect();
    let body = body(
        checked,
        &view.token,
        view.record.as_ref(),
        data,
        &Facts {
            issued: token.issued,
            expires: token.expires,
            inputs: &inputs,
            credentials_version: view.credentials_version.as_deref(),
            refresh_handled: handled(view, context).as_deref(),
        },
    );
    write(view, &body, &[token.value.expose_secret()], context).await
}

/// Writes the target as it is, token included, with the owner that it should have.
pub(super) async fn own(view: &mut View, context: &Context) -> Result<Published, Error> {
    let (
        Ok(checked),
        Some(inputs),
        Target::Ours {
            stored: Some(stored), ..
        },
    ) = (&view.checked, view.inputs(), &view.target)
    else {
        return Ok(Published::Conflict);
    };
    let (namespace, name) = (&view.object.namespace, &checked.target.name);
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let read = api.get_opt(name).await.map_err(|source| Error::ReadSecret {
        namespace: namespace.clone(),
        name: name.clone(),
        source,
    })?;
    let (metadata, mut values) = read.map_or_else(Default::default, |secret| (secret.metadata, secret.data));
    let record = secrets::record(&metadata);
    if record != view.record {
        // It was changed meanwhile: what stands in it is to be judged again.
        wipe(&mut values);
        take(view, record, context);
        return Ok(Published::Conflict);
    }
    let mut data = BTreeMap::new();
    let mut plain = Vec::new();
    for key in checked.target.data.keys() {
        if let Some(value) = values.as_ref().and_then(|values| values.get(key)) {
            data.insert(key.as_str(), STANDARD.encode(&value.0));
            plain.push(Zeroizing::new(String::from_utf8_lossy(&value.0).into_owned()));
        }
    }
    wipe(&mut values);
    // What was made under a lost key stays so: which credentials it was made from is not known.
    let is_known = stored.inputs.key_id == inputs.key_id;
    let version = if is_known {
        &view.credentials_version
    } else {
        &stored.credentials_version
    };
    let body = body(
        checked,
        &view.token,
        view.record.as_ref(),
        data,
        &Facts {
            issued: stored.issued,
            expires: stored.expires,
            inputs: if is_known { &inputs } else { &stored.inputs },
            credentials_version: version.as_deref(),
            refresh_handled: handled(view, context).as_deref(),
        },
    );
    let plain: Vec<&str> = plain.iter().map(|value| value.as_str()).collect();
    write(view, &body, &plain, context).await
}

/// Notes what the API server says of the target.
fn take(view: &mut View, record: Option<SecretRecord>, context: &Context) {
    let (namespace, name) = (&view.object.namespace, &view.target_name);
    match &record {
        Some(record) => {
            context.secrets.put(namespace, name, record.clone());
        }
        None => context.secrets.forget(namespace, name),
    }
    view.record = record;
    view.judge_target(context);
}

/// Applies `body`, and takes the answer into `view`. `plain` are secret texts that are in it in another form.
async fn write(view: &mut View, body: &Value, plain: &[&str], context: &Context) -> Result<Published, Error> {
    let (namespace, name) = (view.object.namespace.clone(), view.target_name.clone());
    let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(context.client.clone(), &namespace);
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    match api.patch(&name, &parameters, &Patch::Apply(body)).await {
        Ok(written) => {
            context.set_block(&view.object, None);
            view.block = None;
            if let Some(record) = secrets::record(&written.metadata) {
                if context.secrets.put(&namespace, &name, record.clone()) {
                    // The watch has nothing new to tell the others that name this Secret, as their credentials, say.
                    context.trigger_others(&view.object, &name);
                }
                view.record = Some(record);
            }
            view.judge_target(context);
            Ok(Published::Written)
        }
        Err(kube::Error::Api(status)) if status.is_conflict() => {
            // Somebody else wrote it, or it was deleted or created meanwhile: see what is there.
            let seen = view.target_version();
            let record = read_record(context, &namespace, &name).await?;
            if record.as_ref().map(SecretRecord::version) == seen {
                // Nobody did: an admission webhook or a quota says so, and asking again at once changes nothing.
                let source = withholding(kube::Error::Api(status), &written(plain, body));
                return Err(Error::WriteTarget {
                    namespace,
                    name,
                    source,
                });
            }
            take(view, record, context);
            Ok(Published::Conflict)
        }
        Err(source) => match refused(source, plain, body, &name) {
            Ok(problem) => Ok(refuse(view, problem, context)),
            Err(source) => Err(Error::WriteTarget {
                namespace,
                name,
                source,
            }),
        },
    }
}

/// Notes that the target cannot be written, and when to try again.
fn refuse(view: &mut View, problem: Problem, context: &Context) -> Published {
    let count = view
        .present_block(context)
        .map_or(1, |memo| memo.count.saturating_add(1));
    let block = PublishBlock {
        problem,
        next_attempt: backoff::after_no_answer(count, 0, context.clock.now()).unwrap_or(Timestamp::MAX),
    };
    view.block = Some(block.clone());
    context.set_block(
        &view.object,
        Some(BlockMemo {
            block,
            count,
            generation: view.token.metadata.generation,
            target_version: view.target_version(),
        }),
    );
    Published::Refused
}

/// Why the target cannot hold what its templates make of `token`. Known before anything is rendered: 16 templates of
/// one placeholder after another can make hundreds of megabytes of a long token.
fn too_large(target: &DesiredTarget, token: &AccessToken) -> Option<Problem> {
    let size = target
        .data
        .values()
        .map(|template| template::rendered_length(template, token))
        .sum::<usize>();
    (size > LARGEST_DATA).then(|| {
        Problem::new(
            Reason::TargetInvalid,
            format!(
                "with this token `spec.target.data` would fill Secret '{}' with {size} bytes, and a Secret holds {LARGEST_DATA} \
                 at most: use fewer keys or placeholders",
                target.name
            ),
        )
    })
}

/// What a failed write means for the user, or the error where that is nothing; neither repeats what was written.
fn refused(error: kube::Error, plain: &[&str], body: &Value, name: &str) -> Result<Problem, kube::Error> {
    let error = withholding(error, &written(plain, body));
    write_problem(&error, name).ok_or(error)
}

/// The secret texts in a write.
fn written<'a>(plain: &[&'a str], body: &'a Value) -> Vec<&'a str> {
    let data = body.get("data").and_then(Value::as_object);
    data.into_iter()
        .flat_map(|data| data.values())
        .filter_map(Value::as_str)
        .chain(plain.iter().copied())
        .collect()
}

/// The refresh request to be kept on the target: the one that this token serves, else the one that stands there.
fn handled(view: &View, context: &Context) -> Option<String> {
    let completed = view
        .inputs()
        .and_then(|inputs| context.grants.state(&view.object, &inputs).completed_request);
    completed.or_else(|| match &view.target {
        Target::Ours {
            stored: Some(stored), ..
        } => stored.refresh_handled.clone(),
        _ => None,
    })
}

/// Empties the former target of a VendorToken whose target was renamed: an apply without data, so that what others
/// have put there stays. The operator has no right to delete Secrets; garbage collection takes it with its owner.
///
/// # Errors
/// When the API server could not be asked; a refusal that a person must mend is only logged, for the token itself is
/// where the spec wants it.
pub(super) async fn retire(view: &View, former: &str, context: &Context) -> Result<(), Error> {
    let namespace = &view.object.namespace;
    let read_error = |source| Error::ReadSecret {
        namespace: namespace.clone(),
        name: former.to_owned(),
        source,
    };
    let Some(record) = read_record(context, namespace, former).await? else {
        return Ok(());
    };
    let is_ours = record.ours.as_ref().and_then(|ours| ours.name.as_deref()) == Some(&view.object.name)
        && ownership::is_controlled_by(&record, &view.object.name);
    if !is_ours {
        return Ok(());
    }
    // The type cannot be left out of the apply: it would be set back to the default, which is refused.
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let Some(mut secret) = api.get_opt(former).await.map_err(read_error)? else {
        return Ok(());
    };
    wipe(&mut secret.data);
    let mut metadata =
        json!({ "name": former, "uid": record.uid, "resourceVersion": record.resource_version });
    if let (Some(_), Some(mut reference)) = (&record.controller, view.token.controller_owner_ref(&())) {
        reference.block_owner_deletion = Some(false);
        metadata["ownerReferences"] = json!([reference]);
    }
    let body = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": secret.type_ });
    let metadata_api: Api<PartialObjectMeta<Secret>> = Api::namespaced(context.client.clone(), namespace);
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    match metadata_api.patch(former, &parameters, &Patch::Apply(body)).await {
        Ok(written) => {
            if let Some(record) = secrets::record(&written.metadata) {
                context.secrets.put(namespace, former, record);
            }
            tracing::info!(object = %view.object, former, "emptied the former target");
            Ok(())
        }
        Err(source) if write_problem(&source, former).is_some() => {
            tracing::warn!(
                object = %view.object, former, error = with_causes(&source),
                "the former target could not be emptied: delete that Secret"
            );
            Ok(())
        }
        Err(source) => Err(Error::WriteTarget {
            namespace: namespace.clone(),
            name: former.to_owned(),
            source,
        }),
    }
}

struct Facts<'a> {
    issued: Timestamp,
    expires: Timestamp,
    inputs: &'a Inputs,
    credentials_version: Option<&'a str>,
    refresh_handled: Option<&'a str>,
}

/// The whole of what we want to own of the target: token, facts about it, labels, owner.
fn body(
    checked: &Checked,
    owner: &VendorToken,
    seen: Option<&SecretRecord>,
    data: BTreeMap<&str, String>,
    facts: &Facts<'_>,
) -> Value {
    let target = &checked.target;
    let adopted = ownership::is_adopted(seen);
    let mut labels = target.labels.clone();
    labels.insert(
        names::MANAGED_BY_LABEL.to_owned(),
        names::FIELD_MANAGER.to_owned(),
    );
    labels.insert(
        names::NAME_LABEL.to_owned(),
        owner.metadata.name.clone().unwrap_or_default(),
    );
    let mut annotations = target.annotations.clone();
    let mut annotate = |key: &str, value: String| annotations.insert(key.to_owned(), value);
    annotate(names::ISSUED_TIME, facts.issued.to_string());
    annotate(names::EXPIRATION_TIME, facts.expires.to_string());
    annotate(names::INPUTS, facts.inputs.to_string());
    annotate(names::CONTENT, ownership::content(adopted, &target.content));
    annotate(
        names::CREDENTIALS_VERSION,
        facts.credentials_version.unwrap_or_default().to_owned(),
    );
    if let Some(handled) = facts.refresh_handled {
        annotate(names::REFRESH_HANDLED, handled.to_owned());
    }
    let mut metadata = json!({
        "name": target.name,
        // The write carries what was seen, so that a race is a conflict and never an overwrite.
        "resourceVersion": seen.map_or(CREATE_ONLY, |record| &record.resource_version),
        "labels": labels,
        "annotations": annotations,
    });
    if let Some(record) = seen {
        metadata["uid"] = json!(record.uid);
    }
    if target.delete_with_owner
        && !adopted
        && let Some(mut reference) = owner.controller_owner_ref(&())
    {
        reference.block_owner_deletion = Some(false);
        metadata["ownerReferences"] = json!([reference]);
    }
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": target.type_, "data": data })
}
