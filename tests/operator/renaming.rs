//! A target that gets another name.

use serde_json::json;
use test_support::wait_for;
use vendor_simulator::{Credential, Vendor};
use vendor_token_operator::api::names;

use crate::world::{PATIENCE, Running as _, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_target_is_published_from_memory() {
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
    // It is told after the former target is emptied.
    world
        .until("the status to name the present target", async || {
            let token = world.ready("mapiq", "True Published").await;
            match token.status.and_then(|status| status.binding) {
                Some(binding) if binding.name == "present" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    assert_eq!(world.data("present", "token").await.unwrap(), value);
    assert_eq!(world.simulator.total(Vendor::Mapiq).calls, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_of_a_kept_target_can_be_taken_back() {
    const VENDOR: Vendor = Vendor::Mapiq;
    let world = World::new("rename-back").await;
    let operator = world.operator().await;
    world.register(VENDOR, "mapiq").await;
    let spec = |name: &str| {
        let mut spec = crate::world::vendors::spec(VENDOR, "mapiq");
        spec["target"] = json!({ "name": name, "deletionPolicy": "Retain" });
        spec
    };
    for name in ["former", "present", "former", "present"] {
        world.apply("mapiq", spec(name)).await;
        world.until_data(name, "token", |_| true).await;
        world.ready("mapiq", "True Published").await;
        world.settle("mapiq", &operator).await;
    }
    assert_eq!(world.data("former", "token").await, None);
    assert_eq!(world.calls(VENDOR), 1);
    // Whoever comes later may have what was emptied.
    let mut other = spec("former");
    other["credentialsSecretRef"] = json!({ "name": "mapiq-credentials" });
    world.apply("other", other).await;
    world.ready("other", "True Published").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_target_without_its_label_is_emptied_too() {
    const VENDOR: Vendor = Vendor::Mapiq;
    let world = World::new("rename-stripped").await;
    let operator = world.operator().await;
    world.published(VENDOR, "mapiq").await;
    operator.quiet().await;
    operator.stop().await;
    // Its owner reference tells whose it is.
    let strip = json!({ "metadata": { "labels": { names::NAME_LABEL: null } } });
    world.edit_secret("mapiq", strip).await;
    let mut spec = crate::world::vendors::spec(VENDOR, "mapiq");
    spec["target"] = json!({ "name": "present" });
    world.apply("mapiq", spec).await;
    let operator = world.operator().await;
    world.until_data("present", "token", |_| true).await;
    world.settle("mapiq", &operator).await;
    assert_eq!(world.data("mapiq", "token").await, None);
}
