//! The fingerprint key: made once, kept, and never a reason to ask a vendor again.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::json;
use test_support::wait_for;
use vendor_simulator::{Credential, Vendor};
use vendor_token_operator::controller::FINGERPRINT_KEY_SECRET;

use crate::world::{PATIENCE, Running as _, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_fingerprint_key_is_made_again_with_the_same_bytes() {
    let world = World::new("key").await;
    let own = world.namespace.clone();
    let operator = world
        .operator_with(|settings| settings.operator_namespace = own)
        .await;
    let secrets: Api<Secret> = world.secrets();
    let made = wait_for("the key to be made", PATIENCE, || async {
        secrets
            .get_opt(FINGERPRINT_KEY_SECRET)
            .await
            .map_err(|error| error.to_string())?
            .ok_or("none".to_owned())
    })
    .await
    .unwrap();
    // The operator has listed Secrets once it has published one.
    world
        .simulator
        .put_credential(Vendor::Mapiq, Credential::new("client", "secret"));
    world
        .credentials("creds", &[("client-id", "client"), ("client-secret", "secret")])
        .await;
    world
        .apply(
            "mapiq",
            json!({ "vendor": "Mapiq", "credentialsSecretRef": { "name": "creds" } }),
        )
        .await;
    world.ready("mapiq", "True Published").await;

    secrets
        .delete(FINGERPRINT_KEY_SECRET, &Default::default())
        .await
        .unwrap();
    let restored = wait_for("the key to be restored", PATIENCE, || async {
        let found = secrets
            .get_opt(FINGERPRINT_KEY_SECRET)
            .await
            .map_err(|error| error.to_string())?;
        found.ok_or("none".to_owned())
    })
    .await
    .unwrap();
    assert_ne!(restored.metadata.uid, made.metadata.uid);
    assert_eq!(restored.data, made.data);
    operator.stop().await;
    assert_eq!(world.simulator.total(Vendor::Mapiq).calls, 1);
}
