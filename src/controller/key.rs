//! The operator's key for fingerprints: a Secret of its own namespace, made at the first start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use zeroize::Zeroize;

use super::context::Context;
use crate::api::names;
use crate::error_text::with_causes;
use crate::fingerprint::FingerprintKey;

/// Name of the Secret in the operator's namespace.
pub const SECRET_NAME: &str = "vendor-token-operator-fingerprint-key";
const DATA_KEY: &str = "key";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
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

/// Gets the key, trying again until it is there. Without it there are no vendor calls.
pub(super) async fn obtain(context: Arc<Context>) {
    let mut pause = Duration::from_millis(500);
    loop {
        match read_or_create(&context).await {
            Ok(key) => {
                tracing::info!(key_id = key.id(), "the fingerprint key is there");
                context.set_key(key);
                return;
            }
            Err(error) => {
                tracing::error!(
                    error = with_causes(&error),
                    "no fingerprint key, so no vendor is asked"
                );
                context.key_missing(&with_causes(&error));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

async fn read_or_create(context: &Context) -> Result<FingerprintKey, KeyError> {
    let namespace = &context.settings.operator_namespace;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let read_error = |source| KeyError::Read {
        namespace: namespace.clone(),
        source,
    };
    if let Some(secret) = api.get_opt(SECRET_NAME).await.map_err(read_error)? {
        return parse(secret, namespace);
    }
    let mut bytes = [0_u8; FingerprintKey::LENGTH];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError::Random)?;
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(SECRET_NAME.to_owned()),
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
    bytes.zeroize();
    match api.create(&PostParams::default(), &secret).await {
        Ok(created) => parse(created, namespace),
        // Another replica was faster: its key is the key.
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            parse(api.get(SECRET_NAME).await.map_err(read_error)?, namespace)
        }
        Err(source) => Err(KeyError::Create {
            namespace: namespace.clone(),
            source,
        }),
    }
}

fn parse(secret: Secret, namespace: &str) -> Result<FingerprintKey, KeyError> {
    let mut data = secret.data.unwrap_or_default();
    let key = data.get(DATA_KEY).and_then(|bytes| FingerprintKey::new(&bytes.0));
    data.values_mut().for_each(|bytes| bytes.0.zeroize());
    key.ok_or_else(|| KeyError::Malformed {
        namespace: namespace.to_owned(),
    })
}
