//! The memory that other people's Secrets cost, and the reads of a Secret that many name.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Map, Value, json};
use test_support::wait_for;
use vendor_simulator::{Effect, Fault, Vendor};

use crate::world::{Account, Program, Running as _, World, summary};

const MIB: u64 = 1024 * 1024;
const CREATES_AT_A_TIME: usize = 8;
const PATIENCE: Duration = Duration::from_secs(240);

/// Applies as many annotations as the API server takes, under keys as long as they can be, by four managers: the metadata
/// names each key five times.
async fn put_large_metadata(world: &World, name: &str) {
    let annotations: Map<String, Value> = (0..800)
        .map(|number| {
            let prefix = format!("{}.{}", ["p"; 63].concat(), ["q"; 63].concat());
            let prefix = format!("{prefix}.{}.{}", ["r"; 63].concat(), ["s"; 61].concat());
            (format!("{prefix}/{number:063}"), json!(""))
        })
        .collect();
    for manager in ["one", "two", "three", "four"] {
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "annotations": annotations } });
        world
            .secrets()
            .patch(name, &PatchParams::apply(manager).force(), &Patch::Apply(secret))
            .await
            .unwrap();
    }
}

async fn peak_of_a_start(world: &World) -> u64 {
    let operator = world.program().await;
    operator.quiet().await;
    let peak = operator.peak_memory();
    operator.stop().await;
    peak
}

#[tokio::test(flavor = "multi_thread")]
async fn large_metadata_of_a_hundred_secrets_costs_little_at_a_start() {
    let world = World::new("metadata").await;
    let before = peak_of_a_start(&world).await;
    stream::iter(0..100)
        .for_each_concurrent(CREATES_AT_A_TIME, |number| {
            let world = &world;
            async move { put_large_metadata(world, &format!("large-{number}")).await }
        })
        .await;
    let one = world.secret("large-0").await;
    let bytes = serde_json::to_vec(&one.metadata).unwrap().len();
    assert!(bytes > 1_200_000, "{bytes} bytes of metadata");
    let after = peak_of_a_start(&world).await;
    let growth = after.saturating_sub(before);
    println!(
        "peak of a start: {} KiB without Secrets, {} KiB more with 100 of {bytes} bytes of metadata",
        before / 1024,
        growth / 1024
    );
    assert!(growth < 32 * MIB, "{growth} bytes");
}

/// Waits until all VendorTokens have this summary.
async fn until_all(world: &World, count: usize, expected: &str) {
    wait_for(&format!("{count} to be '{expected}'"), PATIENCE, || async {
        let all = world.tokens().list(&ListParams::default()).await;
        let all = all.map_err(|error| error.to_string())?.items;
        let found = all.iter().filter(|token| summary(token) == expected).count();
        if found >= count {
            Ok(())
        } else {
            Err(found.to_string())
        }
    })
    .await
    .unwrap();
}

/// An operator whose VendorTokens all name one Secret, at a vendor that has paused them.
async fn paused(world: &World, count: usize) -> Program {
    let throttle = Effect::Throttle {
        retry_after: Some("1800".to_owned()),
        seconds: 1800,
    };
    world.simulator.add_fault(Fault::new(Vendor::Mapiq, throttle));
    let account = Account::new(Vendor::Mapiq, "id", "secret");
    world.credentials("shared", &account.data()).await;
    let operator = world.program().await;
    stream::iter(0..count)
        .for_each_concurrent(CREATES_AT_A_TIME, |number| {
            let spec = account.spec("shared");
            async move { drop(world.apply(&format!("t-{number}"), spec).await) }
        })
        .await;
    until_all(world, count, "False RateLimited +Reconciling").await;
    operator.quiet().await;
    operator
}

#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_on_a_secret_that_a_thousand_name_costs_two_reads_at_most() {
    let world = World::new("one-read").await;
    let operator = paused(&world, 1000).await;
    let (mark, before) = (world.mark().await, operator.reconciles().await);
    let annotation = json!({ "metadata": { "annotations": { "note": "new" } } });
    world.edit_secret("shared", annotation).await;
    wait_for("a thousand looks", PATIENCE, || async {
        let looks = operator.reconciles().await - before;
        if looks >= 1000 { Ok(()) } else { Err(looks) }
    })
    .await
    .unwrap();
    operator.quiet().await;
    let asked = world.requests_since(mark).await;
    let reads = asked.matching(|entry| entry.resource == "secrets" && entry.verb == "get");
    println!(
        "{} reads of the Secret after one annotation",
        reads.iter().count()
    );
    assert!(reads.iter().count() <= 2, "{:?}", asked.by_verb_and_resource());
    assert_eq!(world.all_calls(), 1);
}
