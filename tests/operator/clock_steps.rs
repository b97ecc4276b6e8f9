//! The node's clock is set ahead or back, or the machine sleeps: no target holds an expired token for it, and no vendor is
//! asked more often than tokens end.

use std::time::Duration;

use test_support::wait_for;
use vendor_simulator::{Effect, Fault, Vendor};

use crate::world::vendors::{for_every_vendor, object};
use crate::world::{Running as _, World, counts, lives};

/// Half of it is left at a refresh, which a busy machine may need.
const LIFE: u64 = 30;
/// The clock is stepped when the last vendor has been asked, and before it has answered.
const ANSWERS_AFTER_MILLISECONDS: u64 = 500;
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_stepped_leaves_no_expired_token_in_a_target() {
    let options = lives(LIFE);
    let world = &World::with("clock-steps", options).await;
    for vendor in Vendor::ALL {
        let milliseconds = ANSWERS_AFTER_MILLISECONDS;
        world
            .simulator
            .add_fault(Fault::new(vendor, Effect::DelayHead { milliseconds }));
    }
    let operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world.published(vendor, &object).await;
    })
    .await;
    // A few minutes are what clocks differ by anyway; an hour is not, and after a day the machine was asleep.
    for step in [-240, 3600, -3600, 24 * 3600] {
        world.clock.step(step);
        for_every_vendor(async |vendor, object| {
            let calls = world.calls(vendor);
            wait_for("two refreshes", PATIENCE, || async {
                let value = world.data(&object, "token").await.unwrap();
                assert!(
                    world.simulator.validate(vendor, &value).valid,
                    "{vendor}: an expired token stays published after a step of {step} s; asked at {:?}, told {:?}",
                    call_times(world, vendor),
                    world.token(&object).await.status
                );
                match world.calls(vendor) - calls {
                    2.. => Ok(()),
                    made => Err(format!("{made} calls")),
                }
            })
            .await
            .unwrap();
        })
        .await;
    }
    // Some had been asked at each step, and had not answered.
    let transient = operator
        .samples()
        .await
        .sum_where("vendortoken_vendor_requests_total", |line| {
            line.contains(r#"outcome="transient""#)
        });
    assert!(transient >= 4.0, "{transient}");
    // Each step may bring one grant forward, and no more.
    for (vendor, times) in Vendor::ALL.map(|vendor| (vendor, call_times(world, vendor))) {
        let hasty = times
            .windows(2)
            .filter(|pair| pair[1] - pair[0] < LIFE * 1000 / 2 - 500)
            .count();
        assert!(
            hasty <= 4,
            "{vendor}: {hasty} grants came soon after another: {times:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_costs_nothing_where_the_tokens_are_known() {
    let world = World::new("set-back").await;
    let operator = world.operator().await;
    for vendor in Vendor::ALL {
        world.published(vendor, &object(vendor)).await;
    }
    operator.quiet().await;
    let mark = world.mark().await;
    for step in [-240, -3600, -1] {
        world.clock.step(step);
        for vendor in Vendor::ALL {
            world.settle(&object(vendor), &operator).await;
            assert_eq!(world.calls(vendor), 1, "{vendor} after a step of {step} s");
            world.ready(&object(vendor), "True Published").await;
        }
    }
    assert_eq!(counts(&world.acts_since(mark).await), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_while_the_machine_sleeps_is_refreshed_at_its_waking() {
    let world = World::new("sleep").await;
    let _operator = world.operator().await;
    let former = world.published(Vendor::SixMap, "sixmap").await;
    // Timers stand still meanwhile: the next look at this token is five minutes away.
    world.clock.pass(24 * 3600);
    world.until_data("sixmap", "token", |value| value != former).await;
    assert_eq!(world.calls(Vendor::SixMap), 2);
}

fn call_times(world: &World, vendor: Vendor) -> Vec<u64> {
    let calls = world.simulator.calls().into_iter();
    calls
        .filter(|call| call.vendor == vendor)
        .map(|call| call.time_ms)
        .collect()
}
