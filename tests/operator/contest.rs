//! Somebody keeps changing or deleting a target: few writes answer, and the status shows it.

use std::time::{Duration, Instant};

use futures::future::join4;
use serde_json::json;
use vendor_simulator::Vendor;
use vendor_token_operator::api::names;

use crate::world::{Running as _, World};

const VENDOR: Vendor = Vendor::Mapiq;
const WAR: Duration = Duration::from_secs(60);

/// Undoes each write of the target for a minute. `undo` gives the version that it leaves, `None` for no Secret.
async fn war(world: &World, target: &str, interval: Duration, undo: impl AsyncFn() -> Option<String>) {
    let begun = Instant::now();
    let mut left = None;
    while begun.elapsed() < WAR {
        let found = world.secrets().get_metadata_opt(target).await.unwrap();
        let version = found.and_then(|secret| secret.metadata.resource_version);
        if version.is_some() && version != left {
            left = undo().await;
        }
        tokio::time::sleep(interval).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_war_of_a_minute_over_a_target_costs_about_ten_writes_and_is_told_once() {
    let world = World::new("war").await;
    let operator = world.operator().await;
    for object in ["changed", "deleted", "slowly", "stripped"] {
        world.published(VENDOR, object).await;
    }
    operator.quiet().await;
    let mark = world.mark().await;
    let (fast, slow) = (Duration::from_millis(10), Duration::from_secs(1));
    let change = async || {
        let edit = json!({ "data": { "token": "d2Fy" } });
        world.edit_secret("changed", edit).await.metadata.resource_version
    };
    let strip = async || {
        let edit = json!({ "metadata": { "labels": { names::NAME_LABEL: null }, "annotations": { names::INPUTS: "x" } } });
        world
            .edit_secret("stripped", edit)
            .await
            .metadata
            .resource_version
    };
    let delete = async |target: &str| -> Option<String> {
        world.delete_secret(target).await;
        None
    };
    join4(
        war(&world, "changed", fast, change),
        war(&world, "deleted", fast, async || delete("deleted").await),
        war(&world, "slowly", slow, async || delete("slowly").await),
        war(&world, "stripped", fast, strip),
    )
    .await;
    let acts = world.acts_since(mark).await;
    for object in ["changed", "deleted", "slowly", "stripped"] {
        let writes =
            acts.count(|entry| entry.is_write() && entry.resource == "secrets" && entry.name == object);
        println!("{object}: {writes} writes of the target in a minute");
        assert!(
            (6..=10).contains(&writes),
            "{object}: {writes} writes of the target"
        );
        let status = world.token(object).await.status.unwrap();
        let contested = status
            .conditions
            .iter()
            .find(|one| one.type_ == "TargetContested");
        let message = &contested
            .unwrap_or_else(|| panic!("{object}: {status:?}"))
            .message;
        let told = if matches!(object, "changed" | "stripped") {
            "field manager"
        } else {
            "keeps deleting"
        };
        assert!(message.contains(told), "{message}");
        let events = world.events(object).await;
        let events: Vec<_> = events
            .iter()
            .filter(|(reason, _)| reason == "TargetContested")
            .collect();
        assert!(matches!(events.as_slice(), [(_, 1)]), "{object}: {events:?}");
    }
    assert_eq!(world.calls(VENDOR), 4, "no vendor was asked for it");

    // It ends by itself when nobody writes any more.
    for object in ["changed", "deleted", "slowly", "stripped"] {
        world.clock.pass(300);
        world.poke(object).await;
        world
            .until_data(object, "token", |value| value != "war" && !value.is_empty())
            .await;
        world.clock.pass(70);
        world.poke(object).await;
        world.ready(object, "True Published").await;
    }
    // After that, a repair is made at once.
    let begun = Instant::now();
    change().await;
    world.until_data("changed", "token", |value| value != "war").await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(world.calls(VENDOR), 4);
}
