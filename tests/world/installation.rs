//! How the operator is installed: as a process everywhere, as `deploy/` does; in this process with Roles in the namespaces
//! that it serves, and nothing of the whole cluster. `WITHOUT_SECRET_WATCH=1` leaves out the right to list and watch
//! Secrets there too.

use std::env;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use test_support::{ControlPlane, wait_for};
use tokio::sync::OnceCell;

use crate::world::{OPERATOR, PATIENCE, root};

/// What takes up to 5 minutes without a watch takes this long here.
pub(crate) const POLL: Duration = Duration::from_secs(2);

/// Secrets are watched in this run of the tests.
pub(crate) fn has_secret_watch() -> bool {
    env::var_os("WITHOUT_SECRET_WATCH").is_none()
}

/// These requests, as `1 get secrets`. Without a watch every look reads Secrets, so that their reads are not counted.
pub(crate) fn asked<const N: usize>(counts: [&'static str; N]) -> Vec<&'static str> {
    let mut counts = Vec::from(counts);
    counts.retain(|count| has_secret_watch() || !count.ends_with(" get secrets"));
    counts
}

/// The control plane that all tests of this process share, with the CRD and all of `deploy/`.
pub(crate) async fn everywhere() -> &'static ControlPlane {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let plane = test_support::shared().await.unwrap();
    APPLIED.get_or_init(|| install_everywhere(plane)).await;
    plane
}

/// A control plane for one test alone, which may stop its API server, with the CRD and all of `deploy/`.
pub(crate) async fn plane_of_its_own() -> &'static ControlPlane {
    // It ends with the process.
    let plane: &'static ControlPlane =
        Box::leak(Box::new(ControlPlane::start(Default::default()).await.unwrap()));
    install_everywhere(plane).await;
    plane
}

async fn install_everywhere(plane: &ControlPlane) {
    plane.apply_kustomization(&root().join("deploy")).await.unwrap();
}

/// The control plane that all tests of this process share, with the CRD and what is in the operator's own namespace.
pub(crate) async fn in_namespaces() -> &'static ControlPlane {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let plane = test_support::shared().await.unwrap();
    APPLIED
        .get_or_init(|| async {
            // As an administrator does.
            plane.apply_kustomization(&root().join("crds")).await.unwrap();
            install_for_namespaces(plane).await;
        })
        .await;
    plane
}

/// Installs what is in the operator's own namespace.
pub(crate) async fn install_for_namespaces(plane: &ControlPlane) {
    let namespace = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {OPERATOR}}}}}");
    plane.apply_yaml("default", &namespace).await.unwrap();
    let operator = root().join("deploy/operator");
    plane.apply_kustomization(&operator).await.unwrap();
}

/// Makes a namespace that the operator may serve.
pub(crate) async fn served_namespace(plane: &ControlPlane, prefix: &str) -> String {
    static ROLES: OnceCell<String> = OnceCell::const_new();
    let roles = ROLES.get_or_init(|| async { rendered(plane).await }).await;
    let namespace = plane.namespace(prefix).await.unwrap();
    plane.apply_yaml(&namespace, roles).await.unwrap();
    may_read(plane, &namespace, "any").await;
    namespace
}

async fn rendered(plane: &ControlPlane) -> String {
    let folder = if has_secret_watch() {
        "namespaces"
    } else {
        "namespaces-no-secret-watch"
    };
    let folder = root().join("tests/world/installations").join(folder);
    plane.kustomize(&folder).await.unwrap()
}

/// Waits until the operator may get this Secret: the authorizer learns of new roles by a watch.
pub(crate) async fn may_read(plane: &ControlPlane, namespace: &str, secret: &str) {
    let reviews: Api<SubjectAccessReview> = Api::all(plane.admin().unwrap());
    let review: SubjectAccessReview = serde_json::from_value(json!({ "spec": {
        "user": format!("system:serviceaccount:{OPERATOR}:{OPERATOR}"),
        "resourceAttributes": { "verb": "get", "resource": "secrets", "namespace": namespace, "name": secret },
    }}))
    .unwrap();
    wait_for("the operator's rights", PATIENCE, || async {
        let answer = reviews.create(&PostParams::default(), &review).await;
        match answer.map_err(|error| error.to_string())?.status {
            Some(status) if status.allowed => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}
