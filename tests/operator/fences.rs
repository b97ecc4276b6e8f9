//! Objects that were stored before a rule of the schema was, or under a definition without rules: what a rule holds back is
//! held back in code too.

use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::discovery::ApiResource;
use serde_json::{Value, json};
use vendor_simulator::{Options, Vendor};
use vendor_token_operator::api::{VendorToken, custom_resource_definition};

use crate::support::plane_with;
use crate::world::vendors;
use crate::world::{OPERATOR, Running as _, World};

const VENDOR: Vendor = Vendor::Mapiq;

/// Removes rules and bounds from a schema, at all depths.
fn loosen(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            for bound in [
                "x-kubernetes-validations",
                "maxLength",
                "minLength",
                "maxItems",
                "maxProperties",
                "minProperties",
                "pattern",
                "minimum",
                "maximum",
            ] {
                members.remove(bound);
            }
            members.values_mut().for_each(loosen);
        }
        Value::Array(items) => items.iter_mut().for_each(loosen),
        _ => {}
    }
}

async fn world_without_rules() -> World {
    let mut definition = serde_json::to_value(custom_resource_definition()).unwrap();
    loosen(&mut definition["spec"]["versions"][0]["schema"]);
    let plane = plane_with(&[], &definition.to_string()).await;
    World::served_on(plane, "no-rules", Options::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_schema_refuses_reaches_no_url_and_no_secret_without_the_schema() {
    let world = world_without_rules().await;
    world.register(VENDOR, "good").await;
    let resource = ApiResource::erase::<VendorToken>(&());
    let tokens: Api<DynamicObject> = Api::namespaced_with(world.admin.clone(), &world.namespace, &resource);
    let spec = |change: Value| {
        let mut spec = vendors::spec(VENDOR, "good");
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec
    };
    let long = "n".repeat(64);
    let refused = [
        (
            "watch",
            spec(json!({ "credentialsSecretRef": { "name": "?watch=true" } })),
        ),
        (
            "parent",
            spec(json!({ "credentialsSecretRef": { "name": "../configmaps/x" } })),
        ),
        (
            "target-watch",
            spec(json!({ "target": { "name": "?watch=true" } })),
        ),
        ("target-path", spec(json!({ "target": { "name": "a/b" } }))),
        (
            "account",
            spec(json!({ "target": { "type": "kubernetes.io/service-account-token" } })),
        ),
        (
            "bootstrap",
            spec(json!({ "target": { "type": "bootstrap.kubernetes.io/token" } })),
        ),
        (
            "label",
            spec(json!({ "target": { "labels": { "vendortoken.io/name": "other" } } })),
        ),
        (
            "annotation",
            spec(json!({ "target": { "annotations": { "Vendortoken.io/inputs": "x" } } })),
        ),
        (
            "template",
            spec(json!({ "target": { "data": { "k": "x".repeat(5000) } } })),
        ),
        (&long, spec(json!({}))),
    ];
    let mark = world.mark().await;
    for (name, spec) in &refused {
        let object = json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken", "metadata": { "name": name }, "spec": spec,
        });
        tokens
            .patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object))
            .await
            .unwrap();
    }
    // The name in a status becomes a URL too, where the target is another one by now.
    world.create(VENDOR, "good").await;
    world
        .forge_status("good", json!({ "binding": { "name": "../secrets?watch=true" } }))
        .await;
    let operator = world.operator().await;
    for (name, _) in &refused {
        world.ready(name, "False InvalidSpec +Stalled").await;
    }
    world.ready("good", "True Published").await;
    for name in ["?watch=true", "../secrets?watch=true"] {
        world
            .forge_status("good", json!({ "binding": { "name": name } }))
            .await;
        world
            .until("the forged name to go", async || {
                let binding = world.token("good").await.status.unwrap().binding;
                match binding {
                    Some(binding) if binding.name == "good" => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
    }
    operator.quiet().await;
    let asked = world.plane.audit().since(mark).await.unwrap();
    let asked = asked.of_service_account(OPERATOR, OPERATOR);
    let odd = asked.matching(|entry| {
        let is_scope_wide = entry.name.is_empty() && matches!(entry.verb.as_str(), "list" | "watch");
        let named_watch = entry.verb == "watch" && !entry.name.is_empty();
        let known = matches!(
            entry.resource.as_str(),
            "secrets" | "vendortokens" | "events" | ""
        );
        named_watch || !known || (entry.uri.contains("..") && !is_scope_wide)
    });
    assert_eq!(*odd, [], "asked by a name that is none");
    // One list and one watch for each kind, and new ones where the API server ends a watch: not one for each forged
    // name.
    let watches = asked.count(|entry| entry.verb == "watch" && entry.resource == "secrets");
    assert!(watches <= 2, "{watches} watches of Secrets");
    let made: Vec<_> = asked
        .iter()
        .filter(|entry| entry.is_write() && entry.resource == "secrets" && entry.namespace == world.namespace)
        .map(|entry| entry.name.clone())
        .collect();
    assert!(made.iter().all(|name| name == "good"), "{made:?}");
    assert_eq!(world.calls(VENDOR), 1);
}
