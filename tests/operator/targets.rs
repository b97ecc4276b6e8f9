//! What may be written, what is repaired, and what stays untouched.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use vendor_simulator::Vendor;
use vendor_token_operator::api::names;

use crate::world::vendors;
use crate::world::{Running as _, World};

const VENDOR: Vendor = Vendor::Mapiq;

fn spec_with_target(object: &str, target: Value) -> Value {
    let mut spec = vendors::spec(VENDOR, object);
    spec["target"] = target;
    spec
}

fn bytes(secret: &Secret) -> String {
    serde_json::to_string(secret).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_target_is_restored_without_a_vendor_call() {
    let world = World::new("restored").await;
    let operator = world.operator().await;
    let value = world.published(VENDOR, "mapiq").await;
    world.delete_secret("mapiq").await;
    world
        .until_data("mapiq", "token", |restored| restored == value)
        .await;
    world.settle("mapiq", &operator).await;
    world.ready("mapiq", "True Published").await;
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_target_is_repaired_without_a_vendor_call() {
    let world = World::new("repaired").await;
    let operator = world.operator().await;
    world.register(VENDOR, "mapiq").await;
    let target = json!({
        "data": { "token": "$(token)", "second": "$(token)" },
        "labels": { "team": "appsec" }, "annotations": { "example.com/reload": "yes" },
    });
    world.apply("mapiq", spec_with_target("mapiq", target)).await;
    world.ready("mapiq", "True Published").await;
    let state = |secret: Secret| {
        (
            secret.data,
            secret.metadata.labels,
            secret.metadata.annotations,
            secret.metadata.owner_references,
        )
    };
    let wanted = state(world.secret("mapiq").await);
    for damage in [
        json!({ "data": { "token": "ZWRpdGVk" } }),
        json!({ "data": { "second": null } }),
        json!({ "metadata": { "labels": { "team": null } } }),
        json!({ "metadata": { "labels": { names::NAME_LABEL: null } } }),
        json!({ "metadata": { "labels": { names::MANAGED_BY_LABEL: "somebody" } } }),
        json!({ "metadata": { "annotations": { "example.com/reload": "no" } } }),
        json!({ "metadata": { "annotations": { names::EXPIRATION_TIME: null } } }),
        json!({ "metadata": { "annotations": { names::CONTENT: "created.0" } } }),
        json!({ "metadata": { "ownerReferences": null } }),
    ] {
        // A repair a minute is no contest.
        world.clock.pass(61);
        let damaged = world.edit_secret("mapiq", damage.clone()).await;
        assert_ne!(state(damaged), wanted, "{damage}");
        world
            .until(&format!("{damage} to be repaired"), async || {
                let found = state(world.secret("mapiq").await);
                if found == wanted {
                    Ok(())
                } else {
                    Err("not yet".to_owned())
                }
            })
            .await;
    }
    world.settle("mapiq", &operator).await;
    world.ready("mapiq", "True Published").await;
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_add_to_a_target_survives_refreshes_and_repairs() {
    let world = World::new("foreign-keys").await;
    let _operator = world.operator().await;
    let first = world.published(VENDOR, "mapiq").await;
    let added = json!({
        "data": { "theirs": "dGhlaXJz" },
        "metadata": { "labels": { "their": "label" }, "annotations": { "their": "annotation" } },
    });
    world.edit_secret("mapiq", added).await;
    world
        .edit_secret("mapiq", json!({ "data": { "token": null } }))
        .await;
    world.until_data("mapiq", "token", |value| value == first).await;
    // Another secret for the same client: another token.
    let credential = vendors::credential(VENDOR, "mapiq", "rotated");
    world.simulator.put_credential(VENDOR, credential);
    world.store(VENDOR, "mapiq", "rotated").await;
    world.until_data("mapiq", "token", |value| value != first).await;
    let target = world.secret("mapiq").await;
    assert_eq!(target.data.unwrap()["theirs"].0, b"theirs");
    assert_eq!(target.metadata.labels.unwrap()["their"], "label");
    assert_eq!(target.metadata.annotations.unwrap()["their"], "annotation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_secret_stays_as_it_is() {
    let world = World::new("foreign").await;
    let operator = world.operator().await;
    let foreign = json!({
        "metadata": { "labels": { names::NAME_LABEL: "mapiq", names::MANAGED_BY_LABEL: "vendor-token-operator" } },
        "data": { "token": "Zm9yZWlnbg==" },
    });
    world.apply_secret("mapiq", foreign).await;
    let before = bytes(&world.secret("mapiq").await);
    world.create(VENDOR, "mapiq").await;
    world.ready("mapiq", "False TargetNotOwned +Stalled").await;
    assert!(world.message("mapiq").await.contains("spec.target.name"));
    world.settle("mapiq", &operator).await;
    assert_eq!(bytes(&world.secret("mapiq").await), before);
    assert_eq!(world.calls(VENDOR), 0);

    world.delete_secret("mapiq").await;
    world.ready("mapiq", "True Published").await;
    assert_eq!(world.calls(VENDOR), 1);
    assert_ne!(world.data("mapiq", "token").await.unwrap(), "foreign");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_another_controller_stays_as_it_is_even_with_consent() {
    let world = World::new("controlled").await;
    let operator = world.operator().await;
    let controlled = json!({ "metadata": {
        "annotations": { names::ADOPTABLE_BY: "mapiq" },
        "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "Deployment", "name": "x", "uid": "u", "controller": true }],
    }});
    world.apply_secret("mapiq", controlled).await;
    let before = bytes(&world.secret("mapiq").await);
    world.create(VENDOR, "mapiq").await;
    world.ready("mapiq", "False TargetNotOwned +Stalled").await;
    world.settle("mapiq", &operator).await;
    assert_eq!(bytes(&world.secret("mapiq").await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_with_its_owners_consent_is_never_owned() {
    let world = World::new("adopted").await;
    let operator = world.operator().await;
    world
        .apply_secret("mapiq", json!({ "data": { "kept": "a2VwdA==" } }))
        .await;
    world.create(VENDOR, "mapiq").await;
    world.ready("mapiq", "False TargetNotOwned +Stalled").await;
    world
        .edit_secret(
            "mapiq",
            json!({ "metadata": { "annotations": { names::ADOPTABLE_BY: "mapiq" } } }),
        )
        .await;
    world.ready("mapiq", "True Published").await;
    // A repair must not make it ours either, also after the consent was taken back.
    let value = world.data("mapiq", "token").await.unwrap();
    let damage =
        json!({ "data": { "token": null }, "metadata": { "annotations": { names::ADOPTABLE_BY: null } } });
    world.edit_secret("mapiq", damage).await;
    world
        .until_data("mapiq", "token", |restored| restored == value)
        .await;
    world.settle("mapiq", &operator).await;
    let target = world.secret("mapiq").await;
    assert_eq!(target.metadata.owner_references, None);
    assert_eq!(target.data.unwrap()["kept"].0, b"kept");
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_vendor_tokens_with_one_target_the_older_wins_until_it_is_gone() {
    let world = World::new("conflict").await;
    for policy in ["Delete", "Retain"] {
        let (contested, older, younger) = (
            &*format!("contested-{}", policy.to_lowercase()),
            &*format!("a-older-{}", policy.to_lowercase()),
            &*format!("b-younger-{}", policy.to_lowercase()),
        );
        for object in [older, younger] {
            world.register(VENDOR, object).await;
            let target = json!({ "name": contested, "deletionPolicy": policy });
            world.apply(object, spec_with_target(object, target)).await;
        }
        let operator = world.operator().await;
        world.ready(older, "True Published").await;
        world.ready(younger, "False TargetConflict +Stalled").await;
        assert!(world.message(younger).await.contains(&format!("'{older}'")));
        world.settle(younger, &operator).await;
        let of = async || {
            let value = world.data(contested, "token").await?;
            world.simulator.validate(VENDOR, &value).credential
        };
        assert_eq!(of().await.as_deref(), Some(older));
        let calls_of_younger = || world.simulator.credential_counts(VENDOR, younger).calls;
        assert_eq!(calls_of_younger(), 0);

        world.delete(older).await;
        if policy == "Retain" {
            // A kept Secret is for the VendorToken for which it was kept, and for no other.
            world.ready(younger, "False TargetNotOwned +Stalled").await;
            assert!(world.message(younger).await.contains(&format!("'{older}'")));
            assert_eq!(of().await.as_deref(), Some(older));
            let consent = json!({ "metadata": { "annotations": { names::ADOPTABLE_BY: younger } } });
            world.edit_secret(contested, consent).await;
        }
        world.ready(younger, "True Published").await;
        world
            .until("the younger one's token", async || match of().await {
                Some(credential) if credential == younger => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
        assert_eq!(calls_of_younger(), 1);
        operator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_collection_deletes_all_targets_but_those_to_be_retained() {
    let plane = crate::support::plane_with_garbage_collection().await;
    let world = World::served_on(plane, "deletion", Default::default()).await;
    let operator = world.operator().await;
    for (object, policy) in [("deleted", "Delete"), ("retained", "Retain")] {
        world.register(VENDOR, object).await;
        world
            .apply(
                object,
                spec_with_target(object, json!({ "deletionPolicy": policy })),
            )
            .await;
        world.ready(object, "True Published").await;
    }
    let retained = world.secret("retained").await;
    assert_eq!(retained.metadata.owner_references, None);
    for object in ["retained", "deleted"] {
        world.delete(object).await;
    }
    let gone = test_support::wait_for("the target to be collected", Duration::from_secs(60), || async {
        match world.secrets().get_opt("deleted").await.unwrap() {
            None => Ok(()),
            Some(_) => Err("still there"),
        }
    });
    gone.await.unwrap();
    operator.quiet().await;
    assert_eq!(bytes(&world.secret("retained").await), bytes(&retained));

    // A VendorToken of that name finds its token again.
    world
        .apply(
            "retained",
            spec_with_target("retained", json!({ "deletionPolicy": "Retain" })),
        )
        .await;
    world.ready("retained", "True Published").await;
    assert_eq!(world.simulator.credential_counts(VENDOR, "retained").calls, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_a_new_name_is_published_without_a_vendor_call() {
    let world = World::new("renamed").await;
    let operator = world.operator().await;
    let value = world.published(VENDOR, "mapiq").await;
    world
        .apply("mapiq", spec_with_target("mapiq", json!({ "name": "renamed" })))
        .await;
    world
        .until_data("renamed", "token", |restored| restored == value)
        .await;
    world
        .until("the status to name the new target", async || {
            let status = world.token("mapiq").await.status.unwrap();
            match status.binding {
                Some(binding) if binding.name == "renamed" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    world.settle("mapiq", &operator).await;
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_of_another_type_or_immutable_is_refused_until_it_is_deleted() {
    let world = World::new("invalid").await;
    let operator = world.operator().await;
    let value = world.published(VENDOR, "typed").await;
    world
        .apply(
            "typed",
            spec_with_target("typed", json!({ "type": "example.com/token" })),
        )
        .await;
    world.ready("typed", "False TargetInvalid +Stalled").await;
    assert!(world.message("typed").await.contains("delete that Secret"));
    world.delete_secret("typed").await;
    world
        .until_data("typed", "token", |restored| restored == value)
        .await;
    world.ready("typed", "True Published").await;
    assert_eq!(
        world.secret("typed").await.type_.as_deref(),
        Some("example.com/token")
    );

    let value = world.published(VENDOR, "immutable").await;
    world.edit_secret("immutable", json!({ "immutable": true })).await;
    world
        .apply(
            "immutable",
            spec_with_target("immutable", json!({ "data": { "other": "$(token)" } })),
        )
        .await;
    world.ready("immutable", "False TargetInvalid +Stalled").await;
    world.delete_secret("immutable").await;
    world
        .until_data("immutable", "other", |restored| restored == value)
        .await;
    world.ready("immutable", "True Published").await;
    world.settle("immutable", &operator).await;
    assert_eq!(world.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_could_not_be_written_is_written_later_without_another_vendor_call() {
    let world = World::new("denied").await;
    let operator = world.operator().await;
    operator.expect_refusals();
    world.register(VENDOR, "mapiq").await;
    world.forbid_new_secrets().await;
    world.apply("mapiq", vendors::spec(VENDOR, "mapiq")).await;
    world.ready("mapiq", "False ApiDenied +Stalled").await;
    assert!(world.message("mapiq").await.contains("quota"));
    assert_eq!(world.calls(VENDOR), 1);
    world.allow_new_secrets().await;
    world.ready("mapiq", "True Published").await;
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_deletion_policy_changes_the_owner_of_the_target_without_a_vendor_call() {
    let world = World::new("policy").await;
    let operator = world.operator().await;
    world.register(VENDOR, "mapiq").await;
    for (policy, owners) in [("Retain", 0), ("Delete", 1), ("Retain", 0)] {
        let target = json!({ "deletionPolicy": policy });
        world.apply("mapiq", spec_with_target("mapiq", target)).await;
        world.ready("mapiq", "True Published").await;
        world.until_owners("mapiq", owners).await;
    }
    world.settle("mapiq", &operator).await;
    assert_eq!(world.calls(VENDOR), 1);
}
