//! A rejected credential is not sent again until something changes.

use serde_json::json;
use vendor_simulator::{Effect, Fault, Vendor};

use crate::world::vendors::{self, for_every_vendor, object};
use crate::world::{Running as _, World};

const REJECTED: &str = "False CredentialsRejected +Stalled";

impl World {
    async fn register_at_vendors(&self, secret: &str) {
        for vendor in Vendor::ALL {
            self.simulator
                .put_credential(vendor, vendors::credential(vendor, &object(vendor), secret));
        }
    }

    async fn with_wrong_secrets(&self) {
        for_every_vendor(async |vendor, object| {
            self.store(vendor, &object, "mistyped").await;
            self.apply(&object, vendors::spec(vendor, &object)).await;
        })
        .await;
        for_every_vendor(async |_, object| {
            self.ready(&object, REJECTED).await;
        })
        .await;
    }

    fn calls_by_vendor(&self) -> [u64; 5] {
        Vendor::ALL.map(|vendor| self.calls(vendor))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_credential_is_sent_once_until_its_data_changes() {
    let world = &World::new("rejected").await;
    let operator = world.operator().await;
    world.register_at_vendors("right").await;
    world.with_wrong_secrets().await;
    assert_eq!(world.calls_by_vendor(), [1; 5]);
    for_every_vendor(async |vendor, object| {
        let message = world.message(&object).await;
        assert!(message.contains("rejected the credential"), "{message}");
        let (said, cure) = message.split_once(": ").unwrap();
        assert!(!said.is_empty() && cure.len() > 20, "{vendor}: {message}");
        assert!(!message.contains("mistyped"), "{vendor}: {message}");
        let failure = world.token(&object).await.status.unwrap().failure.unwrap();
        assert_eq!(
            (failure.count, failure.reason.as_str()),
            (1, "CredentialsRejected")
        );
        assert_eq!(
            failure.next_attempt_time.is_none(),
            vendor == Vendor::CheckmarxSca
        );
    })
    .await;

    // A label on the Secret is no change of the credential, and the same data is none either.
    for_every_vendor(async |vendor, object| {
        let labels = json!({ "metadata": { "labels": { "edited": "yes" } } });
        world.edit_secret(&vendors::credentials_of(&object), labels).await;
        world.store(vendor, &object, "mistyped").await;
        world.settle(&object, &operator).await;
    })
    .await;
    assert_eq!(world.calls_by_vendor(), [1; 5]);

    operator.stop().await;
    let operator = world.operator().await;
    for_every_vendor(async |_, object| {
        world.settle(&object, &operator).await;
        world.ready(&object, REJECTED).await;
    })
    .await;
    assert_eq!(world.calls_by_vendor(), [1; 5], "a restart is no change");

    for_every_vendor(async |vendor, object| {
        world.store(vendor, &object, "right").await;
        world.ready(&object, "True Published").await;
        assert_eq!(world.token(&object).await.status.unwrap().failure, None);
    })
    .await;
    assert_eq!(world.calls_by_vendor(), [2; 5]);
    assert_eq!(world.simulator.violations(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_credential_is_probed_every_hour_and_at_checkmarx_never() {
    let world = &World::new("probed").await;
    let operator = world.operator().await;
    world.register_at_vendors("right").await;
    world.with_wrong_secrets().await;
    let mut expected = [1; 5];
    for _ in 0..2 {
        world.clock.pass(3_500);
        for_every_vendor(async |_, object| world.settle(&object, &operator).await).await;
        assert_eq!(world.calls_by_vendor(), expected, "before an hour has passed");
        // An hour, and up to a fifth of it to keep probes apart.
        world.clock.pass(900);
        for vendor in Vendor::ALL {
            expected[vendor as usize] += u64::from(vendor != Vendor::CheckmarxSca);
        }
        for_every_vendor(async |_, object| world.settle(&object, &operator).await).await;
        assert_eq!(world.calls_by_vendor(), expected, "after an hour");
    }
    world.clock.pass(30 * 24 * 3600);
    for_every_vendor(async |_, object| world.settle(&object, &operator).await).await;
    assert_eq!(world.calls(Vendor::CheckmarxSca), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirects_second_host_sees_nothing() {
    let world = &World::new("redirected").await;
    let operator = world.operator().await;
    for (vendor, status) in Vendor::ALL.into_iter().zip([301, 302, 303, 307, 308]) {
        let redirect = Effect::Redirect {
            status,
            location: None,
        };
        world.simulator.add_fault(Fault::new(vendor, redirect));
    }
    for_every_vendor(async |vendor, object| {
        world.create(vendor, &object).await;
        world.ready(&object, "False EndpointRefused +Reconciling").await;
        let message = world.message(&object).await;
        assert!(message.contains("redirects to \"localhost\""), "{message}");
        world.settle(&object, &operator).await;
        assert_eq!(world.calls(vendor), 1, "{vendor}");
    })
    .await;
    assert_eq!(world.simulator.trap().connections, 0);
    assert_eq!(world.simulator.trap().requests, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_request_sends_a_rejected_credential_once_more_in_a_quarter_of_an_hour() {
    let world = &World::new("insisted").await;
    let operator = world.operator().await;
    world.register_at_vendors("right").await;
    world.with_wrong_secrets().await;
    for (request, calls, minutes) in [("first", 2, 10), ("second", 2, 6), ("third", 3, 0)] {
        for_every_vendor(async |vendor, object| {
            world.request_refresh(&object, request).await;
            world.settle(&object, &operator).await;
            world.ready(&object, REJECTED).await;
            assert_eq!(world.calls(vendor), calls, "{vendor}");
        })
        .await;
        world.clock.pass(minutes * 60);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_revoked_is_sent_once() {
    let world = &World::new("revoked").await;
    let operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world.published(vendor, &object).await;
    })
    .await;
    for vendor in Vendor::ALL {
        world.simulator.clear_credentials(vendor);
    }
    world.clock.pass(40);
    for_every_vendor(async |vendor, object| {
        let value = world.data(&object, "token").await;
        world.request_refresh(&object, "now").await;
        world
            .ready(&object, "True CredentialsRejected +RefreshFailing")
            .await;
        world.settle(&object, &operator).await;
        assert_eq!(world.data(&object, "token").await, value, "{vendor}");
        assert_eq!(world.calls(vendor), 2, "{vendor}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_the_grant_ends_a_rejection() {
    let world = World::new("mistyped-tenant").await;
    let operator = world.operator().await;
    let vendor = Vendor::CheckmarxSca;
    world.register(vendor, "sca").await;
    let mut spec = vendors::spec(vendor, "sca");
    spec["checkmarxSCA"]["tenant"] = json!("mistyped");
    world.apply("sca", spec.clone()).await;
    world.ready("sca", REJECTED).await;
    spec["target"] = json!({ "labels": { "team": "appsec" } });
    world.apply("sca", spec.clone()).await;
    world.settle("sca", &operator).await;
    assert_eq!(world.calls(vendor), 1, "a label of the target is not the grant");
    spec["checkmarxSCA"]["tenant"] = json!("acme");
    world.apply("sca", spec).await;
    world.ready("sca", "True Published").await;
    assert_eq!(world.calls(vendor), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_credential_that_its_vendor_knows_late_is_used_within_minutes() {
    let world = &World::new("late").await;
    let operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world.published(vendor, &object).await;
        world.store(vendor, &object, "late").await;
        world
            .ready(&object, "True CredentialsRejected +RefreshFailing")
            .await;
        world.settle(&object, &operator).await;
    })
    .await;
    assert_eq!(world.calls_by_vendor(), [2; 5]);

    // A restart in between forgets neither the change nor the time of the next attempt.
    operator.stop().await;
    let operator = world.operator().await;
    for_every_vendor(async |_, object| world.settle(&object, &operator).await).await;
    assert_eq!(world.calls_by_vendor(), [2; 5]);

    // A minute, and up to a fifth of it to keep attempts apart.
    world.clock.pass(75);
    for_every_vendor(async |vendor, object| {
        world.settle(&object, &operator).await;
        let expected = if vendor == Vendor::CheckmarxSca { 2 } else { 3 };
        assert_eq!(world.calls(vendor), expected, "{vendor}");
    })
    .await;
    world.register_at_vendors("late").await;
    world.clock.pass(150);
    for_every_vendor(async |vendor, object| {
        world.settle(&object, &operator).await;
        if vendor == Vendor::CheckmarxSca {
            assert_eq!(
                world.calls(vendor),
                2,
                "a new password that is rejected may lock its account"
            );
        } else {
            // The world's clock has gone ahead of the vendor's.
            world.ready(&object, "True Published +ClockSkewSuspected").await;
            assert_eq!(world.calls(vendor), 4, "{vendor}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rejection_of_a_proven_password_is_confirmed_once_before_it_latches() {
    let world = World::new("confirmed").await;
    let operator = world.operator().await;
    let vendor = Vendor::CheckmarxSca;
    let calls = |object: &str| {
        let ledger_id = vendors::credential(vendor, object, "").ledger_id();
        world.simulator.credential_counts(vendor, &ledger_id).calls
    };
    let rejection = || Effect::Answer {
        status: 400,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: r#"{"error":"invalid_grant","error_description":"invalid_username_or_password"}"#.to_owned(),
    };
    for (object, times) in [("mistaken", 1), ("revoked", 2)] {
        world.published(vendor, object).await;
        let ledger_id = vendors::credential(vendor, object, "").ledger_id();
        let fault = Fault::new(vendor, rejection()).credential(ledger_id);
        world.simulator.add_fault(fault.times(times));
    }
    // The refresh is due at 80 % of an hour, and 5 minutes later the token is valid still.
    world.clock.pass(2_900);
    for object in ["mistaken", "revoked"] {
        world.settle(object, &operator).await;
        world
            .ready(object, "True CredentialsRejected +RefreshFailing")
            .await;
        world.settle(object, &operator).await;
        assert_eq!(calls(object), 2, "{object}");
    }

    operator.stop().await;
    let operator = world.operator().await;
    world.clock.pass(290);
    for object in ["mistaken", "revoked"] {
        world.settle(object, &operator).await;
        assert_eq!(calls(object), 2, "{object}: not before 5 minutes have passed");
    }
    world.clock.pass(90);
    world
        .ready("mistaken", "True Published +ClockSkewSuspected")
        .await;
    world.settle("revoked", &operator).await;
    assert_eq!((calls("mistaken"), calls("revoked")), (3, 3));
    let failure = world.token("revoked").await.status.unwrap().failure.unwrap();
    assert_eq!(
        (failure.reason.as_str(), failure.count, failure.next_attempt_time),
        ("CredentialsRejected", 2, None)
    );

    // The vendor would take the password by now, and is not asked: neither after another restart nor after a day.
    operator.stop().await;
    let operator = world.operator().await;
    world.clock.pass(24 * 3600);
    world.settle("revoked", &operator).await;
    world.ready("revoked", REJECTED).await;
    assert_eq!(calls("revoked"), 3);
}
