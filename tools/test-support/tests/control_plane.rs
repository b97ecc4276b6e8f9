//! The control plane itself: what the operator's tests rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test fails by panicking.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams, WatchParams};
use test_support::{ControlPlane, DEADLINE, Options, shared, shared_with_garbage_collection, wait_for};

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..Default::default()
    }
}

async fn make_config_map(client: &Client, namespace: &str, metadata: ObjectMeta) -> ConfigMap {
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    api.create(
        &PostParams::default(),
        &ConfigMap {
            metadata,
            ..Default::default()
        },
    )
    .await
    .unwrap()
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
        || Command::new("kill")
            .args(["-s", "0", &pid.to_string()])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

#[tokio::test]
async fn a_service_account_has_the_rights_it_was_given_and_no_others() {
    let control_plane = shared().await.unwrap();
    let namespace = control_plane.namespace("rights").await.unwrap();
    let manifest = "
apiVersion: v1
kind: ServiceAccount
metadata: { name: reader }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: reader }
rules:
  - { apiGroups: [''], resources: [configmaps], verbs: [list] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: reader }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader }
subjects:
  - { kind: ServiceAccount, name: reader }
";
    control_plane.apply_yaml(&namespace, manifest).await.unwrap();
    let client = control_plane.client_as(&namespace, "reader").await.unwrap();
    // The authorizer learns of a new binding by a watch.
    let config_maps = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
    let all = ListParams::default();
    wait_for("the right to list ConfigMaps", DEADLINE, || {
        config_maps.list(&all)
    })
    .await
    .unwrap();
    let refused = Api::<Secret>::namespaced(client, &namespace)
        .list(&ListParams::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.code == 403),
        "{refused}"
    );
}

#[tokio::test]
async fn the_audit_log_counts_every_request_exactly_once() {
    let control_plane = shared().await.unwrap();
    let namespace = control_plane.namespace("audit").await.unwrap();
    let client = control_plane.admin().unwrap();
    let audit = control_plane.audit();

    make_config_map(&client, &namespace, named("before")).await;
    let mark = audit.mark().await.unwrap();
    for number in 0..50 {
        make_config_map(&client, &namespace, named(&format!("map-{number}"))).await;
    }
    let api = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
    api.get("map-7").await.unwrap();
    api.get("absent").await.unwrap_err();
    let watch = api.watch(&WatchParams::default(), "0").await.unwrap();
    let entries = audit
        .since(mark)
        .await
        .unwrap()
        .matching(|entry| entry.namespace == namespace);
    drop(watch);

    assert_eq!(
        entries.count(|entry| entry.verb == "create" && entry.code == 201 && entry.is_write()),
        50
    );
    assert_eq!(
        entries.count(|entry| entry.verb == "get" && entry.name == "map-7" && entry.code == 200),
        1
    );
    assert_eq!(entries.count(|entry| entry.verb == "get" && entry.code == 404), 1);
    assert_eq!(
        entries.count(|entry| entry.verb == "watch" && entry.stage == "ResponseStarted"),
        1
    );
    assert_eq!(entries.len(), 53, "{:?}", entries.by_verb_and_resource());
    assert!(
        entries
            .iter()
            .all(|entry| entry.user == "admin" && entry.resource_path() == "configmaps")
    );

    // What has been counted is not counted again, and a second reading of the same part says the same.
    let quiet = audit.mark().await.unwrap();
    assert_eq!(
        audit
            .count_since(quiet, |entry| entry.namespace == namespace)
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        audit
            .since(mark)
            .await
            .unwrap()
            .count(|entry| entry.namespace == namespace),
        53
    );
}

#[tokio::test]
async fn an_object_whose_owner_is_deleted_is_collected() {
    let control_plane = shared_with_garbage_collection().await.unwrap();
    let namespace = control_plane.namespace("garbage").await.unwrap();
    let client = control_plane.admin().unwrap();
    let owner = make_config_map(&client, &namespace, named("owner")).await;
    let reference = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name: "owner".to_owned(),
        uid: owner.metadata.uid.unwrap(),
        controller: Some(true),
        ..Default::default()
    };
    make_config_map(
        &client,
        &namespace,
        ObjectMeta {
            owner_references: Some(vec![reference]),
            ..named("owned")
        },
    )
    .await;
    make_config_map(&client, &namespace, named("free")).await;

    let api = Api::<ConfigMap>::namespaced(client, &namespace);
    api.delete("owner", &DeleteParams::background()).await.unwrap();
    wait_for("the owned ConfigMap collected", DEADLINE, || async {
        match api.get_opt("owned").await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err("it is there".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
    .unwrap();
    api.get("free").await.unwrap();
}

#[tokio::test]
async fn a_custom_resource_is_applied_together_with_its_definition() {
    let control_plane = shared().await.unwrap();
    let namespace = control_plane.namespace("apply").await.unwrap();
    // The object stands before its definition on purpose.
    let manifest = "
apiVersion: test.example.com/v1
kind: Thing
metadata: { name: one }
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: things.test.example.com }
spec:
  group: test.example.com
  scope: Namespaced
  names: { kind: Thing, plural: things }
  versions:
    - name: v1
      served: true
      storage: true
      schema: { openAPIV3Schema: { type: object } }
";
    control_plane.apply_yaml(&namespace, manifest).await.unwrap();
    let path = format!("/apis/test.example.com/v1/namespaces/{namespace}/things/one");
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    let text = control_plane
        .admin()
        .unwrap()
        .request_text(request)
        .await
        .unwrap();
    assert!(text.contains("\"kind\":\"Thing\""), "{text}");
}

#[tokio::test]
async fn kubectl_works_with_the_administrators_kubeconfig() {
    let control_plane = shared().await.unwrap();
    match control_plane
        .kubectl(&["get", "namespace", "default", "-o", "name"])
        .await
    {
        Ok(output) => assert_eq!(output.stdout.trim(), "namespace/default", "{}", output.stderr),
        Err(test_support::Error::KubectlMissing) => {}
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_restarted_api_server_keeps_its_data_and_its_audit_log() {
    let control_plane = ControlPlane::start(Options::default()).await.unwrap();
    let client = control_plane.admin().unwrap();
    let mark = control_plane.audit().mark().await.unwrap();
    make_config_map(&client, "default", named("kept")).await;
    let api = Api::<ConfigMap>::namespaced(client.clone(), "default");
    // An open watch must not hold up the stop.
    let watch = api.watch(&WatchParams::default(), "0").await.unwrap();
    let first = control_plane.pids();

    control_plane.stop_api_server().await;
    assert!(!is_alive(first["kube-apiserver"]));
    assert!(is_alive(first["etcd"]));
    api.get("kept").await.unwrap_err();
    drop(watch);
    control_plane.start_api_server().await.unwrap();
    api.get("kept").await.unwrap();
    control_plane.kill_api_server().await;
    control_plane.start_api_server().await.unwrap();
    api.get("kept").await.unwrap();
    let kept = control_plane
        .audit()
        .since(mark)
        .await
        .unwrap()
        .matching(|entry| entry.name == "kept");
    assert_eq!(
        kept.count(|entry| entry.verb == "get" && entry.code == 200),
        2,
        "the log spans the restarts"
    );
}

#[tokio::test]
async fn a_frozen_api_server_answers_again_after_the_thaw() {
    let control_plane = ControlPlane::start(Options::default()).await.unwrap();
    let client = control_plane.admin().unwrap();
    make_config_map(&client, "default", named("kept")).await;
    let api = Api::<ConfigMap>::namespaced(client, "default");

    control_plane.freeze_api_server().unwrap();
    let frozen = tokio::time::timeout(Duration::from_millis(500), api.get("kept")).await;
    assert!(frozen.is_err(), "a frozen API server answered");
    control_plane.thaw_api_server().unwrap();
    wait_for("an answer after the thaw", DEADLINE, || api.get("kept"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_stopped_control_plane_leaves_no_process_and_no_folder() {
    let control_plane = ControlPlane::start(Options::default()).await.unwrap();
    let pids = control_plane.pids();
    let folder = control_plane.folder().to_owned();
    assert_eq!(pids.len(), 2);
    assert!(pids.values().all(|&pid| is_alive(pid)));
    control_plane.stop().await;
    assert!(!pids.values().any(|&pid| is_alive(pid)));
    assert!(!folder.exists());
}

#[tokio::test]
#[ignore = "the process that the next test starts and kills"]
async fn helper_that_starts_a_control_plane_and_waits_to_be_killed() {
    let Some(path) = std::env::var_os("TEST_SUPPORT_REPORT_PIDS_TO") else {
        return;
    };
    let control_plane = shared().await.unwrap();
    let mut text: Vec<String> = control_plane.pids().values().map(ToString::to_string).collect();
    text.push(control_plane.folder().display().to_string());
    let new = Path::new(&path).with_extension("new");
    std::fs::write(&new, text.join("\n")).unwrap();
    std::fs::rename(new, path).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn nothing_is_left_when_the_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("pids");
    let output = folder.path().join("output");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "helper_that_starts_a_control_plane_and_waits_to_be_killed",
        ])
        .env("TEST_SUPPORT_REPORT_PIDS_TO", &report)
        .stdout(std::fs::File::create(&output).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let text = loop {
        if let Ok(text) = std::fs::read_to_string(&report) {
            break text;
        }
        let running = started.elapsed() < 2 * DEADLINE && child.try_wait().unwrap().is_none();
        assert!(
            running,
            "no control plane: {}",
            std::fs::read_to_string(&output).unwrap()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let mut lines: Vec<&str> = text.lines().collect();
    let data = lines.pop().unwrap();
    let pids: Vec<u32> = lines.iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|&pid| is_alive(pid)));

    child.kill().unwrap();
    child.wait().unwrap();
    wait_for(
        "the end of all programs and of their folder",
        DEADLINE,
        || async {
            let alive: Vec<_> = pids.iter().filter(|&&pid| is_alive(pid)).collect();
            if alive.is_empty() && !Path::new(data).exists() {
                Ok(())
            } else {
                Err(format!("{alive:?} and {data}"))
            }
        },
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn a_service_account_that_does_not_exist_gets_no_kubeconfig() {
    let control_plane = shared().await.unwrap();
    let error = control_plane
        .kubeconfig_for_service_account("default", "nobody")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("default/nobody"), "{error}");
    let api = Api::<ServiceAccount>::namespaced(control_plane.admin().unwrap(), "default");
    assert!(api.get_opt("nobody").await.unwrap().is_none());
}
