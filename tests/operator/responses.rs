//! Answers that are not what a vendor documents never touch a target.

use vendor_simulator::{Effect, Fault, Vendor};

use crate::world::vendors::{self, for_every_vendor};
use crate::world::{Running as _, World, summary};

fn answer(status: u16, media_type: &str, body: &str) -> Effect {
    Effect::Answer {
        status,
        headers: vec![("content-type".to_owned(), media_type.to_owned())],
        body: body.to_owned(),
    }
}

/// What comes, and the reason that is shown for it.
fn answers() -> Vec<(&'static str, Effect, &'static str)> {
    let html = "<!doctype html><title>Sign in</title>";
    vec![
        ("html", answer(200, "text/html", html), "InvalidResponse"),
        ("truncated", Effect::Truncate, "VendorUnavailable"),
        ("huge", Effect::HugeBody { bytes: 2 << 20 }, "InvalidResponse"),
        ("expired", Effect::Lifetime { seconds: -60 }, "InvalidResponse"),
        (
            "half",
            answer(200, "application/json", r#"{"access_token":"e"#),
            "InvalidResponse",
        ),
        (
            "no-token",
            answer(200, "application/json", r#"{"expires_in":3600}"#),
            "InvalidResponse",
        ),
        ("closed", Effect::Close, "VendorUnavailable"),
        ("gateway", answer(502, "text/html", html), "VendorUnavailable"),
        ("blocked", answer(403, "text/html", html), "VendorUnavailable"),
        (
            "blocked-in-words",
            answer(403, "text/plain", "error code: 1010"),
            "VendorUnavailable",
        ),
        (
            "denied-by-a-server-error",
            answer(500, "application/json", r#"{"error":"access_denied"}"#),
            "VendorUnavailable",
        ),
    ]
}

impl World {
    fn answers_with(&self, vendor: Vendor, object: &str, effect: &Effect) {
        let ledger_id = vendors::credential(vendor, object, "").ledger_id();
        self.simulator
            .add_fault(Fault::new(vendor, effect.clone()).credential(ledger_id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_no_vendor_documents_never_touches_a_target() {
    let world = &World::new("answers").await;
    let _operator = world.operator().await;
    for_every_vendor(async |vendor, prefix| {
        for (case, effect, _) in answers() {
            let object = format!("{prefix}-{case}");
            world.published(vendor, &object).await;
            world.answers_with(vendor, &object, &effect);
        }
    })
    .await;
    // Two grants of a credential are kept half a minute apart, asked for or not.
    world.clock.pass(40);
    for_every_vendor(async |vendor, prefix| {
        for (case, _, reason) in answers() {
            let object = format!("{prefix}-{case}");
            let version = world.secret(&object).await.metadata.resource_version;
            world.request_refresh(&object, "now").await;
            world
                .ready(&object, &format!("True {reason} +RefreshFailing"))
                .await;
            let after = world.secret(&object).await.metadata.resource_version;
            assert_eq!(after, version, "{object}");
            let ledger_id = vendors::credential(vendor, &object, "").ledger_id();
            assert_eq!(
                world.simulator.credential_counts(vendor, &ledger_id).calls,
                2,
                "{object}"
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_no_vendor_documents_makes_no_target() {
    let world = &World::new("first-answers").await;
    let operator = world.operator().await;
    for_every_vendor(async |vendor, prefix| {
        for (case, effect, _) in answers() {
            let object = format!("{prefix}-{case}");
            world.answers_with(vendor, &object, &effect);
            world.create(vendor, &object).await;
        }
        for (case, _, reason) in answers() {
            let object = format!("{prefix}-{case}");
            let token = world
                .ready(&object, &format!("False {reason} +Reconciling"))
                .await;
            assert!(
                world.secrets().get_opt(&object).await.unwrap().is_none(),
                "{}",
                summary(&token)
            );
        }
    })
    .await;
    operator.quiet().await;
}
