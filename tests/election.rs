//! Leader election on a real API server: two contenders, a frozen server, a stolen Lease, clock steps.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::client::ClientBuilder;
use kube::{Api, Client, Config};
use serde_json::json;
use test_support::{ApiProxy, Breakage, Calls, ControlPlane, Options, wait_for};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vendor_token_operator::clock::{Clock, SystemClock, Timeline, TokioClock};
use vendor_token_operator::election::{
    ElectionOptions, Elector, LEASE_NAME, Leadership, NotLeading, writes_need_leadership,
};

const PATIENCE: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(2);

struct Contender {
    leadership: Leadership,
    resign: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Contender {
    fn start(client: Client, namespace: &str, identity: &str) -> Self {
        Self::with_clock(client, namespace, identity, Arc::new(SystemClock))
    }

    fn with_clock(client: Client, namespace: &str, identity: &str, clock: Arc<dyn Clock>) -> Self {
        let options = ElectionOptions {
            lease_duration: LEASE,
            renew_deadline: DEADLINE,
            retry_period: Duration::from_millis(300),
            call_timeout: Duration::from_secs(1),
            ..ElectionOptions::new(identity)
        };
        let timeline = Arc::new(Timeline::new(clock));
        let (elector, leadership) = Elector::new(Api::namespaced(client, namespace), options, timeline);
        let (resign, resigned) = oneshot::channel::<()>();
        let task = tokio::spawn(elector.run(async move {
            let _ = resigned.await;
        }));
        Self {
            leadership,
            resign: Some(resign),
            task,
        }
    }

    async fn leads(&self, what: &str) {
        wait_for(what, PATIENCE, || async {
            if self.leadership.holds() {
                Ok(())
            } else {
                Err("not leading")
            }
        })
        .await
        .unwrap();
    }

    async fn stands_by(&self, what: &str) {
        wait_for(what, PATIENCE, || async {
            if self.leadership.holds() {
                Err("leading")
            } else {
                Ok(())
            }
        })
        .await
        .unwrap();
    }

    async fn resign(mut self) {
        let _ = self.resign.take().unwrap().send(());
        (&mut self.task).await.unwrap();
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn lease(client: &Client, namespace: &str) -> Lease {
    Api::namespaced(client.clone(), namespace)
        .get(LEASE_NAME)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_of_two_follows_at_once_when_the_leader_resigns() {
    let plane = test_support::shared().await.unwrap();
    let (client, namespace) = (plane.admin().unwrap(), plane.namespace("resign").await.unwrap());
    let first = Contender::start(client.clone(), &namespace, "first");
    first.leads("the first to lead").await;
    let second = Contender::start(client.clone(), &namespace, "second");
    tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
    assert!(
        first.leadership.holds() && !second.leadership.holds(),
        "the first renews, so the second stands by"
    );

    let resigned = Instant::now();
    first.resign().await;
    second.leads("the second to lead").await;
    assert!(
        resigned.elapsed() < LEASE,
        "given back, not waited for: {:?}",
        resigned.elapsed()
    );
    let spec = lease(&client, &namespace).await.spec.unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some("second"));
    assert_eq!(spec.lease_transitions, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_is_followed_once_its_lease_has_run_out() {
    let plane = test_support::shared().await.unwrap();
    let (client, namespace) = (plane.admin().unwrap(), plane.namespace("die").await.unwrap());
    let first = Contender::start(client.clone(), &namespace, "first");
    first.leads("the first to lead").await;
    let second = Contender::start(client.clone(), &namespace, "second");
    first.task.abort();
    let killed = Instant::now();
    second.leads("the second to lead").await;
    assert!(killed.elapsed() > DEADLINE, "after {:?}", killed.elapsed());
    assert!(
        !first.leadership.holds(),
        "the first may not act when the second leads"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_stands_down_while_the_api_server_is_frozen() {
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    let client = plane.admin().unwrap();
    let leader = Contender::start(client.clone(), "default", "leader");
    leader.leads("the leader to lead").await;
    plane.freeze_api_server().unwrap();
    let frozen = Instant::now();
    leader.stands_by("the leader to stand down").await;
    assert!(
        frozen.elapsed() < DEADLINE + Duration::from_secs(1),
        "after {:?}",
        frozen.elapsed()
    );
    assert!(!leader.task.is_finished());
    plane.thaw_api_server().unwrap();
    leader.leads("the leader to lead again").await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_taken_by_another_ends_the_leadership() {
    let plane = test_support::shared().await.unwrap();
    let (client, namespace) = (plane.admin().unwrap(), plane.namespace("stolen").await.unwrap());
    let leader = Contender::start(client.clone(), &namespace, "leader");
    leader.leads("the leader to lead").await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
    let taken = json!({ "spec": { "holderIdentity": "thief", "leaseDurationSeconds": 3600 } });
    leases
        .patch(LEASE_NAME, &PatchParams::default(), &Patch::Merge(taken))
        .await
        .unwrap();
    leader.stands_by("the leader to notice").await;
    leader.resign().await;
    let spec = lease(&client, &namespace).await.spec.unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some("thief"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_leads_on_through_an_api_server_that_takes_six_seconds_for_each_answer() {
    let plane = test_support::shared().await.unwrap();
    let namespace = plane.namespace("slow").await.unwrap();
    let proxy = ApiProxy::start(plane).await.unwrap();
    // The proxy passes tokens on, and no certificates.
    let account = json!({ "metadata": { "name": "contender" } });
    Api::<ServiceAccount>::namespaced(plane.admin().unwrap(), &namespace)
        .create(&PostParams::default(), &serde_json::from_value(account).unwrap())
        .await
        .unwrap();
    plane
        .apply_yaml(&namespace, &rights_to_leases(&namespace))
        .await
        .unwrap();
    let path = plane
        .kubeconfig_through(&proxy, &namespace, "contender")
        .await
        .unwrap();
    let kubeconfig = kube::config::Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .unwrap();
    let client = Client::try_from(config).unwrap();
    proxy.break_calls(Calls::all(), Breakage::Slow(Duration::from_secs(6)));

    let timeline = Arc::new(Timeline::new(Arc::new(SystemClock)));
    let leases = Api::namespaced(client, &namespace);
    let (elector, leadership) = Elector::new(leases, ElectionOptions::new("slow"), timeline);
    let electing = tokio::spawn(elector.run(std::future::pending()));
    wait_for("the contender to lead", PATIENCE, || async {
        if leadership.holds() {
            Ok(())
        } else {
            Err("not leading")
        }
    })
    .await
    .unwrap();
    let led = Instant::now();
    while led.elapsed() < Duration::from_secs(35) {
        assert!(leadership.holds(), "lost after {:?}", led.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    electing.abort();
}

/// The rights of `contender` to the Lease.
fn rights_to_leases(namespace: &str) -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{ name: contender }}
rules: [{{ apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update] }}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: contender }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: Role, name: contender }}
subjects: [{{ kind: ServiceAccount, name: contender, namespace: {namespace} }}]
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_slept_needs_a_renewal() {
    let plane = test_support::shared().await.unwrap();
    let (client, namespace) = (plane.admin().unwrap(), plane.namespace("clock").await.unwrap());
    let clock = Arc::new(TokioClock::new(Timestamp::now()));
    let leader = Contender::with_clock(client, &namespace, "leader", clock.clone());
    leader.leads("the leader to lead").await;
    clock.step(SignedDuration::from_hours(-1));
    assert!(leader.leadership.holds(), "a step back gives nobody else a right");
    clock.step(SignedDuration::from_hours(25));
    assert!(leader.leadership.holds(), "nor does a step ahead");
    clock.sleep(SignedDuration::from_hours(24));
    assert!(
        !leader.leadership.holds(),
        "a machine that slept for a day may not act on its old right"
    );
    leader.leads("the leader to have renewed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_lead_can_read_and_not_write() {
    let plane = test_support::shared().await.unwrap();
    let namespace = plane.namespace("fence").await.unwrap();
    let holder = Contender::start(plane.admin().unwrap(), &namespace, "holder");
    holder.leads("the holder to lead").await;
    let standby = Contender::start(plane.admin().unwrap(), &namespace, "standby");

    let kubeconfig = kube::config::Kubeconfig::read_from(plane.admin_kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .unwrap();
    let client = ClientBuilder::try_from(config)
        .unwrap()
        .with_layer(&writes_need_leadership(standby.leadership.clone()))
        .build();
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    maps.list(&Default::default()).await.unwrap();
    let map: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "m" } })).unwrap();
    let refused = maps.create(&PostParams::default(), &map).await.unwrap_err();
    let kube::Error::Service(source) = &refused else {
        panic!("{refused:?}")
    };
    assert!(source.downcast_ref::<NotLeading>().is_some(), "{refused:?}");
    holder.resign().await;
    standby.leads("the standby to lead").await;
    maps.create(&PostParams::default(), &map).await.unwrap();
}
