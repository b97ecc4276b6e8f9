//! The program with Roles only, as the overlay with the fewest rights gives them.

use std::path::PathBuf;

use serde_json::json;
use test_support::{AuditEntries, Mark, wait_for};
use vendor_simulator::Vendor;

use crate::world::process::get;
use crate::world::{Account, OPERATOR, PATIENCE, World, root};

/// The namespace that the overlay serves.
const SERVED: &str = "appsec";

impl World {
    /// The ServiceAccount of the overlay, in this world's namespace, with its rights there and nowhere else.
    async fn account_with_roles_only(&self) -> PathBuf {
        let folder = root().join("deploy/overlays/namespaces-no-secret-watch");
        let rendered = self.plane.kustomize(&folder).await.unwrap();
        let place = format!("namespace: {}\n", self.namespace);
        let manifests = rendered
            .replace(&format!("namespace: {OPERATOR}\n"), &place)
            .replace(&format!("namespace: {SERVED}\n"), &place);
        self.plane.apply_yaml(&self.namespace, &manifests).await.unwrap();
        let kubeconfig = self
            .plane
            .kubeconfig_for_service_account(&self.namespace, OPERATOR)
            .await
            .unwrap();
        let client = self.plane.client_as(&self.namespace, OPERATOR).await.unwrap();
        let tokens =
            kube::Api::<vendor_token_operator::api::VendorToken>::namespaced(client, &self.namespace);
        wait_for("its rights", PATIENCE, async || {
            tokens.list(&Default::default()).await
        })
        .await
        .unwrap();
        kubeconfig
    }

    /// A VendorToken with the names of `deploy/examples`, which the overlay allows.
    async fn create_mapiq(&self) {
        let account = Account::new(Vendor::Mapiq, "id", "the-secret");
        self.simulator
            .put_credential(account.vendor, account.credential());
        let target = json!({ "target": { "name": "mapiq-token" } });
        self.create_unregistered("mapiq", &account, target).await;
        self.ready("mapiq", "True Published").await;
        let token = self.data("mapiq-token", "token").await.unwrap();
        assert!(self.simulator.validate(Vendor::Mapiq, &token).valid);
    }

    async fn refused_since(&self, mark: Mark) -> AuditEntries {
        let all = self.plane.audit().since(mark).await.unwrap();
        let of_it = all.of_service_account(&self.namespace, OPERATOR);
        assert!(!of_it.is_empty());
        of_it.matching(|entry| entry.code == 403)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_roles_only_no_request_of_the_program_is_refused() {
    let world = World::new("roles").await;
    let kubeconfig = world.account_with_roles_only().await;
    let mark = world.plane.audit().mark().await.unwrap();
    let more = ["--leader-elect", "--secret-watch=false"];
    let operator = world.start_as(&kubeconfig, &world.namespace, &more).await;
    operator.wait_until_ready().await;
    world.create_mapiq().await;
    assert_eq!(operator.count("vendortoken_leader").await, 1);
    operator.signal("TERM");
    assert_eq!(operator.ended().await.0.code(), Some(0), "{}", operator.log());
    assert!(
        operator.log().contains("the Lease is given back"),
        "{}",
        operator.log()
    );
    assert_eq!(*world.refused_since(mark).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_watch_that_rbac_refuses_is_told() {
    let world = World::new("refused").await;
    let kubeconfig = world.account_with_roles_only().await;
    let mark = world.plane.audit().mark().await.unwrap();
    let operator = world.start_as(&kubeconfig, &world.namespace, &[]).await;
    operator.wait_until_ready().await;
    world.create_mapiq().await;

    let failures = "vendortoken_watch_failures_total{watch=\"secrets\"}";
    assert!(operator.count(failures).await >= 1);
    assert_eq!(
        operator
            .count("vendortoken_watch_failures_total{watch=\"vendortokens\"}")
            .await,
        0
    );
    let log = operator.log();
    let warnings: Vec<_> = log
        .lines()
        .filter(|line| line.contains("Secrets cannot be listed and watched"))
        .collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(
        warnings[0].contains("WARN") && warnings[0].contains("--secret-watch=false"),
        "{warnings:?}"
    );
    for probe in ["/livez", "/readyz"] {
        let (status, text) = get(operator.probes, probe).await.unwrap();
        assert_eq!(status, 200, "{text}");
    }
    let refused = world.refused_since(mark).await;
    let other =
        refused.matching(|entry| (entry.verb.as_str(), entry.resource.as_str()) != ("list", "secrets"));
    assert_eq!(*other, []);
    assert!(!refused.is_empty());
}
