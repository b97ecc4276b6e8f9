//! The operator in this process: its clock is the test's, and its requests to vendors can be held back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::Config;
use kube::client::ClientBuilder;
use test_support::{ApiProxy, ControlPlane};
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use vendor_token_operator::clock::{Clock, SystemClock, Timeline};
use vendor_token_operator::controller::{self, Parameters, Settings};
use vendor_token_operator::election::Leadership;
use vendor_token_operator::grants::GrantsOptions;
use vendor_token_operator::http::{HttpTransport, HttpTransportOptions, ProxySetting, Transport};
use vendor_token_operator::metrics::Metrics;
use vendor_token_operator::metrics::api::{CallDeadline, CountApiRequests};
use vendor_token_operator::providers::{Endpoint, Vendor};
use vendor_token_operator::server::Health;

use crate::world::installation::{POLL, has_secret_watch};
use crate::world::running::{Running, Samples};
use crate::world::{OPERATOR, World};

/// The machine's clocks, set by a test.
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

impl World {
    /// Lets time pass for the operator and for the vendors: their clocks agree after it. Replaces all faults.
    pub(crate) fn pass_everywhere(&self, seconds: i64) {
        self.clock.pass(seconds);
        self.simulator.clear_faults();
        for vendor in vendor_simulator::Vendor::ALL {
            let ahead = vendor_simulator::Effect::ClockSkew {
                seconds: self.clock.passed.load(Ordering::SeqCst),
                header_only: false,
            };
            self.simulator
                .add_fault(vendor_simulator::Fault::new(vendor, ahead));
        }
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

/// The operator's kubeconfig with its own rights; one token of the ServiceAccount for all tests on a control plane.
async fn operators_config(plane: &ControlPlane) -> Config {
    static WRITTEN: Mutex<BTreeMap<String, PathBuf>> = Mutex::const_new(BTreeMap::new());
    let mut written = WRITTEN.lock().await;
    if !written.contains_key(plane.server()) {
        let path = plane.kubeconfig_for_service_account(OPERATOR, OPERATOR).await;
        written.insert(plane.server().to_owned(), path.unwrap());
    }
    config_at(&written[plane.server()]).await
}

async fn config_at(path: &Path) -> Config {
    let kubeconfig = kube::config::Kubeconfig::read_from(path).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .unwrap();
    config.default_retry = false;
    config
}

impl World {
    /// Starts an operator for this world's namespace.
    pub(crate) async fn operator(&self) -> Operator {
        self.operator_with(|_| {}).await
    }

    /// Starts an operator for the namespaces of these worlds, with its own Secret in the first.
    pub(crate) async fn operator_in(worlds: &[Self]) -> Operator {
        worlds[0].operator_with(Self::serving(worlds)).await
    }

    fn serving(worlds: &[Self]) -> impl FnOnce(&mut Settings) {
        let namespaces: Vec<_> = worlds.iter().map(|world| world.namespace.clone()).collect();
        |settings| {
            settings.operator_namespace = namespaces[0].clone();
            settings.watch_namespaces = namespaces;
        }
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
        self.operator_by(config, change, wrap)
    }

    /// An operator whose calls to the API server go through `proxy`.
    pub(crate) async fn operator_behind(&self, proxy: &ApiProxy) -> Operator {
        self.operator_behind_with(proxy, |_| {}).await
    }

    /// The same for the namespaces of these worlds, with its own Secret in the first.
    pub(crate) async fn operator_in_behind(worlds: &[Self], proxy: &ApiProxy) -> Operator {
        worlds[0].operator_behind_with(proxy, Self::serving(worlds)).await
    }

    async fn operator_behind_with(&self, proxy: &ApiProxy, change: impl FnOnce(&mut Settings)) -> Operator {
        let path = self
            .plane
            .kubeconfig_through(proxy, OPERATOR, OPERATOR)
            .await
            .unwrap();
        self.operator_by(config_at(&path).await, change, |transport| transport)
    }

    fn operator_by(
        &self,
        config: Config,
        change: impl FnOnce(&mut Settings),
        wrap: impl FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport>,
    ) -> Operator {
        let metrics = Metrics::new();
        let client = ClientBuilder::try_from(config)
            .unwrap()
            .with_layer(&CallDeadline::default())
            .with_layer(&CountApiRequests::new(metrics.clone()))
            .build();
        let mut settings = Settings {
            operator_namespace: OPERATOR.to_owned(),
            watch_namespaces: vec![self.namespace.clone()],
            secret_watch: has_secret_watch(),
            endpoints: self.endpoints(),
            concurrency: 16,
            longest_wait: if has_secret_watch() {
                controller::LONGEST_WAIT
            } else {
                POLL
            },
        };
        change(&mut settings);
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let timeline = Arc::new(Timeline::new(clock));
        let transport = HttpTransport::new(
            HttpTransportOptions {
                additional_authorities: Some(self.simulator.ca_pem().as_bytes().to_vec()),
                proxy: ProxySetting::Off,
                ..HttpTransportOptions::default()
            },
            Arc::clone(&timeline),
        )
        .unwrap();
        Operator::start(Parameters {
            client,
            settings,
            grants: GrantsOptions {
                per_minute: BTreeMap::new(),
                max_concurrent: 32,
            },
            transport: wrap(Arc::new(transport)),
            timeline,
            metrics,
            health: Health::new(&["fingerprint-key", "watches"]),
            leadership: Leadership::always(),
        })
    }

    fn endpoints(&self) -> BTreeMap<Vendor, Endpoint> {
        vendor_simulator::Vendor::ALL
            .into_iter()
            .zip(Vendor::ALL)
            .map(|(simulated, vendor)| {
                let origin = self.simulator.origin(simulated);
                (vendor, Endpoint::parse(vendor, origin).unwrap())
            })
            .collect()
    }
}

/// An operator that runs in this process; killed when this is dropped.
pub(crate) struct Operator {
    /// Requests that are refused are no failure of the test.
    expects_refusals: AtomicBool,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    metrics: Metrics,
}

impl Operator {
    fn start(parameters: Parameters) -> Self {
        let metrics = parameters.metrics.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(controller::run(parameters, async move {
            let _ = stopped.await;
        }));
        Self {
            expects_refusals: AtomicBool::new(false),
            stop: Some(stop),
            task,
            metrics,
        }
    }

    /// This test has the API server refuse requests.
    pub(crate) fn expect_refusals(&self) {
        self.expects_refusals.store(true, Ordering::SeqCst);
    }

    fn metrics(&self) -> Samples {
        Samples(self.metrics.encode().unwrap())
    }

    /// The sum of the samples of a metric, as [`Samples::sum`].
    pub(crate) fn metric(&self, metric: &str) -> f64 {
        self.metrics().sum(metric)
    }
}

impl Running for Operator {
    async fn samples(&self) -> Samples {
        self.metrics()
    }

    async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        (&mut self.task).await.unwrap();
    }

    async fn kill(self) {}
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
        if !std::thread::panicking() && !self.expects_refusals.load(Ordering::SeqCst) {
            let refused = self
                .metrics()
                .sum_where("vendortoken_api_requests_total", |line| {
                    line.contains(r#"code="403""#)
                });
            assert_eq!(refused, 0.0, "the API server has refused requests");
        }
    }
}
