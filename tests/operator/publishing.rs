//! A token is asked for, published, and kept.

use serde_json::json;
use vendor_simulator::{Credential, Vendor};

use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_published_and_a_deleted_target_is_restored_without_a_vendor_call() {
    let world = World::new("publish").await;
    world
        .simulator
        .put_credential(Vendor::Mapiq, Credential::new("client", "secret"));
    let _operator = world.operator().await;
    world
        .credentials("creds", &[("client-id", "client"), ("client-secret", "secret\n")])
        .await;
    world
        .apply(
            "mapiq",
            json!({ "vendor": "Mapiq", "credentialsSecretRef": { "name": "creds" } }),
        )
        .await;
    let token = world.ready("mapiq", "True Published").await;
    println!("{:#?}", token.status);
    let value = world.data("mapiq", "token").await.unwrap();
    assert!(world.simulator.validate(Vendor::Mapiq, &value).known);

    world
        .secrets()
        .delete("mapiq", &Default::default())
        .await
        .unwrap();
    test_support::wait_for("the target to be restored", crate::support::PATIENCE, || async {
        match world.data("mapiq", "token").await {
            Some(restored) if restored == value => Ok(()),
            other => Err(format!("{}", other.is_some())),
        }
    })
    .await
    .unwrap();
    assert_eq!(world.simulator.total(Vendor::Mapiq).calls, 1);
    assert!(world.simulator.violations().is_empty());
}
