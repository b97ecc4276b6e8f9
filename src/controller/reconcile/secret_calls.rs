//! The calls for Secrets that VendorTokens name. Each takes a checked name: no other text may become a part of a URL.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{GetParams, Patch, PatchParams};
use kube::core::{PartialObjectMeta, Request};
use kube::{Client, Resource as _};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::api::names;
use crate::controller::cluster::object_json::{self, secret_metadata};
use crate::controller::cluster::secret_name::SecretName;

/// The Secrets of one namespace.
pub(crate) struct SecretCalls {
    client: Client,
    request: Request,
}

impl SecretCalls {
    /// The Secrets of `namespace`, through `client`.
    pub(crate) fn new(client: &Client, namespace: &str) -> Self {
        Self {
            client: client.clone(),
            request: Request::new(Secret::url_path(&(), Some(namespace))),
        }
    }

    /// Reads a Secret; `None` where there is none.
    pub(crate) async fn read(&self, name: &SecretName) -> Result<Option<Secret>, kube::Error> {
        let answer = self.find(self.request.get(name, &GetParams::default())).await?;
        Ok(answer
            .map(|answer| object_json::secret(answer.as_bytes()))
            .transpose()?)
    }

    /// Reads the metadata of a Secret; `None` where there is none.
    pub(crate) async fn read_metadata(
        &self,
        name: &SecretName,
    ) -> Result<Option<PartialObjectMeta<Secret>>, kube::Error> {
        let request = self.request.get_metadata(name, &GetParams::default());
        let answer = self.find(request).await?;
        Ok(answer
            .map(|answer| secret_metadata(answer.as_bytes()))
            .transpose()?)
    }

    /// Applies `body`, and gives the metadata of the written Secret.
    pub(crate) async fn apply(
        &self,
        name: &SecretName,
        body: &Value,
    ) -> Result<PartialObjectMeta<Secret>, kube::Error> {
        let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
        let request = self
            .request
            .patch_metadata(name, &parameters, &Patch::Apply(body));
        let request = request.map_err(kube::Error::BuildRequest)?;
        let answer = self.client.request_text(request).await?;
        Ok(secret_metadata(answer.as_bytes())?)
    }

    /// The answer to a read; `None` where there is no such Secret.
    async fn find(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Option<Zeroizing<String>>, kube::Error> {
        let request = request.map_err(kube::Error::BuildRequest)?;
        match self.client.request_text(request).await {
            Ok(answer) => Ok(Some(Zeroizing::new(answer))),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
