//! Annotations on a target that somebody forged gain nothing.

use serde_json::json;
use vendor_simulator::{Options, Vendor};
use vendor_token_operator::api::names;

use crate::world::vendors;
use crate::world::{Running as _, World};

const VENDOR: Vendor = Vendor::SixMap;
const FAR: &str = "2027-10-01T00:00:00Z";

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_expiry_does_not_stop_the_refresh() {
    let world = World::with("forged", Options::default().lifetime(VENDOR, 14)).await;
    let _operator = world.operator().await;
    let first = world.published(VENDOR, "sixmap").await;
    world
        .edit_secret(
            "sixmap",
            json!({ "metadata": { "annotations": { names::EXPIRATION_TIME: FAR } } }),
        )
        .await;
    world.until_data("sixmap", "token", |value| value != first).await;
    let annotations = world.secret("sixmap").await.metadata.annotations.unwrap();
    assert_ne!(annotations[names::EXPIRATION_TIME], FAR);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_that_was_forged_while_the_operator_was_away_is_not_believed() {
    let world = World::new("forged-away").await;
    let operator = world.operator().await;
    let first = world.published(VENDOR, "sixmap").await;
    operator.stop().await;
    world
        .edit_secret(
            "sixmap",
            json!({ "metadata": { "annotations": { names::EXPIRATION_TIME: FAR } } }),
        )
        .await;
    let _operator = world.operator().await;
    world.until_data("sixmap", "token", |value| value != first).await;
    let status = world.ready("sixmap", "True Published").await.status.unwrap();
    assert_ne!(status.expiration_time.unwrap().0, FAR.parse().unwrap());
    assert_eq!(world.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_inputs_on_a_target_get_nobody_its_token() {
    let world = World::new("forged-inputs").await;
    let operator = world.operator().await;
    let coveted = world.published(VENDOR, "victim").await;
    world.published(VENDOR, "thief").await;
    let victim = world.secret("victim").await.metadata.annotations.unwrap();
    let forged = json!({ "metadata": { "annotations": {
        names::INPUTS: victim[names::INPUTS], names::CREDENTIALS_VERSION: victim[names::CREDENTIALS_VERSION],
        names::ISSUED_TIME: victim[names::ISSUED_TIME], names::EXPIRATION_TIME: victim[names::EXPIRATION_TIME],
    } } });
    let stays_its_own = async || {
        world
            .until("the forged annotations to be repaired", async || {
                let annotations = world.secret("thief").await.metadata.annotations.unwrap();
                if annotations[names::INPUTS] == victim[names::INPUTS] {
                    Err("not yet".to_owned())
                } else {
                    Ok(())
                }
            })
            .await;
        let value = world.data("thief", "token").await.unwrap();
        assert_ne!(value, coveted);
        assert_eq!(
            world.simulator.validate(VENDOR, &value).credential.as_deref(),
            Some("thief")
        );
    };
    world.edit_secret("thief", forged.clone()).await;
    stays_its_own().await;
    operator.stop().await;
    world.edit_secret("thief", forged.clone()).await;
    let operator = world.operator().await;
    stays_its_own().await;

    // Nor without credentials of one's own, on a Secret that was prepared.
    let mut prepared = forged;
    prepared["metadata"]["annotations"][names::ADOPTABLE_BY] = json!("poor");
    world.apply_secret("poor", prepared).await;
    world.apply("poor", vendors::spec(VENDOR, "poor")).await;
    world
        .ready("poor", "False CredentialsNotFound +Reconciling")
        .await;
    world.settle("poor", &operator).await;
    assert_eq!(world.data("poor", "token").await, None);
}
