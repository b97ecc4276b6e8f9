//! What a person sees with kubectl.

use std::path::PathBuf;

use serde_json::Value;
use test_support::wait_for;
use vendor_simulator::{Credential, Effect, Fault, Vendor};

use crate::world::{Account, PATIENCE, World, root};

impl World {
    /// What kubectl prints in this world's namespace.
    async fn kubectl(&self, arguments: &[&str]) -> String {
        let namespace = format!("--namespace={}", self.namespace);
        let mut line = vec![namespace.as_str()];
        line.extend_from_slice(arguments);
        let output = self.plane.kubectl(&line).await.unwrap();
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}{}",
            output.stdout,
            output.stderr
        );
        output.stdout
    }

    /// Registers the credentials that the examples hold, and applies the examples with kubectl.
    async fn apply_examples(&self) -> usize {
        let mut count = 0;
        for path in examples() {
            let text = std::fs::read_to_string(&path).unwrap();
            if !text.contains("kind: VendorToken") {
                continue;
            }
            let value = |key: &str| -> String {
                let line = text
                    .lines()
                    .find(|line| line.trim().starts_with(&format!("{key}: ")));
                line.unwrap_or_else(|| panic!("no {key} in {}", path.display()))
                    .split(": ")
                    .nth(1)
                    .unwrap()
                    .to_owned()
            };
            let (vendor, credential) = match value("vendor").as_str() {
                "SixMap" => (
                    Vendor::SixMap,
                    Credential::new(value("client-id"), value("client-secret")),
                ),
                "SixClicks" => (Vendor::SixClicks, Credential::new("example", value("api-key"))),
                "CheckmarxSCA" => (
                    Vendor::CheckmarxSca,
                    Credential::new(value("username"), value("password")).tenant(value("tenant")),
                ),
                "Mapiq" => (
                    Vendor::Mapiq,
                    Credential::new(value("client-id"), value("client-secret")),
                ),
                _ => (Vendor::Picus, Credential::new("example", value("refresh-token"))),
            };
            self.simulator.put_credential(vendor, credential);
            self.kubectl(&["apply", "--filename", path.to_str().unwrap()])
                .await;
            count += 1;
        }
        count
    }
}

fn examples() -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(root().join("deploy/examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

/// Times of day and ages become words, and columns one space, so that the output is the same at any time.
fn masked(text: &str) -> String {
    let line = |line: &str| -> String {
        let mut words = Vec::new();
        for word in line.split_whitespace() {
            let core = word.trim_end_matches([';', ',', ':', '.']);
            let tail = &word[core.len()..];
            let is_time = core.len() == 20 && core.ends_with('Z') && core.as_bytes()[10] == b'T';
            let is_age = core.ends_with('s')
                && core.len() > 1
                && core
                    .trim_end_matches('s')
                    .chars()
                    .all(|c| c.is_ascii_digit() || c == 'm');
            words.push(if is_time {
                format!("<time>{tail}")
            } else if is_age {
                format!("<age>{tail}")
            } else {
                word.to_owned()
            });
        }
        words.join(" ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_wait_works_on_freshly_applied_examples() {
    let world = World::new("examples").await;
    let _operator = world.program().await;
    let count = world.apply_examples().await;
    assert_eq!(count, 5);
    let said = world
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "vendortoken",
            "--all",
            "--timeout=60s",
        ])
        .await;
    assert_eq!(said.matches("condition met").count(), count, "{said}");
    insta::assert_snapshot!(
        "kubectl_get_of_the_examples",
        masked(&world.kubectl(&["get", "vtok"]).await)
    );
    assert!(
        world.simulator.violations().is_empty(),
        "{:?}",
        world.simulator.violations()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_tells_what_is_wrong() {
    let world = World::new("table").await;
    let _operator = world.program().await;
    let account = |vendor, id: &str| Account::new(vendor, id, &format!("secret-of-{id}"));
    world.create_with("good", &account(Vendor::SixMap, "good")).await;
    world
        .create_unregistered(
            "rejected",
            &account(Vendor::CheckmarxSca, "rejected"),
            serde_json::json!({}),
        )
        .await;
    world
        .apply("no-secret", account(Vendor::Picus, "none").spec("missing"))
        .await;
    world.credentials("database", &[("password", "theirs")]).await;
    world
        .create_unregistered(
            "foreign",
            &account(Vendor::SixClicks, "foreign"),
            serde_json::json!({ "target": { "name": "database" } }),
        )
        .await;
    world
        .create_unregistered(
            "paused",
            &account(Vendor::SixMap, "paused"),
            serde_json::json!({ "suspend": true }),
        )
        .await;
    let throttle = Effect::Throttle {
        retry_after: None,
        seconds: 1800,
    };
    world.simulator.add_fault(Fault::new(Vendor::Mapiq, throttle));
    world
        .create_with("throttled", &account(Vendor::Mapiq, "throttled"))
        .await;
    world.ready("good", "True Published").await;
    world
        .ready("rejected", "False CredentialsRejected +Stalled")
        .await;
    world
        .ready("no-secret", "False CredentialsNotFound +Reconciling")
        .await;
    world.ready("foreign", "False TargetNotOwned +Stalled").await;
    world.ready("paused", "False Suspended +Suspended").await;
    world.ready("throttled", "False RateLimited +Reconciling").await;
    insta::assert_snapshot!("kubectl_get", masked(&world.kubectl(&["get", "vtok"]).await));
    insta::assert_snapshot!(
        "kubectl_get_wide",
        masked(&world.kubectl(&["get", "vtok", "-o", "wide"]).await)
    );
    // The event is written beside the status, not before it.
    let described = wait_for("the event", PATIENCE, || async {
        let text = world.kubectl(&["describe", "vtok", "rejected"]).await;
        let events = text.split_once("\nEvents:").map(|(_, events)| masked(events));
        match events {
            Some(events) if events.contains("CredentialsRejected") => Ok(events),
            _ => Err(text),
        }
    })
    .await
    .unwrap();
    insta::assert_snapshot!("kubectl_describe_events", described.trim());
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_explain_documents_every_field() {
    let world = World::new("explain").await;
    let tree = world
        .kubectl(&["explain", "vendortoken.spec", "--recursive"])
        .await;
    let schema: Value = serde_json::to_value(
        &vendor_token_operator::api::custom_resource_definition()
            .spec
            .versions[0]
            .schema
            .as_ref()
            .unwrap()
            .open_api_v3_schema,
    )
    .unwrap();
    let spec = &schema["properties"]["spec"];
    let mut missing = Vec::new();
    let mut fields = vec![("spec".to_owned(), spec)];
    while let Some((path, field)) = fields.pop() {
        if field["description"].as_str().is_none_or(str::is_empty) {
            missing.push(path.clone());
        }
        for (name, inner) in field["properties"].as_object().into_iter().flatten() {
            assert!(tree.contains(name.as_str()), "{path}.{name} is not explained");
            fields.push((format!("{path}.{name}"), inner));
        }
    }
    assert_eq!(missing, Vec::<String>::new(), "fields without a description");
}
