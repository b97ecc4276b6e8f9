//! The connection to the API server: which cluster, through which proxy, and for how long its credentials are accepted.
//!
//! May use: `proxy`.

mod client;
mod credentials;

use std::path::Path;
use std::process::ExitStatus;

use http::Uri;
use http::uri::Scheme;
use kube::Config;
use kube::client::{AuthError, Body, ClientBuilder, DynBody};
use kube::config::{Cluster as NamedCluster, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tower::BoxError;
use tower::util::BoxService;

pub use credentials::{Acceptance, time_to_end};

use crate::proxy::{InvalidProxy, Proxy, Tunnel};

/// The service below a client of the API server, as kube makes it.
pub type ApiService = BoxService<http::Request<Body>, http::Response<Box<DynBody>>, BoxError>;

/// A cluster, and the way to its API server.
#[derive(Debug)]
pub struct Cluster {
    config: Config,
    tunnel: Option<Tunnel>,
}

/// Error in finding the cluster, or in making a client for it. No text of it shows a secret of the kubeconfig.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("failed to read kubeconfig '{path}': check --kubeconfig (VENDOR_TOKEN_OPERATOR_KUBECONFIG)")]
    ReadKubeconfig {
        path: String,
        #[source]
        source: KubeconfigError,
    },
    // The source is dropped: it quotes the lines around the fault, which may hold tokens and keys.
    #[error(
        "failed to read kubeconfig{place}: it is not the YAML of a kubeconfig; `kubectl config view` shows more"
    )]
    ParseKubeconfig { place: String },
    #[error(
        "failed to use the kubeconfig: check --kubeconfig (VENDOR_TOKEN_OPERATOR_KUBECONFIG) and --context \
         (VENDOR_TOKEN_OPERATOR_CONTEXT)"
    )]
    UseKubeconfig(#[source] KubeconfigError),
    #[error(
        "failed to find a cluster: give --kubeconfig, or run in a pod with a ServiceAccount ({in_cluster})"
    )]
    FindCluster {
        in_cluster: InClusterError,
        #[source]
        kubeconfig: Box<ClusterError>,
    },
    // Their sources quote what the plugin has printed, which may be credentials.
    #[error(
        "failed to run the exec plugin of the kubeconfig: it ended with {status}; run it by hand to see more"
    )]
    ExecPlugin { status: ExitStatus },
    #[error("failed to read what the exec plugin of the kubeconfig has printed: it is no ExecCredential")]
    ExecCredential,
    #[error(transparent)]
    Proxy(#[from] InvalidProxy),
    #[error("failed to make a client for the API server")]
    Client(#[source] kube::Error),
}

impl Cluster {
    /// Finds the cluster: that of the kubeconfig and the context where one of them is given, else that of `KUBECONFIG`
    /// or `~/.kube/config`, else that of the pod. A kubeconfig's `proxy-url`, or else `proxy`, is used on the way to an
    /// https server; the API server of the pod is asked directly.
    pub async fn find(
        kubeconfig: Option<&Path>,
        context: Option<&str>,
        proxy: Option<&Proxy>,
    ) -> Result<Self, ClusterError> {
        let found = Self::of_kubeconfig(kubeconfig, context, proxy).await;
        match found {
            Err(
                error @ (ClusterError::ReadKubeconfig { .. }
                | ClusterError::ParseKubeconfig { .. }
                | ClusterError::UseKubeconfig(_)),
            ) if kubeconfig.is_none() && context.is_none() => match Config::incluster() {
                Ok(config) => Ok(Self::new(config, None)),
                Err(_) if matches!(error, ClusterError::ParseKubeconfig { .. }) => Err(error),
                Err(in_cluster) => Err(ClusterError::FindCluster {
                    in_cluster,
                    kubeconfig: Box::new(error),
                }),
            },
            found => found,
        }
    }

    async fn of_kubeconfig(
        path: Option<&Path>,
        context: Option<&str>,
        proxy: Option<&Proxy>,
    ) -> Result<Self, ClusterError> {
        let read = match path {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let mut kubeconfig = read.map_err(|source| match (source, path) {
            (KubeconfigError::Parse(error), Some(path)) => ClusterError::ParseKubeconfig {
                place: match error.location() {
                    Some(location) => format!(" '{}', line {}", path.display(), location.line()),
                    None => format!(" '{}'", path.display()),
                },
            },
            (KubeconfigError::Parse(_), None) => ClusterError::ParseKubeconfig { place: String::new() },
            (source, Some(path)) => ClusterError::ReadKubeconfig {
                path: path.display().to_string(),
                source,
            },
            (source, None) => ClusterError::UseKubeconfig(source),
        })?;
        let tunnel = match cluster_of(&mut kubeconfig, context) {
            Some(cluster) => tunnel_to(cluster, proxy)?,
            // kube names what is missing.
            None => None,
        };
        let options = KubeConfigOptions {
            context: context.map(str::to_owned),
            ..KubeConfigOptions::default()
        };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(ClusterError::UseKubeconfig)?;
        Ok(Self::new(config, tunnel))
    }

    fn new(config: Config, tunnel: Option<Tunnel>) -> Self {
        let mut config = config;
        // kube's 15 retries honour a `Retry-After` of any length; each call has a deadline instead.
        config.default_retry = false;
        // kube's own tunnel needs a `NO_PROXY` without any fault, and compares it with the proxy.
        config.proxy_url = None;
        Self { config, tunnel }
    }

    /// Begins a client of the API server. Runs the kubeconfig's exec plugin, if there is one, and waits for it.
    pub fn client_builder(&self) -> Result<ClientBuilder<ApiService>, ClusterError> {
        client::client_builder(&self.config, self.tunnel.as_ref()).map_err(|error| match error {
            kube::Error::Auth(AuthError::AuthExecRun { out, .. }) => {
                ClusterError::ExecPlugin { status: out.status }
            }
            kube::Error::Auth(AuthError::AuthExecParse(_)) => ClusterError::ExecCredential,
            source => ClusterError::Client(source),
        })
    }
}

/// The cluster of a context, or of the current one.
fn cluster_of<'a>(kubeconfig: &'a mut Kubeconfig, context: Option<&str>) -> Option<&'a mut NamedCluster> {
    let context = context.or(kubeconfig.current_context.as_deref())?;
    let contexts = &kubeconfig.contexts;
    let context = contexts.iter().find(|named| named.name == context)?;
    let cluster = context.context.as_ref()?.cluster.clone();
    let clusters = &mut kubeconfig.clusters;
    clusters
        .iter_mut()
        .find(|named| named.name == cluster)?
        .cluster
        .as_mut()
}

/// The way to a cluster through its own proxy, or through that of the environment. Writes the proxy into `cluster` in
/// the form that kube can read, so that it does not read the environment.
fn tunnel_to(
    cluster: &mut NamedCluster,
    environment: Option<&Proxy>,
) -> Result<Option<Tunnel>, InvalidProxy> {
    let server: Option<Uri> = cluster.server.as_ref().and_then(|server| server.parse().ok());
    let is_https = server.as_ref().and_then(Uri::scheme) == Some(&Scheme::HTTPS);
    let own = cluster.proxy_url.take().filter(|text| !text.trim().is_empty());
    let (proxy, applies) = match own {
        Some(text) => {
            let exceptions = Proxy::exceptions_of_environment();
            let proxy = Proxy::parse("proxy-url in the kubeconfig", &text, &exceptions)?;
            (Some(proxy), true)
        }
        None => (environment.cloned(), is_https),
    };
    cluster.proxy_url = proxy.as_ref().map(|proxy| proxy.url().to_string());
    let host = server.as_ref().and_then(Uri::host);
    Ok(match (proxy, host) {
        (Some(proxy), Some(host)) if applies => proxy.to_host(host),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn cluster(server: &str, proxy_url: Option<&str>) -> NamedCluster {
        NamedCluster {
            server: Some(server.to_owned()),
            proxy_url: proxy_url.map(str::to_owned),
            ..NamedCluster::default()
        }
    }

    #[rstest]
    #[case::environment("https://api.example:6443", None, Some("http://environment.example:1/"))]
    #[case::own_first(
        "https://api.example:6443",
        Some("http://own.example:2"),
        Some("http://own.example:2/")
    )]
    #[case::own_empty("https://api.example", Some(""), Some("http://environment.example:1/"))]
    #[case::exception("https://api.excepted.example", None, None)]
    #[case::plain_http("http://api.example:8001", None, None)]
    #[case::own_for_plain_http(
        "http://api.example:8001",
        Some("own.example:2"),
        Some("http://own.example:2/")
    )]
    fn a_cluster_has_one_proxy(#[case] server: &str, #[case] own: Option<&str>, #[case] used: Option<&str>) {
        let environment = Proxy::parse(
            "HTTPS_PROXY",
            "http://u:p@environment.example:1",
            ".excepted.example",
        )
        .unwrap();
        let mut cluster = cluster(server, own);
        let tunnel = tunnel_to(&mut cluster, Some(&environment)).unwrap();
        assert_eq!(tunnel.map(|tunnel| tunnel.proxy().to_string()).as_deref(), used);
    }

    #[test]
    fn a_proxy_url_that_cannot_be_used_is_named_without_its_password() {
        let mut cluster = cluster(
            "https://api.example",
            Some("socks5://u:marked-secret@proxy.example"),
        );
        let text = tunnel_to(&mut cluster, None).unwrap_err().to_string();
        assert!(text.contains("proxy-url in the kubeconfig"), "{text}");
        assert!(!text.contains("marked-secret"), "{text}");
    }
}
