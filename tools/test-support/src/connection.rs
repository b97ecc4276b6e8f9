//! How anything here reaches an API server.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::Error;

/// The configuration of a kubeconfig's client, which does not retry by itself.
pub(crate) async fn config_from(path: &Path) -> Result<Config, Error> {
    let failed = |source| Error::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(failed)?;
    // A test wants to see a refusal, not the answer to a later try.
    config.default_retry = false;
    // The machine's proxy is not for loopback.
    config.proxy_url = None;
    Ok(config)
}

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
