//! A token is asked for as the vendor's page says, and published with what it is made of.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use vendor_simulator::{Credential, Vendor};
use vendor_token_operator::api::names;

use crate::world::World;
use crate::world::vendors::{self, for_every_vendor};

#[tokio::test(flavor = "multi_thread")]
async fn every_vendor_is_asked_as_its_page_says() {
    let world = &World::new("publish").await;
    let _operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        let before = Timestamp::now() - SignedDuration::from_secs(1);
        let value = world.published(vendor, &object).await;

        let issued_to = world.simulator.validate(vendor, &value);
        assert!(issued_to.valid, "{vendor}: the vendor does not know the token");
        let ledger_id = vendors::credential(vendor, &object, "").ledger_id();
        assert_eq!(issued_to.credential, Some(ledger_id));
        assert_eq!(world.calls(vendor), 1, "{vendor}");

        let token = world.token(&object).await;
        let credentials = world.secret(&vendors::credentials_of(&object)).await.metadata;
        let target = world.secret(&object).await;
        assert_eq!(target.type_.as_deref(), Some("Opaque"));
        assert_eq!(target.data.unwrap().into_keys().collect::<Vec<_>>(), ["token"]);
        let labels = target.metadata.labels.unwrap();
        assert_eq!(labels[names::MANAGED_BY_LABEL], "vendor-token-operator");
        assert_eq!(labels[names::NAME_LABEL], object);
        assert_eq!(labels.len(), 2);

        let owners = target.metadata.owner_references.unwrap();
        assert_eq!(owners.len(), 1);
        assert_eq!(
            (owners[0].kind.as_str(), owners[0].name.as_str()),
            ("VendorToken", object.as_str())
        );
        assert_eq!(Some(&owners[0].uid), token.metadata.uid.as_ref());
        assert_eq!(
            (owners[0].controller, owners[0].block_owner_deletion),
            (Some(true), Some(false))
        );

        let annotations = target.metadata.annotations.unwrap();
        let time = |key: &str| annotations[key].parse::<Timestamp>().unwrap();
        let (issued, expires) = (time(names::ISSUED_TIME), time(names::EXPIRATION_TIME));
        assert!(
            issued >= before && issued <= Timestamp::now(),
            "{vendor}: issued {issued}"
        );
        let life = expires.duration_since(issued).as_secs();
        let documented = i64::try_from(vendor.default_lifetime_seconds()).unwrap();
        assert!(
            (documented - 2..=documented + 1).contains(&life),
            "{vendor}: lives {life} s"
        );
        assert_eq!(annotations[names::INPUTS].split('.').count(), 5);
        assert!(annotations[names::CONTENT].starts_with("created."));
        assert_eq!(
            annotations[names::CREDENTIALS_VERSION],
            format!(
                "{}/{}",
                credentials.uid.unwrap(),
                credentials.resource_version.unwrap()
            )
        );
        assert!(!annotations.contains_key(names::REFRESH_HANDLED));

        let status = token.status.unwrap();
        assert_eq!(status.observed_generation, token.metadata.generation);
        assert_eq!(status.binding.unwrap().name, object);
        assert_eq!(status.issued_time.unwrap().0, issued);
        assert_eq!(status.expiration_time.unwrap().0, expires);
        let next = status
            .next_refresh_time
            .unwrap()
            .0
            .duration_since(issued)
            .as_secs();
        assert!(
            (life * 74 / 100..=life * 80 / 100).contains(&next),
            "{vendor}: next after {next} s"
        );
        assert_eq!(
            status.endpoint.as_deref(),
            world.simulator.origin(vendor).strip_prefix("https://")
        );
        assert_eq!(status.failure, None);
        assert_eq!(status.last_handled_refresh_request, None);
        assert_eq!(status.conditions.len(), 1);
        assert_eq!(
            status.conditions[0].observed_generation,
            token.metadata.generation
        );
    })
    .await;
    assert_eq!(world.simulator.violations(), []);
    assert_eq!(world.simulator.calls().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_holds_the_keys_labels_and_type_that_the_spec_asks_for() {
    let world = World::new("templates").await;
    let _operator = world.operator().await;
    world.register(Vendor::SixMap, "sixmap").await;
    let mut spec = vendors::spec(Vendor::SixMap, "sixmap");
    spec["target"] = json!({
        "name": "elsewhere",
        "type": "example.com/token",
        "data": {
            "authorization": "Bearer $(token)",
            "dotenv": "TOKEN=$(token)\nTYPE=$(tokenType)\nLITERAL=$$(token)\n",
            "times": "$(issuedTime)/$(expirationTime)",
        },
        "labels": { "team": "appsec" },
        "annotations": { "example.com/reload": "yes" },
    });
    world.apply("sixmap", spec).await;
    let status = world.ready("sixmap", "True Published").await.status.unwrap();
    assert_eq!(status.binding.unwrap().name, "elsewhere");
    let target = world.secret("elsewhere").await;
    assert_eq!(target.type_.as_deref(), Some("example.com/token"));
    assert_eq!(target.metadata.labels.unwrap()["team"], "appsec");
    assert_eq!(target.metadata.annotations.unwrap()["example.com/reload"], "yes");
    let authorization = world.data("elsewhere", "authorization").await.unwrap();
    let token = authorization.strip_prefix("Bearer ").unwrap();
    assert!(world.simulator.validate(Vendor::SixMap, token).valid);
    assert_eq!(
        world.data("elsewhere", "dotenv").await.unwrap(),
        format!("TOKEN={token}\nTYPE=Bearer\nLITERAL=$(token)\n")
    );
    assert_eq!(
        world.data("elsewhere", "times").await.unwrap(),
        format!(
            "{}/{}",
            status.issued_time.unwrap().0,
            status.expiration_time.unwrap().0
        )
    );
    assert_eq!(target.data.unwrap().len(), 3);
    assert!(world.secrets().get_opt("sixmap").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_read_from_the_keys_that_the_spec_names() {
    let world = &World::new("keys").await;
    let _operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        let secret = vendors::secret_of(&object);
        world
            .simulator
            .put_credential(vendor, vendors::credential(vendor, &object, &secret));
        let mut data = vendors::data(vendor, &object, &secret);
        let (canonical, value) = data.pop().unwrap();
        // What stands under the canonical key must not be used.
        data.extend([("CUSTOM_KEY", value), (canonical, "another")]);
        world.credentials(&vendors::credentials_of(&object), &data).await;
        let mut spec = vendors::spec(vendor, &object);
        spec["credentialsSecretRef"]["keys"] = json!({ canonical: "CUSTOM_KEY" });
        world.apply(&object, spec).await;
        world.ready(&object, "True Published").await;
        assert_eq!(world.calls(vendor), 1, "{vendor}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_regions_and_both_scopes_of_checkmarx_are_grants_of_their_own() {
    let world = World::new("checkmarx").await;
    let _operator = world.operator().await;
    world.register(Vendor::CheckmarxSca, "user").await;
    let both = ["sca_api", "access_control_api"];
    for (object, region, scopes) in [
        ("us", "US", &both[..1]),
        ("eu", "EU", &both[..1]),
        ("access", "EU", &both[1..]),
        ("both", "EU", &both[..]),
    ] {
        let mut spec = vendors::spec(Vendor::CheckmarxSca, "user");
        spec["checkmarxSCA"] = json!({ "region": region, "tenant": "acme", "scopes": scopes });
        world.apply(object, spec).await;
        world.ready(object, "True Published").await;
        let token = world.data(object, "token").await.unwrap();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        let mut granted: Vec<_> = claims["scope"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        granted.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(granted, scopes, "{object}");
        assert_eq!(claims["tenant_name"], "acme");
    }
    assert_eq!(world.calls(Vendor::CheckmarxSca), 4);
    assert_eq!(world.simulator.violations(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_6clicks_key_with_a_certificate_is_served_only_with_that_certificate() {
    let world = World::new("certificate").await;
    let operator = world.operator().await;
    let certificate = world.simulator.client_certificate("acme").unwrap();
    world.simulator.put_credential(
        Vendor::SixClicks,
        Credential::new("key", "the-key").client_certificate(&certificate.fingerprint),
    );
    world
        .credentials("with-credentials", &[("api-key", "the-key")])
        .await;
    let tls = json!({
        "type": "kubernetes.io/tls",
        "stringData": { "tls.crt": certificate.certificate_pem, "tls.key": certificate.key_pem },
    });
    world.apply_secret("certificate", tls).await;

    let spec = vendors::spec(Vendor::SixClicks, "with");
    world.apply("without", spec.clone()).await;
    world.ready("without", "False CredentialsRejected +Stalled").await;

    let mut spec = spec;
    spec["sixClicks"]["clientCertificateSecretRef"] = json!({ "name": "certificate" });
    world.apply("with", spec).await;
    world.ready("with", "True Published").await;
    let presented: Vec<_> = world
        .simulator
        .calls()
        .into_iter()
        .map(|call| call.client_certificate)
        .collect();
    assert_eq!(presented, [false, true]);

    // A certificate that is renewed is another grant.
    let renewed = world.simulator.client_certificate("acme").unwrap();
    world.simulator.put_credential(
        Vendor::SixClicks,
        Credential::new("key", "the-key").client_certificate(&renewed.fingerprint),
    );
    let first = world.data("with", "token").await.unwrap();
    let tls = json!({
        "type": "kubernetes.io/tls",
        "stringData": { "tls.crt": renewed.certificate_pem, "tls.key": renewed.key_pem },
    });
    world.apply_secret("certificate", tls).await;
    world.until_data("with", "token", |value| value != first).await;
    world.settle("with", &operator).await;
    assert_eq!(world.calls(Vendor::SixClicks), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_see_that_two_namespaces_share_a_credential() {
    let world = World::new("namespaces").await;
    let other = World::new("namespaces").await;
    let namespaces = vec![world.namespace.clone(), other.namespace.clone()];
    let _operator = world
        .operator_with(|settings| settings.watch_namespaces = namespaces)
        .await;
    let value = world.published(Vendor::SixMap, "sixmap").await;
    other
        .store(Vendor::SixMap, "sixmap", &vendors::secret_of("sixmap"))
        .await;
    other
        .apply("sixmap", vendors::spec(Vendor::SixMap, "sixmap"))
        .await;
    other.ready("sixmap", "True Published").await;
    assert_eq!(other.data("sixmap", "token").await, Some(value));
    assert_eq!(world.calls(Vendor::SixMap), 1);
    let published = async |world: &World| {
        let annotations = world.secret("sixmap").await.metadata.annotations.unwrap();
        annotations[names::INPUTS].clone()
    };
    let (one, two) = (published(&world).await, published(&other).await);
    let parts = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (one, two) = (parts(&one), parts(&two));
    assert_ne!(one[1], two[1], "the grant part of the spec");
    assert_ne!(one[3], two[3], "the fingerprint");
}
