//! The operator's key for fingerprints: a Secret of its own namespace, made at the first start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams};
use tokio::sync::watch;
use zeroize::{Zeroize as _, Zeroizing};

use crate::api::names;
use crate::controller::cluster::answers::AnswerError;
use crate::controller::cluster::secret_calls::SecretCalls;
use crate::controller::cluster::secret_data::SecretValue;
use crate::controller::cluster::secret_name::SecretName;
use crate::controller::context::Context;
use crate::controller::reconcile::target::CREATE_ONLY;
use crate::election::NotLeading;
use crate::error_text::with_causes;
use crate::fingerprint::FingerprintKey;

/// Name of the Secret in the operator's namespace.
pub const SECRET_NAME: &str = "vendor-token-operator-fingerprint-key";
const DATA_KEY: &str = "key";
/// The bytes of the longest value that may be a key.
const LONGEST_KEY: usize = 1024;

/// The failure to get the key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("failed to read Secret '{namespace}/{SECRET_NAME}'")]
    Read {
        namespace: String,
        #[source]
        source: kube::Error,
    },
    #[error("failed to create Secret '{namespace}/{SECRET_NAME}'")]
    Create {
        namespace: String,
        #[source]
        source: kube::Error,
    },
    #[error(
        "failed to use Secret '{namespace}/{SECRET_NAME}': its key '{DATA_KEY}' must hold {length} bytes; delete the \
         Secret so that it is made anew", length = FingerprintKey::LENGTH
    )]
    Malformed { namespace: String },
    #[error("failed to make a random key")]
    Random,
}

impl KeyError {
    fn is_not_leading(&self) -> bool {
        match self {
            Self::Create {
                source: kube::Error::Service(source),
                ..
            } => source.is::<NotLeading>(),
            _ => false,
        }
    }
}

/// The key's bytes, wiped on drop.
type KeyBytes = Zeroizing<Vec<u8>>;

/// Gets the key, with new attempts until it is there, sends it to `key`, and from then on restores its Secret where
/// that is deleted. Without the key there are no vendor calls.
pub(crate) async fn obtain_and_keep(context: Arc<Context>, key: watch::Sender<Option<Arc<FingerprintKey>>>) {
    let (found, bytes) = obtain(&context).await;
    key.send_replace(Some(Arc::new(found)));
    context.health.set_ready("fingerprint-key", Ok(()));
    loop {
        tokio::select! {
            () = context.key_deleted.notified() => {}
            // Without a watch no event shows the deletion.
            () = tokio::time::sleep(context.settings.longest_wait) => {}
        }
        match restore(&context, &bytes).await {
            Ok(true) => tracing::warn!(
                namespace = context.settings.operator_namespace,
                name = SECRET_NAME,
                "the fingerprint key's Secret was deleted; it is made again with the same key"
            ),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(
                    error = with_causes(&error),
                    "the fingerprint key's Secret could not be looked at"
                );
            }
        }
    }
}

async fn obtain(context: &Context) -> (FingerprintKey, KeyBytes) {
    let mut pause = Duration::from_millis(500);
    loop {
        match read_or_create(context).await {
            Ok((key, bytes)) => {
                tracing::info!(key_id = key.id(), "the fingerprint key is there");
                return (key, bytes);
            }
            // A standby may not create it: the leader does.
            Err(error) if error.is_not_leading() => {
                tracing::debug!("the fingerprint key is made by the process that leads");
                not_ready(context, "it is made by the process that leads".to_owned());
            }
            Err(error) => {
                tracing::error!(
                    error = with_causes(&error),
                    "no fingerprint key, so no vendor is asked"
                );
                not_ready(context, with_causes(&error));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

fn not_ready(context: &Context, why: String) {
    context.health.set_ready("fingerprint-key", Err(why));
}

async fn read_or_create(context: &Context) -> Result<(FingerprintKey, KeyBytes), KeyError> {
    if let Some(found) = read(context).await? {
        return Ok(found);
    }
    let mut bytes = Zeroizing::new(vec![0_u8; FingerprintKey::LENGTH]);
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError::Random)?;
    create(context, &bytes).await?;
    // Another replica may have been faster: what is stored is the key.
    let (key, bytes) = read(context).await?.ok_or_else(|| KeyError::Malformed {
        namespace: context.settings.operator_namespace.clone(),
    })?;
    let since = key.since().max(context.timeline.now().wall());
    Ok((key.made_at(since), bytes))
}

/// Makes the Secret again where it was deleted, and gives true then. A Secret with another key stays: it counts from
/// the next start on.
async fn restore(context: &Context, bytes: &KeyBytes) -> Result<bool, KeyError> {
    if read(context).await?.is_some() {
        return Ok(false);
    }
    create(context, bytes).await?;
    Ok(true)
}

async fn read(context: &Context) -> Result<Option<(FingerprintKey, KeyBytes)>, KeyError> {
    let namespace = &context.settings.operator_namespace;
    let Some(name) = SecretName::new(SECRET_NAME) else {
        return Ok(None);
    };
    let calls = SecretCalls::new(&context.answers, namespace);
    let keys = BTreeSet::from([DATA_KEY.to_owned()]);
    let found = calls
        .read(&name, &keys, LONGEST_KEY, |secret| {
            let bytes = match secret.data.get(DATA_KEY) {
                Some(SecretValue::Bytes(bytes)) => bytes.clone(),
                Some(SecretValue::TooLong) | None => KeyBytes::default(),
            };
            Ok::<_, AnswerError>((last_written(&secret.metadata()?), bytes))
        })
        .await;
    let found = found.and_then(|found| Ok(found.transpose()?));
    let found = found.map_err(|source| KeyError::Read {
        namespace: namespace.clone(),
        source,
    })?;
    let Some((since, bytes)) = found else {
        return Ok(None);
    };
    match FingerprintKey::new(&bytes) {
        Some(key) => Ok(Some((key.made_at(since), bytes))),
        None => Err(KeyError::Malformed {
            namespace: namespace.clone(),
        }),
    }
}

/// The time of the last write of the key's Secret: it may have held another key before. Nobody but the operator and its
/// administrators can write there.
fn last_written(metadata: &ObjectMeta) -> Timestamp {
    let created = metadata.creation_timestamp.iter();
    let written = metadata
        .managed_fields
        .iter()
        .flatten()
        .filter_map(|entry| entry.time.as_ref());
    created
        .chain(written)
        .map(|time| time.0)
        .max()
        .unwrap_or(Timestamp::MIN)
}

/// Wipes a Secret's data, which kube keeps in plain buffers.
fn wipe(data: &mut Option<BTreeMap<String, ByteString>>) {
    for bytes in data.iter_mut().flat_map(BTreeMap::values_mut) {
        bytes.0.zeroize();
    }
}

/// Creates the Secret, unless there is one: by an apply that only creates, which RBAC allows for a named Secret.
async fn create(context: &Context, bytes: &KeyBytes) -> Result<(), KeyError> {
    let namespace = &context.settings.operator_namespace;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let mut secret = Secret {
        metadata: ObjectMeta {
            name: Some(SECRET_NAME.to_owned()),
            resource_version: Some(CREATE_ONLY.to_owned()),
            labels: Some(BTreeMap::from([(
                "app.kubernetes.io/name".to_owned(),
                names::FIELD_MANAGER.to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(
            DATA_KEY.to_owned(),
            ByteString(bytes.to_vec()),
        )])),
        ..Secret::default()
    };
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    let created = api
        .patch_metadata(SECRET_NAME, &parameters, &Patch::Apply(&secret))
        .await;
    wipe(&mut secret.data);
    match created {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_conflict() => Ok(()),
        Err(source) => Err(KeyError::Create {
            namespace: namespace.clone(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_as_old_as_the_last_write_of_its_secret() {
        let last = |metadata| last_written(&serde_json::from_value(metadata).unwrap()).to_string();
        assert_eq!(
            last(json!({ "creationTimestamp": "2026-05-04T10:00:00Z" })),
            "2026-05-04T10:00:00Z"
        );
        let replaced = json!({
            "creationTimestamp": "2026-05-04T10:00:00Z",
            "managedFields": [{ "manager": "vendor-token-operator", "time": "2026-05-04T10:00:00Z" },
                { "manager": "kubectl", "time": "2026-06-01T00:00:00Z" }],
        });
        assert_eq!(last(replaced), "2026-06-01T00:00:00Z");
    }
}
