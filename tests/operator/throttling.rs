//! A vendor that asks to wait is not asked before its deadline.

use vendor_simulator::{Effect, Fault, Vendor};

use crate::world::vendors::for_every_vendor;
use crate::world::{Running as _, World};

/// The vendor's 429 in its own words: Mapiq tells the wait in a sentence, Picus in `X-Ratelimit-Reset`, the others in
/// `Retry-After`.
fn throttle(vendor: Vendor, seconds: u64) -> Fault {
    let retry_after = match vendor {
        Vendor::Mapiq | Vendor::Picus => None,
        _ => Some(seconds.to_string()),
    };
    Fault::new(vendor, Effect::Throttle { retry_after, seconds }).times(1)
}

impl World {
    fn assert_waited(&self, vendor: Vendor, seconds: u64) {
        let times: Vec<u64> = self
            .simulator
            .calls()
            .into_iter()
            .filter(|call| call.vendor == vendor)
            .map(|call| call.time_ms)
            .collect();
        assert_eq!(times.len(), 2, "{vendor}");
        let waited = times[1] - times[0];
        assert!(
            waited >= seconds * 1000,
            "{vendor}: asked again after {waited} ms"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_is_not_asked_before_the_deadline_that_it_told_in_its_own_words() {
    let world = &World::new("throttled").await;
    let _operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world.simulator.add_fault(throttle(vendor, 3));
        world.create(vendor, &object).await;
        let token = world.ready(&object, "False RateLimited +Reconciling").await;
        let failure = token.status.unwrap().failure.unwrap();
        assert!(failure.next_attempt_time.unwrap().0 > failure.last_attempt_time.0);
        world.ready(&object, "True Published").await;
        world.assert_waited(vendor, 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_does_not_shorten_a_wait() {
    let world = &World::new("throttled-restart").await;
    let operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world.simulator.add_fault(throttle(vendor, 6));
        world.create(vendor, &object).await;
        world.ready(&object, "False RateLimited +Reconciling").await;
    })
    .await;
    operator.stop().await;
    let _operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world.ready(&object, "True Published").await;
        world.assert_waited(vendor, 6);
    })
    .await;
}
