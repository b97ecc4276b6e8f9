//! The control plane's clients: who asks it, and for what.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};

use crate::certificates::write_private;
use crate::connection::config_from;
use crate::kubeconfig::{Proof, render};
use crate::{ApiProxy, ControlPlane, Error, apply, assets};

const TOKEN_LIFETIME_SECONDS: i64 = 24 * 3600;

/// What a command printed.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl ControlPlane {
    /// A client with all rights (group `system:masters`), which does not retry by itself.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn admin(&self) -> Result<Client, Error> {
        Client::try_from(self.config.clone()).map_err(Error::kube("make a client"))
    }

    /// The kubeconfig of a user with all rights.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.layout.admin_kubeconfig.clone()
    }

    /// The API server's address, `https://127.0.0.1:PORT`.
    pub fn server(&self) -> &str {
        &self.layout.server
    }

    /// The temporary folder, for files that should go with the control plane.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a kubeconfig for a service account, which has to exist: with a token of its own (24 h), so with exactly the rights
    /// that RBAC gives it.
    ///
    /// # Errors
    /// When the API server gives no token.
    pub async fn kubeconfig_for_service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<PathBuf, Error> {
        let file = format!("{namespace}.{name}.kubeconfig");
        self.service_account_kubeconfig(namespace, name, &self.layout.server, &file)
            .await
    }

    /// As [`Self::kubeconfig_for_service_account`], for calls that go through `proxy`.
    ///
    /// # Errors
    /// As there.
    pub async fn kubeconfig_through(
        &self,
        proxy: &ApiProxy,
        namespace: &str,
        name: &str,
    ) -> Result<PathBuf, Error> {
        let file = format!("{namespace}.{name}.{}.kubeconfig", proxy.address().port());
        let server = format!("http://{}", proxy.address());
        self.service_account_kubeconfig(namespace, name, &server, &file)
            .await
    }

    async fn service_account_kubeconfig(
        &self,
        namespace: &str,
        name: &str,
        server: &str,
        file: &str,
    ) -> Result<PathBuf, Error> {
        let action = format!("get a token for the service account {namespace}/{name}");
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(TOKEN_LIFETIME_SECONDS),
                ..Default::default()
            },
            ..Default::default()
        };
        let answer = Api::<ServiceAccount>::namespaced(self.admin()?, namespace)
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .map_err(Error::kube(&action))?;
        let token = answer.status.map(|status| status.token).unwrap_or_default();
        let text = render(server, &self.layout.authority, namespace, &Proof::Token(&token));
        write_private(&self.folder.path().join(file), &text)
    }

    /// A client of a service account, which has to exist, with exactly the rights that RBAC gives it.
    ///
    /// # Errors
    /// When the API server gives no token.
    pub async fn client_as(&self, namespace: &str, service_account: &str) -> Result<Client, Error> {
        let path = self
            .kubeconfig_for_service_account(namespace, service_account)
            .await?;
        Client::try_from(config_from(&path).await?).map_err(Error::kube("make a client"))
    }

    /// Makes a namespace with a name of its own that begins with `prefix`, and gives the name.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn namespace(&self, prefix: &str) -> Result<String, Error> {
        let namespace = Namespace {
            metadata: ObjectMeta {
                generate_name: Some(format!("{prefix}-")),
                ..Default::default()
            },
            ..Default::default()
        };
        let made = Api::all(self.admin()?)
            .create(&PostParams::default(), &namespace)
            .await
            .map_err(Error::kube(format!("make a namespace {prefix}-…")))?;
        Ok(made.metadata.name.unwrap_or_default())
    }

    /// Applies all objects of a YAML text as the administrator, server-side; see [`apply`].
    ///
    /// # Errors
    /// When the text is no manifest or the API server refuses.
    pub async fn apply_yaml(&self, namespace: &str, yaml: &str) -> Result<(), Error> {
        apply::apply(self.admin()?, namespace, yaml).await
    }

    /// As [`Self::apply_yaml`], for a file.
    ///
    /// # Errors
    /// As there, and when the file cannot be read.
    pub async fn apply_file(&self, namespace: &str, path: &Path) -> Result<(), Error> {
        let yaml = apply::read(path)?;
        self.apply_yaml(namespace, &yaml).await
    }

    /// Applies the resources of a kustomization's folder; see [`crate::apply_kustomization`].
    ///
    /// # Errors
    /// As there.
    pub async fn apply_kustomization(&self, folder: &Path) -> Result<(), Error> {
        apply::apply_kustomization(self.admin()?, folder).await
    }

    /// What `kubectl apply -k` of a folder would apply, as YAML.
    ///
    /// # Errors
    /// When kubectl cannot be run or the folder cannot be rendered.
    pub async fn kustomize(&self, folder: &Path) -> Result<String, Error> {
        let path = folder.to_string_lossy();
        let rendered = self.kubectl(&["kustomize", &path]).await?;
        if rendered.status.success() {
            Ok(rendered.stdout)
        } else {
            Err(Error::Manifest {
                what: path.into_owned(),
                reason: rendered.stderr,
            })
        }
    }

    /// Runs kubectl as the administrator.
    ///
    /// # Errors
    /// When there is no kubectl or it cannot be started. Its own failure is in [`Output::status`].
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<Output, Error> {
        let output = tokio::process::Command::new(assets::kubectl()?)
            .arg(format!("--kubeconfig={}", self.layout.admin_kubeconfig.display()))
            .arg(format!(
                "--cache-dir={}",
                self.folder.path().join("kubectl-cache").display()
            ))
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(Error::io("run kubectl"))?;
        Ok(Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}
