//! A world for one test: a namespace of its own, a simulator of its own, and an operator that works in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::client::ClientBuilder;
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use test_support::{ControlPlane, wait_for};
use tokio::sync::{OnceCell, oneshot};
use tokio::task::JoinHandle;
use vendor_simulator::{Options, Simulator};
use vendor_token_operator::api::VendorToken;
use vendor_token_operator::clock::SystemClock;
use vendor_token_operator::controller::{self, Parameters, Settings};
use vendor_token_operator::grants::GrantsOptions;
use vendor_token_operator::http::{HttpTransport, HttpTransportOptions, ProxySetting};
use vendor_token_operator::metrics::Metrics;
use vendor_token_operator::server::Health;
use vendor_token_operator::vendor::{Endpoint, Vendor};

/// Namespace and ServiceAccount of `deploy/`.
pub(crate) const OPERATOR: &str = "vendor-token-operator";
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The control plane, with the CRD and `deploy/` applied; shared by all tests of this process.
pub(crate) async fn plane() -> &'static ControlPlane {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let plane = test_support::shared().await.unwrap();
    APPLIED
        .get_or_init(|| async {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            plane.apply_kustomization(&root.join("deploy")).await.unwrap();
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

impl World {
    pub(crate) async fn new(prefix: &str) -> Self {
        Self::with(prefix, Options::default()).await
    }

    pub(crate) async fn with(prefix: &str, options: Options) -> Self {
        let plane = plane().await;
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

    /// Starts an operator for this world's namespace.
    pub(crate) async fn operator(&self) -> Operator {
        self.operator_with(|_| {}).await
    }

    pub(crate) async fn operator_with(&self, change: impl FnOnce(&mut Settings)) -> Operator {
        let kubeconfig = self
            .plane
            .kubeconfig_for_service_account(OPERATOR, OPERATOR)
            .await
            .unwrap();
        let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &Default::default())
            .await
            .unwrap();
        config.default_retry = false;
        let metrics = Metrics::new();
        let client = ClientBuilder::try_from(config)
            .unwrap()
            .with_layer(&vendor_token_operator::metrics::api::CallDeadline::default())
            .with_layer(&vendor_token_operator::metrics::api::CountApiRequests::new(
                metrics.clone(),
            ))
            .build();
        let mut settings = Settings {
            operator_namespace: OPERATOR.to_owned(),
            watch_namespaces: vec![self.namespace.clone()],
            secret_watch: true,
            endpoints: self.endpoints(),
            concurrency: 16,
        };
        change(&mut settings);
        let clock = Arc::new(SystemClock);
        let transport = HttpTransport::new(
            HttpTransportOptions {
                additional_authorities: Some(self.simulator.ca_pem().as_bytes().to_vec()),
                proxy: ProxySetting::Off,
                ..HttpTransportOptions::default()
            },
            clock.clone(),
        )
        .unwrap();
        let parameters = Parameters {
            client,
            settings,
            grants: GrantsOptions {
                per_minute: BTreeMap::new(),
                max_concurrent: 32,
            },
            transport: Arc::new(transport),
            clock,
            metrics: metrics.clone(),
            health: Health::new(&["fingerprint-key", "watches"]),
            leadership: vendor_token_operator::election::Leadership::always(Arc::new(SystemClock)),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(controller::run(parameters, async move {
            let _ = stopped.await;
        }));
        Operator {
            stop: Some(stop),
            task,
            metrics,
        }
    }

    pub(crate) fn endpoints(&self) -> BTreeMap<Vendor, Endpoint> {
        vendor_simulator::Vendor::ALL
            .into_iter()
            .zip(Vendor::ALL)
            .map(|(simulated, vendor)| {
                (
                    vendor,
                    Endpoint::parse(vendor, self.simulator.origin(simulated)).unwrap(),
                )
            })
            .collect()
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
        let last = std::sync::Mutex::new(String::new());
        wait_for(
            &format!("VendorToken {name} to be '{expected}'"),
            PATIENCE,
            || async {
                let token = self.tokens().get(name).await.map_err(|error| error.to_string())?;
                let ready = summary(&token);
                *last.lock().unwrap() = ready.clone();
                if ready == expected {
                    Ok(token)
                } else {
                    Err(format!("{ready}: {:?}", token.status))
                }
            },
        )
        .await
        .unwrap()
    }

    /// A key of a Secret's data, as text.
    pub(crate) async fn data(&self, secret: &str, key: &str) -> Option<String> {
        let secret = self.secrets().get_opt(secret).await.unwrap()?;
        let bytes = secret.data?.remove(key)?;
        Some(String::from_utf8(bytes.0).unwrap())
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

/// An operator that runs in this process.
pub(crate) struct Operator {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    pub(crate) metrics: Metrics,
}

impl Operator {
    /// Stops it as SIGTERM does, and waits until it has ended.
    pub(crate) async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        (&mut self.task).await.unwrap();
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}
