//! An API server that fails costs many objects what it costs a few, and all is right soon after it is back.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use kube::api::ListParams;
use serde_json::json;
use test_support::{ApiProxy, Breakage, Broken, Calls};
use vendor_simulator::Vendor;
use vendor_token_operator::metrics::api::LONGEST_CALL;

use crate::world::vendors;
use crate::world::{Operator, Running as _, World, summary};

const VENDOR: Vendor = Vendor::SixMap;
/// The reconciles of one namespace that are under way, where no other has any: of 16 in all a quarter is left for others.
const IN_FLIGHT: u64 = 12;

/// A world whose operator cannot write Secrets, with as many VendorTokens that have to be published. All share one
/// credential.
struct Outage {
    world: World,
    proxy: ApiProxy,
    operator: Operator,
    broken: Broken,
}

impl Outage {
    async fn of(objects: usize, prefix: &str, breakage: Breakage) -> Self {
        let world = World::new(prefix).await;
        let proxy = ApiProxy::start(world.plane).await.unwrap();
        let operator = world.operator_behind(&proxy).await;
        world.published(VENDOR, "first").await;
        let broken = proxy.break_calls(Calls::patches_of("secrets"), breakage);
        stream::iter(0..objects)
            .for_each_concurrent(16, |number| {
                let world = &world;
                async move {
                    let spec = vendors::spec(VENDOR, "first");
                    world.apply(&format!("t{number}"), spec).await;
                }
            })
            .await;
        world
            .until("a write to fail", async || {
                if broken.count() > 0 {
                    Ok(())
                } else {
                    Err("none".to_owned())
                }
            })
            .await;
        Self {
            world,
            proxy,
            operator,
            broken,
        }
    }
}

/// The writes in half a minute of an outage of 12 and of 300 objects.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_fails_is_asked_as_rarely_for_many_objects_as_for_few() {
    let few = Outage::of(12, "outage-few", Breakage::Status(500));
    let many = Outage::of(300, "outage-many", Breakage::Status(500));
    let (few, many) = futures::future::join(few, many).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let (of_few, of_many) = (few.broken.count(), many.broken.count());
    // After 1, 2, 4 and then each 5 s one; twice that, for what came before.
    assert!(of_few <= IN_FLIGHT + 16, "{of_few} writes for 12 objects");
    assert!(of_many <= IN_FLIGHT + 16, "{of_many} writes for 300 objects");
    assert!(of_few >= 5, "{of_few} writes: it is not tried again");
    for outage in [&few, &many] {
        // The status shows the outage when it has lasted for a minute.
        outage.world.clock.pass(60);
        outage.world.ready("t0", "False ApiDenied +Reconciling").await;
        let message = outage.world.message("t0").await;
        assert!(message.contains("writes of Secrets have failed"), "{message}");
        outage.proxy.mend();
    }
    let back = Instant::now();
    few.world.until_published(13, Duration::from_secs(10)).await;
    // More work than the 12, on the same machine.
    many.world.until_published(301, Duration::from_secs(60)).await;
    println!(
        "13 and 301 objects published {:?} after the return",
        back.elapsed()
    );
    for outage in [few, many] {
        outage.operator.quiet().await;
        assert_eq!(outage.world.calls(VENDOR), 1, "no token was asked for twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttling_api_server_is_not_asked_before_the_time_that_it_gives() {
    let outage = Outage::of(40, "throttled-api", Breakage::RetryAfter(20)).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let asked = outage.broken.count();
    assert!(asked <= IN_FLIGHT, "{asked} writes within 15 s");
    outage.proxy.mend();
    outage.world.until_published(41, Duration::from_secs(30)).await;
    assert_eq!(outage.world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_whose_webhook_fails_delays_no_other() {
    // The operator's own Secret is in the first.
    let good = World::new("webhook-good").await;
    let world = good.neighbour("webhook-bad").await;
    let worlds = [good, world];
    let operator = World::operator_in(&worlds).await;
    let [good, world] = &worlds;
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": world.namespace },
        "webhooks": [{
            "name": "nobody.example.com", "clientConfig": { "url": "https://127.0.0.1:1/" }, "failurePolicy": "Fail",
            "sideEffects": "None", "timeoutSeconds": 1, "admissionReviewVersions": ["v1"],
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": world.namespace } },
            // Credentials can be made.
            "matchConditions": [{ "name": "targets", "expression": "!request.name.endsWith('-credentials')" }],
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"], "operations": ["CREATE"] }],
        }],
    });
    world
        .plane
        .apply_yaml("", &serde_json::to_string(&webhook).unwrap())
        .await
        .unwrap();
    for number in 0..20 {
        world.create(VENDOR, &format!("bad{number}")).await;
    }
    // Each learns of it when its own write is tried, in any order.
    world
        .until("a refusal to be told", async || {
            let all = world.tokens().list(&ListParams::default()).await;
            let all = all.map_err(|error| error.to_string())?.items;
            let is_told = all
                .iter()
                .any(|token| summary(token) == "False ApiDenied +Stalled");
            if is_told { Ok(()) } else { Err("no".to_owned()) }
        })
        .await;
    for number in 0..5 {
        let begun = Instant::now();
        good.published(VENDOR, &format!("good{number}")).await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
    // One write at a time is tried there, and the others are told why they wait.
    world.clock.pass(60);
    let denied = |ready: &str| ready.starts_with("False ApiDenied");
    world.settled("bad19", denied, "False ApiDenied").await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_whose_calls_hang_delays_no_other() {
    let good = World::new("hang-good").await;
    let bad = good.neighbour("hang-bad").await;
    let worlds = [good, bad];
    let proxy = ApiProxy::start(worlds[0].plane).await.unwrap();
    let _operator = World::operator_in_behind(&worlds, &proxy).await;
    let [good, bad] = &worlds;
    good.published(VENDOR, "first").await;
    bad.published(VENDOR, "second").await;
    let writes = Calls::patches_of("secrets").in_namespace(&bad.namespace);
    let broken = proxy.break_calls(writes, Breakage::Hang);
    // Their tokens are there: each has nothing but its writes to wait for.
    for number in 0..20 {
        bad.apply(&format!("bad{number}"), vendors::spec(VENDOR, "second"))
            .await;
    }
    bad.until("writes to hang", async || {
        let count = broken.count();
        if count >= IN_FLIGHT {
            Ok(())
        } else {
            Err(count.to_string())
        }
    })
    .await;
    for number in 0..3 {
        let name = format!("good{number}");
        good.apply(&name, vendors::spec(VENDOR, "first")).await;
        good.ready(&name, "True Published").await;
    }
    // None of the writes that hang has ended by then.
    let hangs_for = broken.calls()[0].at.elapsed();
    println!("three of another namespace are published while a write hangs for {hangs_for:?}");
    assert!(hangs_for < LONGEST_CALL, "{hangs_for:?}");
    assert_eq!(broken.count(), IN_FLIGHT);
    proxy.mend();
    bad.until_published(21, Duration::from_secs(60)).await;
}
