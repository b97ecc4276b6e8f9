//! Checkmarx locks accounts: no password is tried more often than is safe, whatever is killed, restarted or retyped.

use vendor_simulator::Vendor;

use crate::world::vendors;
use crate::world::{Running as _, World};

const REJECTED: &str = "False CredentialsRejected +Stalled";
const VENDOR: Vendor = Vendor::CheckmarxSca;

impl World {
    async fn with_account(prefix: &str) -> Self {
        let world = Self::new(prefix).await;
        world
            .simulator
            .put_credential(VENDOR, vendors::credential(VENDOR, "user", "right"));
        world
    }

    /// Three passwords of the user are tried in one VendorToken, and rejected.
    async fn three_rejections(&self) {
        for number in 1..=3_u64 {
            self.store(VENDOR, "user", &format!("mistyped-{number}")).await;
            self.sca("sca").await;
            self.until("the rejection of this password", async || {
                let failure = self.token("sca").await.status.and_then(|status| status.failure);
                let rejected = failure.is_some_and(|failure| failure.reason == "CredentialsRejected");
                let calls = self.calls(VENDOR);
                (calls == number && rejected)
                    .then_some(())
                    .ok_or(format!("{calls} calls"))
            })
            .await;
        }
    }

    async fn sca(&self, name: &str) {
        self.apply(name, vendors::spec(VENDOR, "user")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_password_costs_one_call_over_three_restarts_and_a_day() {
    let world = World::with_account("day").await;
    let mut operator = world.operator().await;
    world.store(VENDOR, "user", "mistyped").await;
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        world.sca(name).await;
    }
    for name in names {
        world.ready(name, REJECTED).await;
    }
    for _ in 0..3 {
        operator.stop().await;
        world.clock.pass(8 * 3600);
        operator = world.operator().await;
        for name in names {
            world.settle(name, &operator).await;
        }
    }
    // A sixth, made after the restarts, learns of the rejection too.
    world.sca("f").await;
    world.ready("f", REJECTED).await;
    assert_eq!(world.calls(VENDOR), 1);

    world
        .edit_secret(
            "user-credentials",
            serde_json::json!({ "metadata": { "labels": { "team": "a" } } }),
        )
        .await;
    for name in names {
        world.settle(name, &operator).await;
    }
    assert_eq!(world.calls(VENDOR), 1, "a label is no new password");
    world.store(VENDOR, "user", "right").await;
    for name in names {
        // The world's clock has gone ahead of the vendor's.
        world.ready(name, "True Published +ClockSkewSuspected").await;
    }
    assert_eq!(world.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_wrong_passwords_in_a_quarter_of_an_hour_cost_three_calls() {
    let world = World::with_account("five").await;
    let operator = world.operator().await;
    world.three_rejections().await;
    for number in 4..=5 {
        world.store(VENDOR, "user", &format!("mistyped-{number}")).await;
        world.ready("sca", "False Progressing +Reconciling").await;
        world.settle("sca", &operator).await;
    }
    let message = world.message("sca").await;
    assert!(message.contains("does not lock the account"), "{message}");
    assert_eq!(world.calls(VENDOR), 3);
    let account = &world.simulator.accounts()[0];
    assert_eq!((account.failures, account.lockouts), (3, 0));

    // Also when the operator is started anew, and a second VendorToken asks with the same user.
    operator.stop().await;
    let operator = world.operator().await;
    world.sca("second").await;
    world.settle("second", &operator).await;
    world.settle("sca", &operator).await;
    assert_eq!(world.calls(VENDOR), 3);

    world.clock.pass(15 * 60);
    world.settle("sca", &operator).await;
    world.ready("sca", REJECTED).await;
    assert_eq!(world.calls(VENDOR), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_from_before_a_restart_count_though_the_secret_was_away_at_the_start() {
    let world = World::with_account("away").await;
    let operator = world.operator().await;
    world.three_rejections().await;
    operator.stop().await;
    world.delete_secret(&vendors::credentials_of("user")).await;
    let operator = world.operator().await;
    world.ready("sca", "False CredentialsNotFound +Reconciling").await;
    world.store(VENDOR, "user", "mistyped-4").await;
    world.ready("sca", "False Progressing +Reconciling").await;
    world.settle("sca", &operator).await;
    assert_eq!(world.calls(VENDOR), 3);
    world.clock.pass(15 * 60);
    world.settle("sca", &operator).await;
    world.ready("sca", REJECTED).await;
    assert_eq!(world.calls(VENDOR), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_outlives_the_vendor_token_that_met_it() {
    let world = World::with_account("outlive").await;
    let _operator = world.operator().await;
    world.store(VENDOR, "user", "mistyped").await;
    world.sca("first").await;
    world.ready("first", REJECTED).await;
    world.delete("first").await;
    world.sca("second").await;
    world.ready("second", REJECTED).await;
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proven_password_is_asked_with_at_each_refresh_whatever_others_status_says() {
    let world = World::with_account("proven").await;
    let operator = world.operator().await;
    world.published(VENDOR, "user").await;
    operator.stop().await;
    // Another tenant's status claims a rejection of this very grant.
    let inputs = world.secret("user").await.metadata.annotations.unwrap()["vendortoken.io/inputs"].clone();
    world.sca("forged").await;
    world
        .forge_status(
            "forged",
            serde_json::json!({ "failure": {
                "reason": "CredentialsRejected", "message": "forged", "count": 1,
                "lastAttemptTime": (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(30)).to_string(), "inputs": inputs,
            } }),
        )
        .await;
    world.clock.pass(3000);
    let _operator = world.operator().await;
    world
        .until("the refresh", async || {
            if world.calls(VENDOR) >= 2 {
                Ok(())
            } else {
                Err("not refreshed".to_owned())
            }
        })
        .await;
}
