//! The memory that other people's Secrets cost, and the reads of a Secret that many name.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Map, Value, json};
use test_support::wait_for;
use vendor_simulator::{Effect, Fault, Vendor};

use crate::world::{Account, Program, Running as _, World, root, summary, vendors};

const MIB: u64 = 1024 * 1024;
const CREATES_AT_A_TIME: usize = 8;
const PATIENCE: Duration = Duration::from_secs(240);

/// The memory limit of the Deployment in `deploy/`, in bytes.
fn shipped_limit() -> u64 {
    let manifest = std::fs::read_to_string(root().join("deploy/operator/deployment.yaml")).unwrap();
    let manifest: Value = serde_saphyr::from_str(&manifest).unwrap();
    let limits = &manifest["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"];
    let limit = limits["memory"].as_str().unwrap();
    limit.strip_suffix("Mi").unwrap().parse::<u64>().unwrap() * MIB
}

/// Applies as many annotations as the API server takes, under keys as long as they can be, by these managers: the metadata
/// names each key once more for each of them.
async fn put_large_metadata(world: &World, name: &str, managers: &[&str]) {
    let annotations: Map<String, Value> = (0..800)
        .map(|number| {
            let prefix = format!("{}.{}", ["p"; 63].concat(), ["q"; 63].concat());
            let prefix = format!("{prefix}.{}.{}", ["r"; 63].concat(), ["s"; 61].concat());
            (format!("{prefix}/{number:063}"), json!(""))
        })
        .collect();
    for manager in managers {
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
            async move {
                put_large_metadata(
                    world,
                    &format!("large-{number}"),
                    &["one", "two", "three", "four"],
                )
                .await
            }
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
    assert!(after < shipped_limit(), "{after} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_targets_that_are_annotated_at_once_cost_little_memory() {
    const TARGETS: usize = 80;
    let world = World::new("annotated").await;
    let account = Account::new(Vendor::Picus, "id", "secret");
    world
        .simulator
        .put_credential(Vendor::Picus, account.credential());
    world.credentials("shared", &account.data()).await;
    let names: Vec<_> = (0..TARGETS).map(|number| format!("t-{number}")).collect();
    let each = |name: &String| (name.clone(), account.spec("shared"));
    stream::iter(names.iter().map(each))
        .for_each_concurrent(CREATES_AT_A_TIME, |(name, spec)| {
            let world = &world;
            async move { drop(world.apply(&name, spec).await) }
        })
        .await;
    let operator = world.program().await;
    world.until_published(TARGETS, PATIENCE).await;
    operator.quiet().await;
    operator.stop().await;
    // As much beside the token as etcd takes: data that base64 makes longer, and metadata.
    let foreign = "x".repeat(850_000);
    stream::iter(&names)
        .for_each_concurrent(CREATES_AT_A_TIME, |name| {
            let (world, foreign) = (&world, &foreign);
            async move {
                put_large_metadata(world, name, &["one"]).await;
                let edit = json!({ "stringData": { "foreign": foreign } });
                world.edit_secret(name, edit).await;
            }
        })
        .await;
    let one = serde_json::to_vec(&world.secret(&names[0]).await).unwrap().len();
    assert!(one > 1_600_000, "{one} bytes");
    let operator = world.program().await;
    operator.quiet().await;
    let (before, mark) = (operator.peak_memory(), world.mark().await);
    stream::iter(&names)
        .for_each_concurrent(TARGETS, |name| {
            let world = &world;
            let edit = json!({ "metadata": { "labels": { "note": "new" } } });
            async move { drop(world.edit_secret(name, edit).await) }
        })
        .await;
    wait_for("a read of each target", PATIENCE, || async {
        let asked = world.requests_since(mark).await;
        let reads = asked.matching(|entry| entry.resource == "secrets" && entry.verb == "get");
        let read: BTreeSet<_> = reads.iter().map(|entry| entry.name.clone()).collect();
        if read.len() == TARGETS {
            Ok(())
        } else {
            Err(read.len())
        }
    })
    .await
    .unwrap();
    operator.quiet().await;
    let peak = operator.peak_memory();
    let growth = peak.saturating_sub(before);
    println!(
        "peak: {} KiB, {} KiB more than before {TARGETS} targets of {one} bytes were annotated at once",
        peak / 1024,
        growth / 1024
    );
    assert!(growth < 32 * MIB, "{growth} bytes");
    assert!(peak < shipped_limit(), "{peak} bytes");
}

// C3
#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_of_900_kb_are_refused_and_cost_little_memory() {
    const OBJECTS: usize = 100;
    let world = World::new("certificates").await;
    let before = peak_of_a_start(&world).await;
    let pair = world.simulator.client_certificate("client").unwrap();
    let long = |pem: &str, bytes: usize| pem.repeat(bytes / pem.len() + 1);
    let (chain, key) = (long(&pair.certificate_pem, 500_000), long(&pair.key_pem, 400_000));
    world.register(Vendor::SixClicks, "api").await;
    stream::iter(0..OBJECTS)
        .for_each_concurrent(CREATES_AT_A_TIME, |number| {
            let (world, chain, key) = (&world, &chain, &key);
            async move {
                let name = format!("c-{number}");
                let data = json!({ "tls.crt": chain, "tls.key": key });
                let secret = json!({ "type": "kubernetes.io/tls", "stringData": data });
                world.apply_secret(&format!("{name}-tls"), secret).await;
                let mut spec = vendors::spec(Vendor::SixClicks, "api");
                spec["sixClicks"]["clientCertificateSecretRef"] = json!({ "name": format!("{name}-tls") });
                drop(world.apply(&name, spec).await);
            }
        })
        .await;
    let operator = world.program().await;
    until_all(&world, OBJECTS, "False CredentialsInvalid +Stalled").await;
    operator.quiet().await;
    let peak = operator.peak_memory();
    let growth = peak.saturating_sub(before);
    println!(
        "peak: {} KiB, {} KiB more than of a start without objects, with {OBJECTS} client certificates and keys of {} bytes",
        peak / 1024,
        growth / 1024,
        chain.len() + key.len()
    );
    let message = world.message("c-7").await;
    assert!(
        message.contains("Secret 'c-7-tls': key tls.crt is longer than 64 KiB"),
        "{message}"
    );
    assert_eq!(world.all_calls(), 0);
    assert!(growth < 32 * MIB, "{growth} bytes");
    assert!(peak < shipped_limit(), "{peak} bytes");
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
