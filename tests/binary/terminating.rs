//! A namespace that is being deleted: what can no longer be written is told, and neither the vendor nor the API server is
//! asked over and over.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use test_support::wait_for;
use vendor_simulator::Vendor;

use crate::world::{Account, PATIENCE, Running as _, World};

/// Deletes the namespace; it stays `Terminating`, for no controller empties it here.
async fn terminate(world: &World) {
    let namespaces: Api<Namespace> = Api::all(world.admin.clone());
    namespaces
        .delete(&world.namespace, &DeleteParams::default())
        .await
        .unwrap();
    let probe: Secret = serde_json::from_value(json!({ "metadata": { "generateName": "probe-" } })).unwrap();
    wait_for("the namespace to take nothing new", PATIENCE, || async {
        match world.secrets().create(&PostParams::default(), &probe).await {
            Ok(_) => Err("a Secret was created"),
            Err(_) => Ok(()),
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_in_a_namespace_that_ends_is_not_tried_for_ever() {
    let world = World::new("terminating").await;
    let operator = world.program().await;
    let account = |id: &str| Account::new(Vendor::Picus, id, &format!("secret-of-{id}"));
    world.create_with("published", &account("published")).await;
    world
        .simulator
        .put_credential(Vendor::Picus, account("late").credential());
    world
        .create_unregistered("late", &account("late"), json!({ "suspend": true }))
        .await;
    world.ready("published", "True Published").await;
    world.ready("late", "False Suspended +Suspended").await;

    terminate(&world).await;
    let (mark, started) = (world.plane.audit().mark().await.unwrap(), Instant::now());
    world
        .secrets()
        .delete("published", &DeleteParams::default())
        .await
        .unwrap();
    let resume = Patch::Merge(json!({ "spec": { "suspend": false } }));
    world
        .tokens()
        .patch("late", &PatchParams::default(), &resume)
        .await
        .unwrap();
    for name in ["published", "late"] {
        let token = world.ready(name, "False ApiDenied +Stalled").await;
        let conditions = token.status.unwrap().conditions;
        let ready = conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .unwrap();
        assert!(ready.message.contains("being terminated"), "{}", ready.message);
    }
    // The second attempt comes after 5 s, the third after 10 more.
    wait_for("a second attempt each", PATIENCE, || async {
        let attempts = world
            .requests_since(mark)
            .await
            .count(|entry| entry.verb == "patch" && entry.resource == "secrets");
        if attempts >= 4 { Ok(()) } else { Err(attempts) }
    })
    .await
    .unwrap();
    let attempts = world
        .requests_since(mark)
        .await
        .count(|entry| entry.verb == "patch" && entry.resource == "secrets");
    let seconds = started.elapsed().as_secs();
    println!("{attempts} attempts of two VendorTokens in {seconds} s");
    assert!(
        attempts as u64 <= 4 + 2 * seconds / 5,
        "{attempts} attempts in {seconds} s"
    );
    assert_eq!(
        world.all_calls(),
        2,
        "a token that could not be written was asked for again"
    );

    // What the namespace's end does to the VendorTokens too ends all of it.
    for name in ["published", "late"] {
        world
            .tokens()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }
    wait_for("the series to go", PATIENCE, || async {
        let text = operator.samples().await.0;
        if text.contains(&world.namespace) {
            Err(text)
        } else {
            Ok(())
        }
    })
    .await
    .unwrap();
    assert_eq!(world.all_calls(), 2);
}
