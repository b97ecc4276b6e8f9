//! What must cost nothing: targets that are deleted, restarts, lost statuses, a lost fingerprint key.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use test_support::{AuditEntries, Mark, wait_for};
use vendor_simulator::{Options, Vendor};
use vendor_token_operator::api::names;
use vendor_token_operator::api::{VendorToken, VendorTokenStatus};
use vendor_token_operator::controller::FINGERPRINT_KEY_SECRET;

use crate::world::installation;
use crate::world::vendors;
use crate::world::{Operator, Running as _, World, counts, lives};

/// Thousands of requests to an API server that shares two cores with a build.
const PATIENCE: Duration = Duration::from_secs(240);
/// What a test asks of the API server at a time.
const AT_A_TIME: usize = 8;

fn vendor_of(number: usize) -> Vendor {
    Vendor::ALL[number % Vendor::ALL.len()]
}

/// Does the same for objects 0 to `count`, some at a time.
async fn for_each<'a, F: Future<Output = ()>>(
    world: &'a World,
    count: usize,
    act: impl Fn(&'a World, Vendor, String) -> F,
) {
    stream::iter(0..count)
        .for_each_concurrent(AT_A_TIME, |number| {
            let vendor = vendor_of(number);
            act(world, vendor, format!("{}-{number}", vendors::object(vendor)))
        })
        .await;
}

/// Waits until the operator has looked at `count` objects and found them ready, and has nothing more to do.
async fn all_ready(operator: &Operator, count: usize) {
    wait_for("all to be ready", PATIENCE, || async {
        let ready = operator.metric("vendortoken_ready");
        if ready == count as f64 { Ok(()) } else { Err(ready) }
    })
    .await
    .unwrap();
    operator.quiet().await;
}

/// An operator with its own key in the world's namespace, where all that it asks is counted.
async fn start(world: &World) -> Operator {
    World::operator_in(std::slice::from_ref(world)).await
}

/// A world with `count` published tokens, each of a credential of its own, and no operator.
async fn published(prefix: &str, options: Options, count: usize) -> World {
    let world = World::with(prefix, options).await;
    let operator = start(&world).await;
    for_each(&world, count, async |world, vendor, object| {
        world.create(vendor, &object).await;
    })
    .await;
    all_ready(&operator, count).await;
    operator.stop().await;
    assert_eq!(world.simulator.calls().len(), count);
    world
}

async fn statuses(world: &World) -> BTreeMap<String, VendorTokenStatus> {
    let tokens = world.tokens().list(&ListParams::default()).await.unwrap();
    tokens
        .into_iter()
        .map(|token| {
            let mut status = token.status.unwrap();
            for condition in &mut status.conditions {
                condition.last_transition_time.0 = Timestamp::UNIX_EPOCH;
            }
            (token.metadata.name.unwrap(), status)
        })
        .collect()
}

/// Names of the Secrets that were read one by one.
fn read_one_by_one(requests: &AuditEntries) -> Vec<&str> {
    let reads = requests.iter().filter(|request| request.verb == "get");
    reads.map(|request| request.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_a_thousand_fresh_tokens_reads_only_its_own_key() {
    const COUNT: usize = 1_000;
    let started = Instant::now();
    let world = published("thousand", Options::default(), COUNT).await;
    println!("published in {:?}", started.elapsed());
    let before = statuses(&world).await;
    assert_eq!(before.len(), COUNT);

    let (mark, started) = (world.mark().await, Instant::now());
    let operator = start(&world).await;
    all_ready(&operator, COUNT).await;
    println!("restarted in {:?}", started.elapsed());
    let asked = world.acts_since(mark).await;
    assert_eq!(counts(&asked), ["1 get secrets"]);
    assert_eq!(read_one_by_one(&asked), [FINGERPRINT_KEY_SECRET]);
    assert_eq!(world.simulator.calls().len(), COUNT);
    operator.stop().await;

    // The same where every status was deleted meanwhile; it is derived from the targets.
    for_each(&world, COUNT, async |world, _, object| {
        let none = Patch::Merge(json!({ "status": null }));
        let parameters = PatchParams::default();
        let emptied: VendorToken = world
            .tokens()
            .patch_status(&object, &parameters, &none)
            .await
            .unwrap();
        assert!(emptied.status.is_none_or(|status| status.conditions.is_empty()));
    })
    .await;
    let (mark, started) = (world.mark().await, Instant::now());
    let operator = start(&world).await;
    all_ready(&operator, COUNT).await;
    println!("statuses derived in {:?}", started.elapsed());
    let asked = world.acts_since(mark).await;
    assert_eq!(
        counts(&asked),
        ["1 get secrets", "1000 patch vendortokens/status"]
    );
    assert_eq!(read_one_by_one(&asked), [FINGERPRINT_KEY_SECRET]);
    assert_eq!(statuses(&world).await, before);
    assert_eq!(world.simulator.calls().len(), COUNT);
}

/// The times from each deletion of a Secret to the operator's next write of it, by the API server's clock, the longest
/// last.
async fn restores(world: &World, mark: Mark) -> Vec<SignedDuration> {
    let all = world.plane.audit().since(mark).await.unwrap();
    let of_namespace =
        all.matching(|entry| entry.namespace == world.namespace && entry.resource == "secrets");
    let mut deleted = BTreeMap::new();
    let mut took = Vec::new();
    for entry in of_namespace.iter() {
        match entry.verb.as_str() {
            "delete" => drop(deleted.insert(entry.name.clone(), entry.received)),
            "patch" => {
                if let Some(deleted) = deleted.remove(&entry.name) {
                    took.push(entry.received.duration_since(deleted));
                }
            }
            _ => {}
        }
    }
    took.sort_unstable();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_deleted_a_hundred_times_is_restored_within_two_seconds() {
    const TIMES: usize = 100;
    let world = World::new("deleted-often").await;
    let operator = start(&world).await;
    let value = world.published(Vendor::Picus, "picus").await;
    operator.quiet().await;
    let mark = world.mark().await;
    for _ in 0..TIMES {
        // Four times a minute are no contest.
        world.clock.pass(16);
        world.delete_secret("picus").await;
        world
            .until_data("picus", "token", |restored| restored == value)
            .await;
    }
    operator.quiet().await;
    let restores = restores(&world, mark).await;
    assert_eq!(restores.len(), TIMES);
    let (median, slowest) = (restores[TIMES / 2], restores[TIMES - 1]);
    println!("restored after {median:#} in the median, {slowest:#} at most");
    assert!(slowest < SignedDuration::from_secs(2), "{slowest:#}");
    // The token is the same, so no status is written, and it was in memory, so no Secret is read.
    assert_eq!(counts(&world.acts_since(mark).await), ["100 patch secrets"]);
    assert_eq!(world.calls(Vendor::Picus), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_targets_that_are_deleted_at_once_are_restored_without_a_vendor_call() {
    const COUNT: usize = 100;
    let world = World::new("deleted-at-once").await;
    let operator = start(&world).await;
    for_each(&world, COUNT, async |world, vendor, object| {
        world.create(vendor, &object).await;
    })
    .await;
    all_ready(&operator, COUNT).await;
    let targets =
        ListParams::default().labels(&format!("{}={}", names::MANAGED_BY_LABEL, names::FIELD_MANAGER));
    let values = async || -> BTreeMap<_, _> {
        let targets = world.secrets().list(&targets).await.unwrap();
        targets
            .into_iter()
            .map(|target| (target.metadata.name, target.data))
            .collect()
    };
    let before = values().await;
    assert_eq!(before.len(), COUNT);
    let mark = world.mark().await;
    world
        .secrets()
        .delete_collection(&DeleteParams::default(), &targets)
        .await
        .unwrap();
    wait_for("all targets to be restored", PATIENCE, || async {
        let now = values().await;
        if now == before { Ok(()) } else { Err(now.len()) }
    })
    .await
    .unwrap();
    operator.quiet().await;
    assert_eq!(counts(&world.acts_since(mark).await), ["100 patch secrets"]);
    assert_eq!(world.simulator.calls().len(), COUNT);
}

async fn key(world: &World) -> Option<Vec<u8>> {
    let secret = world.secrets().get_opt(FINGERPRINT_KEY_SECRET).await.unwrap()?;
    Some(secret.data?.remove("key")?.0)
}

async fn settle_all(world: &World, operator: &Operator, count: usize) {
    for_each(world, count, async |world, _, object| {
        world.poke(&object).await;
    })
    .await;
    operator.quiet().await;
}

/// Tokens of an hour are due after 45 to 48 minutes: nothing is asked before, and one call each then.
async fn refreshed_when_due_and_not_before(world: &World, operator: &Operator, count: usize) {
    let values = async || {
        let mut values = Vec::new();
        for number in 0..count {
            let object = format!("{}-{number}", vendors::object(vendor_of(number)));
            values.push(world.data(&object, "token").await.unwrap());
        }
        values
    };
    let (calls, before) = (world.simulator.calls().len(), values().await);
    world.clock.pass(2_600);
    settle_all(world, operator, count).await;
    assert_eq!(
        world.simulator.calls().len(),
        calls,
        "asked before the token was due"
    );
    world.clock.pass(300);
    settle_all(world, operator, count).await;
    wait_for("all tokens to be new", PATIENCE, || async {
        let now = values().await;
        let new = now
            .iter()
            .zip(&before)
            .filter(|(now, before)| now != before)
            .count();
        if new == count { Ok(()) } else { Err(new) }
    })
    .await
    .unwrap();
    settle_all(world, operator, count).await;
    assert_eq!(world.simulator.calls().len(), calls + count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fingerprint_key_that_is_lost_costs_no_vendor_call() {
    const COUNT: usize = 20;
    let an_hour = lives(3_600);
    let world = published("key-lost", an_hour, COUNT).await;
    let first = key(&world).await.unwrap();

    // While the operator runs, the same key comes back, and with it all that depends on it.
    let operator = start(&world).await;
    all_ready(&operator, COUNT).await;
    let mark = world.mark().await;
    world.delete_secret(FINGERPRINT_KEY_SECRET).await;
    world
        .until("the key to come back", async || {
            key(&world).await.ok_or("none".to_owned())
        })
        .await;
    settle_all(&world, &operator, COUNT).await;
    let asked = world.acts_since(mark).await;
    assert_eq!(
        counts(&asked),
        installation::asked(["1 get secrets", "1 patch secrets"])
    );
    assert!(asked.iter().all(|request| request.name == FINGERPRINT_KEY_SECRET));
    refreshed_when_due_and_not_before(&world, &operator, COUNT).await;
    operator.stop().await;
    assert_eq!(key(&world).await, Some(first.clone()));

    // While it is down, it is another one: what was made with the first counts as unchanged until it is due.
    world.delete_secret(FINGERPRINT_KEY_SECRET).await;
    let (mark, calls) = (world.mark().await, world.simulator.calls().len());
    let operator = start(&world).await;
    all_ready(&operator, COUNT).await;
    assert_ne!(key(&world).await.unwrap(), first);
    settle_all(&world, &operator, COUNT).await;
    assert_eq!(world.simulator.calls().len(), calls);
    let asked = world.acts_since(mark).await;
    let others = asked.matching(|request| request.name != FINGERPRINT_KEY_SECRET);
    assert_eq!(counts(&others), Vec::<String>::new());
    refreshed_when_due_and_not_before(&world, &operator, COUNT).await;
    operator.stop().await;

    // They are of the new key now: a restart finds them as they should be.
    let (mark, calls) = (world.mark().await, world.simulator.calls().len());
    let operator = start(&world).await;
    all_ready(&operator, COUNT).await;
    assert_eq!(
        counts(&world.acts_since(mark).await),
        installation::asked(["1 get secrets"])
    );
    assert_eq!(world.simulator.calls().len(), calls);
}
