//! `/readyz` and `/livez` of the running program.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use test_support::wait_for;
use tokio::net::TcpStream;

use crate::world::process::get;
use crate::world::{OPERATOR, PATIENCE, World};

/// The scheduler counts as stuck after this long.
const TICK_LIMIT: Duration = Duration::from_secs(60);

impl World {
    /// A ServiceAccount of this world's namespace, without any rights.
    async fn service_account(&self, name: &str) -> std::path::PathBuf {
        let account: ServiceAccount =
            serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        Api::namespaced(self.admin.clone(), &self.namespace)
            .create(&PostParams::default(), &account)
            .await
            .unwrap();
        self.plane
            .kubeconfig_for_service_account(&self.namespace, name)
            .await
            .unwrap()
    }

    async fn bind(&self, service_account: &str, kind: &str, role: &str) {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": { "name": format!("{service_account}-{kind}").to_lowercase() },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": service_account, "namespace": self.namespace }],
        });
        let name = binding["metadata"]["name"].as_str().unwrap().to_owned();
        Api::<RoleBinding>::namespaced(self.admin.clone(), &self.namespace)
            .patch(&name, &PatchParams::apply("test"), &Patch::Apply(binding))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_once_the_key_and_the_lists_are_there() {
    let world = World::new("ready").await;
    let kubeconfig = world.service_account("newcomer").await;
    let operator = world.start_as(&kubeconfig, &world.namespace, &[]).await;
    let report = |wanted: &'static [&'static str]| {
        let probes = operator.probes;
        async move {
            wait_for(&format!("/readyz to say {wanted:?}"), PATIENCE, || async {
                let (status, text) = get(probes, "/readyz").await.map_err(|error| error.to_string())?;
                if wanted.iter().all(|words| text.contains(words)) {
                    Ok((status, text))
                } else {
                    Err(text)
                }
            })
            .await
            .unwrap()
        }
    };

    let (status, text) = report(&["[-]fingerprint-key failed", "[-]watches failed"]).await;
    assert_eq!(status, 503, "{text}");
    let (_, text) = report(&["[-]fingerprint-key failed: failed to read Secret"]).await;
    assert!(text.contains("forbidden"), "the cause is not told: {text}");

    let role: Role = serde_json::from_value(json!({
        "metadata": { "name": "key" },
        "rules": [{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create", "patch"] }],
    }))
    .unwrap();
    Api::namespaced(world.admin.clone(), &world.namespace)
        .create(&PostParams::default(), &role)
        .await
        .unwrap();
    world.bind("newcomer", "Role", "key").await;
    let (status, text) = report(&["[+]fingerprint-key ok", "[-]watches failed"]).await;
    assert_eq!(status, 503, "{text}");

    world.bind("newcomer", "ClusterRole", OPERATOR).await;
    let (status, text) = report(&["readyz check passed"]).await;
    assert_eq!(status, 200, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_is_answered_within_a_second_beside_1200_silent_connections() {
    let world = World::new("flooded").await;
    let operator = world.program().await;
    let mut silent = Vec::new();
    for _ in 0..1200 {
        silent.push(TcpStream::connect(operator.probes).await.unwrap());
    }
    for path in ["/livez", "/readyz"] {
        let asked = Instant::now();
        let (status, text) = get(operator.probes, path).await.unwrap();
        println!("{path} beside 1200 silent connections: {:?}", asked.elapsed());
        assert_eq!(status, 200, "{text}");
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stays_alive_for_long_with_nothing_that_it_can_do() {
    let world = World::new("idle").await;
    let idle = world.program().await;
    let kubeconfig = world.service_account("nobody").await;
    let powerless = world.start_as(&kubeconfig, &world.namespace, &[]).await;
    // The probes of a kubelet, for longer than the scheduler may be silent.
    let started = Instant::now();
    while started.elapsed() < TICK_LIMIT + Duration::from_secs(8) {
        for (operator, what) in [(&idle, "idle"), (&powerless, "without rights")] {
            let (status, text) = get(operator.probes, "/livez").await.unwrap();
            assert_eq!(status, 200, "{what}, after {:?}: {text}", started.elapsed());
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(get(idle.probes, "/readyz").await.unwrap().0, 200);
    assert_eq!(get(powerless.probes, "/readyz").await.unwrap().0, 503);
}
