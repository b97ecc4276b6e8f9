//! Two who fight over an object, or somebody who makes it anew again and again, cost the vendor no call each time.

use serde_json::json;
use vendor_simulator::Vendor;

use vendor_token_operator::clock::Clock as _;

use crate::world::vendors;
use crate::world::{Running as _, World, counts};

const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_that_is_edited_there_and_back_costs_one_call_for_each_side() {
    const VENDOR: Vendor = Vendor::CheckmarxSca;
    let world = World::new("there-and-back").await;
    let operator = world.operator().await;
    world.published(VENDOR, "sca").await;
    for round in 0..ROUNDS {
        for scopes in [["access_control_api"], ["sca_api"]] {
            let before = world.data("sca", "token").await;
            world
                .edit("sca", json!({ "spec": { "checkmarxSCA": { "scopes": scopes } } }))
                .await;
            world
                .until_data("sca", "token", |value| Some(value) != before.as_deref())
                .await;
        }
        assert!(
            world.calls(VENDOR) <= 2,
            "{} after round {round}",
            world.calls(VENDOR)
        );
    }
    operator.quiet().await;
    world.ready("sca", "True Published").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_token_that_is_made_anew_again_and_again_costs_one_call() {
    const VENDOR: Vendor = Vendor::Mapiq;
    let world = World::new("made-anew").await;
    let operator = world.operator().await;
    let token = world.published(VENDOR, "mapiq").await;
    for round in 0..ROUNDS {
        world.delete("mapiq").await;
        world.delete_secret("mapiq").await;
        operator.quiet().await;
        world.apply("mapiq", vendors::spec(VENDOR, "mapiq")).await;
        world.until_data("mapiq", "token", |value| value == token).await;
        assert_eq!(world.calls(VENDOR), 1, "round {round}");
    }
    world.ready("mapiq", "True Published").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_come_and_go_bring_no_refresh_request_forward() {
    const VENDOR: Vendor = Vendor::Mapiq;
    let world = World::new("come-and-go").await;
    let operator = world.operator().await;
    world.published(VENDOR, "mapiq").await;
    let secret = world.token("mapiq").await.spec.credentials_secret_ref.name;
    for round in 0..ROUNDS {
        world.delete_secret(&secret).await;
        world
            .ready("mapiq", "True CredentialsNotFound +RefreshFailing")
            .await;
        world.request_refresh("mapiq", &round.to_string()).await;
        world.store(VENDOR, "mapiq", &vendors::secret_of("mapiq")).await;
        world.ready("mapiq", "True Published").await;
        operator.quiet().await;
    }
    assert!(world.calls(VENDOR) <= 2, "{}", world.calls(VENDOR));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_attempt_that_seems_newer_than_a_rejection_makes_no_write_after_another() {
    const VENDOR: Vendor = Vendor::CheckmarxSca;
    let world = World::new("newer-forged").await;
    let operator = world.operator().await;
    world.register(VENDOR, "sca").await;
    world.store(VENDOR, "sca", "wrong").await;
    world.apply("sca", vendors::spec(VENDOR, "sca")).await;
    world.ready("sca", "False CredentialsRejected +Stalled").await;
    operator.quiet().await;
    world.clock.pass(120);
    let now = jiff::Timestamp::from_second(world.clock.now().as_second()).unwrap();
    let ago = |seconds: i64| (now - jiff::SignedDuration::from_secs(seconds)).to_string();
    let forged = json!({ "failure": { "reason": "VendorUnavailable", "message": "asked at noon", "count": 1,
        "lastAttemptTime": ago(60), "nextAttemptTime": ago(30) } });
    let mark = world.mark().await;
    world.forge_status("sca", forged).await;
    world
        .until("the rejection to be told again", async || {
            let failure = world.token("sca").await.status.unwrap().failure.unwrap();
            if failure.reason == "CredentialsRejected" && failure.next_attempt_time.is_none() {
                Ok(())
            } else {
                Err(format!("{failure:?}"))
            }
        })
        .await;
    operator.quiet().await;
    for _ in 0..3 {
        world.settle("sca", &operator).await;
    }
    let writes = world
        .acts_since(mark)
        .await
        .matching(|entry| entry.verb == "patch" && entry.resource.starts_with("vendortokens"));
    // The apply, and what takes out the leftovers.
    assert!(writes.len() <= 2, "{:?}", counts(&writes));
    assert_eq!(world.calls(VENDOR), 1);
    world.ready("sca", "False CredentialsRejected +Stalled").await;
}
