//! Reads the token in a target, and takes in the present record of the target.

use std::collections::{BTreeMap, BTreeSet};

use crate::controller::cluster::secret_calls::SecretCalls;
use crate::controller::cluster::secret_data::{SecretData, SecretValue};
use crate::controller::context::Context;
use crate::controller::reconcile::error::{Error, read_problem};
use crate::controller::reconcile::snapshot::Snapshot;
use crate::controller::reconcile::target::LARGEST_DATA;
use crate::policy::ownership::SecretRecord;
use crate::seal::TokenFacts;
use crate::template;
use crate::token::{AccessToken, SecretString};

/// The content of a target.
pub(crate) enum Content {
    /// The target is another version than was seen, or is gone.
    Changed,
    /// The operator may not read it.
    Denied,
    /// It shows no token.
    Unreadable,
    /// It shows another token than the sealed one.
    Exchanged,
    /// It shows the token that it was sealed with.
    Sealed(AccessToken),
}

/// Reads the target, which was made by `templates` of a token with these `facts`, and takes its present record into
/// `snapshot`.
///
/// # Errors
/// When the target could not be read, and that may pass.
pub(crate) async fn read_content(
    snapshot: &mut Snapshot,
    templates: &BTreeMap<String, String>,
    facts: &TokenFacts,
    context: &Context,
) -> Result<Content, Error> {
    let Ok(checked) = &snapshot.validated else {
        return Ok(Content::Changed);
    };
    let (namespace, name) = (snapshot.object.namespace.clone(), checked.target.name.clone());
    let keys: BTreeSet<String> = templates.keys().cloned().collect();
    let calls = SecretCalls::new(&context.answers, &namespace);
    let found = calls
        .read(&name, &keys, LARGEST_DATA, |secret| {
            let content = match token_in(&secret.data, templates, facts) {
                None => Content::Unreadable,
                Some(token) if snapshot.is_sealed(&token) => Content::Sealed(token),
                Some(_) => Content::Exchanged,
            };
            secret.record().map(|record| (record, content))
        })
        .await;
    let found = match found.and_then(|found| Ok(found.transpose()?)) {
        Err(source) if read_problem(&source, &name).is_some() => return Ok(Content::Denied),
        found => found.map_err(|source| Error::ReadSecret {
            namespace,
            name: name.to_string(),
            source,
        })?,
    };
    let (record, content) = found.unwrap_or((None, Content::Unreadable));
    let seen = snapshot.target_version();
    take_record(snapshot, record, context);
    Ok(if snapshot.target_version() == seen {
        content
    } else {
        Content::Changed
    })
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

/// The token in the data of a target that was made by these templates.
fn token_in(
    data: &SecretData,
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
    let bytes = |key: &str| match data.get(key)? {
        SecretValue::Bytes(bytes) => Some(bytes.as_slice()),
        SecretValue::TooLong => None,
    };
    let value = templates.iter().find_map(|(key, template)| {
        let text = std::str::from_utf8(bytes(key)?).ok()?;
        template::token_in(template, text, &facts).map(SecretString::from)
    })?;
    let token = AccessToken { value, ..facts };
    let is_made_of_it = |(key, template): (&String, &String)| {
        let length = template::rendered_length(template, &token);
        // By the length first: of a long text in the token's place, templates full of placeholders make hundreds of megabytes.
        bytes(key).is_some_and(|value| {
            value.len() == length && value == template::render(template, &token).as_bytes()
        })
    };
    templates.iter().all(is_made_of_it).then_some(token)
}
