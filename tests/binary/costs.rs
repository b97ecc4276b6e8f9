//! What the operator asks of the API server, counted by the audit log.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use test_support::{AuditEntries, wait_for};
use vendor_simulator::{Effect, Fault, Vendor};
use vendor_token_operator::api::VendorToken;

use crate::world::{Account, PATIENCE, Program, World};

/// Requests by verb and resource, to be compared whole.
fn costs(entries: &AuditEntries) -> BTreeMap<String, usize> {
    entries
        .by_verb_and_resource()
        .into_iter()
        .map(|((verb, resource), count)| (format!("{verb} {resource}"), count))
        .collect()
}

fn of(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    expected
        .iter()
        .map(|(what, count)| ((*what).to_owned(), *count))
        .collect()
}

/// Waits until the operator has finished at least `more` reconciles since `before`.
async fn reconciled(operator: &Program, before: u64, more: u64) {
    wait_for(&format!("{more} reconciles"), PATIENCE, || async {
        let count = operator.count("vendortoken_reconcile_total").await;
        if count >= before + more {
            Ok(())
        } else {
            Err(format!("{}", count - before))
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_publish_costs_one_read_and_two_writes() {
    let world = World::new("first").await;
    let _operator = world.program().await;
    let mark = world.plane.audit().mark().await.unwrap();
    // One after the other, so that none waits for another.
    for vendor in Vendor::ALL {
        let name = format!("{vendor}").to_lowercase();
        world
            .create_with(&name, &Account::new(vendor, "id", "secret"))
            .await;
        world.ready(&name, "True Published").await;
    }
    let asked = world.requests_since(mark).await;
    let all = world.plane.audit().since(mark).await.unwrap();
    // A token that takes more than 2 s to come is announced by a first status, which is one write more.
    let slow = Vendor::ALL.iter().filter(|vendor| {
        let name = format!("{vendor}").to_lowercase();
        let of_name = |resource: &str, verb: &str| {
            let here = all.matching(|entry| entry.namespace == world.namespace && entry.name == name);
            let mut found = here
                .iter()
                .filter(|entry| (entry.resource_path().as_str(), entry.verb.as_str()) == (resource, verb));
            found.next().unwrap().received
        };
        let took = of_name("secrets", "patch").duration_since(of_name("vendortokens", "patch"));
        took >= SignedDuration::from_secs(2)
    });
    let announced = slow.count();
    println!("{announced} took more than 2 s");
    let mut found = costs(&asked);
    let statuses = found.remove("patch vendortokens/status").unwrap();
    assert_eq!(found, of(&[("get secrets", 5), ("patch secrets", 5)]));
    // At Checkmarx, an attempt with a password that is not proven is recorded before it is sent.
    assert!(
        (6..=6 + announced).contains(&statuses),
        "{statuses} statuses, {announced} slow"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_costs_two_writes() {
    let world = World::new("refresh").await;
    let operator = world.program().await;
    world.simulator.set_lifetime(Vendor::Picus, 12);
    world
        .create_with("picus", &Account::new(Vendor::Picus, "id", "secret"))
        .await;
    let first = world.ready("picus", "True Published").await.status.unwrap();
    let value = world.data("picus", "token").await.unwrap();
    // The second token is not due while we count.
    world.simulator.set_lifetime(Vendor::Picus, 3600);
    let mark = world.plane.audit().mark().await.unwrap();

    wait_for("the refresh", PATIENCE, || async {
        let status = world.tokens().get("picus").await.unwrap().status.unwrap();
        if status.expiration_time == first.expiration_time {
            return Err("the first token");
        }
        Ok(())
    })
    .await
    .unwrap();
    assert_ne!(world.data("picus", "token").await.unwrap(), value);
    let mut found = costs(&world.requests_since(mark).await);
    // The values are kept nowhere, so a request needs to read them.
    let reads = found.remove("get secrets").unwrap_or_default();
    assert!(reads <= 1, "{reads} reads");
    assert_eq!(
        found,
        of(&[("patch secrets", 1), ("patch vendortokens/status", 1)])
    );
    assert_eq!(world.all_calls(), 2);
    assert_eq!(
        operator.count("vendortoken_refresh_lateness_seconds_count").await,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconcile_that_changes_nothing_writes_nothing() {
    let world = World::new("touch").await;
    let operator = world.program().await;
    world
        .create_with("mapiq", &Account::new(Vendor::Mapiq, "id", "secret"))
        .await;
    world.ready("mapiq", "True Published").await;
    let label = |value: &str| Patch::Merge(json!({ "metadata": { "labels": { "touched": value } } }));
    let parameters = PatchParams::default();
    let secrets: Api<Secret> = world.secrets();
    let tokens: Api<VendorToken> = world.tokens();

    // A write of somebody else to the target may have put another token in it, which no metadata shows.
    for (what, reads) in [("VendorToken", 0), ("target", 1), ("credentials", 1)] {
        let before = operator.count("vendortoken_reconcile_total").await;
        let mark = world.plane.audit().mark().await.unwrap();
        match what {
            "VendorToken" => drop(tokens.patch("mapiq", &parameters, &label("a")).await.unwrap()),
            "target" => drop(secrets.patch("mapiq", &parameters, &label("b")).await.unwrap()),
            _ => drop(
                secrets
                    .patch("mapiq-credentials", &parameters, &label("c"))
                    .await
                    .unwrap(),
            ),
        }
        reconciled(&operator, before, 1).await;
        let found = world.requests_since(mark).await;
        let expected = if reads == 0 {
            of(&[])
        } else {
            of(&[("get secrets", reads)])
        };
        assert_eq!(costs(&found), expected, "{what}");
    }
    assert_eq!(world.all_calls(), 1);
}

/// Silence can only be heard by listening for a while.
const QUIET: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn quiet_objects_cost_nothing_whatever_their_state() {
    let world = World::new("quiet").await;
    let _operator = world.program().await;
    let picus = |id: &str| Account::new(Vendor::Picus, id, &format!("secret-of-{id}"));
    world.create_with("published", &picus("published")).await;
    world
        .create_unregistered("rejected", &picus("rejected"), json!({}))
        .await;
    world
        .create_unregistered("suspended", &picus("suspended"), json!({ "suspend": true }))
        .await;
    world.credentials("foreign", &[("not", "ours")]).await;
    let elsewhere = json!({ "target": { "name": "foreign" } });
    world
        .create_unregistered("foreign-target", &picus("foreign"), elsewhere)
        .await;
    world.apply("no-credentials", picus("none").spec("missing")).await;
    world
        .credentials("malformed", &[("refresh-token", "two\nlines")])
        .await;
    world
        .apply("invalid-credentials", picus("none").spec("malformed"))
        .await;
    let throttle = Effect::Throttle {
        retry_after: Some("1800".to_owned()),
        seconds: 1800,
    };
    world.simulator.add_fault(Fault::new(Vendor::Mapiq, throttle));
    world
        .create_with("throttled", &Account::new(Vendor::Mapiq, "id", "secret"))
        .await;

    world.ready("published", "True Published").await;
    world
        .ready("rejected", "False CredentialsRejected +Stalled")
        .await;
    world.ready("suspended", "False Suspended +Suspended").await;
    world
        .ready("foreign-target", "False TargetNotOwned +Stalled")
        .await;
    world
        .ready("no-credentials", "False CredentialsNotFound +Reconciling")
        .await;
    world
        .ready("invalid-credentials", "False CredentialsInvalid +Stalled")
        .await;
    world.ready("throttled", "False RateLimited +Reconciling").await;
    // The events of these transitions are on their way; they are told once.
    wait_for("the events", PATIENCE, || async {
        let events: Api<k8s_openapi::api::events::v1::Event> =
            Api::namespaced(world.admin.clone(), &world.namespace);
        let count = events.list(&Default::default()).await.unwrap().items.len();
        if count >= 6 { Ok(()) } else { Err(count) }
    })
    .await
    .unwrap();

    let (calls, mark) = (world.all_calls(), world.plane.audit().mark().await.unwrap());
    tokio::time::sleep(QUIET).await;
    assert_eq!(costs(&world.requests_since(mark).await), of(&[]));
    assert_eq!(world.all_calls(), calls);
}
