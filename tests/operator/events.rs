//! Events tell transitions, and nothing else.

use serde_json::json;
use vendor_simulator::Vendor;

use crate::world::World;
use crate::world::vendors::{self, for_every_vendor};

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_and_its_end_tell_one_event_each() {
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

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_refresh_token_is_told_30_14_and_3_days_before() {
    const DAY: i64 = 24 * 3600;
    let world = World::new("refresh-token-ends").await;
    let operator = world.operator().await;
    let ends = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(31 * DAY);
    let mut spec = vendors::spec(Vendor::Picus, "picus");
    let ends = ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    spec["picus"] = json!({ "refreshTokenExpirationTime": ends });
    world.register(Vendor::Picus, "picus").await;
    world.apply("picus", spec).await;
    world.ready("picus", "True Published").await;
    // No access token is refreshed over all of these days.
    world.edit("picus", json!({ "spec": { "suspend": true } })).await;
    let stages = [
        (0, 0, None),
        (2, 1, Some("in less than 30 days")),
        (1, 1, Some("in less than 30 days")),
        (14, 2, Some("in less than 14 days")),
        (1, 2, Some("in less than 14 days")),
        (11, 3, Some("in less than 3 days")),
        (1, 3, Some("in less than 3 days")),
        (2, 4, Some("expired at")),
        (5, 4, Some("expired at")),
    ];
    for (days, told, words) in stages {
        world.clock.pass(days * DAY);
        world.settle("picus", &operator).await;
        // Told so soon after one another, they are one event that counts.
        world
            .until(&format!("{told} events"), async || {
                let events = world.events("picus").await.into_iter();
                let counts =
                    events.filter_map(|(reason, count)| (reason == "CredentialExpiring").then_some(count));
                match counts.sum::<i32>() {
                    count if count == told => Ok(()),
                    count => Err(count.to_string()),
                }
            })
            .await;
        let conditions = world.token("picus").await.status.unwrap().conditions;
        let message = conditions
            .into_iter()
            .find(|condition| condition.type_ == "CredentialExpiring")
            .map(|condition| condition.message);
        match (&message, words) {
            (None, None) => {}
            (Some(message), Some(words)) => assert!(message.contains(words), "{message}"),
            _ => panic!("{message:?} instead of {words:?}"),
        }
    }
    assert_eq!(world.calls(Vendor::Picus), 1);
}
