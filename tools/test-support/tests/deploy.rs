//! The manifests of `deploy/` on a real API server: what is installed, what it may do, and that the examples are taken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test fails by panicking.

use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Namespace, Pod, PodSpec};
use kube::api::{Api, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use test_support::{ControlPlane, DEADLINE, Error, read_kustomization, shared, wait_for};
use tokio::sync::OnceCell;

#[path = "deploy/overlays.rs"]
mod overlays;
#[path = "deploy/policies.rs"]
mod policies;

const OPERATOR: &str = "vendor-token-operator";

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The shared control plane with `deploy/` applied once.
async fn installed() -> &'static ControlPlane {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let control_plane = shared().await.unwrap();
    APPLIED
        .get_or_try_init(|| async {
            let folder = project().join("deploy");
            control_plane.apply_kustomization(&folder).await?;
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    control_plane
}

/// The pod of the operator's Deployment.
async fn operators_pod() -> PodSpec {
    let control_plane = installed().await;
    let deployments = Api::<Deployment>::namespaced(control_plane.admin().unwrap(), OPERATOR);
    let deployment = deployments.get(OPERATOR).await.unwrap();
    deployment.spec.unwrap().template.spec.unwrap()
}

/// The resource of VendorTokens.
fn vendor_tokens() -> ApiResource {
    ApiResource {
        group: "vendortoken.io".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "vendortoken.io/v1alpha1".to_owned(),
        kind: "VendorToken".to_owned(),
        plural: "vendortokens".to_owned(),
    }
}

/// Verb, group, resource (with subresource), namespace, name.
type Right<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str);

async fn may(control_plane: &ControlPlane, user: &str, groups: &[&str], right: Right<'_>) -> bool {
    let (verb, group, resource, namespace, name) = right;
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let text = |value: &str| Some(value.to_owned()).filter(|value| !value.is_empty());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: text(user),
            groups: Some(groups.iter().map(|&group| group.to_owned()).collect()),
            resource_attributes: Some(ResourceAttributes {
                verb: text(verb),
                group: text(group),
                resource: text(resource),
                subresource: text(subresource),
                namespace: text(namespace),
                name: text(name),
                ..Default::default()
            }),
            ..Default::default()
        },
        ..Default::default()
    };
    let api = Api::<SubjectAccessReview>::all(control_plane.admin().unwrap());
    api.create(&PostParams::default(), &review)
        .await
        .unwrap()
        .status
        .unwrap()
        .allowed
}

async fn operator_may(control_plane: &ControlPlane, right: Right<'_>) -> bool {
    let user = format!("system:serviceaccount:{OPERATOR}:{OPERATOR}");
    may(
        control_plane,
        &user,
        &["system:serviceaccounts", "system:authenticated"],
        right,
    )
    .await
}

#[tokio::test]
async fn the_operator_has_the_rights_that_it_needs() {
    let control_plane = installed().await;
    // The authorizer learns of new roles by a watch.
    wait_for("the operator's rights", DEADLINE, || async {
        if operator_may(control_plane, ("list", "", "secrets", "", "")).await {
            Ok(())
        } else {
            Err("no")
        }
    })
    .await
    .unwrap();
    for right in [
        ("get", "vendortoken.io", "vendortokens", "team", "a"),
        ("list", "vendortoken.io", "vendortokens", "", ""),
        ("watch", "vendortoken.io", "vendortokens", "", ""),
        ("patch", "vendortoken.io", "vendortokens/status", "team", "a"),
        ("get", "", "secrets", "team", "a"),
        ("watch", "", "secrets", "", ""),
        ("create", "", "secrets", "team", "a"),
        ("patch", "", "secrets", "team", "a"),
        ("create", "events.k8s.io", "events", "team", ""),
        ("patch", "events.k8s.io", "events", "team", "a"),
        (
            "create",
            "",
            "secrets",
            OPERATOR,
            "vendor-token-operator-fingerprint-key",
        ),
        ("create", "coordination.k8s.io", "leases", OPERATOR, ""),
        ("get", "coordination.k8s.io", "leases", OPERATOR, OPERATOR),
        ("update", "coordination.k8s.io", "leases", OPERATOR, OPERATOR),
    ] {
        wait_for(&format!("the right to {right:?}"), DEADLINE, || async {
            if operator_may(control_plane, right).await {
                Ok(())
            } else {
                Err("refused")
            }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn the_operator_has_no_right_that_it_does_not_need() {
    let control_plane = installed().await;
    for right in [
        ("delete", "", "secrets", "team", "a"),
        (
            "delete",
            "",
            "secrets",
            OPERATOR,
            "vendor-token-operator-fingerprint-key",
        ),
        ("deletecollection", "", "secrets", "team", ""),
        ("update", "", "secrets", "team", "a"),
        ("update", "", "secrets", OPERATOR, "another"),
        (
            "update",
            "",
            "secrets",
            OPERATOR,
            "vendor-token-operator-fingerprint-key",
        ),
        ("patch", "coordination.k8s.io", "leases", OPERATOR, OPERATOR),
        ("create", "vendortoken.io", "vendortokens", "team", ""),
        ("update", "vendortoken.io", "vendortokens", "team", "a"),
        ("patch", "vendortoken.io", "vendortokens", "team", "a"),
        ("delete", "vendortoken.io", "vendortokens", "team", "a"),
        ("get", "", "configmaps", "team", "a"),
        ("get", "", "pods", OPERATOR, "a"),
        ("create", "", "pods/exec", OPERATOR, "a"),
        ("create", "", "serviceaccounts/token", OPERATOR, OPERATOR),
        ("delete", "coordination.k8s.io", "leases", OPERATOR, OPERATOR),
        ("update", "coordination.k8s.io", "leases", OPERATOR, "another"),
        ("update", "coordination.k8s.io", "leases", "kube-system", OPERATOR),
        ("impersonate", "", "users", "", "admin"),
        (
            "bind",
            "rbac.authorization.k8s.io",
            "clusterroles",
            "",
            "cluster-admin",
        ),
        (
            "escalate",
            "rbac.authorization.k8s.io",
            "clusterroles",
            "",
            "cluster-admin",
        ),
        (
            "patch",
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            "",
            "vendortokens.vendortoken.io",
        ),
    ] {
        assert!(
            !operator_may(control_plane, right).await,
            "the operator may {right:?}"
        );
    }
}

#[tokio::test]
async fn who_may_view_a_namespace_sees_its_vendor_tokens_and_only_the_editor_changes_them() {
    let control_plane = installed().await;
    let namespace = control_plane.namespace("people").await.unwrap();
    let binding = |user: &str, role: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: {user} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {role} }}
subjects: [{{ apiGroup: rbac.authorization.k8s.io, kind: User, name: {user} }}]
---
"
        )
    };
    let manifest = binding("the-viewer", "view")
        + &binding("the-editor", "edit")
        + &binding("the-owner", "vendortoken-editor");
    control_plane.apply_yaml(&namespace, &manifest).await.unwrap();
    let may = async |user: &str, verb: &str| {
        let review = (verb, "vendortoken.io", "vendortokens", namespace.as_str(), "");
        may(control_plane, user, &["system:authenticated"], review).await
    };
    // Aggregation into `view` is kube-controller-manager's work, and does not run here: the label that asks for it is
    // checked, and the role itself.
    let roles = Api::<k8s_openapi::api::rbac::v1::ClusterRole>::all(control_plane.admin().unwrap());
    let aggregates = |role: &k8s_openapi::api::rbac::v1::ClusterRole| {
        let labels = role.metadata.labels.clone().unwrap_or_default();
        let targets: Vec<String> = labels
            .keys()
            .filter(|key| key.contains("aggregate-to"))
            .cloned()
            .collect();
        targets
    };
    let viewer = roles.get("vendortoken-viewer").await.unwrap();
    assert_eq!(
        aggregates(&viewer),
        ["rbac.authorization.k8s.io/aggregate-to-view"]
    );
    assert_eq!(
        aggregates(&roles.get("vendortoken-editor").await.unwrap()),
        Vec::<String>::new()
    );
    wait_for("the owner's rights", DEADLINE, || async {
        if may("the-owner", "create").await {
            Ok(())
        } else {
            Err("refused")
        }
    })
    .await
    .unwrap();
    assert!(may("the-owner", "delete").await);
    for user in ["the-viewer", "the-editor"] {
        assert!(!may(user, "create").await, "{user} may create VendorTokens");
    }
}

#[tokio::test]
async fn the_operators_pod_is_admitted_under_the_restricted_profile() {
    let control_plane = installed().await;
    let client = control_plane.admin().unwrap();
    let namespace = Api::<Namespace>::all(client.clone()).get(OPERATOR).await.unwrap();
    let labels = namespace.metadata.labels.unwrap();
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");

    let deployment = Api::<Deployment>::namespaced(client.clone(), OPERATOR)
        .get(OPERATOR)
        .await
        .unwrap();
    let template = deployment.spec.unwrap().template;
    let pods = Api::<Pod>::namespaced(client, OPERATOR);
    let dry_run = PostParams {
        dry_run: true,
        ..Default::default()
    };
    let pod = |spec| Pod {
        metadata: ObjectMeta {
            name: Some("probe".to_owned()),
            ..Default::default()
        },
        spec,
        ..Default::default()
    };
    pods.create(&dry_run, &pod(template.spec.clone())).await.unwrap();
    let mut privileged = template.spec.unwrap();
    privileged.containers[0].security_context = None;
    let refused = pods.create(&dry_run, &pod(Some(privileged))).await.unwrap_err();
    assert!(refused.to_string().contains("restricted"), "{refused}");
}

#[tokio::test]
async fn the_operators_pod_looks_a_vendors_host_up_before_search_domains() {
    let pod = operators_pod().await;
    let options = pod.dns_config.and_then(|dns| dns.options).unwrap_or_default();
    let ndots = options
        .iter()
        .find(|option| option.name.as_deref() == Some("ndots"));
    assert_eq!(ndots.and_then(|option| option.value.as_deref()), Some("1"));
}

#[tokio::test]
async fn the_operators_ports_listen_on_both_families_of_addresses() {
    let pod = operators_pod().await;
    let arguments = pod.containers[0].args.clone().unwrap_or_default();
    for (flag, port) in [
        ("--metrics-bind-address", 8080),
        ("--health-probe-bind-address", 8081),
    ] {
        let given = arguments
            .iter()
            .find_map(|argument| argument.strip_prefix(&format!("{flag}=")));
        assert_eq!(given.map(str::to_owned), Some(format!("[::]:{port}")), "{flag}");
    }
}

#[tokio::test]
async fn the_examples_are_accepted_into_any_namespace() {
    let control_plane = installed().await;
    let namespace = control_plane.namespace("examples").await.unwrap();
    let mut vendors = Vec::new();
    for entry in std::fs::read_dir(project().join("deploy/examples")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains("namespace:"),
            "{} names a namespace",
            path.display()
        );
        control_plane.apply_file(&namespace, &path).await.unwrap();
        vendors.extend(
            text.lines()
                .filter_map(|line| line.strip_prefix("  vendor: "))
                .map(str::to_owned),
        );
    }
    vendors.sort_unstable();
    assert_eq!(vendors, ["CheckmarxSCA", "Mapiq", "Picus", "SixClicks", "SixMap"]);
}

#[tokio::test]
async fn the_operator_writes_a_status_and_nothing_else_of_a_vendor_token() {
    let control_plane = installed().await;
    let namespace = control_plane.namespace("status").await.unwrap();
    control_plane
        .apply_file(&namespace, &project().join("deploy/examples/sixmap.yaml"))
        .await
        .unwrap();
    let client = control_plane.client_as(OPERATOR, OPERATOR).await.unwrap();
    let api = Api::<DynamicObject>::namespaced_with(client, &namespace, &vendor_tokens());
    wait_for("the right to read", DEADLINE, || api.get("sixmap"))
        .await
        .unwrap();
    let status = serde_json::json!({
        "apiVersion": "vendortoken.io/v1alpha1",
        "kind": "VendorToken",
        "status": { "observedGeneration": 1 },
    });
    let parameters = PatchParams::apply("vendor-token-operator/status").force();
    let patched = api
        .patch_status("sixmap", &parameters, &Patch::Apply(&status))
        .await
        .unwrap();
    assert_eq!(patched.data["status"]["observedGeneration"], 1);
    let spec = serde_json::json!({ "spec": { "suspend": true } });
    let refused = api
        .patch("sixmap", &PatchParams::default(), &Patch::Merge(&spec))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.code == 403),
        "{refused}"
    );
}

#[test]
fn no_manifest_has_a_wildcard() {
    for (path, text) in read_kustomization(&project().join("deploy")).unwrap() {
        if path.ends_with("vendortokens.yaml") {
            continue; // Its descriptions and rules may contain an asterisk; it gives no rights.
        }
        assert!(!text.contains('*'), "{} has a wildcard", path.display());
    }
}
