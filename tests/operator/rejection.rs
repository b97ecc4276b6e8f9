//! A rejected credential is not sent again until something changes.

use serde_json::json;
use vendor_simulator::{Effect, Fault, Vendor};

use crate::support::World;
use crate::vendors::{self, for_every_vendor, object};

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
            self.store(vendor, &object, "wrong").await;
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
        assert!(!message.contains("wrong"), "{vendor}: {message}");
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
        world.store(vendor, &object, "wrong").await;
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
        world.clock.step(3_500);
        for_every_vendor(async |_, object| world.settle(&object, &operator).await).await;
        assert_eq!(world.calls_by_vendor(), expected, "before an hour has passed");
        // An hour, and up to a fifth of it to keep probes apart.
        world.clock.step(900);
        for vendor in Vendor::ALL {
            expected[vendor as usize] += u64::from(vendor != Vendor::CheckmarxSca);
        }
        for_every_vendor(async |_, object| world.settle(&object, &operator).await).await;
        assert_eq!(world.calls_by_vendor(), expected, "after an hour");
    }
    world.clock.step(30 * 24 * 3600);
    for_every_vendor(async |_, object| world.settle(&object, &operator).await).await;
    assert_eq!(world.calls(Vendor::CheckmarxSca), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_is_shared_by_all_vendor_tokens_with_that_credential() {
    let world = World::new("latched").await;
    let operator = world.operator().await;
    world.store(Vendor::CheckmarxSca, "user", "wrong").await;
    for number in 0..5 {
        let object = format!("sca-{number}");
        world
            .apply(&object, vendors::spec(Vendor::CheckmarxSca, "user"))
            .await;
    }
    for number in 0..5 {
        world.ready(&format!("sca-{number}"), REJECTED).await;
    }
    world
        .apply("later", vendors::spec(Vendor::CheckmarxSca, "user"))
        .await;
    world.ready("later", REJECTED).await;
    world.settle("later", &operator).await;
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
