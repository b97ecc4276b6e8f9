//! The demo as a program: its output, its end, the state that it leaves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use test_support::{ControlPlane, Options, apply_kustomization, wait_for};
use tokio::process::{Child, Command};

const DEFINITION: &str = "vendortokens.vendortoken.io";
const NAMESPACE: &str = "vendortoken-demo";
const PATIENCE: Duration = Duration::from_secs(120);

fn demo(kubeconfig: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_demo"))
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Exit code, standard output, standard error.
async fn end(child: Child) -> (Option<i32>, String, String) {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .expect("the demo ends")
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// A control plane of its own, with the controller that ends deleted namespaces.
async fn plane() -> ControlPlane {
    ControlPlane::start(Options {
        controller_manager: true,
        ..Options::default()
    })
    .await
    .unwrap()
}

/// The presence of the demo's namespace and of the definition.
async fn left(plane: &ControlPlane) -> (bool, bool) {
    let client = plane.admin().unwrap();
    let namespace = Api::<Namespace>::all(client.clone())
        .get_opt(NAMESPACE)
        .await
        .unwrap();
    let definition = Api::<CustomResourceDefinition>::all(client)
        .get_opt(DEFINITION)
        .await
        .unwrap();
    (namespace.is_some(), definition.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_given_cluster_the_demo_shows_all_and_leaves_nothing() {
    let plane = plane().await;
    let (code, out, err) = end(demo(&plane.admin_kubeconfig())).await;
    assert_eq!(code, Some(0), "{out}\n{err}");
    for expected in [
        "RateLimited",
        "CredentialsRejected",
        "5 of 5 VendorTokens are Ready",
        "sixmap once",
        "CheckmarxSCA 3 (answered 400: 1)",
        "Mapiq 2 (answered 429: 1)",
        "Picus 1\n",
        "none of them against a vendor's rules",
    ] {
        assert!(out.contains(expected), "'{expected}' is missing in:\n{out}");
    }
    assert!(!out.contains('\x1b'), "control codes without a terminal:\n{out}");
    assert_eq!(left(&plane).await, (false, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_demo_leaves_nothing_either() {
    let plane = plane().await;
    let child = demo(&plane.admin_kubeconfig());
    wait_for("the demo's namespace", PATIENCE, || async {
        match left(&plane).await {
            (true, true) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    let pid = child.id().unwrap().to_string();
    let killed = Command::new("kill")
        .args(["-s", "INT", &pid])
        .status()
        .await
        .unwrap();
    assert!(killed.success());
    let (code, out, err) = end(child).await;
    assert_eq!(code, Some(130), "{out}\n{err}");
    assert_eq!(left(&plane).await, (false, false), "{out}\n{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_an_operator_the_demo_refuses_and_touches_nothing() {
    let plane = plane().await;
    let deploy = test_support::workspace().join("deploy");
    apply_kustomization(plane.admin().unwrap(), &deploy)
        .await
        .unwrap();
    let (code, out, err) = end(demo(&plane.admin_kubeconfig())).await;
    assert_eq!(code, Some(1), "{out}\n{err}");
    assert!(
        err.contains("Deployment vendor-token-operator/vendor-token-operator"),
        "{err}"
    );
    assert_eq!(left(&plane).await, (false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_refuses_a_namespace_that_is_not_its_own() {
    let plane = plane().await;
    let definition = test_support::workspace().join("crds/vendortokens.yaml");
    plane.apply_file("default", &definition).await.unwrap();
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": NAMESPACE } })).unwrap();
    Api::all(plane.admin().unwrap())
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    let (code, out, err) = end(demo(&plane.admin_kubeconfig())).await;
    assert_eq!(code, Some(1), "{out}\n{err}");
    assert!(err.contains("not from a demo"), "{err}");
    assert_eq!(left(&plane).await, (true, true));
}

#[tokio::test]
async fn a_kubeconfig_that_is_not_there_is_named() {
    let (code, _, err) = end(demo(Path::new("/nonexistent/kubeconfig"))).await;
    assert_eq!(code, Some(1));
    assert!(
        err.contains("/nonexistent/kubeconfig") && err.contains("DEMO_KUBECONFIG"),
        "{err}"
    );
}
