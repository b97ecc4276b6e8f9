//! The end of a process, and the next one.

use std::time::Duration;

use test_support::wait_for;
use vendor_simulator::{Effect, Fault, Vendor};

use crate::world::{Account, PATIENCE, World};

/// kubelet kills what has not ended by then, with room to spare.
const LONGEST_END: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_start_after_a_kill_costs_nothing_but_lists() {
    let world = World::new("restart").await;
    let operator = world.program().await;
    let names: Vec<String> = (0..20).map(|number| format!("token-{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let vendor = Vendor::ALL[number % Vendor::ALL.len()];
        world
            .create_with(name, &Account::new(vendor, name, &format!("secret-{number}")))
            .await;
    }
    for name in &names {
        world.ready(name, "True Published").await;
    }
    assert_eq!(world.all_calls(), 20);
    operator.signal("KILL");
    let (status, _) = operator.ended().await;
    assert_eq!(status.code(), Some(137), "128 + SIGKILL");

    let mark = world.plane.audit().mark().await.unwrap();
    let operator = world.program().await;
    wait_for("a reconcile of each object", PATIENCE, || async {
        let count = operator.count("vendortoken_reconcile_total").await;
        if count >= 20 { Ok(()) } else { Err(count) }
    })
    .await
    .unwrap();
    let requests = world.requests_since(mark).await;
    let other = requests.matching(|entry| entry.verb != "list");
    assert_eq!(
        other.by_verb_and_resource(),
        Default::default(),
        "neither a write nor a read of a Secret"
    );
    assert_eq!(world.all_calls(), 20);
    assert!(world.simulator.violations().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_with_0_also_with_a_request_to_a_vendor_that_hangs() {
    let world = World::new("term").await;
    let operator = world.program().await;
    world
        .simulator
        .add_fault(Fault::new(Vendor::SixMap, Effect::Hang));
    world
        .create_with("hanging", &Account::new(Vendor::SixMap, "id", "secret"))
        .await;
    assert!(world.simulator.wait_for_calls(Vendor::SixMap, 1, PATIENCE).await);
    operator.signal("TERM");
    let (status, took) = operator.ended().await;
    assert_eq!(status.code(), Some(0), "{}", operator.log());
    assert!(took < LONGEST_END, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_after_sigterm_is_published() {
    let world = World::new("late").await;
    let operator = world.program().await;
    world.simulator.add_fault(Fault::new(
        Vendor::Picus,
        Effect::DelayHead { milliseconds: 1500 },
    ));
    world
        .create_with("late", &Account::new(Vendor::Picus, "id", "secret"))
        .await;
    assert!(world.simulator.wait_for_calls(Vendor::Picus, 1, PATIENCE).await);
    operator.signal("TERM");
    let (status, took) = operator.ended().await;
    assert_eq!(status.code(), Some(0), "{}", operator.log());
    assert!(took < LONGEST_END, "{took:?}");
    let token = world
        .data("late", "token")
        .await
        .expect("a token that was paid for");
    assert!(world.simulator.validate(Vendor::Picus, &token).valid);
}
