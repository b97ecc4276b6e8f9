//! Backups that are restored without `managedFields`: some tools leave them out, or write them a moment later.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use vendor_simulator::{Options, Vendor};
use vendor_token_operator::api::{custom_resource_definition_yaml, names};

use crate::support::plane_with;
use crate::world::vendors;
use crate::world::{Running as _, World, root};

const VENDOR: Vendor = Vendor::Mapiq;

/// Deletes the VendorToken and its target, and restores both as a backup tool does: the VendorToken gets another UID, the
/// target has all of what it had but `managedFields`, and its seal only where it is to be kept. Gives the target from
/// before.
async fn restored(world: &World, object: &str, with_seal: bool) -> Secret {
    let before = world.secret(object).await;
    world.delete(object).await;
    world.delete_secret(object).await;
    let mut restored = before.clone();
    restored.metadata.managed_fields = None;
    restored.metadata.resource_version = None;
    restored.metadata.uid = None;
    if !with_seal {
        restored
            .metadata
            .annotations
            .as_mut()
            .unwrap()
            .remove(names::SEAL);
    }
    let parameters = PostParams {
        field_manager: Some("velero-server".to_owned()),
        ..PostParams::default()
    };
    world.secrets().create(&parameters, &restored).await.unwrap();
    world.apply(object, vendors::spec(VENDOR, object)).await;
    before
}

/// The target has one owner: the VendorToken as it is now.
async fn is_owned(world: &World) {
    let uid = world.token("mapiq").await.metadata.uid.unwrap();
    world
        .until("the target to be owned", async || {
            let owners = world.secret("mapiq").await.metadata.owner_references;
            let owners = owners.unwrap_or_default();
            let controllers: Vec<_> = owners
                .iter()
                .filter(|owner| owner.controller == Some(true))
                .collect();
            match controllers.as_slice() {
                [one] if one.uid == uid => Ok(()),
                _ => Err(format!("{owners:?}")),
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consent_that_is_asked_for_heals_a_target_without_managed_fields() {
    let world = World::new("restore-consent").await;
    let operator = world.operator().await;
    world.published(VENDOR, "mapiq").await;
    operator.quiet().await;
    operator.stop().await;
    restored(&world, "mapiq", false).await;
    let operator = world.operator().await;
    world.ready("mapiq", "False TargetNotOwned +Stalled").await;
    assert!(
        world
            .message("mapiq")
            .await
            .contains("vendortoken.io/adoptable-by: mapiq")
    );
    let consent = json!({ "metadata": { "annotations": { names::ADOPTABLE_BY: "mapiq" } } });
    world.edit_secret("mapiq", consent).await;
    world.ready("mapiq", "True Published").await;
    is_owned(&world).await;
    // The owner of before goes with the next write, where no garbage collection has taken it.
    world.clock.pass(60);
    world.request_refresh("mapiq", "now").await;
    world
        .until("the owner of before to go", async || {
            let owners = world
                .secret("mapiq")
                .await
                .metadata
                .owner_references
                .unwrap_or_default();
            if owners.len() == 1 {
                Ok(())
            } else {
                Err(format!("{owners:?}"))
            }
        })
        .await;
    world.settle("mapiq", &operator).await;
    world.ready("mapiq", "True Published").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_target_without_managed_fields_heals_by_itself() {
    let world = World::new("restore-sealed").await;
    let operator = world.operator().await;
    let token = world.published(VENDOR, "mapiq").await;
    operator.quiet().await;
    operator.stop().await;
    restored(&world, "mapiq", true).await;
    let operator = world.operator().await;
    world.ready("mapiq", "True Published").await;
    is_owned(&world).await;
    world.settle("mapiq", &operator).await;
    assert_eq!(world.data("mapiq", "token").await, Some(token));
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn managed_fields_that_are_written_late_heal_a_target_by_themselves() {
    let world = World::new("restore-late").await;
    let operator = world.operator().await;
    world.published(VENDOR, "mapiq").await;
    operator.quiet().await;
    operator.stop().await;
    let before = restored(&world, "mapiq", false).await;
    let operator = world.operator().await;
    let late = json!({ "metadata": { "managedFields": before.metadata.managed_fields } });
    world
        .secrets()
        .patch("mapiq", &PatchParams::default(), &Patch::Merge(late))
        .await
        .unwrap();
    world.ready("mapiq", "True Published").await;
    is_owned(&world).await;
    world.settle("mapiq", &operator).await;
    // Without a seal nothing says what the token in it was made from.
    assert_eq!(world.calls(VENDOR), 2);
}

/// The first block of shell commands below this heading of a page.
fn documented_command(page: &str, heading: &str) -> String {
    let below = page.split(heading).nth(1).unwrap();
    let block = below.split("```sh\n").nth(1).unwrap();
    block.split("```").next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_command_heals_all_targets_where_the_key_is_lost_too() {
    // Of its own: the command is for all namespaces.
    let plane = plane_with(&[], &custom_resource_definition_yaml().unwrap()).await;
    let world = World::served_on(plane, "restore-all", Options::default()).await;
    let operator = world.operator().await;
    world.published(VENDOR, "mapiq").await;
    world
        .apply_secret(
            "adopted",
            json!({ "metadata": { "annotations": { names::ADOPTABLE_BY: "adopted" } } }),
        )
        .await;
    world.published(VENDOR, "adopted").await;
    operator.stop().await;
    for object in ["mapiq", "adopted"] {
        restored(&world, object, false).await;
        let taken_back = json!({ "metadata": { "annotations": { names::ADOPTABLE_BY: null } } });
        world.edit_secret(object, taken_back).await;
    }
    let operator = world.operator().await;
    for object in ["mapiq", "adopted"] {
        world.ready(object, "False TargetNotOwned +Stalled").await;
    }
    let page = std::fs::read_to_string(root().join("docs/operate.md")).unwrap();
    let command = documented_command(&page, "## Restore a backup");
    let path = test_support::kubectl().unwrap();
    let output = std::process::Command::new("sh")
        .args(["-c", &command])
        .env("KUBECONFIG", plane.admin_kubeconfig())
        .env(
            "PATH",
            format!("{}:/usr/bin:/bin", path.parent().unwrap().display()),
        )
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    for object in ["mapiq", "adopted"] {
        world.ready(object, "True Published").await;
    }
    is_owned(&world).await;
    assert_eq!(world.secret("adopted").await.metadata.owner_references, None);
    operator.stop().await;
}
