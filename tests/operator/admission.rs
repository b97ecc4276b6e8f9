//! What stands between the operator and its target: webhooks that do not answer, policies that change what is written,
//! and other owners.

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use vendor_simulator::Vendor;

use crate::world::vendors;
use crate::world::{Running as _, World};

const VENDOR: Vendor = Vendor::Mapiq;

impl World {
    async fn apply_for_cluster(&self, yaml: &str) {
        self.plane.apply_yaml("", yaml).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_does_not_answer_is_named() {
    let world = World::new("webhook").await;
    let namespace = &world.namespace;
    world
        .apply_for_cluster(&format!(
            "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {{ name: {namespace} }}
webhooks:
- name: nobody.example.com
  clientConfig: {{ url: 'https://127.0.0.1:1/' }}
  failurePolicy: Fail
  sideEffects: None
  timeoutSeconds: 1
  admissionReviewVersions: [v1]
  namespaceSelector: {{ matchLabels: {{ kubernetes.io/metadata.name: {namespace} }} }}
  matchConditions: [{{ name: targets, expression: \"request.name == 'mapiq'\" }}]
  rules: [{{ apiGroups: [''], apiVersions: [v1], resources: [secrets], operations: [CREATE, UPDATE] }}]
"
        ))
        .await;
    let _operator = world.operator().await;
    world.create(VENDOR, "mapiq").await;
    world.ready("mapiq", "False ApiDenied +Stalled").await;
    let message = world.message("mapiq").await;
    assert!(
        message.contains("nobody.example.com") && message.contains("mend that webhook"),
        "{message}"
    );
    let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(world.admin.clone());
    webhooks.delete(namespace, &Default::default()).await.unwrap();
    world.ready("mapiq", "True Published").await;
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_changes_a_label_of_the_target_starts_no_endless_writing() {
    let world = World::new("mutated").await;
    let namespace = &world.namespace;
    world
        .apply_for_cluster(&format!(
            "
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {{ name: {namespace} }}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    namespaceSelector: {{ matchLabels: {{ kubernetes.io/metadata.name: {namespace} }} }}
    resourceRules: [{{ apiGroups: [''], apiVersions: [v1], resources: [secrets], operations: [CREATE, UPDATE] }}]
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: 'Object{{ metadata: Object.metadata{{ labels: {{ \"team\": \"policy\" }} }} }}'
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {{ name: {namespace} }}
spec: {{ policyName: {namespace} }}
"
        ))
        .await;
    // The API server learns of policies by a watch of its own.
    world
        .until("the policy to be in force", async || {
            let probe: Secret =
                serde_json::from_value(json!({ "metadata": { "generateName": "probe-" } })).unwrap();
            let made = world
                .secrets()
                .create(&PostParams::default(), &probe)
                .await
                .unwrap();
            made.metadata.labels.map(|_| ()).ok_or("no label".to_owned())
        })
        .await;
    let operator = world.operator().await;
    world.register(VENDOR, "mapiq").await;
    let mut spec = vendors::spec(VENDOR, "mapiq");
    spec["target"] = json!({ "labels": { "team": "appsec" } });
    let mark = world.mark().await;
    world.apply("mapiq", spec).await;
    world.ready("mapiq", "True Published").await;
    world.settle("mapiq", &operator).await;
    let labels = world.secret("mapiq").await.metadata.labels.unwrap();
    assert_eq!(labels["team"], "policy");
    let requests = world.acts_since(mark).await;
    let writes = requests.count(|entry| entry.is_write() && entry.resource == "secrets");
    assert_eq!((writes, world.calls(VENDOR)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_somebody_else_insists_on_starts_no_endless_writing() {
    let world = World::new("insisted-owner").await;
    let operator = world.operator().await;
    world.published(VENDOR, "mapiq").await;
    let owner = world.secret("mapiq").await.metadata.owner_references.unwrap();
    world
        .apply_secret("mapiq", json!({ "metadata": { "ownerReferences": owner } }))
        .await;
    world.settle("mapiq", &operator).await;
    let mark = world.mark().await;
    let retain = json!({ "spec": { "target": { "deletionPolicy": "Retain" } } });
    world.edit("mapiq", retain).await;
    world.ready("mapiq", "False TargetInvalid +Stalled").await;
    let message = world.message("mapiq").await;
    assert!(
        message.contains("does not keep what was written") && message.contains("managedFields"),
        "{message}"
    );
    operator.quiet().await;
    let requests = world.acts_since(mark).await;
    let writes = requests.count(|entry| entry.is_write() && entry.resource == "secrets");
    assert!(writes <= 2, "{writes} writes of the target");
    // The other gives it up.
    world.apply_secret("mapiq", json!({})).await;
    world.ready("mapiq", "True Published").await;
    assert_eq!(world.secret("mapiq").await.metadata.owner_references, None);
    assert_eq!(world.calls(VENDOR), 1);
}
