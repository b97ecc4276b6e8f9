//! What the operator does for its users, in short: the same scenarios whatever its rights are. Objects and Secrets have
//! the names of `deploy/examples`, each scenario has a namespace of its own, and all share one operator.

use std::time::Duration;

use futures::future::{join_all, join5};
use jiff::Timestamp;
use serde_json::{Value, json};
use test_support::wait_for;
use vendor_simulator::Vendor;
use vendor_token_operator::api::names;

use crate::world::running::Samples;
use crate::world::vendors;
use crate::world::{Operator, Running as _, World};

/// The life of tokens that are refreshed while the test waits, in seconds.
const SHORT: u64 = 14;

/// A VendorToken, as in `deploy/examples`.
struct Example<'a> {
    world: &'a World,
    vendor: Vendor,
    name: &'static str,
}

impl<'a> Example<'a> {
    fn new(world: &'a World, vendor: Vendor) -> Self {
        let name = match vendor {
            Vendor::SixMap => "sixmap",
            Vendor::SixClicks => "sixclicks",
            Vendor::CheckmarxSca => "checkmarx-sca",
            Vendor::Mapiq => "mapiq",
            Vendor::Picus => "picus",
        };
        Self { world, vendor, name }
    }

    fn all(world: &'a World) -> impl Iterator<Item = Self> {
        Vendor::ALL.into_iter().map(|vendor| Self::new(world, vendor))
    }

    fn target(&self) -> String {
        format!("{}-token", self.name)
    }

    /// What its credential is called in the ledger, with that of no other namespace.
    fn id(&self) -> String {
        format!("{}.{}", self.world.namespace, self.name)
    }

    /// Lets the vendor know a credential and stores it.
    async fn register(&self, secret: &str, life: Option<u64>) {
        let secret = format!("{secret}-of-{}", self.id());
        let mut credential = vendors::credential(self.vendor, &self.id(), &secret);
        credential.lifetime_seconds = life;
        self.world.simulator.put_credential(self.vendor, credential);
        let id = self.id();
        let data = vendors::data(self.vendor, &id, &secret);
        self.world
            .credentials(&vendors::credentials_of(self.name), &data)
            .await;
    }

    async fn apply(&self) {
        let mut spec = vendors::spec(self.vendor, self.name);
        spec["target"] = json!({ "name": self.target() });
        self.world.apply(self.name, spec).await;
    }

    /// The token that is published, once the object is ready.
    async fn published(&self) -> String {
        self.ready("True Published").await;
        self.token().await.unwrap()
    }

    async fn ready(&self, expected: &str) {
        self.world.ready(self.name, expected).await;
    }

    async fn token(&self) -> Option<String> {
        self.world.data(&self.target(), "token").await
    }

    async fn until_token(&self, accepted: impl Fn(&str) -> bool) {
        self.world.until_data(&self.target(), "token", accepted).await;
    }

    fn is_valid(&self, token: &str) -> bool {
        self.world.simulator.validate(self.vendor, token).valid
    }

    fn calls(&self) -> u64 {
        let id = vendors::credential(self.vendor, &self.id(), "").ledger_id();
        self.world.simulator.credential_counts(self.vendor, &id).calls
    }
}

/// Runs all of them at the same time, each in a namespace of its own. What changes is told to be seen within this time.
pub(crate) async fn all(worlds: &[World; COUNT], operator: &Operator, seen_within: &str) {
    let [one, two, three, four, five, six, seven, eight] = worlds;
    join5(
        the_five_vendors_are_served(one),
        a_token_is_refreshed_when_it_is_due(two),
        a_deleted_target_is_restored(three),
        a_rotated_credential_is_used(four),
        futures::future::join4(
            credentials_that_come_later_are_used(five, seen_within),
            a_deleted_vendor_token_is_served_no_more(six, operator),
            an_edited_target_is_repaired(seven),
            a_foreign_secret_is_refused(eight),
        ),
    )
    .await;
}

/// How many namespaces [`all`] needs.
pub(crate) const COUNT: usize = 8;

async fn the_five_vendors_are_served(world: &World) {
    join_all(Example::all(world).map(|example| async move {
        example.register("secret", None).await;
        example.apply().await;
        let token = example.published().await;
        assert!(example.is_valid(&token), "{}", example.name);
        assert_eq!(example.calls(), 1, "{}", example.name);
    }))
    .await;
}

async fn a_token_is_refreshed_when_it_is_due(world: &World) {
    join_all(Example::all(world).map(|example| async move {
        example.register("secret", Some(SHORT)).await;
        example.apply().await;
        let first = example.published().await;
        wait_for("two refreshes", Duration::from_secs(60), || async {
            let asked = Timestamp::now();
            let token = example.token().await.unwrap();
            let expires = example
                .world
                .simulator
                .validate(example.vendor, &token)
                .expires_ms;
            assert!(
                i64::try_from(expires).unwrap() > asked.as_millisecond(),
                "{}: an expired token was read",
                example.name
            );
            match example.calls() {
                calls if calls >= 3 && token != first => Ok(()),
                calls => Err(calls),
            }
        })
        .await
        .unwrap();
    }))
    .await;
}

async fn a_deleted_target_is_restored(world: &World) {
    let example = Example::new(world, Vendor::Mapiq);
    example.register("secret", None).await;
    example.apply().await;
    let token = example.published().await;
    for _ in 0..2 {
        world.delete_secret(&example.target()).await;
        example.until_token(|restored| restored == token).await;
    }
    example.ready("True Published").await;
    assert_eq!(example.calls(), 1);
}

async fn a_rotated_credential_is_used(world: &World) {
    join_all(Example::all(world).map(|example| async move {
        example.register("first", None).await;
        example.apply().await;
        let first = example.published().await;
        example.register("second", None).await;
        example.until_token(|token| token != first).await;
        assert!(example.is_valid(&example.published().await), "{}", example.name);
        assert_eq!(example.calls(), 2, "{}", example.name);
    }))
    .await;
}

async fn credentials_that_come_later_are_used(world: &World, seen_within: &str) {
    join_all(Example::all(world).map(|example| async move {
        example.apply().await;
        example.ready("False CredentialsNotFound +Reconciling").await;
        world
            .until("an event about it", async || {
                let events = world.events(example.name).await;
                let told = events.iter().any(|(reason, _)| reason == "CredentialsNotFound");
                if told { Ok(()) } else { Err(format!("{events:?}")) }
            })
            .await;
        let message = world.message(example.name).await;
        assert!(
            message.ends_with(&format!("it is used within {seen_within}")),
            "{message}"
        );
        assert_eq!(example.calls(), 0, "{}", example.name);
        example.register("secret", None).await;
        assert!(example.is_valid(&example.published().await), "{}", example.name);
        assert_eq!(example.calls(), 1, "{}", example.name);
    }))
    .await;
}

async fn a_deleted_vendor_token_is_served_no_more(world: &World, operator: &Operator) {
    let [gone, kept] = [Vendor::Mapiq, Vendor::Picus].map(|vendor| Example::new(world, vendor));
    for example in [&gone, &kept] {
        example.register("secret", None).await;
        example.apply().await;
        example.published().await;
    }
    world.delete(gone.name).await;
    let series = format!("namespace=\"{}\",name=\"{}\"", world.namespace, gone.name);
    world
        .until("its series to go", async || {
            let Samples(text) = operator.samples().await;
            match text.lines().find(|line| line.contains(&series)) {
                None => Ok(()),
                Some(line) => Err(line.to_owned()),
            }
        })
        .await;
    // Its target goes by garbage collection, which does not run here.
    world.delete_secret(&gone.target()).await;
    // What is polled comes due for both.
    let token = kept.token().await.unwrap();
    for _ in 0..2 {
        world.delete_secret(&kept.target()).await;
        kept.until_token(|restored| restored == token).await;
    }
    assert_eq!(gone.token().await, None);
    assert_eq!(gone.calls(), 1);
    // What its target told of itself has brought no series back; the other's are there.
    let Samples(text) = operator.samples().await;
    assert!(!text.contains(&series), "{text}");
    let of_kept = format!("namespace=\"{}\",name=\"{}\"", world.namespace, kept.name);
    assert_eq!(text.matches(&of_kept).count(), 3, "{text}");
    gone.apply().await;
    assert!(gone.is_valid(&gone.published().await));
}

async fn an_edited_target_is_repaired(world: &World) {
    let example = Example::new(world, Vendor::SixMap);
    example.register("secret", None).await;
    example.apply().await;
    example.published().await;
    let state = async || {
        let secret = world.secret(&example.target()).await;
        (secret.data, secret.metadata.labels, secret.metadata.annotations)
    };
    let wanted = state().await;
    for damage in [
        json!({ "data": { "token": "ZWRpdGVk" } }),
        json!({ "metadata": { "labels": { names::NAME_LABEL: Value::Null } } }),
        json!({ "metadata": { "annotations": { names::EXPIRATION_TIME: Value::Null } } }),
    ] {
        world.edit_secret(&example.target(), damage.clone()).await;
        world
            .until(&format!("{damage} to be repaired"), async || {
                if state().await == wanted {
                    Ok(())
                } else {
                    Err("not yet".to_owned())
                }
            })
            .await;
    }
    assert_eq!(example.calls(), 1);
}

async fn a_foreign_secret_is_refused(world: &World) {
    let example = Example::new(world, Vendor::CheckmarxSca);
    let foreign = json!({ "data": { "token": "Zm9yZWlnbg==" } });
    world.apply_secret(&example.target(), foreign).await;
    let before = world.secret(&example.target()).await;
    example.register("secret", None).await;
    example.apply().await;
    example.ready("False TargetNotOwned +Stalled").await;
    assert_eq!(world.secret(&example.target()).await, before);
    assert_eq!(example.calls(), 0);
    world.delete_secret(&example.target()).await;
    assert!(example.is_valid(&example.published().await));
    assert_eq!(example.calls(), 1);
}
