//! A namespace full of junk beside one with honest tokens, on Mapiq's own limit: no token of the other expires.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::Instant;
use vendor_simulator::{Budget, Options, Vendor};
use vendor_token_operator::api::names;

use crate::world::installation::everywhere;
use crate::world::{Account, Program, World, vendors};

const HONEST: usize = 10;
const JUNK: usize = 250;
const LIFE: u64 = 300;
/// A token is due 120 s before its end, so 180 s after its issue. The junk comes a little sooner.
const JUNK_COMES: Duration = Duration::from_secs(155);
const PATIENCE: Duration = Duration::from_secs(120);

fn honest(number: usize) -> String {
    format!("honest-{number}")
}

/// The namespace with the honest VendorTokens, the one with the junk, and the program that serves both.
async fn worlds(prefix: &str) -> (World, World) {
    let options = Options::default()
        .budget(Vendor::Mapiq, Budget::MAPIQ)
        .lifetime(Vendor::Mapiq, LIFE);
    let plane = everywhere().await;
    let world = World::on(plane, prefix, options).await;
    let hostile = world.beside(plane.namespace("hostile").await.unwrap());
    (world, hostile)
}

async fn program(world: &World, hostile: &World) -> Program {
    let also = format!("--watch-namespace={}", hostile.namespace);
    world.program_with(&["--rate-limit=Mapiq=20", &also]).await
}

/// Creates the honest VendorTokens, and gives the moment by which all have their token.
async fn create_honest(world: &World) -> Instant {
    for number in 0..HONEST {
        let name = honest(number);
        let account = Account::new(Vendor::Mapiq, &name, &vendors::secret_of(&name));
        world.create_with(&name, &account).await;
    }
    world.until_published(HONEST, PATIENCE).await;
    Instant::now()
}

/// Runs `act` for the number of each VendorToken of the hostile namespace, several at a time.
async fn for_all_junk<F: Future<Output = ()>>(act: impl Fn(usize) -> F) {
    stream::iter(0..JUNK).for_each_concurrent(8, act).await;
}

/// Waits until the honest tokens that were there at `published` have ended, and asserts that each was refreshed before.
async fn no_honest_token_expires(world: &World, published: Instant) {
    tokio::time::sleep_until(published + Duration::from_secs(LIFE + 30)).await;
    let mut times: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let calls = world.simulator.calls();
    for call in calls.iter().filter(|call| call.status == Some(200)) {
        let credential = call.credential.clone().unwrap();
        times.entry(credential).or_default().push(call.time_ms);
    }
    let junk = calls.iter().filter(|call| call.status != Some(200)).count();
    println!("{} requests, {junk} of them with junk", calls.len());
    assert!(junk > 10, "the junk was tried too: {junk}");
    assert!(calls.iter().all(|call| call.status != Some(429)));
    for number in 0..HONEST {
        let all = &times[&honest(number)];
        assert!(all.len() >= 2, "{number}: not refreshed");
        let slowest = all.windows(2).map(|two| two[1] - two[0]).max().unwrap();
        println!("honest token {number}: refreshed after {} s", slowest / 1000);
        assert!(slowest < LIFE * 1000, "{number}: {slowest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_with_forged_targets_ends_no_token_of_another_namespace() {
    let (world, hostile) = worlds("fair-forged").await;
    let _program = program(&world, &hostile).await;
    let published = create_honest(&world).await;
    tokio::time::sleep_until(published + JUNK_COMES).await;
    // Targets with the manager's name and the form of our own, which say that a token ends in a moment.
    let stranger = world.secret(&honest(0)).await.metadata.annotations.unwrap();
    for_all_junk(async |number| {
        let name = format!("junk-{number}");
        hostile.apply_secret_as_the_operator(&name, &stranger).await;
        let account = Account::new(Vendor::Mapiq, &name, "nobody knows it");
        hostile.create_unregistered(&name, &account, json!({})).await;
    })
    .await;
    no_honest_token_expires(&world, published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_credential_replaced_by_junk_ends_no_token_of_another_namespace() {
    let (world, hostile) = worlds("fair-replaced").await;
    let good = Account::new(Vendor::Mapiq, "shared", "good for all");
    world.simulator.put_credential(Vendor::Mapiq, good.credential());
    for_all_junk(async |number| {
        hostile
            .create_unregistered(&format!("junk-{number}"), &good, json!({}))
            .await;
    })
    .await;
    // Their token comes before the honest ones, and ends before them.
    let _program = program(&world, &hostile).await;
    let started = Instant::now();
    hostile.until_published(JUNK, PATIENCE).await;
    let published = create_honest(&world).await;
    tokio::time::sleep_until(started + JUNK_COMES).await;
    for_all_junk(async |number| {
        let name = format!("junk-{number}");
        let junk = format!("nobody knows {number}");
        hostile
            .credentials(
                &vendors::credentials_of(&name),
                &vendors::data(Vendor::Mapiq, &name, &junk),
            )
            .await;
    })
    .await;
    no_honest_token_expires(&world, published).await;
}

impl World {
    /// Applies a target with the operator's field manager: it says that its token ends in a minute, and copies the rest.
    async fn apply_secret_as_the_operator(&self, name: &str, copied: &BTreeMap<String, String>) {
        let now = jiff::Timestamp::now();
        let time = |seconds: i64| {
            Value::from(
                (now + jiff::SignedDuration::from_secs(seconds))
                    .strftime("%Y-%m-%dT%H:%M:%SZ")
                    .to_string(),
            )
        };
        let mut annotations = json!(copied);
        annotations[names::ISSUED_TIME] = time(-240);
        annotations[names::EXPIRATION_TIME] = time(60);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "data": { "token": "anVuaw==" },
            "metadata": { "name": name, "annotations": annotations, "labels": { names::NAME_LABEL: name } },
        });
        let as_the_operator = PatchParams::apply(names::FIELD_MANAGER).force();
        let _: Secret = self
            .secrets()
            .patch(name, &as_the_operator, &Patch::Apply(secret))
            .await
            .unwrap();
    }
}
