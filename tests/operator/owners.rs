//! An API server that forbids to change owner references without the right to delete, which the operator does not have:
//! tokens are written with the owners that stand there.

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use test_support::ControlPlane;
use tokio::sync::OnceCell;
use vendor_simulator::{Options, Vendor};
use vendor_token_operator::api::{custom_resource_definition_yaml, names};

use crate::support::{OWNERS_ARE_GUARDED, plane_with};
use crate::world::vendors;
use crate::world::{Operator, Running as _, World};

const VENDOR: Vendor = Vendor::Mapiq;

async fn guarded(prefix: &str) -> (World, Operator) {
    static PLANE: OnceCell<&'static ControlPlane> = OnceCell::const_new();
    let plane = PLANE
        .get_or_init(|| async {
            let definition = custom_resource_definition_yaml().unwrap();
            plane_with(&[OWNERS_ARE_GUARDED], &definition).await
        })
        .await;
    let world = World::served_on(plane, prefix, Options::default()).await;
    let operator = world.operator().await;
    operator.expect_refusals();
    (world, operator)
}

fn target(policy: &str) -> Value {
    let mut spec = vendors::spec(VENDOR, "mapiq");
    spec["target"] = json!({ "deletionPolicy": policy });
    spec
}

fn owners(secret: &Secret) -> Vec<String> {
    let owners = secret.metadata.owner_references.iter().flatten();
    owners.map(|owner| owner.uid.clone()).collect()
}

/// The VendorToken is ready, says so, and its token can be refreshed.
async fn is_refreshed(world: &World, operator: &Operator, name: &str, target: &str) {
    world
        .until("the warning", async || {
            world.ready(name, "True Published").await;
            let message = world.message(name).await;
            let warned = message.contains("owner references") && message.contains("right to delete");
            warned.then_some(()).ok_or(message)
        })
        .await;
    let before = world.data(target, "token").await.unwrap();
    world.clock.pass(60);
    let request = jiff::Timestamp::now().to_string();
    world.request_refresh(name, &request).await;
    world.until_data(target, "token", |value| value != before).await;
    world.ready(name, "True Published").await;
    world.settle(name, operator).await;
    let events = world.events(name).await;
    let told = events.iter().filter(|(reason, _)| reason == "ApiDenied").count();
    assert_eq!(told, 1, "{events:?}");
    // Nothing more is tried while nothing changes.
    let mark = world.mark().await;
    for _ in 0..3 {
        world.settle(name, operator).await;
    }
    assert_eq!(world.acts_since(mark).await.count(|entry| entry.is_write()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_policy_that_cannot_be_carried_out_stops_no_refresh() {
    for (first, then) in [("Delete", "Retain"), ("Retain", "Delete")] {
        let (world, operator) = guarded("guarded-policy").await;
        world.register(VENDOR, "mapiq").await;
        world.apply("mapiq", target(first)).await;
        world.ready("mapiq", "True Published").await;
        let before = owners(&world.secret("mapiq").await);
        assert_eq!(before.len(), usize::from(first == "Delete"));
        world.apply("mapiq", target(then)).await;
        is_refreshed(&world, &operator, "mapiq", "mapiq").await;
        assert_eq!(owners(&world.secret("mapiq").await), before);

        // A restart tries nothing either.
        operator.stop().await;
        let mark = world.mark().await;
        let operator = world.operator().await;
        operator.expect_refusals();
        world.settle("mapiq", &operator).await;
        let acts = world.acts_since(mark).await;
        assert_eq!(acts.count(|entry| entry.is_write()), 0, "{first} to {then}");

        // The advice of the warning helps: a Secret that is made anew has the owners that the spec wants.
        world.delete_secret("mapiq").await;
        world
            .until("the Secret to be made anew", async || {
                let found = world.secrets().get_opt("mapiq").await.unwrap();
                let found = found.ok_or("none")?;
                let wanted = usize::from(then == "Delete");
                let count = owners(&found).len();
                if count == wanted {
                    Ok(())
                } else {
                    Err(count.to_string())
                }
            })
            .await;
        world
            .until("the warning to go", async || {
                let message = world.message("mapiq").await;
                if message.contains("owner references") {
                    Err(message)
                } else {
                    Ok(())
                }
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_token_of_another_uid_goes_on_with_the_owners_that_are_there() {
    // The second as `kubectl delete --cascade=orphan` leaves it: garbage collection takes the owner away.
    for orphaned in [false, true] {
        let (world, operator) = guarded("guarded-uid").await;
        world.published(VENDOR, "mapiq").await;
        operator.stop().await;
        world.delete("mapiq").await;
        if orphaned {
            world
                .edit_secret("mapiq", json!({ "metadata": { "ownerReferences": null } }))
                .await;
        }
        let before = owners(&world.secret("mapiq").await);
        world.apply("mapiq", vendors::spec(VENDOR, "mapiq")).await;
        let operator = world.operator().await;
        operator.expect_refusals();
        is_refreshed(&world, &operator, "mapiq", "mapiq").await;
        assert_eq!(owners(&world.secret("mapiq").await), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_taken_over_with_the_owner_that_is_there() {
    let (world, operator) = guarded("guarded-takeover").await;
    for object in ["older", "younger"] {
        world.register(VENDOR, object).await;
        let mut spec = vendors::spec(VENDOR, object);
        spec["target"] = json!({ "name": "contested" });
        world.apply(object, spec).await;
        let expected = if object == "older" {
            "True Published"
        } else {
            "False TargetConflict +Stalled"
        };
        world.ready(object, expected).await;
    }
    let before = owners(&world.secret("contested").await);
    world.delete("older").await;
    is_refreshed(&world, &operator, "younger", "contested").await;
    let secret = world.secret("contested").await;
    assert_eq!(owners(&secret), before);
    assert_eq!(secret.metadata.labels.unwrap()[names::NAME_LABEL], "younger");
    let value = world.data("contested", "token").await.unwrap();
    assert_eq!(
        world.simulator.validate(VENDOR, &value).credential.as_deref(),
        Some("younger")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_renamed_is_emptied_with_the_owner_that_is_there() {
    let (world, operator) = guarded("guarded-rename").await;
    world.published(VENDOR, "mapiq").await;
    operator.stop().await;
    world.delete("mapiq").await;
    world.apply("mapiq", vendors::spec(VENDOR, "mapiq")).await;
    let operator = world.operator().await;
    operator.expect_refusals();
    world.ready("mapiq", "True Published").await;
    let mut spec = vendors::spec(VENDOR, "mapiq");
    spec["target"] = json!({ "name": "present" });
    world.apply("mapiq", spec).await;
    world.until_data("present", "token", |_| true).await;
    world
        .until("the former target to be emptied", async || {
            match world.data("mapiq", "token").await {
                None => Ok(()),
                Some(_) => Err("not yet".to_owned()),
            }
        })
        .await;
    world.ready("mapiq", "True Published").await;
}
