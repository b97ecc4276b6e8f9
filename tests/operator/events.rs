//! Events tell transitions, and nothing else.

use vendor_simulator::Vendor;

use crate::support::World;
use crate::vendors::{self, for_every_vendor};

#[tokio::test(flavor = "multi_thread")]
async fn a_first_good_publish_tells_no_event_and_a_rejection_and_its_end_tell_one_each() {
    let world = &World::new("events").await;
    let operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world.published(vendor, &object).await;
        world.settle(&object, &operator).await;
        assert_eq!(world.events(&object).await, [], "{vendor}");

        let rejected = format!("{object}-rejected");
        world
            .simulator
            .put_credential(vendor, vendors::credential(vendor, &rejected, "right"));
        world.store(vendor, &rejected, "wrong").await;
        world.apply(&rejected, vendors::spec(vendor, &rejected)).await;
        world.ready(&rejected, "False CredentialsRejected +Stalled").await;
        for _ in 0..2 {
            world.settle(&rejected, &operator).await;
            let told = until_told(world, &rejected, 1).await;
            assert_eq!(told, [("CredentialsRejected".to_owned(), 1)], "{vendor}");
        }

        world.store(vendor, &rejected, "right").await;
        world.ready(&rejected, "True Published").await;
        world.settle(&rejected, &operator).await;
        let told = until_told(world, &rejected, 2).await;
        let expected = ["CredentialsRejected", "Published"].map(|reason| (reason.to_owned(), 1));
        assert_eq!(told, expected, "{vendor}");
    })
    .await;
}

async fn until_told(world: &World, object: &str, count: usize) -> Vec<(String, i32)> {
    world
        .until(&format!("{count} events about {object}"), async || {
            let events = world.events(object).await;
            if events.len() >= count {
                Ok(events)
            } else {
                Err(format!("{events:?}"))
            }
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_tells_no_event() {
    let world = World::new("no-events").await;
    let operator = world.operator().await;
    let first = world.published(Vendor::Mapiq, "mapiq").await;
    world.simulator.put_credential(
        Vendor::Mapiq,
        vendors::credential(Vendor::Mapiq, "mapiq", "rotated"),
    );
    world.store(Vendor::Mapiq, "mapiq", "rotated").await;
    world.until_data("mapiq", "token", |value| value != first).await;
    world.settle("mapiq", &operator).await;
    assert_eq!(world.events("mapiq").await, []);
}
