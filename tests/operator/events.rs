//! Events tell transitions, and nothing else.

use serde_json::json;
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

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_refresh_token_is_told_30_14_and_3_days_before_and_when_it_has_come() {
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
    let mut told = Vec::new();
    for (days, events) in [
        (0, 0),
        (2, 1),
        (1, 1),
        (14, 2),
        (1, 2),
        (11, 3),
        (1, 3),
        (2, 4),
        (5, 4),
    ] {
        world.clock.step(days * DAY);
        world.settle("picus", &operator).await;
        told = world
            .until(&format!("{events} events"), async || {
                let mut notes = world.notes("picus", "CredentialExpiring").await;
                notes.sort();
                if notes.len() == events {
                    Ok(notes)
                } else {
                    Err(format!("{notes:?}"))
                }
            })
            .await;
    }
    for words in [
        "in less than 30 days",
        "in less than 14 days",
        "in less than 3 days",
        "expired at",
    ] {
        let with: Vec<_> = told.iter().filter(|note| note.contains(words)).collect();
        assert_eq!(with.len(), 1, "{words}: {told:?}");
        assert!(
            with[0].contains("generate a new one in the vendor's console"),
            "{told:?}"
        );
    }
    assert_eq!(world.calls(Vendor::Picus), 1);
}

impl World {
    /// The texts of the events with this reason.
    async fn notes(&self, name: &str, reason: &str) -> Vec<String> {
        let events: kube::Api<k8s_openapi::api::events::v1::Event> =
            kube::Api::namespaced(self.admin.clone(), &self.namespace);
        let events = events.list(&Default::default()).await.unwrap().items.into_iter();
        events
            .filter(|event| {
                event.reason.as_deref() == Some(reason)
                    && event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some(name)
            })
            .filter_map(|event| event.note)
            .collect()
    }
}
