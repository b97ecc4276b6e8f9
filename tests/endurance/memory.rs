//! Many VendorTokens over one large Secret, at a vendor that has paused them: what waits holds no credentials.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use k8s_openapi::ByteString;
use kube::api::ListParams;
use serde_json::json;
use test_support::wait_for;
use vendor_simulator::{Effect, Fault, Options, Vendor};

use crate::world::installation::everywhere;
use crate::world::{Running as _, World, summary};

const OBJECTS: usize = 4000;
/// As many values, of which each VendorToken names two.
const VALUES: usize = 64;
const VALUE_BYTES: usize = 15_000;
/// The bytes that one VendorToken may cost, with all that is known of it and what the allocator keeps of 4 000 reads of
/// 1 MB: about half of its credentials.
const BYTES_AN_OBJECT: u64 = 16 * 1024;
const CREATES_AT_A_TIME: usize = 8;
const PATIENCE: Duration = Duration::from_secs(600);

// C3
#[tokio::test(flavor = "multi_thread")]
async fn four_thousand_paused_over_one_large_secret_hold_no_credentials() {
    let world = World::on(everywhere().await, "paused", Options::default()).await;
    let throttle = Effect::Throttle {
        retry_after: Some("3600".to_owned()),
        seconds: 3600,
    };
    world.simulator.add_fault(Fault::new(Vendor::Mapiq, throttle));
    let data: BTreeMap<String, ByteString> = (0..VALUES)
        .map(|number| {
            let value = format!("{number:02}").repeat(VALUE_BYTES / 2);
            (format!("k{number}"), ByteString(value.into_bytes()))
        })
        .collect();
    world.apply_secret("large", json!({ "data": data })).await;
    let operator = world.program().await;
    operator.quiet().await;
    let before = operator.peak_memory();

    let world = &world;
    stream::iter(0..OBJECTS)
        .for_each_concurrent(CREATES_AT_A_TIME, |number| async move {
            let keys = json!({ "client-id": format!("k{}", number / VALUES), "client-secret": format!("k{}", number % VALUES) });
            let reference = json!({ "name": "large", "keys": keys });
            let spec = json!({ "vendor": "Mapiq", "credentialsSecretRef": reference });
            world.apply(&format!("t-{number:04}"), spec).await;
        })
        .await;
    wait_for("all to be paused", PATIENCE, || async {
        let all = world.tokens().list(&ListParams::default()).await;
        let all = all.map_err(|error| error.to_string())?.items;
        let paused = all
            .iter()
            .filter(|token| summary(token) == "False RateLimited +Reconciling");
        let count = paused.count();
        if count == OBJECTS {
            Ok(())
        } else {
            Err(count.to_string())
        }
    })
    .await
    .unwrap();
    operator.quiet().await;
    let growth = operator.peak_memory() - before;
    println!(
        "{OBJECTS} VendorTokens with {} bytes of credentials each: {} KiB more at the peak, {} bytes each",
        2 * VALUE_BYTES,
        growth / 1024,
        growth / OBJECTS as u64
    );
    assert!(growth < OBJECTS as u64 * BYTES_AN_OBJECT, "{growth} bytes");
    assert!(world.calls(Vendor::Mapiq) <= 2);
}
