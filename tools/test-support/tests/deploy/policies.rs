//! The admission policies that the documentation offers, on a real API server.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject, PostParams};
use serde_json::json;
use test_support::{ControlPlane, DEADLINE, wait_for};

use crate::{OPERATOR, project, vendor_tokens};

/// The block of YAML in `docs/security.md`.
fn policies() -> String {
    let page = std::fs::read_to_string(project().join("docs/security.md")).unwrap();
    let blocks = page.split("```yaml\n").skip(1);
    let mut blocks = blocks
        .filter_map(|rest| rest.split_once("```"))
        .map(|(block, _)| block);
    blocks
        .find(|block| block.contains("ValidatingAdmissionPolicy"))
        .unwrap()
        .to_owned()
}

/// Waits until the API server answers with this text of a policy: it takes a moment to learn of one.
async fn refused_with<F>(what: &str, text: &str, attempt: impl Fn() -> F)
where
    F: Future<Output = Option<kube::Error>>,
{
    wait_for(what, DEADLINE, || async {
        match attempt().await {
            Some(error) if error.to_string().contains(text) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_policies_of_the_documentation_hold() {
    let control_plane = ControlPlane::start(Default::default()).await.unwrap();
    control_plane
        .apply_kustomization(&project().join("deploy"))
        .await
        .unwrap();
    control_plane.apply_yaml("default", &policies()).await.unwrap();
    let namespace = control_plane.namespace("policies").await.unwrap();

    let client = control_plane.client_as(OPERATOR, OPERATOR).await.unwrap();
    let secrets = Api::<Secret>::namespaced(client, &namespace);
    let dry_run = PostParams {
        dry_run: true,
        ..Default::default()
    };
    let secret = |kind: &str| -> Secret {
        serde_json::from_value(json!({
            "metadata": { "name": "s", "annotations": { "kubernetes.io/service-account.name": "default" } },
            "type": kind,
        }))
        .unwrap()
    };
    refused_with(
        "a ServiceAccount's token to be refused",
        "turns into rights",
        || async {
            let token = secret("kubernetes.io/service-account-token");
            secrets.create(&dry_run, &token).await.err()
        },
    )
    .await;
    secrets.create(&dry_run, &secret("Opaque")).await.unwrap();

    let tokens =
        Api::<DynamicObject>::namespaced_with(control_plane.admin().unwrap(), &namespace, &vendor_tokens());
    let token = |tenant: &str| -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken", "metadata": { "name": "sca" },
            "spec": {
                "vendor": "CheckmarxSCA",
                "checkmarxSCA": { "region": "EU", "tenant": tenant },
                "credentialsSecretRef": { "name": "sca-credentials" },
            },
        }))
        .unwrap()
    };
    refused_with("another tenant to be refused", "a tenant of our own", || async {
        tokens.create(&dry_run, &token("attacker")).await.err()
    })
    .await;
    tokens.create(&dry_run, &token("acme")).await.unwrap();
}
