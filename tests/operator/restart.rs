//! A restart costs nothing: the state is the target Secret.

use futures::future::join_all;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use vendor_simulator::{Effect, Fault, Vendor};
use vendor_token_operator::clock::Clock as _;

use crate::world::vendors::{self, for_every_vendor};
use crate::world::{Operator, Running as _, World};

const COUNT: usize = 50;

fn vendor_of(number: usize) -> Vendor {
    Vendor::ALL[number % 5]
}

fn object(number: usize) -> String {
    format!("{}-{number}", vendors::object(vendor_of(number)))
}

async fn fifty_published(prefix: &str) -> World {
    let world = World::new(prefix).await;
    let operator = world.operator().await;
    let all = (0..COUNT).map(|number| {
        let world = &world;
        async move { world.published(vendor_of(number), &object(number)).await }
    });
    join_all(all).await;
    operator.quiet().await;
    operator.stop().await;
    assert_eq!(world.simulator.calls().len(), COUNT);
    world
}

async fn looked_at_all(world: &World, operator: &Operator) {
    world
        .until("all to be looked at", async || {
            let ready = operator.metric("vendortoken_ready");
            if ready == COUNT as f64 {
                Ok(())
            } else {
                Err(ready.to_string())
            }
        })
        .await;
    operator.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_that_were_deleted_meanwhile_are_derived_again_without_a_vendor_call() {
    let world = fifty_published("status").await;
    let numbers = 0..COUNT;
    join_all(numbers.clone().map(|number| {
        let world = &world;
        async move {
            let none = Patch::Merge(json!({ "status": null }));
            let name = object(number);
            let token = world
                .tokens()
                .patch_status(&name, &PatchParams::default(), &none)
                .await
                .unwrap();
            assert!(token.status.is_none_or(|status| status.conditions.is_empty()));
        }
    }))
    .await;
    let operator = world.operator().await;
    join_all(numbers.map(|number| {
        let world = &world;
        async move {
            let name = object(number);
            let status = world.ready(&name, "True Published").await.status.unwrap();
            assert_eq!(status.binding.unwrap().name, name);
            assert!(status.expiration_time.is_some() && status.next_refresh_time.is_some());
        }
    }))
    .await;
    looked_at_all(&world, &operator).await;
    assert_eq!(world.simulator.calls().len(), COUNT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expired_meanwhile_is_asked_for_once() {
    let world = &World::new("expired").await;
    let operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world.published(vendor, &object).await;
    })
    .await;
    operator.stop().await;
    world.clock.pass(2 * 24 * 3600);
    let operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world
            .until("a new token", async || {
                let calls = world.calls(vendor);
                if calls > 1 { Ok(()) } else { Err(calls.to_string()) }
            })
            .await;
        world.settle(&object, &operator).await;
        let status = world.token(&object).await.status.unwrap();
        assert!(status.expiration_time.unwrap().0 > world.clock.now(), "{vendor}");
        assert_eq!(world.calls(vendor), 2, "{vendor}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_does_not_cut_a_back_off_short() {
    let world = &World::new("back-off").await;
    let operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        let html = Effect::Answer {
            status: 200,
            headers: vec![("content-type".to_owned(), "text/html".to_owned())],
            body: "<html></html>".to_owned(),
        };
        world.simulator.add_fault(Fault::new(vendor, html));
        world.create(vendor, &object).await;
        world.ready(&object, "False InvalidResponse +Reconciling").await;
    })
    .await;
    operator.stop().await;
    let operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world.settle(&object, &operator).await;
        assert_eq!(world.calls(vendor), 1, "{vendor}");
    })
    .await;
}
