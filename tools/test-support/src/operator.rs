//! The operator: its installation in a cluster, and its process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Client;

use crate::paths::{program, workspace};
use crate::{Error, Process, apply, read_kustomization};

/// The namespace of `deploy/`.
pub const OPERATOR_NAMESPACE: &str = "vendor-token-operator";
/// The ServiceAccount of `deploy/`.
pub const OPERATOR_SERVICE_ACCOUNT: &str = "vendor-token-operator";

const PROGRAM: &str = "vendor-token-operator";
/// At SIGTERM the operator gives requests in flight 3 s, and reconciles as long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Installs the CRD, the namespace, the ServiceAccount and the RBAC of `deploy/`, without the Deployment: the operator
/// runs as a process of this machine, not in a pod.
///
/// # Errors
/// When a manifest cannot be read or the API server refuses it.
pub async fn install_operator(client: &Client) -> Result<(), Error> {
    let files = read_kustomization(&workspace().join("deploy"))?;
    let manifests: Vec<String> = files
        .into_iter()
        .map(|(_, text)| text)
        .filter(|text| !text.lines().any(|line| line == "kind: Deployment"))
        .collect();
    apply(client.clone(), "default", &manifests.join("\n---\n")).await?;
    Ok(())
}

/// The start of an operator.
#[derive(Clone, Debug)]
pub struct OperatorSettings {
    /// The kubeconfig whose rights it has.
    pub kubeconfig: PathBuf,
    /// The origin of each vendor's endpoint by the name in `spec.vendor`, as in `https://localhost:40004`.
    pub endpoints: BTreeMap<String, String>,
    /// The file with the certificate authority of the endpoints.
    pub authority: PathBuf,
    /// More arguments.
    pub arguments: Vec<String>,
    /// The file for its log.
    pub log: PathBuf,
}

/// The operator's process, which stops when this is dropped.
#[derive(Debug)]
pub struct Operator {
    process: Process,
}

impl Operator {
    /// Starts the operator's binary beside the running program.
    ///
    /// # Errors
    /// When it is not there.
    pub fn start(settings: &OperatorSettings) -> Result<Self, Error> {
        let mut arguments: Vec<String> = not_inherited()
            .into_iter()
            .flat_map(|name| ["-u".to_owned(), name])
            .collect();
        arguments.push(program(PROGRAM)?.display().to_string());
        arguments.extend([
            "run".to_owned(),
            format!("--kubeconfig={}", settings.kubeconfig.display()),
            format!("--vendor-ca-file={}", settings.authority.display()),
        ]);
        for (vendor, origin) in &settings.endpoints {
            arguments.push(format!("--endpoint={vendor}={origin}"));
        }
        arguments.extend(settings.arguments.iter().cloned());
        // `env` becomes the operator, with the same process id.
        let process = Process::start(PROGRAM, Path::new("env"), arguments, &settings.log)?;
        Ok(Self { process })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Checks that it runs.
    ///
    /// # Errors
    /// When it has ended; with the end of its log.
    pub fn check(&mut self) -> Result<(), Error> {
        match self.process.exit_status() {
            None => Ok(()),
            Some(status) => Err(self.process.not_started(format!("it ended with {status}"))),
        }
    }

    /// Stops it as Kubernetes does, and returns when it is gone.
    pub async fn stop(mut self) {
        // It fails only when stopping panics, and then the process is dropped, which ends it too.
        let _ = tokio::task::spawn_blocking(move || self.process.stop(PATIENCE)).await;
    }
}

/// The environment variables that the operator must not see: a proxy, which loopback does not take, and settings of
/// another operator.
fn not_inherited() -> Vec<String> {
    let of_proxy = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"];
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| {
            of_proxy.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
                || name.starts_with("VENDOR_TOKEN_OPERATOR_")
        })
        .collect()
}
