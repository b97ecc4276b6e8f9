//! A world for one test: a namespace and a simulator of its own, and the program running as a process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use test_support::{AuditEntries, ControlPlane, Mark, Process, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use vendor_simulator::{Credential, Options, Simulator, Vendor};
use vendor_token_operator::api::VendorToken;

/// Namespace and ServiceAccount of `deploy/`.
pub(crate) const OPERATOR: &str = "vendor-token-operator";
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_vendor-token-operator");
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The control plane, with the CRD and `deploy/` applied; shared by all tests of this process.
pub(crate) async fn plane() -> &'static ControlPlane {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let plane = test_support::shared().await.unwrap();
    APPLIED
        .get_or_init(|| async {
            plane.apply_kustomization(&root().join("deploy")).await.unwrap();
        })
        .await;
    plane
}

pub(crate) struct World {
    pub(crate) plane: &'static ControlPlane,
    pub(crate) admin: Client,
    pub(crate) simulator: Simulator,
    pub(crate) namespace: String,
}

/// `spec.vendor`.
pub(crate) fn name_of(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::SixMap => "SixMap",
        Vendor::SixClicks => "SixClicks",
        Vendor::CheckmarxSca => "CheckmarxSCA",
        Vendor::Mapiq => "Mapiq",
        Vendor::Picus => "Picus",
    }
}

/// What one VendorToken asks with.
pub(crate) struct Account {
    pub(crate) vendor: Vendor,
    /// Client id or user name; for 6clicks and Picus the simulator's name of the secret.
    pub(crate) id: String,
    pub(crate) secret: String,
}

pub(crate) const TENANT: &str = "acme";

impl Account {
    pub(crate) fn new(vendor: Vendor, id: &str, secret: &str) -> Self {
        Self {
            vendor,
            id: id.to_owned(),
            secret: secret.to_owned(),
        }
    }

    /// As the simulator registers it.
    pub(crate) fn credential(&self) -> Credential {
        let credential = Credential::new(&self.id, &self.secret);
        match self.vendor {
            Vendor::CheckmarxSca => credential.tenant(TENANT),
            _ => credential,
        }
    }

    /// As its Secret holds it.
    pub(crate) fn data(&self) -> Vec<(&'static str, &str)> {
        let (id, secret) = (self.id.as_str(), self.secret.as_str());
        match self.vendor {
            Vendor::SixMap | Vendor::Mapiq => vec![("client-id", id), ("client-secret", secret)],
            Vendor::SixClicks => vec![("api-key", secret)],
            Vendor::CheckmarxSca => vec![("username", id), ("password", secret)],
            Vendor::Picus => vec![("refresh-token", secret)],
        }
    }

    /// The spec of a VendorToken that reads the Secret of this name.
    pub(crate) fn spec(&self, secret: &str) -> Value {
        let mut spec = json!({ "vendor": name_of(self.vendor), "credentialsSecretRef": { "name": secret } });
        match self.vendor {
            Vendor::SixClicks => spec["sixClicks"] = json!({ "region": "au" }),
            Vendor::CheckmarxSca => spec["checkmarxSCA"] = json!({ "region": "EU", "tenant": TENANT }),
            _ => {}
        }
        spec
    }
}

impl World {
    pub(crate) async fn new(prefix: &str) -> Self {
        Self::on(plane().await, prefix, Options::default()).await
    }

    pub(crate) async fn on(plane: &'static ControlPlane, prefix: &str, options: Options) -> Self {
        Self {
            plane,
            admin: plane.admin().unwrap(),
            simulator: Simulator::start(options).await.unwrap(),
            namespace: plane.namespace(prefix).await.unwrap(),
        }
    }

    pub(crate) fn tokens(&self) -> Api<VendorToken> {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    pub(crate) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    /// Registers the account, and creates its Secret `NAME-credentials` and the VendorToken `NAME`.
    pub(crate) async fn create(&self, name: &str, account: &Account) {
        self.simulator
            .put_credential(account.vendor, account.credential());
        self.create_unregistered(name, account, json!({})).await;
    }

    /// As [`Self::create`], for an account that the vendor does not know, with more of a spec.
    pub(crate) async fn create_unregistered(&self, name: &str, account: &Account, more: Value) {
        let secret = format!("{name}-credentials");
        self.credentials(&secret, &account.data()).await;
        let mut spec = account.spec(&secret);
        let members = spec.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        self.apply(name, spec).await;
    }

    /// Creates or changes a credentials Secret.
    pub(crate) async fn credentials(&self, name: &str, data: &[(&str, &str)]) {
        let data: BTreeMap<_, _> = data.iter().copied().collect();
        let secret =
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data });
        self.secrets()
            .patch(name, &PatchParams::apply("test").force(), &Patch::Apply(secret))
            .await
            .unwrap();
    }

    /// Creates or changes a VendorToken.
    pub(crate) async fn apply(&self, name: &str, spec: Value) -> VendorToken {
        let object = json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken", "metadata": { "name": name }, "spec": spec,
        });
        self.tokens()
            .patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object))
            .await
            .unwrap()
    }

    /// Waits until `Ready` has this status and reason, and gives the object.
    pub(crate) async fn ready(&self, name: &str, expected: &str) -> VendorToken {
        self.settled(name, |ready| ready == expected, expected).await
    }

    /// Waits until `accepts` takes the object's conditions (see [`summary`]).
    pub(crate) async fn settled(
        &self,
        name: &str,
        accepts: impl Fn(&str) -> bool,
        expected: &str,
    ) -> VendorToken {
        let what = format!("VendorToken {name} to be '{expected}'");
        wait_for(&what, PATIENCE, || async {
            let token = self.tokens().get(name).await.map_err(|error| error.to_string())?;
            let ready = summary(&token);
            if accepts(&ready) {
                Ok(token)
            } else {
                Err(format!("{ready}: {:?}", token.status))
            }
        })
        .await
        .unwrap()
    }

    /// A key of a Secret's data, as text.
    pub(crate) async fn data(&self, secret: &str, key: &str) -> Option<String> {
        let secret = self.secrets().get_opt(secret).await.unwrap()?;
        let bytes = secret.data?.remove(key)?;
        Some(String::from_utf8(bytes.0).unwrap())
    }

    /// What the operator asked of the API server in this namespace since `mark`, watches apart.
    pub(crate) async fn requests_since(&self, mark: Mark) -> AuditEntries {
        let all = self.plane.audit().since(mark).await.unwrap();
        all.of_service_account(OPERATOR, OPERATOR)
            .matching(|entry| entry.namespace == self.namespace && entry.verb != "watch")
    }

    /// Vendor calls so far.
    pub(crate) fn calls(&self) -> u64 {
        Vendor::ALL
            .into_iter()
            .map(|vendor| self.simulator.total(vendor).calls)
            .sum()
    }

    pub(crate) async fn operator(&self) -> Operator {
        self.operator_with(&[]).await
    }

    /// Starts the program for this namespace with the rights of `deploy/`, and waits until it is ready.
    pub(crate) async fn operator_with(&self, more: &[&str]) -> Operator {
        let operator = self.start(more).await;
        operator.wait_until_ready().await;
        operator
    }

    /// Starts the program without waiting for its being ready.
    pub(crate) async fn start(&self, more: &[&str]) -> Operator {
        let kubeconfig = self
            .plane
            .kubeconfig_for_service_account(OPERATOR, OPERATOR)
            .await
            .unwrap();
        self.start_as(&kubeconfig, OPERATOR, more).await
    }

    pub(crate) async fn start_as(
        &self,
        kubeconfig: &Path,
        operator_namespace: &str,
        more: &[&str],
    ) -> Operator {
        let authority = self
            .plane
            .folder()
            .join(format!("{}-vendors.pem", self.namespace));
        std::fs::write(&authority, self.simulator.ca_pem()).unwrap();
        let given = |flag: &str| more.iter().any(|argument| argument.starts_with(flag));
        let mut arguments = vec![
            "run".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--operator-namespace={operator_namespace}"),
            format!("--watch-namespace={}", self.namespace),
            format!("--vendor-ca-file={}", authority.display()),
            "--metrics-bind-address=127.0.0.1:0".to_owned(),
            "--health-probe-bind-address=127.0.0.1:0".to_owned(),
        ];
        for vendor in Vendor::ALL {
            let name = name_of(vendor);
            arguments.push(format!("--endpoint={name}={}", self.simulator.origin(vendor)));
            if !given("--rate-limit") {
                arguments.push(format!("--rate-limit={name}=0"));
            }
        }
        if !given("--leader-elect") {
            // The operators of most tests share a namespace, and would share its Lease.
            arguments.push("--leader-elect=false".to_owned());
        }
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        Operator::start(&arguments, &self.log_file()).await
    }

    fn log_file(&self) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        self.plane
            .folder()
            .join(format!("operator-{}-{count}.log", self.namespace))
    }
}

/// `Ready` as `True Published`, followed by the other conditions that are True.
pub(crate) fn summary(token: &VendorToken) -> String {
    let conditions = token.status.iter().flat_map(|status| &status.conditions);
    let mut parts: Vec<String> = conditions
        .map(|condition| {
            if condition.type_ == "Ready" {
                format!("{} {}", condition.status, condition.reason)
            } else {
                format!("+{}", condition.type_)
            }
        })
        .collect();
    parts.sort();
    parts.reverse();
    parts.join(" ")
}

/// A running program; killed by its process id when this is dropped.
pub(crate) struct Operator {
    process: Mutex<Process>,
    log: PathBuf,
    pub(crate) metrics: SocketAddr,
    pub(crate) probes: SocketAddr,
}

impl Operator {
    async fn start(arguments: &[String], log: &Path) -> Self {
        // Nothing of the environment of who runs the tests: neither a proxy nor a flag.
        let mut line = vec!["-i".to_owned()];
        for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
            if let Ok(value) = std::env::var(name) {
                line.push(format!("{name}={value}"));
            }
        }
        line.push(PROGRAM.to_owned());
        line.extend_from_slice(arguments);
        let process = Process::start("vendor-token-operator", Path::new("env"), line, log).unwrap();
        let process = Mutex::new(process);
        let addresses = wait_for("the addresses in the log", PATIENCE, || async {
            if let Some(status) = process.lock().unwrap().exit_status() {
                panic!("the operator ended ({status}): {}", read(log));
            }
            let text = read(log);
            let address = |path: &str| -> Option<SocketAddr> {
                let line = text
                    .lines()
                    .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                    .find(|line| {
                        line["message"] == "serving" && line["paths"].as_str().unwrap_or("").contains(path)
                    })?;
                line["address"].as_str()?.parse().ok()
            };
            match (address("/metrics"), address("/readyz")) {
                (Some(metrics), Some(probes)) => Ok((metrics, probes)),
                _ => Err(text),
            }
        })
        .await
        .unwrap();
        Self {
            process,
            log: log.to_owned(),
            metrics: addresses.0,
            probes: addresses.1,
        }
    }

    pub(crate) async fn wait_until_ready(&self) {
        wait_for("the operator to be ready", PATIENCE, || async {
            match get(self.probes, "/readyz").await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}\n{}", self.log())),
            }
        })
        .await
        .unwrap();
    }

    /// What it has printed, on standard output and standard error.
    pub(crate) fn log(&self) -> String {
        read(&self.log)
    }

    pub(crate) async fn metrics(&self) -> String {
        let (status, text) = get(self.metrics, "/metrics").await.unwrap();
        assert_eq!(status, 200, "{text}");
        text
    }

    /// The sum of a counter's series.
    pub(crate) async fn count(&self, metric: &str) -> u64 {
        let text = self.metrics().await;
        text.lines()
            .filter(|line| line.starts_with(metric))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    pub(crate) fn signal(&self, signal: &str) {
        self.process.lock().unwrap().signal(signal).unwrap();
    }

    /// Waits for its end, and gives how it ended and how long that took.
    pub(crate) async fn ended(&self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        let status = wait_for("the operator's end", PATIENCE, || async {
            self.process.lock().unwrap().exit_status().ok_or("it runs")
        })
        .await
        .unwrap();
        (status, started.elapsed())
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// Status and body of a GET over plain HTTP.
pub(crate) async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.unwrap_or_default(), body.to_owned()))
}
