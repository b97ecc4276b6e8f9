//! The other ways to install, as kustomize renders them: with fewer rights than the default.

use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::api::DynamicObject;
use test_support::{ControlPlane, DEADLINE, shared, wait_for};

use crate::{OPERATOR, Right, may, project};

const OVERLAYS: [&str; 3] = ["namespaces", "no-secret-watch", "namespaces-no-secret-watch"];

/// What `kubectl apply -k` of a folder of `deploy/` would apply.
async fn rendered(control_plane: &ControlPlane, folder: &str) -> String {
    let path = project().join("deploy").join(folder);
    control_plane.kustomize(&path).await.unwrap()
}

async fn objects(control_plane: &ControlPlane, folder: &str) -> Vec<DynamicObject> {
    serde_saphyr::from_multiple(&rendered(control_plane, folder).await).unwrap()
}

fn kind(object: &DynamicObject) -> &str {
    &object.types.as_ref().unwrap().kind
}

fn name(object: &DynamicObject) -> &str {
    object.metadata.name.as_deref().unwrap()
}

fn rules(object: &DynamicObject) -> Vec<PolicyRule> {
    serde_json::from_value(object.data["rules"].clone()).unwrap()
}

/// The roles by which the operator works on VendorTokens: not those of its own namespace, nor those for people.
fn served(objects: &[DynamicObject]) -> Vec<&DynamicObject> {
    let is_served = |object: &&DynamicObject| {
        let whole = kind(object) == "ClusterRole" && name(object) == OPERATOR;
        whole || (kind(object) == "Role" && name(object) == format!("{OPERATOR}-served"))
    };
    objects.iter().filter(is_served).collect()
}

fn on_secrets(role: &DynamicObject) -> PolicyRule {
    let rules = rules(role).into_iter();
    let mut rules = rules.filter(|rule| rule.resources.as_deref() == Some(&["secrets".to_owned()]));
    let rule = rules.next().unwrap();
    assert_eq!(rules.next(), None);
    rule
}

#[tokio::test]
async fn a_served_namespace_gives_the_rights_that_the_cluster_role_gives() {
    let control_plane = shared().await.unwrap();
    let default = objects(control_plane, ".").await;
    let [whole] = *served(&default) else {
        panic!("{default:?}")
    };
    let overlay = objects(control_plane, "overlays/namespaces").await;
    let roles = served(&overlay);
    let namespaces: Vec<_> = roles
        .iter()
        .map(|role| role.metadata.namespace.as_deref())
        .collect();
    assert_eq!(namespaces, [Some("appsec"), Some("payments")]);
    for role in roles {
        assert_eq!(rules(role), rules(whole));
    }
}

#[tokio::test]
async fn with_roles_only_nothing_is_of_the_whole_cluster() {
    let control_plane = shared().await.unwrap();
    for overlay in ["namespaces", "namespaces-no-secret-watch"] {
        for object in objects(control_plane, &format!("overlays/{overlay}")).await {
            assert!(
                ["ServiceAccount", "Role", "RoleBinding", "Deployment"].contains(&kind(&object)),
                "{overlay}: {} {}",
                kind(&object),
                name(&object)
            );
            assert!(
                object.metadata.namespace.is_some(),
                "{overlay}: {}",
                name(&object)
            );
        }
    }
}

#[tokio::test]
async fn without_the_secret_watch_named_secrets_are_read_and_applied_and_no_more() {
    let control_plane = shared().await.unwrap();
    for overlay in ["no-secret-watch", "namespaces-no-secret-watch"] {
        let objects = objects(control_plane, &format!("overlays/{overlay}")).await;
        let roles = served(&objects);
        assert_eq!(roles.len(), 1, "{overlay}");
        let rule = on_secrets(roles[0]);
        assert_eq!(rule.verbs, ["get", "create", "patch"], "{overlay}");
        let names = rule.resource_names.unwrap();
        assert!(names.contains(&"mapiq-token".to_owned()), "{overlay}: {names:?}");
        let deployment = objects
            .iter()
            .find(|object| kind(object) == "Deployment")
            .unwrap();
        let container = &deployment.data["spec"]["template"]["spec"]["containers"][0];
        let arguments: Vec<String> = serde_json::from_value(container["args"].clone()).unwrap();
        assert!(
            arguments.contains(&"--secret-watch=false".to_owned()),
            "{overlay}"
        );
    }
}

#[tokio::test]
async fn no_overlay_has_a_wildcard() {
    let control_plane = shared().await.unwrap();
    for overlay in OVERLAYS {
        for object in objects(control_plane, &format!("overlays/{overlay}")).await {
            let text = serde_json::to_string(&object.data).unwrap();
            // The CRD's descriptions and rules may contain an asterisk; it gives no rights.
            assert!(
                kind(&object) == "CustomResourceDefinition" || !text.contains('*'),
                "{overlay}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn the_overlay_with_the_fewest_rights_gives_what_is_needed_and_no_more() {
    let control_plane = shared().await.unwrap();
    // Beside what other tests have installed: another operator's namespace, and another served one.
    let own = control_plane.namespace("own").await.unwrap();
    let team = control_plane.namespace("team").await.unwrap();
    let manifests = rendered(control_plane, "overlays/namespaces-no-secret-watch")
        .await
        .replace(
            &format!("namespace: {OPERATOR}\n"),
            &format!("namespace: {own}\n"),
        )
        .replace("namespace: appsec\n", &format!("namespace: {team}\n"));
    control_plane.apply_yaml(&own, &manifests).await.unwrap();
    let user = format!("system:serviceaccount:{own}:{OPERATOR}");
    let has = async |right: Right<'_>| may(control_plane, &user, &["system:authenticated"], right).await;
    let key = "vendor-token-operator-fingerprint-key";
    for right in [
        ("list", "vendortoken.io", "vendortokens", &*team, ""),
        ("watch", "vendortoken.io", "vendortokens", &team, ""),
        ("patch", "vendortoken.io", "vendortokens/status", &team, "mapiq"),
        ("get", "", "secrets", &team, "mapiq-credentials"),
        ("create", "", "secrets", &team, "mapiq-token"),
        ("patch", "", "secrets", &team, "mapiq-token"),
        ("create", "events.k8s.io", "events", &team, ""),
        ("patch", "events.k8s.io", "events", &team, "mapiq.1"),
        ("get", "", "secrets", &own, key),
        ("create", "", "secrets", &own, key),
        ("create", "coordination.k8s.io", "leases", &own, ""),
        ("update", "coordination.k8s.io", "leases", &own, OPERATOR),
    ] {
        wait_for(&format!("the right to {right:?}"), DEADLINE, || async {
            if has(right).await { Ok(()) } else { Err("refused") }
        })
        .await
        .unwrap();
    }
    for right in [
        ("list", "", "secrets", &*team, ""),
        ("watch", "", "secrets", &team, ""),
        ("get", "", "secrets", &team, "another"),
        ("create", "", "secrets", &team, ""),
        ("delete", "", "secrets", &team, "mapiq-token"),
        ("update", "", "secrets", &team, "mapiq-token"),
        ("list", "vendortoken.io", "vendortokens", "", ""),
        ("list", "vendortoken.io", "vendortokens", &own, ""),
        ("get", "", "secrets", "default", "mapiq-credentials"),
        ("get", "", "secrets", &own, "mapiq-credentials"),
        ("list", "", "namespaces", "", ""),
    ] {
        assert!(!has(right).await, "the operator may {right:?}");
    }
}
