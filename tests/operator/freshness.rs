//! Tokens that live for seconds: refreshed in time, kept while they are good, and never called ready when they are not.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use test_support::wait_for;
use vendor_simulator::{Effect, Fault};

use crate::world::vendors::for_every_vendor;
use crate::world::{World, lives, summary};

/// A status may be this much late: a write to a busy API server.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(2);

impl World {
    /// `Ready` and its friends; fails when a token is past its expiry and still called ready.
    async fn honest_summary(&self, object: &str) -> String {
        // What is read was there then, or came later.
        let seen = Timestamp::now();
        let token = self.token(object).await;
        let summary = summary(&token);
        let expires = token.status.and_then(|status| status.expiration_time);
        if let Some(expires) = expires
            && seen > expires.0 + TOLERANCE
        {
            assert!(
                !summary.starts_with("True"),
                "{object}: {summary} at {seen}, expired at {}",
                expires.0
            );
        }
        summary
    }

    async fn honest_until(&self, object: &str, expected: &str) {
        let what = format!("VendorToken {object} to be '{expected}'");
        wait_for(&what, Duration::from_secs(45), || async {
            let summary = self.honest_summary(object).await;
            if summary == expected { Ok(()) } else { Err(summary) }
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_refreshed_before_it_expires() {
    let world = &World::with("refreshed", lives(14)).await;
    let _operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        let first = world.published(vendor, &object).await;
        wait_for("the second refresh", Duration::from_secs(45), || async {
            assert_eq!(world.honest_summary(&object).await, "True Published");
            let value = world.data(&object, "token").await.unwrap();
            assert!(
                world.simulator.validate(vendor, &value).valid,
                "{vendor}: an expired token is published"
            );
            if value != first && world.calls(vendor) >= 3 {
                Ok(())
            } else {
                Err("not yet")
            }
        })
        .await
        .unwrap();
    })
    .await;
    assert_eq!(world.simulator.violations(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_refreshes_fail_is_ready_until_it_expires() {
    let world = &World::with("failing", lives(12)).await;
    let _operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        let first = world.published(vendor, &object).await;
        let down = Effect::Answer {
            status: 503,
            headers: Vec::new(),
            body: "down".to_owned(),
        };
        let fault = world.simulator.add_fault(Fault::new(vendor, down));
        world
            .honest_until(&object, "True VendorUnavailable +RefreshFailing")
            .await;
        assert!(world.message(&object).await.contains("stays valid until"));
        assert_eq!(world.data(&object, "token").await.as_deref(), Some(&*first));
        world
            .honest_until(&object, "False VendorUnavailable +Reconciling")
            .await;
        let expires = world.token(&object).await.status.unwrap().expiration_time;
        assert!(
            Timestamp::now() >= expires.unwrap().0,
            "{vendor}: not ready before the expiry"
        );
        // It stays in its Secret: deleting it would only change the workload's error.
        assert_eq!(world.data(&object, "token").await.as_deref(), Some(&*first));
        world.simulator.clear_fault(fault);
        world.honest_until(&object, "True Published").await;
        assert_ne!(world.data(&object, "token").await.as_deref(), Some(&*first));
    })
    .await;
}
