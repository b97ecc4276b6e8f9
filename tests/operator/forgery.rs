//! Forgeries on a target gain nothing, also under the name of the operator's field manager.

use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use vendor_simulator::{Options, Vendor};
use vendor_token_operator::api::names;
use vendor_token_operator::controller::FINGERPRINT_KEY_SECRET;

use crate::world::installation::has_secret_watch;
use crate::world::vendors;
use crate::world::{Running as _, World, counts};

const VENDOR: Vendor = Vendor::SixMap;
/// The time within which a forgery is repaired where Secrets are watched: one read of the target has a pause of 5 s after
/// the one before.
const REPAIRED_WITHIN: Duration = Duration::from_secs(10);
const FAR: &str = "2027-10-01T00:00:00Z";
/// A value for each annotation, of the form that the operator writes.
const FORGERIES: [(&str, &str); 8] = [
    (names::ISSUED_TIME, "2026-01-01T00:00:00Z"),
    (names::ISSUED_TIME, "-009999-01-02T01:59:59Z"),
    (names::EXPIRATION_TIME, FAR),
    (
        names::INPUTS,
        "00000000.11111111111111111111111111111111.22222222.33333333333333333333333333333333.07",
    ),
    (names::CONTENT, "adopted.0123456789abcdef"),
    (names::CREDENTIALS_VERSION, "uid/1"),
    (names::REFRESH_HANDLED, "never"),
    (
        names::SEAL,
        "00000000.11111111111111111111111111111111.22222222222222222222222222222222",
    ),
];

fn annotation(secret: &Secret, name: &str) -> Option<String> {
    secret.metadata.annotations.as_ref()?.get(name).cloned()
}

fn annotate(secret: &mut Secret, name: &str, value: &str) {
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(name.to_owned(), value.to_owned());
}

/// Puts another text in the place of the token, under the name of the operator's field manager.
async fn exchange_token(world: &World) {
    let mut forged = world.secret("sixmap").await;
    put(&mut forged, "exchanged");
    world.forge_secret("sixmap", forged).await;
}

fn put(secret: &mut Secret, token: &str) {
    let data = secret.data.get_or_insert_default();
    data.insert("token".to_owned(), ByteString(token.as_bytes().to_vec()));
}

/// One VendorToken for each of [`FORGERIES`], published.
async fn one_for_each_forgery(world: &World) -> Vec<String> {
    let names = (0..FORGERIES.len()).map(|number| format!("sixmap-{number}"));
    let names: Vec<_> = names.collect();
    join_all(names.iter().map(|name| world.published(VENDOR, name))).await;
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fact_that_is_forged_under_the_managers_name_is_repaired_from_memory() {
    let world = World::new("forged-facts").await;
    let operator = world.operator().await;
    let names = one_for_each_forgery(&world).await;
    for (object, (name, value)) in names.iter().zip(FORGERIES) {
        let original = world.secret(object).await;
        let mut forged = original.clone();
        annotate(&mut forged, name, value);
        put(&mut forged, "forged");
        let forged_at = Instant::now();
        world.forge_secret(object, forged).await;
        world
            .until(&format!("the forged {name} to go"), async || {
                let found = world.secret(object).await;
                let value = annotation(&found, name);
                if value == annotation(&original, name) && found.data == original.data {
                    Ok(())
                } else {
                    Err(format!("{value:?}"))
                }
            })
            .await;
        let took = forged_at.elapsed();
        println!("the forged {name} stood for {took:?}");
        assert!(!has_secret_watch() || took < REPAIRED_WITHIN, "{name}: {took:?}");
        world.settle(object, &operator).await;
        world.ready(object, "True Published").await;
    }
    assert_eq!(world.calls(VENDOR), FORGERIES.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_that_are_forged_while_the_operator_is_away_cost_one_vendor_call() {
    let world = &World::new("forged-away").await;
    let operator = world.operator().await;
    let names = one_for_each_forgery(world).await;
    operator.stop().await;
    for (name, (fact, value)) in names.iter().zip(FORGERIES) {
        let mut forged = world.secret(name).await;
        annotate(&mut forged, fact, value);
        put(&mut forged, "forged");
        world.forge_secret(name, forged).await;
    }
    let operator = world.operator().await;
    for (name, (fact, value)) in names.iter().zip(FORGERIES) {
        world.until_data(name, "token", |token| token != "forged").await;
        assert_ne!(
            annotation(&world.secret(name).await, fact).as_deref(),
            Some(value)
        );
        let status = world.ready(name, "True Published").await.status.unwrap();
        assert_ne!(status.expiration_time.unwrap().0, FAR.parse().unwrap());
        world.settle(name, &operator).await;
        let calls = world.simulator.calls();
        let own = calls.iter().filter(|call| call.credential.as_ref() == Some(name));
        assert_eq!(own.count(), 2, "{fact}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_target_with_a_strangers_token_is_not_published() {
    let world = World::new("prepared").await;
    let operator = world.operator().await;
    let strangers = world.published(VENDOR, "stranger").await;
    let copied = world.secret("stranger").await;
    operator.stop().await;
    let prepare = async |name: &str, change: &dyn Fn(&mut Secret)| {
        let mut prepared = copied.clone();
        prepared.metadata.owner_references = None;
        let labels = prepared.metadata.labels.get_or_insert_default();
        labels.insert(names::NAME_LABEL.to_owned(), name.to_owned());
        change(&mut prepared);
        world.forge_secret(name, prepared).await;
        world.create(VENDOR, name).await;
    };
    prepare("copied", &|_| {}).await;
    prepare("unsealed", &|secret| {
        annotate(secret, names::EXPIRATION_TIME, FAR);
        secret.metadata.annotations.as_mut().unwrap().remove(names::SEAL);
    })
    .await;
    // Inputs and seal of a key that this operator never had.
    prepare("other-key", &|secret| {
        annotate(secret, names::EXPIRATION_TIME, FAR);
        for (name, value) in [FORGERIES[3], FORGERIES[7]] {
            annotate(secret, name, value);
        }
    })
    .await;
    let operator = world.operator().await;
    for name in ["copied", "unsealed", "other-key"] {
        let own = world.until_data(name, "token", |value| value != strangers).await;
        let of = world.simulator.validate(VENDOR, &own).credential;
        assert_eq!(of.as_deref(), Some(name));
        let status = world.ready(name, "True Published").await.status.unwrap();
        assert_ne!(status.expiration_time.unwrap().0, FAR.parse().unwrap());
        world.settle(name, &operator).await;
    }
    assert_eq!(world.calls(VENDOR), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_exchanged_under_the_managers_name_is_put_back() {
    let world = World::new("put-back").await;
    let operator = world.operator().await;
    let first = world.published(VENDOR, "sixmap").await;
    exchange_token(&world).await;
    world.until_data("sixmap", "token", |value| value == first).await;

    // A write of somebody else beside it costs one read, and no write.
    let mark = world.mark().await;
    let label = json!({ "metadata": { "labels": { "theirs": "1" } } });
    world.edit_secret("sixmap", label).await;
    let read: &[&str] = if has_secret_watch() {
        &["1 get secrets"]
    } else {
        &[]
    };
    // The read before it was a moment ago, and the next one has a pause before it.
    world
        .until("the read", async || {
            let found = counts(&world.acts_since(mark).await);
            if found == read {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await;
    world.settle("sixmap", &operator).await;
    assert_eq!(counts(&world.acts_since(mark).await), read);
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_exchanged_in_the_data_is_not_written_again() {
    let world = World::new("exchanged").await;
    let operator = world.operator().await;
    let first = world.published(VENDOR, "sixmap").await;
    operator.stop().await;
    exchange_token(&world).await;
    // Without its owner the target has to be written, and the token in it is read for that.
    let without_owner = json!({ "metadata": { "ownerReferences": null } });
    world.edit_secret("sixmap", without_owner).await;
    let _operator = world.operator().await;
    let value = world
        .until_data("sixmap", "token", |value| value != "exchanged")
        .await;
    assert_ne!(value, first);
    assert_eq!(world.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_under_a_lost_key_are_good_for_the_documented_life() {
    // Tokens of eight hours, where an hour is documented; more than ten would be told.
    let world = World::with("lost-key", Options::default().lifetime(VENDOR, 28_800)).await;
    let own = &world.namespace;
    let operator = world
        .operator_with(|settings| settings.operator_namespace.clone_from(own))
        .await;
    let first = world.published(VENDOR, "sixmap").await;
    let issued = world.token("sixmap").await.status.unwrap().issued_time.unwrap().0;
    operator.stop().await;
    world.delete_secret(FINGERPRINT_KEY_SECRET).await;
    // The target has to be written: facts that cannot be verified are written as they were.
    let without_owner = json!({ "metadata": { "ownerReferences": null } });
    let before = world.edit_secret("sixmap", without_owner).await;
    let operator = world
        .operator_with(|settings| settings.operator_namespace.clone_from(own))
        .await;
    world
        .until("the owner to be there again", async || {
            let found = world.secret("sixmap").await;
            assert_eq!(annotation(&found, names::SEAL), annotation(&before, names::SEAL));
            assert_eq!(found.data, before.data);
            found.metadata.owner_references.map(drop).ok_or("none".to_owned())
        })
        .await;
    world
        .until("the status to tell the documented life", async || {
            let expires = world.token("sixmap").await.status.unwrap().expiration_time;
            let life = expires.unwrap().0.duration_since(issued).as_secs();
            if life == 3600 {
                Ok(())
            } else {
                Err(life.to_string())
            }
        })
        .await;
    world.ready("sixmap", "True Published").await;
    world.settle("sixmap", &operator).await;
    assert_eq!(world.calls(VENDOR), 1);
    world.clock.pass(3000);
    world.poke("sixmap").await;
    world.until_data("sixmap", "token", |value| value != first).await;
    world.settle("sixmap", &operator).await;
    assert_eq!(world.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_expiry_does_not_stop_the_refresh() {
    let world = World::with("forged", Options::default().lifetime(VENDOR, 14)).await;
    let _operator = world.operator().await;
    let first = world.published(VENDOR, "sixmap").await;
    world
        .edit_secret(
            "sixmap",
            json!({ "metadata": { "annotations": { names::EXPIRATION_TIME: FAR } } }),
        )
        .await;
    world.until_data("sixmap", "token", |value| value != first).await;
    let annotations = world.secret("sixmap").await.metadata.annotations.unwrap();
    assert_ne!(annotations[names::EXPIRATION_TIME], FAR);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_that_was_forged_while_the_operator_was_away_is_not_believed() {
    let world = World::new("edited-away").await;
    let operator = world.operator().await;
    let first = world.published(VENDOR, "sixmap").await;
    operator.stop().await;
    world
        .edit_secret(
            "sixmap",
            json!({ "metadata": { "annotations": { names::EXPIRATION_TIME: FAR } } }),
        )
        .await;
    let _operator = world.operator().await;
    world.until_data("sixmap", "token", |value| value != first).await;
    let status = world.ready("sixmap", "True Published").await.status.unwrap();
    assert_ne!(status.expiration_time.unwrap().0, FAR.parse().unwrap());
    assert_eq!(world.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_inputs_on_a_target_get_nobody_its_token() {
    let world = World::new("forged-inputs").await;
    let operator = world.operator().await;
    let coveted = world.published(VENDOR, "victim").await;
    world.published(VENDOR, "thief").await;
    let victim = world.secret("victim").await.metadata.annotations.unwrap();
    let forged = json!({ "metadata": { "annotations": {
        names::INPUTS: victim[names::INPUTS], names::CREDENTIALS_VERSION: victim[names::CREDENTIALS_VERSION],
        names::ISSUED_TIME: victim[names::ISSUED_TIME], names::EXPIRATION_TIME: victim[names::EXPIRATION_TIME],
    } } });
    let stays_its_own = async || {
        world
            .until("the forged annotations to be repaired", async || {
                let annotations = world.secret("thief").await.metadata.annotations.unwrap();
                if annotations[names::INPUTS] == victim[names::INPUTS] {
                    Err("not yet".to_owned())
                } else {
                    Ok(())
                }
            })
            .await;
        let value = world.data("thief", "token").await.unwrap();
        assert_ne!(value, coveted);
        assert_eq!(
            world.simulator.validate(VENDOR, &value).credential.as_deref(),
            Some("thief")
        );
    };
    world.edit_secret("thief", forged.clone()).await;
    stays_its_own().await;
    operator.stop().await;
    world.edit_secret("thief", forged.clone()).await;
    let operator = world.operator().await;
    stays_its_own().await;

    // Nor without credentials of one's own, on a Secret that was prepared.
    let mut prepared = forged;
    prepared["metadata"]["annotations"][names::ADOPTABLE_BY] = json!("poor");
    world.apply_secret("poor", prepared).await;
    world.apply("poor", vendors::spec(VENDOR, "poor")).await;
    world
        .ready("poor", "False CredentialsNotFound +Reconciling")
        .await;
    world.settle("poor", &operator).await;
    assert_eq!(world.data("poor", "token").await, None);
}
