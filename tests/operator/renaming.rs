//! A target that gets another name.

use serde_json::json;
use test_support::wait_for;
use vendor_simulator::{Credential, Vendor};

use crate::support::{PATIENCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_target_is_published_from_memory_and_the_former_one_is_emptied() {
    let world = World::new("rename").await;
    world
        .simulator
        .put_credential(Vendor::Mapiq, Credential::new("client", "secret"));
    let _operator = world.operator().await;
    world
        .credentials("creds", &[("client-id", "client"), ("client-secret", "secret")])
        .await;
    let spec = |name: &str| {
        json!({
            "vendor": "Mapiq", "credentialsSecretRef": { "name": "creds" },
            "target": { "name": name, "type": "example.com/token" },
        })
    };
    world.apply("mapiq", spec("former")).await;
    world.ready("mapiq", "True Published").await;
    let value = world.data("former", "token").await.unwrap();

    world.apply("mapiq", spec("present")).await;
    wait_for("the former target to be emptied", PATIENCE, || async {
        let former = world
            .secrets()
            .get("former")
            .await
            .map_err(|error| error.to_string())?;
        let annotations = former.metadata.annotations.unwrap_or_default();
        if former.data.is_none() && annotations.is_empty() {
            Ok(())
        } else {
            Err(format!("{annotations:?}"))
        }
    })
    .await
    .unwrap();
    let token = world.ready("mapiq", "True Published").await;
    assert_eq!(token.status.unwrap().binding.unwrap().name, "present");
    assert_eq!(world.data("present", "token").await.unwrap(), value);
    assert_eq!(world.simulator.total(Vendor::Mapiq).calls, 1);
}
