//! The calls for VendorTokens.

use kube::api::{GetParams, Patch, PatchParams};
use kube::core::Request;
use kube::{Client, Resource as _};
use serde_json::Value;

use crate::api::VendorToken;
use crate::controller::cluster::object_json::vendor_token;

/// The VendorTokens of one namespace.
pub(crate) struct VendorTokenCalls {
    client: Client,
    request: Request,
}

impl VendorTokenCalls {
    /// The VendorTokens of `namespace`, through `client`.
    pub(crate) fn new(client: &Client, namespace: &str) -> Self {
        Self {
            client: client.clone(),
            request: Request::new(VendorToken::url_path(&(), Some(namespace))),
        }
    }

    /// Reads a VendorToken; `None` where there is none.
    pub(crate) async fn read(&self, name: &str) -> Result<Option<VendorToken>, kube::Error> {
        let request = self.request.get(name, &GetParams::default());
        match self.send(request).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            found => found.map(Some),
        }
    }

    /// Patches the status of a VendorToken, and gives what came of it.
    pub(crate) async fn patch_status(
        &self,
        name: &str,
        parameters: &PatchParams,
        patch: &Patch<Value>,
    ) -> Result<VendorToken, kube::Error> {
        let request = self.request.patch_subresource("status", name, parameters, patch);
        self.send(request).await
    }

    async fn send(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<VendorToken, kube::Error> {
        let request = request.map_err(kube::Error::BuildRequest)?;
        let answer = self.client.request_text(request).await?;
        Ok(vendor_token(answer.as_bytes())?)
    }
}
