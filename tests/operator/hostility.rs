//! Tenants who are careless or hostile harm nobody but themselves.

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};
use vendor_simulator::{Effect, Fault, Vendor};
use vendor_token_operator::api::names;

use crate::world::vendors;
use crate::world::{Operator, Running as _, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_another_reads_its_credentials_from_is_never_made() {
    let world = World::new("anothers-credentials").await;
    let operator = world.operator().await;
    world.published(Vendor::SixMap, "reader").await;
    world.register(Vendor::Mapiq, "writer").await;
    let mut spec = vendors::spec(Vendor::Mapiq, "writer");
    spec["target"] = json!({ "name": "reader-credentials", "data": { "client-secret": "$(token)" } });
    world.apply("writer", spec).await;
    world.ready("writer", "False TargetNotOwned +Stalled").await;

    // Credentials that are replaced by a deletion and a creation leave a gap.
    world.delete_secret("reader-credentials").await;
    world.ready("writer", "False TargetConflict +Stalled").await;
    world.settle("writer", &operator).await;
    assert!(
        world
            .secrets()
            .get_opt("reader-credentials")
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(world.calls(Vendor::Mapiq), 0);

    // Nor is one taken over, whoever consented.
    let consent = json!({ "metadata": { "annotations": { names::ADOPTABLE_BY: "writer" } } });
    world.apply_secret("reader-credentials", consent).await;
    world.settle("writer", &operator).await;
    world.ready("writer", "False TargetConflict +Stalled").await;
    assert_eq!(world.data("reader-credentials", "client-secret").await, None);

    world
        .edit(
            "reader",
            json!({ "spec": { "credentialsSecretRef": { "name": "other" } } }),
        )
        .await;
    world.ready("writer", "True Published").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_that_make_more_than_a_secret_holds_are_refused() {
    const VENDOR: Vendor = Vendor::SixMap;
    let world = World::new("giant").await;
    let operator = world.operator().await;
    world.register(VENDOR, "giant").await;
    let long = json!({ "access_token": "a".repeat(60_000) });
    let Value::Object(set) = long else {
        panic!("an object")
    };
    world.simulator.add_fault(Fault::new(
        VENDOR,
        Effect::Members {
            set,
            remove: Vec::new(),
        },
    ));
    let mut spec = vendors::spec(VENDOR, "giant");
    let data: Map<String, Value> = (0..16)
        .map(|key| (format!("key-{key}"), json!("$(token)".repeat(512))))
        .collect();
    spec["target"] = json!({ "data": data });
    let mark = world.mark().await;
    world.apply("giant", spec).await;
    world.ready("giant", "False TargetInvalid +Stalled").await;
    assert!(
        world.message("giant").await.contains("491520000 bytes"),
        "{}",
        world.message("giant").await
    );
    assert_eq!(
        world
            .acts_since(mark)
            .await
            .count(|entry| entry.resource == "secrets" && entry.is_write()),
        0
    );
    world
        .edit(
            "giant",
            json!({ "spec": { "target": { "data": { "key-1": null } } } }),
        )
        .await;
    world.settle("giant", &operator).await;
    world
        .edit("giant", json!({ "spec": { "target": { "data": null } } }))
        .await;
    world.ready("giant", "True Published").await;
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_somebody_else_wrote_into_the_status_is_taken_out() {
    let world = World::new("forged-failure").await;
    let _operator = world.operator().await;
    world.published(Vendor::SixMap, "sixmap").await;
    let inputs = world.secret("sixmap").await.metadata.annotations.unwrap()[names::INPUTS].clone();
    for inputs in ["garbage", &inputs] {
        let failure = json!({
            "reason": "CredentialsRejected", "message": "forged", "count": i32::MAX,
            "lastAttemptTime": "2500-01-01T00:00:00Z", "inputs": inputs,
        });
        let forged = Patch::Merge(json!({ "status": { "failure": failure } }));
        world
            .tokens()
            .patch_status("sixmap", &PatchParams::default(), &forged)
            .await
            .unwrap();
        world
            .until("the forged failure to go", async || {
                match world.token("sixmap").await.status.unwrap().failure {
                    None => Ok(()),
                    Some(failure) => Err(failure.message),
                }
            })
            .await;
    }
    world.ready("sixmap", "True Published").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_of_another_writer_costs_no_write() {
    let world = World::new("foreign-condition").await;
    let operator = world.operator().await;
    world.published(Vendor::SixMap, "sixmap").await;
    let mut conditions =
        serde_json::to_value(world.token("sixmap").await.status.unwrap().conditions).unwrap();
    conditions.as_array_mut().unwrap().push(json!({
        "type": "example.com/Audited", "status": "True", "reason": "Audited", "message": "",
        "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }));
    operator.quiet().await;
    let mark = world.mark().await;
    let foreign = Patch::Merge(json!({ "status": { "conditions": conditions } }));
    world
        .tokens()
        .patch_status("sixmap", &PatchParams::default(), &foreign)
        .await
        .unwrap();
    for _ in 0..3 {
        world.settle("sixmap", &operator).await;
    }
    assert_eq!(world.acts_since(mark).await.count(|entry| entry.is_write()), 0);
    world.ready("sixmap", "True Published +example.com/Audited").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_leave_in_our_part_of_a_status_is_taken_out_once() {
    let world = World::new("foreign-leftovers").await;
    let operator = world.operator().await;
    // As kubectl applies it: with an annotation, which the operator does not keep.
    world.published(Vendor::SixMap, "sixmap").await;
    let annotation = json!({ "metadata": { "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "{}" } } });
    world.edit("sixmap", annotation).await;
    world.settle("sixmap", &operator).await;
    let good = world.ready("sixmap", "True Published").await.status.unwrap();
    let mut forged = serde_json::to_value(&good).unwrap();
    forged["conditions"].as_array_mut().unwrap().push(json!({
        "type": "Stalled", "status": "True", "reason": "Forged", "message": "",
        "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }));
    forged["failure"] = json!({ "reason": "RateLimited", "message": "forged", "count": 1, "inputs": "",
        "lastAttemptTime": "2026-01-01T00:00:00Z" });
    let mark = world.mark().await;
    world.forge_status("sixmap", forged).await;
    world
        .until("the status to be ours alone", async || {
            let found = world.token("sixmap").await.status.unwrap();
            (found == good).then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await;
    for _ in 0..3 {
        world.settle("sixmap", &operator).await;
    }
    // The apply, and what takes out the leftovers.
    let writes = world.acts_since(mark).await.count(|entry| entry.is_write());
    assert_eq!(writes, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_credential_that_comes_back_is_not_tried_again() {
    const VENDOR: Vendor = Vendor::SixMap;
    let world = World::new("latch-returns").await;
    let operator = world.operator().await;
    world.published(VENDOR, "sixmap").await;
    world.store(VENDOR, "sixmap", "wrong").await;
    world
        .ready("sixmap", "True CredentialsRejected +RefreshFailing")
        .await;
    // A new credential has early attempts, each up to a fifth later. After them the next is an hour away.
    for (wait, calls) in [(75, 3), (150, 4), (520, 5)] {
        world.clock.pass(wait);
        world.settle("sixmap", &operator).await;
        assert_eq!(world.calls(VENDOR), calls);
    }
    world.store(VENDOR, "sixmap", &vendors::secret_of("sixmap")).await;
    world.ready("sixmap", "True Published").await;
    // The good token is asked for anew, so that it is younger than the rejection.
    world.clock.pass(60);
    world.request_refresh("sixmap", "now").await;
    world
        .until("the refresh", async || match world.calls(VENDOR) {
            6.. => Ok(()),
            calls => Err(calls.to_string()),
        })
        .await;
    operator.quiet().await;
    let calls = world.calls(VENDOR);
    world.store(VENDOR, "sixmap", "wrong").await;
    world
        .ready(
            "sixmap",
            "True CredentialsRejected +RefreshFailing +ClockSkewSuspected",
        )
        .await;
    operator.quiet().await;
    assert_eq!(world.calls(VENDOR), calls);
}

/// A world with a VendorToken `sca` whose password the vendor has rejected.
async fn rejected(prefix: &str) -> (World, Operator) {
    let world = World::new(prefix).await;
    let operator = world.operator().await;
    world.register(Vendor::CheckmarxSca, "sca").await;
    world.store(Vendor::CheckmarxSca, "sca", "wrong").await;
    world
        .apply("sca", vendors::spec(Vendor::CheckmarxSca, "sca"))
        .await;
    world.ready("sca", "False CredentialsRejected +Stalled").await;
    (world, operator)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_password_is_not_tried_again_for_a_vendor_token_made_anew() {
    const VENDOR: Vendor = Vendor::CheckmarxSca;
    let (world, operator) = rejected("latch-anew").await;
    for _ in 0..2 {
        world.delete("sca").await;
        operator.quiet().await;
        world.apply("sca", vendors::spec(VENDOR, "sca")).await;
        world.ready("sca", "False CredentialsRejected +Stalled").await;
    }
    operator.quiet().await;
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_password_is_not_tried_again_after_an_edit_there_and_back() {
    const VENDOR: Vendor = Vendor::CheckmarxSca;
    let (world, operator) = rejected("latch-edited").await;
    for (tenant, calls) in [("other", 2), ("acme", 2), ("other", 2)] {
        let edited = world
            .edit("sca", json!({ "spec": { "checkmarxSCA": { "tenant": tenant } } }))
            .await;
        world
            .until("the edit to be judged", async || {
                let token = world.ready("sca", "False CredentialsRejected +Stalled").await;
                if token.status.unwrap().observed_generation == edited.metadata.generation {
                    Ok(())
                } else {
                    Err("not yet".to_owned())
                }
            })
            .await;
        operator.quiet().await;
        assert_eq!(world.calls(VENDOR), calls, "{tenant}");
    }
    world.store(VENDOR, "sca", &vendors::secret_of("sca")).await;
    world
        .edit("sca", json!({ "spec": { "checkmarxSCA": { "tenant": "acme" } } }))
        .await;
    world.ready("sca", "True Published").await;
}
