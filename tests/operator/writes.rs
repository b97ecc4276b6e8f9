//! What a refresh and a quiet object cost the API server, by its audit log.

use std::collections::BTreeMap;

use vendor_simulator::Vendor;

use crate::world::installation;
use crate::world::vendors::{self, for_every_vendor};
use crate::world::{Running as _, World, counts};

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_writes_the_target_and_the_status_once_each_at_every_vendor() {
    let world = &World::new("two-writes").await;
    let operator = world.operator().await;
    let mut before = BTreeMap::new();
    for vendor in Vendor::ALL {
        let object = vendors::object(vendor);
        let token = world.published(vendor, &object).await;
        before.insert(object, token);
    }
    operator.quiet().await;
    world.clock.pass(40);
    let mark = world.mark().await;
    let before = &before;
    for_every_vendor(async |_, object| {
        world.request_refresh(&object, "now").await;
        world
            .until_data(&object, "token", |value| value != before[&object])
            .await;
    })
    .await;
    operator.quiet().await;
    // At Checkmarx too: an attempt with a password that has brought a token is not recorded beforehand.
    assert_eq!(
        counts(&world.acts_since(mark).await),
        installation::asked(["5 get secrets", "5 patch secrets", "5 patch vendortokens/status"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconcile_that_changes_nothing_asks_nothing_of_the_api_server() {
    let world = &World::new("no-writes").await;
    let operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world.published(vendor, &object).await;
        let rejected = format!("{object}-rejected");
        world.store(vendor, &rejected, "mistyped").await;
        world.apply(&rejected, vendors::spec(vendor, &rejected)).await;
        world.ready(&rejected, "False CredentialsRejected +Stalled").await;
    })
    .await;
    operator.quiet().await;
    let mark = world.mark().await;
    let before = operator.reconciles().await;
    for_every_vendor(async |_, object| {
        world.settle(&object, &operator).await;
        world.settle(&format!("{object}-rejected"), &operator).await;
    })
    .await;
    assert!(operator.reconciles().await >= before + 10);
    assert_eq!(counts(&world.acts_since(mark).await), Vec::<String>::new());
}
