//! The files and command lines of the control plane's programs.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::certificates::{Authority, Identity, signing_key, write_private};
use crate::kubeconfig::{Proof, render};

/// Every request, without bodies, when it is received and when it is answered; [`crate::AuditLog`] needs both stages
/// to know that it has seen the end of all.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{ level: Metadata }]\n";

/// The files and addresses of one control plane.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) folder: PathBuf,
    pub(crate) server: String,
    pub(crate) authority: String,
    pub(crate) admin_kubeconfig: PathBuf,
    pub(crate) audit_log: PathBuf,
    api_server_port: u16,
    etcd_client_port: u16,
    etcd_peer_port: u16,
}

impl Layout {
    /// Writes certificates, keys and configuration into `folder`.
    pub(crate) fn write(folder: &Path, ports: &[u16]) -> Result<Self, Error> {
        let &[api_server_port, etcd_client_port, etcd_peer_port] = ports else {
            return Err(Error::io("lay out the control plane")(
                std::io::ErrorKind::InvalidInput.into(),
            ));
        };
        let authority = Authority::new("test-control-plane")?;
        let layout = Self {
            folder: folder.to_owned(),
            server: format!("https://127.0.0.1:{api_server_port}"),
            authority: authority.certificate(),
            admin_kubeconfig: folder.join("admin.kubeconfig"),
            audit_log: folder.join("audit.jsonl"),
            api_server_port,
            etcd_client_port,
            etcd_peer_port,
        };
        layout.file("ca.crt", &layout.authority)?;
        layout.file("audit-policy.yaml", AUDIT_POLICY)?;
        layout.file("audit.jsonl", "")?;
        let serving = authority.server(
            "kube-apiserver",
            &["127.0.0.1", "localhost", "kubernetes.default.svc", "10.0.0.1"],
        )?;
        layout.identity("apiserver", &serving)?;
        // etcd answers only to the API server: on a machine with other users its port is no way around RBAC.
        layout.identity("etcd", &authority.server("etcd", &["127.0.0.1", "localhost"])?)?;
        let etcd_authority = Authority::new("test-control-plane-etcd")?;
        layout.file("etcd-ca.crt", &etcd_authority.certificate())?;
        layout.identity("etcd-client", &etcd_authority.client("kube-apiserver", None)?)?;
        let (private, public) = signing_key()?;
        layout.file("service-account.key", &private)?;
        layout.file("service-account.pub", &public)?;
        let admin = authority.client("admin", Some("system:masters"))?;
        layout.kubeconfig("admin", &admin)?;
        layout.kubeconfig(
            "controller-manager",
            &authority.client("system:kube-controller-manager", None)?,
        )?;
        Ok(layout)
    }

    fn file(&self, name: &str, content: &str) -> Result<PathBuf, Error> {
        write_private(&self.folder.join(name), content)
    }

    fn identity(&self, name: &str, identity: &Identity) -> Result<(), Error> {
        self.file(&format!("{name}.crt"), &identity.certificate)?;
        self.file(&format!("{name}.key"), &identity.key)?;
        Ok(())
    }

    fn kubeconfig(&self, name: &str, identity: &Identity) -> Result<PathBuf, Error> {
        let text = render(
            &self.server,
            &self.authority,
            "default",
            &Proof::Certificate(identity),
        );
        self.file(&format!("{name}.kubeconfig"), &text)
    }

    pub(crate) fn log(&self, program: &str) -> PathBuf {
        self.folder.join(format!("{program}.log"))
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    pub(crate) fn etcd_arguments(&self) -> Vec<String> {
        let client = format!("https://127.0.0.1:{}", self.etcd_client_port);
        // A member alone has no peers, so this one needs no certificate.
        let peer = format!("http://127.0.0.1:{}", self.etcd_peer_port);
        vec![
            format!("--data-dir={}", self.path("etcd")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            format!("--cert-file={}", self.path("etcd.crt")),
            format!("--key-file={}", self.path("etcd.key")),
            format!("--trusted-ca-file={}", self.path("etcd-ca.crt")),
            "--client-cert-auth=true".to_owned(),
            // The data is thrown away: speed over safety.
            "--unsafe-no-fsync=true".to_owned(),
            "--snapshot-count=10000".to_owned(),
            "--log-level=warn".to_owned(),
        ]
    }

    pub(crate) fn api_server_arguments(&self, more: &[String]) -> Vec<String> {
        let mut arguments = vec![
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.api_server_port),
            format!("--tls-cert-file={}", self.path("apiserver.crt")),
            format!("--tls-private-key-file={}", self.path("apiserver.key")),
            format!("--client-ca-file={}", self.path("ca.crt")),
            format!("--etcd-servers=https://127.0.0.1:{}", self.etcd_client_port),
            format!("--etcd-cafile={}", self.path("ca.crt")),
            format!("--etcd-certfile={}", self.path("etcd-client.crt")),
            format!("--etcd-keyfile={}", self.path("etcd-client.key")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", self.path("service-account.pub")),
            format!(
                "--service-account-signing-key-file={}",
                self.path("service-account.key")
            ),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--audit-policy-file={}", self.path("audit-policy.yaml")),
            format!("--audit-log-path={}", self.audit_log.display()),
            // A request is answered after its line is written; and one file, never rotated (in MB).
            "--audit-log-mode=blocking".to_owned(),
            "--audit-log-maxsize=1000000".to_owned(),
            "--profiling=false".to_owned(),
            "--request-timeout=60s".to_owned(),
        ];
        arguments.extend_from_slice(more);
        arguments
    }

    pub(crate) fn controller_manager_arguments(&self) -> Vec<String> {
        let kubeconfig = self.path("controller-manager.kubeconfig");
        vec![
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            // Each controller with the rights that Kubernetes gives it, as in a real cluster.
            "--use-service-account-credentials=true".to_owned(),
            format!(
                "--service-account-private-key-file={}",
                self.path("service-account.key")
            ),
            "--controllers=garbage-collector-controller,namespace-controller".to_owned(),
            "--leader-elect=false".to_owned(),
            // Nobody asks it anything.
            "--secure-port=0".to_owned(),
            "--profiling=false".to_owned(),
        ]
    }
}
