//! Many VendorTokens over large Secrets, at a vendor that has paused them: what waits costs no more than over small ones.

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

const OBJECTS: usize = 2000;
/// As many Secrets, which the VendorTokens name in turns. Reads of the same one at the same time would be one.
const SECRETS: usize = 10;
/// As many values in each Secret, of which each VendorToken names two.
const VALUES: usize = 64;
/// Bytes of a value in a Secret of about 1 MB, and in one to compare with.
const LARGE: usize = 15_000;
const SMALL: usize = 32;
/// The bytes more that all of them may cost over the large Secrets. Their credentials alone would be 60 MB.
const MOST: u64 = 16 * 1024 * 1024;
/// The requests that may be in flight when the first answer tells of the pause: a quarter of Mapiq's 20 a minute.
const AT_ONCE: u64 = 5;
const CREATES_AT_A_TIME: usize = 8;
const PATIENCE: Duration = Duration::from_secs(600);

// C3
#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_paused_over_large_secrets_cost_little_more_than_over_small_ones() {
    let (small, large) = tokio::join!(growth("small", SMALL), growth("large", LARGE));
    let more = large.saturating_sub(small);
    println!(
        "{OBJECTS} VendorTokens over {SECRETS} Secrets of {} KiB: {} KiB more at the peak; of {} KiB: {} KiB more",
        VALUES * SMALL / 1024,
        small / 1024,
        VALUES * LARGE / 1024,
        large / 1024
    );
    assert!(more < MOST, "the large Secrets cost {} KiB", more / 1024);
}

/// Makes the VendorTokens over a Secret with values of so many bytes, at a vendor that pauses them. Gives the growth of
/// the operator's peak memory in bytes.
async fn growth(name: &str, value_bytes: usize) -> u64 {
    let world = World::on(everywhere().await, name, Options::default()).await;
    let throttle = Effect::Throttle {
        retry_after: Some("3600".to_owned()),
        seconds: 3600,
    };
    world.simulator.add_fault(Fault::new(Vendor::Mapiq, throttle));
    for secret in 0..SECRETS {
        let data: BTreeMap<String, ByteString> = (0..VALUES)
            .map(|number| {
                let value = format!("{secret:02}{number:02}").repeat(value_bytes / 4);
                (format!("k{number}"), ByteString(value.into_bytes()))
            })
            .collect();
        let name = format!("source-{secret}");
        world.apply_secret(&name, json!({ "data": data })).await;
    }
    let operator = world.program().await;
    operator.quiet().await;
    let before = operator.peak_memory();

    let world = &world;
    stream::iter(0..OBJECTS)
        .for_each_concurrent(CREATES_AT_A_TIME, |number| async move {
            let (secret, pair) = (number % SECRETS, number / SECRETS);
            let keys = json!({ "client-id": format!("k{}", pair / VALUES), "client-secret": format!("k{}", pair % VALUES) });
            let reference = json!({ "name": format!("source-{secret}"), "keys": keys });
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
    let calls = world.calls(Vendor::Mapiq);
    assert!(calls <= AT_ONCE, "{calls} calls, of which one told the pause");
    operator.peak_memory() - before
}
