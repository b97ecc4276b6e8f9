//! The calls for Secrets that VendorTokens name. Each takes a checked name: no other text may become a part of a URL.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use serde_json::Value;

use crate::api::names;
use crate::controller::cluster::secret_name::SecretName;

/// The Secrets of one namespace.
pub(crate) struct SecretCalls {
    secrets: Api<Secret>,
    metadata: Api<PartialObjectMeta<Secret>>,
}

impl SecretCalls {
    /// The Secrets of `namespace`, through `client`.
    pub(crate) fn new(client: &Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            metadata: Api::namespaced(client.clone(), namespace),
        }
    }

    /// Reads a Secret; `None` where there is none.
    pub(crate) async fn read(&self, name: &SecretName) -> Result<Option<Secret>, kube::Error> {
        self.secrets.get_opt(name).await
    }

    /// Reads the metadata of a Secret; `None` where there is none.
    pub(crate) async fn read_metadata(
        &self,
        name: &SecretName,
    ) -> Result<Option<PartialObjectMeta<Secret>>, kube::Error> {
        self.metadata.get_opt(name).await
    }

    /// Applies `body`, and gives the metadata of the written Secret.
    pub(crate) async fn apply(
        &self,
        name: &SecretName,
        body: &Value,
    ) -> Result<PartialObjectMeta<Secret>, kube::Error> {
        let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
        self.metadata.patch(name, &parameters, &Patch::Apply(body)).await
    }
}
