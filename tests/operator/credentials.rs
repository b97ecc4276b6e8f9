//! Credentials that are not there, or cannot be used.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vendor_simulator::Vendor;

use crate::world::vendors::{self, credentials_of, for_every_vendor, secret_key};
use crate::world::{Running as _, World};

const VENDOR: Vendor = Vendor::Mapiq;

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_come_later_are_used_within_seconds() {
    let world = &World::new("missing").await;
    let operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world.apply(&object, vendors::spec(vendor, &object)).await;
        world
            .ready(&object, "False CredentialsNotFound +Reconciling")
            .await;
        assert!(world.message(&object).await.contains(&credentials_of(&object)));
        world.settle(&object, &operator).await;
        assert_eq!(world.calls(vendor), 0, "{vendor}");

        let created = Instant::now();
        world.register(vendor, &object).await;
        world.ready(&object, "True Published").await;
        assert!(
            created.elapsed() < Duration::from_secs(10),
            "{vendor}: {:?}",
            created.elapsed()
        );
        assert_eq!(world.calls(vendor), 1, "{vendor}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_without_credentials() {
    let world = World::new("deleted").await;
    let operator = world.operator().await;
    let value = world.published(VENDOR, "mapiq").await;
    world.delete_secret("mapiq-credentials").await;
    world
        .ready("mapiq", "True CredentialsNotFound +RefreshFailing")
        .await;
    assert_eq!(world.data("mapiq", "token").await, Some(value));

    world.delete_secret("mapiq").await;
    world
        .ready("mapiq", "False CredentialsNotFound +Reconciling")
        .await;
    world.settle("mapiq", &operator).await;
    assert_eq!(world.data("mapiq", "token").await, None, "published from memory");
    assert_eq!(world.calls(VENDOR), 1);

    world.register(VENDOR, "mapiq").await;
    world.ready("mapiq", "True Published").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_return_unchanged_cost_no_vendor_call() {
    let world = World::new("returned").await;
    let operator = world.operator().await;
    let value = world.published(VENDOR, "mapiq").await;
    world.delete_secret("mapiq-credentials").await;
    world
        .ready("mapiq", "True CredentialsNotFound +RefreshFailing")
        .await;
    world.register(VENDOR, "mapiq").await;
    world.ready("mapiq", "True Published").await;
    world.settle("mapiq", &operator).await;
    assert_eq!(world.data("mapiq", "token").await, Some(value));
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_cannot_be_used_make_no_request() {
    let world = &World::new("unusable").await;
    let operator = world.operator().await;
    // "bad\nsecret", "bad\0secret", bytes that are not UTF-8, and "bad" behind U+200B and before U+00A0, in base64.
    let cases = [
        ("missing", Value::Null),
        ("empty", json!("")),
        ("newline-only", json!("Cg==")),
        ("inner-newline", json!("YmFkCnNlY3JldA==")),
        ("inner-null", json!("YmFkAHNlY3JldA==")),
        ("not-text", json!("/////w==")),
        ("zero-width", json!("4oCLYmFk")),
        ("no-break-space", json!("YmFkwqA=")),
    ];
    for_every_vendor(async |vendor, object| {
        for (case, value) in &cases {
            let object = format!("{object}-{case}");
            world.register(vendor, &object).await;
            let damage = json!({ "data": { secret_key(vendor): value } });
            world.edit_secret(&credentials_of(&object), damage).await;
            world.apply(&object, vendors::spec(vendor, &object)).await;
        }
        for (case, _) in &cases {
            let object = format!("{object}-{case}");
            world.ready(&object, "False CredentialsInvalid +Stalled").await;
            let message = world.message(&object).await;
            assert!(
                message.contains(secret_key(vendor)),
                "{vendor}, {case}: {message}"
            );
            assert!(!message.contains("bad"), "{vendor}, {case}: {message}");
        }
    })
    .await;
    operator.quiet().await;
    assert_eq!(world.simulator.calls(), []);

    world.register(VENDOR, "mapiq-missing").await;
    world.ready("mapiq-missing", "True Published").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_with_a_trailing_newline_works() {
    let world = &World::new("newline").await;
    let _operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        for (case, end) in [("lf", "\n"), ("crlf", "\r\n")] {
            let object = format!("{object}-{case}");
            world.register(vendor, &object).await;
            world
                .store(vendor, &object, &format!("{}{end}", vendors::secret_of(&object)))
                .await;
            world.apply(&object, vendors::spec(vendor, &object)).await;
            world.ready(&object, "True Published").await;
        }
        assert_eq!(world.calls(vendor), 2, "{vendor}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_accounts_token_is_never_sent_to_a_vendor() {
    let world = World::new("service-account").await;
    let operator = world.operator().await;
    let secret = json!({
        "type": "kubernetes.io/service-account-token",
        "metadata": { "annotations": { "kubernetes.io/service-account.name": "default" } },
        "stringData": { "client-id": "mapiq", "client-secret": "secret" },
    });
    // The API server keeps such a Secret only for a ServiceAccount; no controller makes them here.
    world
        .plane
        .apply_yaml(
            &world.namespace,
            "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}",
        )
        .await
        .unwrap();
    world.apply_secret("mapiq-credentials", secret).await;
    world.apply("mapiq", vendors::spec(VENDOR, "mapiq")).await;
    world.ready("mapiq", "False CredentialsInvalid +Stalled").await;
    assert!(world.message("mapiq").await.contains("credentialsSecretRef.name"));
    world.settle("mapiq", &operator).await;
    assert_eq!(world.calls(VENDOR), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_credential_is_used_within_seconds() {
    let world = &World::new("rotated").await;
    let _operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        let first = world.published(vendor, &object).await;
        world
            .simulator
            .put_credential(vendor, vendors::credential(vendor, &object, "rotated"));
        let rotated = Instant::now();
        world.store(vendor, &object, "rotated").await;
        world.until_data(&object, "token", |value| value != first).await;
        assert!(
            rotated.elapsed() < Duration::from_secs(10),
            "{vendor}: {:?}",
            rotated.elapsed()
        );
        world.ready(&object, "True Published").await;
        assert_eq!(world.calls(vendor), 2, "{vendor}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_that_is_missing_or_unusable_makes_no_request() {
    let world = World::new("certificates").await;
    let operator = world.operator().await;
    world.register(Vendor::SixClicks, "key").await;
    let mut spec = vendors::spec(Vendor::SixClicks, "key");
    spec["sixClicks"]["clientCertificateSecretRef"] = json!({ "name": "certificate" });
    world.apply("key", spec).await;
    world.ready("key", "False CredentialsNotFound +Reconciling").await;
    assert!(world.message("key").await.contains("'certificate'"));

    let [one, two] = ["one", "two"].map(|name| world.simulator.client_certificate(name).unwrap());
    // A certificate with the key of another one.
    let mismatched = json!({ "tls.crt": one.certificate_pem, "tls.key": two.key_pem });
    let tls = |data: Value| json!({ "type": "kubernetes.io/tls", "stringData": data });
    world.apply_secret("certificate", tls(mismatched)).await;
    world.ready("key", "False CredentialsInvalid +Stalled").await;
    assert!(world.message("key").await.contains("'certificate'"));
    world.settle("key", &operator).await;
    assert_eq!(world.calls(Vendor::SixClicks), 0);

    let matched = json!({ "tls.crt": one.certificate_pem, "tls.key": one.key_pem });
    world.apply_secret("certificate", tls(matched)).await;
    world.ready("key", "True Published").await;
}
