//! A world for one test: a namespace of its own, a simulator of its own, and an operator that works in it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ResourceQuota, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams};
use kube::client::ClientBuilder;
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use test_support::{AuditEntries, ControlPlane, Mark, wait_for};
use tokio::sync::{Mutex, OnceCell};
use vendor_simulator::{Options, Simulator};
use vendor_token_operator::api::VendorToken;
use vendor_token_operator::clock::{Clock, SystemClock};
use vendor_token_operator::controller::{self, Parameters, Settings};
use vendor_token_operator::grants::GrantsOptions;
use vendor_token_operator::http::{HttpTransport, HttpTransportOptions, ProxySetting, Transport};
use vendor_token_operator::metrics::Metrics;
use vendor_token_operator::providers::{Endpoint, Vendor};
use vendor_token_operator::server::Health;

use crate::installation;
pub(crate) use crate::running::Operator;

/// Namespace and ServiceAccount of `deploy/`.
pub(crate) const OPERATOR: &str = "vendor-token-operator";
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The control plane, with the CRD and `deploy/` applied; shared by all tests of this process.
pub(crate) async fn plane() -> &'static ControlPlane {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let plane = test_support::shared().await.unwrap();
    APPLIED
        .get_or_init(|| async {
            installation::install(plane).await;
        })
        .await;
    plane
}

/// [`plane`], with kube-controller-manager collecting garbage.
pub(crate) async fn plane_with_garbage_collection() -> &'static ControlPlane {
    // The CRD first: the garbage collector learns of kinds that come later only after a while.
    plane().await;
    test_support::shared_with_garbage_collection().await.unwrap()
}

/// The operator's kubeconfig with its own rights; one token of the ServiceAccount for all tests on a control plane.
async fn operators_config(plane: &ControlPlane) -> Config {
    static WRITTEN: Mutex<BTreeMap<String, PathBuf>> = Mutex::const_new(BTreeMap::new());
    let mut written = WRITTEN.lock().await;
    if !written.contains_key(plane.server()) {
        let path = plane.kubeconfig_for_service_account(OPERATOR, OPERATOR).await;
        written.insert(plane.server().to_owned(), path.unwrap());
    }
    let path = &written[plane.server()];
    let kubeconfig = kube::config::Kubeconfig::read_from(path).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .unwrap();
    config.default_retry = false;
    config
}

/// The machine's clock, set ahead by as much as a test wants.
#[derive(Debug, Default)]
pub(crate) struct TestClock {
    stepped: AtomicI64,
    passed: AtomicI64,
}

impl TestClock {
    /// Sets the time of day ahead (negative: back).
    pub(crate) fn step(&self, seconds: i64) {
        self.stepped.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Lets time pass while the machine sleeps: no timer moves.
    pub(crate) fn pass(&self, seconds: i64) {
        self.passed.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let ahead = self.stepped.load(Ordering::SeqCst) + self.passed.load(Ordering::SeqCst);
        Timestamp::now() + SignedDuration::from_secs(ahead)
    }

    fn steady(&self) -> Duration {
        let passed = u64::try_from(self.passed.load(Ordering::SeqCst)).unwrap();
        SystemClock.steady() + Duration::from_secs(passed)
    }
}

pub(crate) struct World {
    pub(crate) plane: &'static ControlPlane,
    pub(crate) admin: Client,
    pub(crate) simulator: Arc<Simulator>,
    pub(crate) namespace: String,
    pub(crate) clock: Arc<TestClock>,
    /// The operator may work in the namespace.
    is_served: bool,
    /// What `--rate-limit` allows; empty for no limits.
    pub(crate) rate_limits: BTreeMap<Vendor, u32>,
}

impl World {
    pub(crate) async fn new(prefix: &str) -> Self {
        Self::with(prefix, Options::default()).await
    }

    pub(crate) async fn with(prefix: &str, options: Options) -> Self {
        Self::on(plane().await, prefix, options).await
    }

    pub(crate) async fn on(plane: &'static ControlPlane, prefix: &str, options: Options) -> Self {
        Self {
            plane,
            admin: plane.admin().unwrap(),
            simulator: Arc::new(Simulator::start(options).await.unwrap()),
            namespace: installation::served_namespace(plane, prefix).await,
            clock: Arc::default(),
            is_served: true,
            rate_limits: BTreeMap::new(),
        }
    }

    /// A world in which the operator has no rights yet.
    pub(crate) async fn unserved(plane: &'static ControlPlane, prefix: &str) -> Self {
        Self {
            plane,
            admin: plane.admin().unwrap(),
            simulator: Arc::new(Simulator::start(Options::default()).await.unwrap()),
            namespace: plane.namespace(prefix).await.unwrap(),
            clock: Arc::default(),
            is_served: false,
            rate_limits: BTreeMap::new(),
        }
    }

    /// Another namespace with the same vendors and the same clock; an operator that is to work in both is started
    /// with [`Self::operator_in`].
    pub(crate) async fn beside(&self, prefix: &str) -> Self {
        Self {
            plane: self.plane,
            admin: self.admin.clone(),
            simulator: Arc::clone(&self.simulator),
            namespace: if self.is_served {
                installation::served_namespace(self.plane, prefix).await
            } else {
                self.plane.namespace(prefix).await.unwrap()
            },
            clock: Arc::clone(&self.clock),
            is_served: self.is_served,
            rate_limits: self.rate_limits.clone(),
        }
    }

    /// Starts an operator for the namespaces of these worlds, with its own Secret in the first.
    pub(crate) async fn operator_in(worlds: &[Self]) -> Operator {
        let namespaces: Vec<_> = worlds.iter().map(|world| world.namespace.clone()).collect();
        worlds[0]
            .operator_with(|settings| {
                settings.operator_namespace = namespaces[0].clone();
                settings.watch_namespaces = namespaces;
            })
            .await
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
        self.operator_through(change, |transport| transport).await
    }

    /// An operator whose requests to vendors go through what `wrap` makes of its transport.
    pub(crate) async fn operator_through(
        &self,
        change: impl FnOnce(&mut Settings),
        wrap: impl FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport>,
    ) -> Operator {
        let config = operators_config(self.plane).await;
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
            secret_watch: installation::has_secret_watch(),
            endpoints: self.endpoints(),
            concurrency: 16,
            longest_wait: if installation::has_secret_watch() {
                controller::LONGEST_WAIT
            } else {
                installation::POLL
            },
        };
        change(&mut settings);
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
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
                per_minute: self.rate_limits.clone(),
                max_concurrent: 32,
            },
            transport: wrap(Arc::new(transport)),
            clock: Arc::clone(&clock),
            metrics: metrics.clone(),
            health: Health::new(&["fingerprint-key", "watches"]),
            leadership: vendor_token_operator::election::Leadership::always(clock),
        };
        Operator::start(parameters)
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

    /// Creates or changes a credentials Secret; other keys than these go.
    pub(crate) async fn credentials(&self, name: &str, data: &[(&str, &str)]) {
        let data: BTreeMap<_, _> = data
            .iter()
            .map(|(key, value)| {
                (
                    (*key).to_owned(),
                    k8s_openapi::ByteString(value.as_bytes().to_vec()),
                )
            })
            .collect();
        self.apply_secret(name, json!({ "data": data })).await;
    }

    /// Applies a Secret as its user does.
    pub(crate) async fn apply_secret(&self, name: &str, mut secret: Value) {
        secret["apiVersion"] = json!("v1");
        secret["kind"] = json!("Secret");
        secret["metadata"]["name"] = json!(name);
        self.secrets()
            .patch(name, &PatchParams::apply("test").force(), &Patch::Apply(secret))
            .await
            .unwrap();
    }

    /// Changes a Secret by a JSON merge patch, as `kubectl edit` does.
    pub(crate) async fn edit_secret(&self, name: &str, patch: Value) -> Secret {
        self.secrets()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap()
    }

    /// Changes a VendorToken by a JSON merge patch.
    pub(crate) async fn edit(&self, name: &str, patch: Value) -> VendorToken {
        self.tokens()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap()
    }

    /// Writes a part of a status, as somebody with rights to it could.
    pub(crate) async fn forge_status(&self, name: &str, status: Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        self.tokens()
            .patch_status(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    pub(crate) async fn delete_secret(&self, name: &str) {
        self.secrets().delete(name, &Default::default()).await.unwrap();
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.tokens().delete(name, &Default::default()).await.unwrap();
    }

    pub(crate) async fn secret(&self, name: &str) -> Secret {
        self.secrets().get(name).await.unwrap()
    }

    pub(crate) async fn token(&self, name: &str) -> VendorToken {
        self.tokens().get(name).await.unwrap()
    }

    /// A quota of no further Secrets. Its status, which a controller would keep, is written here.
    pub(crate) async fn forbid_new_secrets(&self) {
        let quotas: Api<ResourceQuota> = Api::namespaced(self.admin.clone(), &self.namespace);
        let hard = json!({ "secrets": "0" });
        let quota = json!({ "metadata": { "name": "no-secrets" }, "spec": { "hard": hard } });
        let quota = serde_json::from_value(quota).unwrap();
        quotas.create(&Default::default(), &quota).await.unwrap();
        let status = Patch::Merge(json!({ "status": { "hard": hard, "used": { "secrets": "1" } } }));
        quotas
            .patch_status("no-secrets", &PatchParams::default(), &status)
            .await
            .unwrap();
        // The API server knows quotas from a watch of its own.
        self.until("the quota to be in force", async || {
            let probe: Secret =
                serde_json::from_value(json!({ "metadata": { "generateName": "probe-" } })).unwrap();
            match self.secrets().create(&Default::default(), &probe).await {
                Ok(_) => Err("a Secret was created".to_owned()),
                Err(_) => Ok(()),
            }
        })
        .await;
    }

    pub(crate) async fn allow_new_secrets(&self) {
        let quotas: Api<ResourceQuota> = Api::namespaced(self.admin.clone(), &self.namespace);
        quotas.delete("no-secrets", &Default::default()).await.unwrap();
    }

    /// Calls to a vendor so far.
    pub(crate) fn calls(&self, vendor: vendor_simulator::Vendor) -> u64 {
        self.simulator.total(vendor).calls
    }

    /// The reasons of the events about a VendorToken, with how often each was told.
    pub(crate) async fn events(&self, name: &str) -> Vec<(String, i32)> {
        let events: Api<Event> = Api::namespaced(self.admin.clone(), &self.namespace);
        let mut events: Vec<_> = events
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .into_iter()
            .filter(|event| {
                event
                    .regarding
                    .as_ref()
                    .is_some_and(|regarding| regarding.name.as_deref() == Some(name))
            })
            .collect();
        events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
        events
            .into_iter()
            .map(|event| {
                let count = event.series.map_or(1, |series| series.count);
                (event.reason.unwrap_or_default(), count)
            })
            .collect()
    }

    pub(crate) async fn mark(&self) -> Mark {
        self.plane.audit().mark().await.unwrap()
    }

    /// What operators have asked of the API server in this namespace since `mark`, lists and watches apart: those are
    /// renewed whenever the API server ends them. Without a watch of Secrets, their reads apart too: every look is one.
    pub(crate) async fn requests_since(&self, mark: Mark) -> AuditEntries {
        let all = self.plane.audit().since(mark).await.unwrap();
        all.of_service_account(OPERATOR, OPERATOR).matching(|entry| {
            let is_look =
                !installation::has_secret_watch() && entry.resource == "secrets" && entry.verb == "get";
            entry.namespace == self.namespace && !matches!(entry.verb.as_str(), "list" | "watch") && !is_look
        })
    }

    /// Has a VendorToken looked at again, and waits until the operator has nothing more to do: what follows from all
    /// that happened before this call has happened.
    pub(crate) async fn settle(&self, name: &str, operator: &Operator) {
        let before = operator.reconciles();
        let poke = Timestamp::now().as_nanosecond().to_string();
        self.edit(
            name,
            json!({ "metadata": { "annotations": { "test/poke": poke } } }),
        )
        .await;
        self.until("the operator to look", async || {
            let now = operator.reconciles();
            if now > before {
                Ok(())
            } else {
                Err(now.to_string())
            }
        })
        .await;
        operator.quiet().await;
    }

    /// Waits for a condition.
    pub(crate) async fn until<T>(&self, what: &str, condition: impl AsyncFn() -> Result<T, String>) -> T {
        wait_for(what, PATIENCE, || condition()).await.unwrap()
    }

    /// Waits until a key of a Secret has a value that `accepted` likes, and gives it.
    pub(crate) async fn until_data(
        &self,
        secret: &str,
        key: &str,
        accepted: impl Fn(&str) -> bool,
    ) -> String {
        self.until(&format!("key {key} of Secret {secret}"), async || {
            match self.data(secret, key).await {
                Some(value) if accepted(&value) => Ok(value),
                Some(_) => Err("another value".to_owned()),
                None => Err("no value".to_owned()),
            }
        })
        .await
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

    /// The message of `Ready`.
    pub(crate) async fn message(&self, name: &str) -> String {
        let status = self.token(name).await.status.unwrap();
        let ready = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .unwrap();
        ready.message.clone()
    }

    /// A key of a Secret's data, as text.
    pub(crate) async fn data(&self, secret: &str, key: &str) -> Option<String> {
        let secret = self.secrets().get_opt(secret).await.unwrap()?;
        let bytes = secret.data?.remove(key)?;
        Some(String::from_utf8(bytes.0).unwrap())
    }
}

/// Numbers of requests, as `1 patch secrets`.
pub(crate) fn counts(requests: &AuditEntries) -> Vec<String> {
    let counts = requests.by_verb_and_resource().into_iter();
    counts
        .map(|((verb, resource), count)| format!("{count} {verb} {resource}"))
        .collect()
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
