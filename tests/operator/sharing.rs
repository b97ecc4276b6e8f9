//! One credential behind many VendorTokens: one call, one refresh, and nothing for who has no credentials of their own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{StreamExt, stream};
use kube::api::ListParams;
use serde_json::json;
use test_support::{Mark, wait_for};
use vendor_simulator::{Effect, Fault, Vendor};
use vendor_token_operator::api::names;

use crate::world::installation::has_secret_watch;
use crate::world::vendors;
use crate::world::{Operator, Running as _, World};

const VENDOR: Vendor = Vendor::SixMap;
const NAMESPACES: usize = 5;
const COUNT: usize = 500;
/// Some 1 500 requests to an API server that shares two cores with a build.
const PATIENCE: Duration = Duration::from_secs(120);
/// Reconciles at a time in this harness.
const CONCURRENCY: usize = 16;
/// What a test asks of the API server at a time.
const AT_A_TIME: usize = 8;

fn objects(worlds: &[World]) -> Vec<(&World, String)> {
    (0..COUNT)
        .map(|number| (&worlds[number % NAMESPACES], format!("shared-{number}")))
        .collect()
}

/// The tokens that the targets in these namespaces hold, with the number of targets.
async fn held(worlds: &[World]) -> BTreeMap<String, usize> {
    let mut held = BTreeMap::new();
    for world in worlds {
        let targets =
            ListParams::default().labels(&format!("{}={}", names::MANAGED_BY_LABEL, names::FIELD_MANAGER));
        for mut target in world.secrets().list(&targets).await.unwrap() {
            let token = target
                .data
                .as_mut()
                .and_then(|data| data.remove("token"))
                .unwrap();
            *held.entry(String::from_utf8(token.0).unwrap()).or_default() += 1;
        }
    }
    held
}

/// Waits until all targets hold one token that is not `former`, and the operator has nothing more to do.
async fn all_hold_one_token(worlds: &[World], operator: &Operator, former: Option<&str>) -> String {
    wait_for("all targets to hold one token", PATIENCE, || async {
        let held = held(worlds).await;
        let counts: Vec<_> = held.values().copied().collect();
        match held.into_keys().next() {
            Some(token) if counts == [COUNT] && former != Some(&*token) => Ok(token),
            _ => Err(format!("{counts:?}")),
        }
    })
    .await
    .unwrap();
    operator.quiet().await;
    let held = held(worlds).await;
    assert_eq!(held.values().copied().collect::<Vec<_>>(), [COUNT]);
    held.into_keys().next().unwrap()
}

/// Requests to the API server in all of these namespaces, by verb and resource.
async fn asked_since(worlds: &[World], mark: Mark) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for world in worlds {
        for ((verb, resource), count) in world.acts_since(mark).await.by_verb_and_resource() {
            *all.entry(format!("{verb} {resource}")).or_default() += count;
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_vendor_tokens_with_one_credential_share_each_call() {
    let first = World::new("sharing").await;
    // The vendors' clock does not move along. What there is to say about that is said at the first publish.
    first.clock.pass(3_600);
    let others = join_all((1..NAMESPACES).map(|_| first.neighbour("sharing"))).await;
    let worlds: Vec<World> = std::iter::once(first).chain(others).collect();
    for world in &worlds {
        world.register(VENDOR, "shared").await;
    }
    let operator = World::operator_in(&worlds).await;
    operator.quiet().await;
    let mark = worlds[0].mark().await;
    let started = Instant::now();
    stream::iter(objects(&worlds))
        .for_each_concurrent(AT_A_TIME, |(world, name)| async move {
            world.apply(&name, vendors::spec(VENDOR, "shared")).await;
        })
        .await;
    let token = all_hold_one_token(&worlds, &operator, None).await;
    println!(
        "published in {:?}, with {:?}",
        started.elapsed(),
        asked_since(&worlds, mark).await
    );
    assert_eq!(operator.metric("vendortoken_ready"), COUNT as f64);
    assert_eq!(worlds[0].calls(VENDOR), 1);
    assert!(worlds[0].simulator.validate(VENDOR, &token).valid);

    // All become due at the same time. Their timers run in real time, so each is looked at now.
    let mark = worlds[0].mark().await;
    worlds[0].clock.pass(3_000);
    let started = Instant::now();
    stream::iter(objects(&worlds))
        .for_each_concurrent(AT_A_TIME, |(world, name)| async move {
            world.poke(&name).await;
        })
        .await;
    let refreshed = all_hold_one_token(&worlds, &operator, Some(&token)).await;
    let asked = asked_since(&worlds, mark).await;
    println!("refreshed in {:?}, with {asked:?}", started.elapsed());
    assert_ne!(refreshed, token);
    assert_eq!(worlds[0].calls(VENDOR), 2);
    // Two writes each; the values of the credentials are kept nowhere, so who asks has to read them.
    let reads = asked.get("get secrets").copied().unwrap_or_default();
    assert_eq!(asked.get("patch secrets"), Some(&COUNT), "{asked:?}");
    assert_eq!(asked.get("patch vendortokens/status"), Some(&COUNT), "{asked:?}");
    assert!(reads <= CONCURRENCY, "{asked:?}");
    assert_eq!(asked.values().sum::<usize>(), 2 * COUNT + reads, "{asked:?}");
}

/// Two namespaces whose VendorTokens `sixmap` have the same credential, and the token that both hold.
async fn two_namespaces(prefix: &str, secret_watch: bool) -> ([World; 2], Operator, String) {
    let keeper = World::new(prefix).await;
    let worlds = [keeper.neighbour(prefix).await, keeper];
    let namespaces: Vec<_> = worlds.iter().map(|world| world.namespace.clone()).collect();
    let operator = worlds[0]
        .operator_with(|settings| {
            settings.watch_namespaces = namespaces;
            settings.secret_watch = secret_watch;
        })
        .await;
    let mut token = String::new();
    for world in &worlds {
        token = world.published(VENDOR, "sixmap").await;
    }
    assert_eq!(worlds[0].data("sixmap", "token").await.unwrap(), token);
    assert_eq!(worlds[0].calls(VENDOR), 1);
    (worlds, operator, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_lost_its_credentials_gets_nothing_from_memory() {
    for secret_watch in [has_secret_watch(), false] {
        let ([robbed, keeper], operator, token) = two_namespaces("lost-credentials", secret_watch).await;
        // The deletion of the target comes on the heels of the other: no time to publish once more.
        robbed.delete_secret("sixmap-credentials").await;
        robbed.delete_secret("sixmap").await;
        robbed.settle("sixmap", &operator).await;
        robbed
            .ready("sixmap", "False CredentialsNotFound +Reconciling")
            .await;
        assert_eq!(robbed.data("sixmap", "token").await, None, "restored from memory");
        // Nor under another name.
        robbed
            .edit("sixmap", json!({ "spec": { "target": { "name": "elsewhere" } } }))
            .await;
        robbed.settle("sixmap", &operator).await;
        assert_eq!(
            robbed.data("elsewhere", "token").await,
            None,
            "published from memory"
        );

        // All that time it was there, for who has the credentials.
        keeper.delete_secret("sixmap").await;
        keeper.settle("sixmap", &operator).await;
        keeper
            .until_data("sixmap", "token", |restored| restored == token)
            .await;
        robbed.register(VENDOR, "sixmap").await;
        robbed.settle("sixmap", &operator).await;
        robbed
            .until_data("elsewhere", "token", |restored| restored == token)
            .await;
        assert_eq!(keeper.calls(VENDOR), 1);
        operator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_whose_credentials_are_gone_gets_nothing_newer() {
    let ([robbed, keeper], operator, token) = two_namespaces("lost-while-valid", has_secret_watch()).await;
    robbed.delete_secret("sixmap-credentials").await;
    robbed
        .ready("sixmap", "True CredentialsNotFound +RefreshFailing")
        .await;
    keeper.clock.pass(40);
    keeper.request_refresh("sixmap", "now").await;
    let newer = keeper.until_data("sixmap", "token", |value| value != token).await;
    robbed.settle("sixmap", &operator).await;
    assert_eq!(robbed.data("sixmap", "token").await, Some(token));
    // An edited key is not repaired either: that would take the token from memory.
    robbed
        .edit_secret("sixmap", json!({ "data": { "token": "ZWRpdGVk" } }))
        .await;
    robbed.settle("sixmap", &operator).await;
    assert_eq!(robbed.data("sixmap", "token").await.as_deref(), Some("edited"));
    assert_eq!(keeper.data("sixmap", "token").await, Some(newer));
    assert_eq!(keeper.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_published_where_the_credentials_went_in_flight() {
    let keeper = World::new("gone-in-flight").await;
    let worlds = [keeper.neighbour("gone-in-flight").await, keeper];
    let operator = World::operator_in(&worlds).await;
    let [robbed, keeper] = &worlds;
    keeper
        .simulator
        .add_fault(Fault::new(VENDOR, Effect::DelayHead { milliseconds: 10_000 }).times(1));
    for world in &worlds {
        world.create(VENDOR, "sixmap").await;
        // Told after two seconds of waiting.
        world.ready("sixmap", "False Progressing +Reconciling").await;
    }
    robbed.delete_secret("sixmap-credentials").await;
    robbed
        .ready("sixmap", "False CredentialsNotFound +Reconciling")
        .await;
    keeper.ready("sixmap", "True Published").await;
    robbed.settle("sixmap", &operator).await;
    assert!(robbed.secrets().get_opt("sixmap").await.unwrap().is_none());
    assert_eq!(keeper.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_fingerprint_gets_nobody_anothers_token() {
    let world = World::new("forged-by-manager").await;
    let operator = world.operator().await;
    let coveted = world.published(VENDOR, "victim").await;
    let own = world.published(VENDOR, "thief").await;
    let victim = world.secret("victim").await.metadata.annotations.unwrap();
    // Everything is as it should be on the thief's target, but that it bears the victim's fingerprint.
    let mut forged = world.secret("thief").await;
    let inputs = forged
        .metadata
        .annotations
        .as_mut()
        .unwrap()
        .get_mut(names::INPUTS)
        .unwrap();
    let of_victim: Vec<_> = victim[names::INPUTS].split('.').skip(3).collect();
    let of_thief: Vec<_> = inputs.split('.').take(3).collect();
    *inputs = format!("{}.{}", of_thief.join("."), of_victim.join("."));
    forged.data.as_mut().unwrap().get_mut("token").unwrap().0 = b"forged".to_vec();
    world.forge_secret("thief", forged.clone()).await;
    // The thief's credentials are known: that they are of another grant shows, and its own token is there.
    world.until_data("thief", "token", |value| value == own).await;
    world.settle("thief", &operator).await;
    assert_eq!(world.calls(VENDOR), 2);

    // After a restart too the seal shows the exchange, before any credentials are read. The victim's token is in
    // memory, and stays there.
    operator.stop().await;
    world.forge_secret("thief", forged.clone()).await;
    world.delete_secret("victim").await;
    let operator = world.operator().await;
    let coveted_anew = world
        .until_data("victim", "token", |value| value != coveted)
        .await;
    let own_anew = world
        .until_data("thief", "token", |value| value != "forged")
        .await;
    assert!(own_anew != coveted && own_anew != coveted_anew);
    world.settle("thief", &operator).await;
    assert_eq!(world.calls(VENDOR), 4);
    world.delete_secret("thief").await;
    let value = world.until_data("thief", "token", |_| true).await;
    assert!(value != coveted && value != coveted_anew);
    let of = world.simulator.validate(VENDOR, &value).credential;
    assert_eq!(of.as_deref(), Some("thief"));

    // Nor without credentials of one's own.
    world.delete_secret("thief-credentials").await;
    world
        .ready("thief", "True CredentialsNotFound +RefreshFailing")
        .await;
    world.forge_secret("thief", forged).await;
    world
        .ready("thief", "False CredentialsNotFound +Reconciling")
        .await;
    world.delete_secret("thief").await;
    world.settle("thief", &operator).await;
    assert_eq!(world.data("thief", "token").await, None);
}
