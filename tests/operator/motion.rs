//! Credentials, specs and targets that change while something is under way.

use serde_json::json;
use vendor_simulator::{Effect, Fault, Vendor};

use crate::world::vendors;
use crate::world::{Operator, Running as _, World, counts};

const VENDOR: Vendor = Vendor::CheckmarxSca;
/// An answer that comes when everything else has long happened.
const LATE: Effect = Effect::DelayHead { milliseconds: 12_000 };

/// A VendorToken `sca` that waits for an answer which comes [`LATE`].
async fn asked(prefix: &str) -> (World, Operator) {
    let world = World::new(prefix).await;
    let operator = world.operator().await;
    world.simulator.add_fault(Fault::new(VENDOR, LATE).times(1));
    world.create(VENDOR, "sca").await;
    world
        .until("the request to be sent", async || {
            match world.calls(VENDOR) {
                0 => Err("none"),
                _ => Ok(()),
            }
            .map_err(str::to_owned)
        })
        .await;
    (world, operator)
}

/// Waits until the vendor's late answer has come and all that follows from it has happened; then the target holds
/// what it held before, and was written once.
async fn the_late_answer_changes_nothing(world: &World, operator: &Operator) {
    world.ready("sca", "True Published").await;
    operator.quiet().await;
    let (value, mark) = (world.data("sca", "token").await, world.mark().await);
    world
        .until("the late answer", async || {
            let answered = operator.metric("vendortoken_vendor_requests_total");
            if answered >= 2.0 {
                Ok(())
            } else {
                Err(answered.to_string())
            }
        })
        .await;
    world.settle("sca", operator).await;
    assert_eq!(world.data("sca", "token").await, value);
    let written = world.acts_since(mark).await;
    assert_eq!(counts(&written), Vec::<String>::new(), "written anew");
    world.ready("sca", "True Published").await;
    assert_eq!(world.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_request_that_the_spec_no_longer_fits_is_discarded() {
    let (world, operator) = asked("spec-in-flight").await;
    world.change_tenant("sca", "other").await;
    let value = world.until_data("sca", "token", |_| true).await;
    let of = world.simulator.validate(VENDOR, &value).credential;
    assert_eq!(of.as_deref(), Some("other/sca"));
    the_late_answer_changes_nothing(&world, &operator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_rotated_while_a_request_is_in_flight_wait_for_no_answer() {
    let (world, operator) = asked("rotated-in-flight").await;
    world
        .simulator
        .put_credential(VENDOR, vendors::credential(VENDOR, "sca", "rotated"));
    world.store(VENDOR, "sca", "rotated").await;
    world.until_data("sca", "token", |_| true).await;
    // The answer to the first request is still to come.
    assert_eq!(operator.metric("vendortoken_vendor_requests_total"), 1.0);
    the_late_answer_changes_nothing(&world, &operator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_token_that_goes_while_a_request_is_in_flight_gets_no_target() {
    for deleted in [false, true] {
        let (world, operator) = asked("gone-in-flight").await;
        if deleted {
            world.delete("sca").await;
        } else {
            world.edit("sca", json!({ "spec": { "suspend": true } })).await;
        }
        world
            .until("the late answer", async || {
                let answered = operator.metric("vendortoken_vendor_requests_total");
                if answered >= 1.0 {
                    Ok(())
                } else {
                    Err(answered.to_string())
                }
            })
            .await;
        operator.quiet().await;
        assert!(world.secrets().get_opt("sca").await.unwrap().is_none());
        if !deleted {
            // It was not asked for in vain.
            world.edit("sca", json!({ "spec": { "suspend": false } })).await;
            world.ready("sca", "True Published").await;
        }
        assert_eq!(world.calls(VENDOR), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_meets_an_immutable_target_is_published_when_that_is_gone() {
    let world = World::new("immutable").await;
    let operator = world.operator().await;
    let first = world.published(VENDOR, "sca").await;
    world.edit_secret("sca", json!({ "immutable": true })).await;
    world.settle("sca", &operator).await;
    world.ready("sca", "True Published").await;
    world.clock.pass(40);
    world.request_refresh("sca", "now").await;
    world.ready("sca", "False TargetInvalid +Stalled").await;
    assert!(world.message("sca").await.contains("delete that Secret"));
    // The token stays what it was, and the new one is kept: it is not asked for again.
    world.settle("sca", &operator).await;
    assert_eq!(world.data("sca", "token").await.as_ref(), Some(&first));
    world.delete_secret("sca").await;
    world.until_data("sca", "token", |value| value != first).await;
    world.ready("sca", "True Published").await;
    world.settle("sca", &operator).await;
    assert_eq!(world.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contested_target_goes_to_the_other_when_the_winner_takes_another_name() {
    let world = World::new("contested").await;
    let operator = world.operator().await;
    let spec = |object: &str, target: &str| {
        let mut spec = vendors::spec(VENDOR, object);
        spec["target"] = json!({ "name": target });
        spec
    };
    for object in ["winner", "loser"] {
        world.register(VENDOR, object).await;
    }
    world.apply("winner", spec("winner", "contested")).await;
    let value = world.until_data("contested", "token", |_| true).await;
    world.apply("loser", spec("loser", "contested")).await;
    world.ready("loser", "False TargetConflict +Stalled").await;

    world.apply("winner", spec("winner", "elsewhere")).await;
    world
        .until_data("elsewhere", "token", |moved| moved == value)
        .await;
    let taken = world
        .until_data("contested", "token", |taken| {
            world.simulator.validate(VENDOR, taken).credential.as_deref() == Some("acme/loser")
        })
        .await;
    for object in ["winner", "loser"] {
        world.settle(object, &operator).await;
        world.ready(object, "True Published").await;
    }
    // Neither empties what the other holds.
    assert_eq!(world.data("elsewhere", "token").await, Some(value));
    assert_eq!(world.data("contested", "token").await, Some(taken));
    let owners = world.secret("contested").await.metadata.owner_references.unwrap();
    let owners: Vec<_> = owners.into_iter().map(|owner| owner.name).collect();
    assert_eq!(owners, ["loser"]);
    assert_eq!(world.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_policy_changed_while_the_operator_was_away_costs_no_call() {
    let world = World::new("policy-away").await;
    let mut operator = world.operator().await;
    world.published(VENDOR, "sca").await;
    let before = world.secret("sca").await;
    for (policy, owners) in [("Retain", 0), ("Delete", 1)] {
        operator.stop().await;
        world
            .edit(
                "sca",
                json!({ "spec": { "target": { "deletionPolicy": policy } } }),
            )
            .await;
        operator = world.operator().await;
        world.until_owners("sca", owners).await;
        world.settle("sca", &operator).await;
        let after = world.secret("sca").await;
        assert_eq!(after.data, before.data, "{policy}");
        assert_eq!(
            after.metadata.annotations, before.metadata.annotations,
            "{policy}"
        );
        assert_eq!(after.metadata.labels, before.metadata.labels, "{policy}");
        assert_eq!(world.calls(VENDOR), 1, "{policy}");
    }
}
