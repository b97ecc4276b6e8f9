//! Plain requests to the API server.

use kube::Client;

use crate::Error;

/// The text at a path of the API server.
pub(crate) async fn get(client: &Client, path: &str) -> Result<String, Error> {
    let action = || format!("get {path} of the API server");
    let request = http::Request::get(path)
        .body(Vec::new())
        .map_err(|error| Error::Manifest {
            what: action(),
            reason: error.to_string(),
        })?;
    client.request_text(request).await.map_err(Error::kube(action()))
}
