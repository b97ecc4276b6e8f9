//! After a restart memory is empty: a target whose owner or labels were changed is written with the token that is in it,
//! and one with other templates for one vendor call.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, PropagationPolicy};
use serde_json::{Value, json};
use vendor_simulator::Vendor;
use vendor_token_operator::api::names;

use crate::world::vendors;
use crate::world::{Running as _, World};

const VENDOR: Vendor = Vendor::Mapiq;

fn annotation(secret: &Secret, key: &str) -> String {
    secret.metadata.annotations.as_ref().unwrap()[key].clone()
}

/// Publishes a token, stops the operator, changes something, and starts another.
async fn changed_while_away(prefix: &str, change: impl AsyncFnOnce(&World)) -> (World, Secret, String) {
    let world = World::new(prefix).await;
    let operator = world.operator().await;
    let token = world.published(VENDOR, "mapiq").await;
    operator.quiet().await;
    operator.stop().await;
    let before = world.secret("mapiq").await;
    change(&world).await;
    (world, before, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_edited_while_away_are_filled_for_one_vendor_call() {
    let (world, _, token) = changed_while_away("edited-away", async |world| {
        let target = json!({
            "data": { "header": "$(tokenType) $(token)", "until": "$(expirationTime)" },
            "labels": { "team": "appsec" },
        });
        let mut spec = vendors::spec(VENDOR, "mapiq");
        spec["target"] = target;
        world.apply("mapiq", spec).await;
    })
    .await;
    let operator = world.operator().await;
    world
        .until_data("mapiq", "header", |value| value.starts_with("Bearer "))
        .await;
    world.settle("mapiq", &operator).await;
    world.ready("mapiq", "True Published").await;
    let after = world.secret("mapiq").await;
    assert_eq!(after.metadata.labels.as_ref().unwrap()["team"], "appsec");
    let until = annotation(&after, names::EXPIRATION_TIME);
    let data = after.data.unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["header", "until"]);
    assert_ne!(data["header"].0, format!("Bearer {token}").as_bytes());
    assert_eq!(data["until"].0, until.as_bytes());
    assert_eq!(world.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_token_restored_under_another_uid_takes_its_target_back() {
    let (world, before, token) = changed_while_away("restored-uid", async |world| {
        // As a backup does: the objects come back as they were, and get other UIDs.
        let orphan = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Orphan),
            ..DeleteParams::default()
        };
        world.tokens().delete("mapiq", &orphan).await.unwrap();
        let remove: Value = json!({ "metadata": { "finalizers": null } });
        if world.tokens().get_opt("mapiq").await.unwrap().is_some() {
            world.edit("mapiq", remove).await;
        }
        world.apply("mapiq", vendors::spec(VENDOR, "mapiq")).await;
    })
    .await;
    let uid = world.token("mapiq").await.metadata.uid.unwrap();
    let old_owner = before.metadata.owner_references.unwrap()[0].uid.clone();
    assert_ne!(uid, old_owner);
    let operator = world.operator().await;
    world.ready("mapiq", "True Published").await;
    world.settle("mapiq", &operator).await;
    let after = world.secret("mapiq").await;
    assert_eq!(after.metadata.owner_references.unwrap()[0].uid, uid);
    assert_eq!(world.data("mapiq", "token").await, Some(token));
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_stripped_while_away_comes_back_with_the_token_that_is_there() {
    let (world, _, token) = changed_while_away("stripped-away", async |world| {
        let strip =
            json!({ "metadata": { "labels": { names::MANAGED_BY_LABEL: null }, "ownerReferences": null } });
        world.edit_secret("mapiq", strip).await;
    })
    .await;
    let operator = world.operator().await;
    world
        .until("the label to come back", async || {
            let labels = world.secret("mapiq").await.metadata.labels.unwrap();
            labels
                .contains_key(names::MANAGED_BY_LABEL)
                .then_some(())
                .ok_or("no label".to_owned())
        })
        .await;
    world.settle("mapiq", &operator).await;
    let after = world.secret("mapiq").await;
    assert_eq!(after.metadata.owner_references.unwrap().len(), 1);
    assert_eq!(world.data("mapiq", "token").await, Some(token));
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_somebody_has_written_over_is_replaced() {
    let (world, _, token) = changed_while_away("overwritten-away", async |world| {
        // Of the same length, so that only its writer tells it from a token of ours.
        let length = world.data("mapiq", "token").await.unwrap().len();
        let forged = json!({ "stringData": { "token": "f".repeat(length) } });
        world.edit_secret("mapiq", forged).await;
    })
    .await;
    let operator = world.operator().await;
    world
        .until_data("mapiq", "token", |value| {
            !value.starts_with("ff") && value != token
        })
        .await;
    world.settle("mapiq", &operator).await;
    world.ready("mapiq", "True Published").await;
    assert_eq!(world.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_credentials_that_were_changed_too_is_replaced() {
    let (world, _, token) = changed_while_away("rotated-away", async |world| {
        let credential = vendors::credential(VENDOR, "mapiq", "rotated");
        world.simulator.put_credential(VENDOR, credential);
        world.store(VENDOR, "mapiq", "rotated").await;
        let edit = json!({ "spec": { "target": { "labels": { "team": "appsec" } } } });
        world.edit("mapiq", edit).await;
    })
    .await;
    let operator = world.operator().await;
    world.until_data("mapiq", "token", |value| value != token).await;
    world.settle("mapiq", &operator).await;
    assert_eq!(world.calls(VENDOR), 2);
}
