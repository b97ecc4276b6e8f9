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
use crate::policy::{Problem, PublishBlock, Stored, Target, TokenPlace};
use crate::template;
use crate::token::{AccessToken, ExposeSecret, SecretString};
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

/// Writes the target anew with the token that is in it, and takes the answer into `view`: its owner, labels or
/// templates are others than they should be, and memory has no token to write.
pub(super) async fn repair(view: &mut View, context: &Context) -> Result<Published, Error> {
    let Target::Ours {
        stored: Some(stored), ..
    } = &view.target
    else {
        return Ok(Published::Conflict);
    };
    let stored = stored.clone();
    let (namespace, name) = (view.object.namespace.clone(), view.target_name.clone());
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let found = api.get_opt(&name).await.map_err(|source| Error::ReadSecret {
        namespace: namespace.clone(),
        name: name.clone(),
        source,
    })?;
    let Some(mut secret) = found else {
        take_record(view, None, context);
        return Ok(Published::Conflict);
    };
    let record = secrets::record(&secret.metadata);
    let seen = view.target_version();
    let token = stored_token(&stored, &secret);
    wipe(&mut secret.data);
    take_record(view, record, context);
    if view.target_version() != seen {
        return Ok(Published::Conflict);
    }
    let Some(token) = token else {
        // What stands there is no token, whoever wrote it: a grant brings one.
        if let Some(stored) = view
            .record
            .as_mut()
            .and_then(|record| record.ours.as_mut()?.stored.as_mut())
        {
            stored.place = None;
        }
        view.judge_target(context);
        return Ok(Published::Conflict);
    };
    let facts = Facts {
        // Under a lost key nobody knows whether the present credentials have brought it, so nobody says so.
        inputs: view
            .inputs()
            .filter(|inputs| inputs.key_id == stored.inputs.key_id)
            .unwrap_or(stored.inputs),
        credentials_version: view.credentials_version.clone().or(stored.credentials_version),
        refresh_handled: stored.refresh_handled,
    };
    write(view, &token, &facts, context).await
}

/// The token that a target holds.
fn stored_token(stored: &Stored, secret: &Secret) -> Option<AccessToken> {
    let place = stored.place.as_ref()?;
    let value = place.token(&secret.data.as_ref()?.get(&place.key)?.0)?;
    Some(AccessToken {
        value: SecretString::from(value),
        token_type: place.token_type.clone(),
        issued: stored.issued,
        expires: stored.expires,
        expiry_assumed: false,
        clock_skew_suspected: false,
        not_before: None,
    })
}

/// Takes in what the API server says of the target.
fn take_record(view: &mut View, record: Option<SecretRecord>, context: &Context) {
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

/// What is told about the token, beside its times.
struct Facts {
    inputs: Inputs,
    credentials_version: Option<String>,
    refresh_handled: Option<String>,
}

/// Where the target will hold the token: in the first key whose template has it.
fn place(target: &DesiredTarget, token: &AccessToken) -> Option<TokenPlace> {
    let length = token.value.expose_secret().len();
    target.data.iter().find_map(|(key, template)| {
        TokenPlace::new(
            key,
            template::token_start(template, token)?,
            length,
            &token.token_type,
        )
    })
}

/// The whole of what we want to own of the target: token, facts about it, labels, owner.
fn body(
    checked: &Checked,
    owner: &VendorToken,
    seen: Option<&SecretRecord>,
    token: &AccessToken,
    facts: &Facts,
) -> Value {
    let target = &checked.target;
    let adopted = ownership::is_adopted(seen);
    let data: BTreeMap<&str, String> = target
        .data
        .iter()
        .map(|(key, template)| {
            (
                key.as_str(),
                STANDARD.encode(template::render(template, token).as_bytes()),
            )
        })
        .collect();
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
    annotate(names::ISSUED_TIME, token.issued.to_string());
    annotate(names::EXPIRATION_TIME, token.expires.to_string());
    annotate(names::INPUTS, facts.inputs.to_string());
    let content = ownership::content(adopted, &target.content, place(target, token).as_ref());
    annotate(names::CONTENT, content);
    annotate(
        names::CREDENTIALS_VERSION,
        facts.credentials_version.clone().unwrap_or_default(),
    );
    if let Some(handled) = &facts.refresh_handled {
        annotate(names::REFRESH_HANDLED, handled.clone());
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
