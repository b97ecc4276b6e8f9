//! A restart costs nothing: the state is the target Secret.

use futures::future::join_all;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use vendor_simulator::Vendor;

use crate::support::{Operator, World};
use crate::vendors;

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
async fn a_restart_with_fresh_tokens_asks_no_vendor_writes_nothing_and_reads_no_secret() {
    let world = fifty_published("restart").await;
    let mark = world.mark().await;
    let operator = world.operator().await;
    looked_at_all(&world, &operator).await;
    let requests = world.requests_since(mark).await;
    let counts: Vec<_> = requests
        .by_verb_and_resource()
        .into_iter()
        .map(|((verb, resource), count)| format!("{count} {verb} {resource}"))
        .collect();
    assert_eq!(
        counts,
        [
            "1 list secrets",
            "1 list vendortokens",
            "1 watch secrets",
            "1 watch vendortokens"
        ]
    );
    assert_eq!(world.simulator.calls().len(), COUNT);
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
