//! Metadata that the API server takes and stricter parsers refuse spoils nothing but the object on which it stands.

use kube::api::{GetParams, Patch, PatchParams, Resource as _};
use kube::core::Request;
use serde_json::{Value, json};
use vendor_simulator::Vendor;
use vendor_token_operator::api::VendorToken;

use crate::world::World;
use crate::world::vendors::{credentials_of, secret_of};

/// The last time that the API server takes; many parsers know no later one than the day before.
const LAST_SECOND: &str = "9999-12-31T23:59:59Z";

/// The collection of this kind in the world's namespace.
fn requests(world: &World, kind: &str) -> Request {
    let namespace = Some(world.namespace.as_str());
    Request::new(if kind == "Secret" {
        k8s_openapi::api::core::v1::Secret::url_path(&(), namespace)
    } else {
        VendorToken::url_path(&(), namespace)
    })
}

/// Sets the first time in an object's `managedFields`, as anybody can who may edit it.
async fn set_odd_time(world: &World, kind: &str, name: &str) {
    // A change of nothing but times is none for the API server.
    let patch = serde_json::from_value(json!([
        { "op": "replace", "path": "/metadata/managedFields/0/time", "value": LAST_SECOND },
        { "op": "add", "path": "/metadata/labels", "value": { "odd": "true" } },
    ]));
    let patch = Patch::<()>::Json(patch.unwrap());
    let request = requests(world, kind)
        .patch(name, &PatchParams::default(), &patch)
        .unwrap();
    let stored = world.admin.request_text(request).await.unwrap();
    assert!(stored.contains(LAST_SECOND), "{kind} {name}: {stored}");
}

/// An object as the API server has it: kube's types cannot hold it.
async fn object(world: &World, kind: &str, name: &str) -> Value {
    let request = requests(world, kind).get(name, &GetParams::default()).unwrap();
    serde_json::from_str(&world.admin.request_text(request).await.unwrap()).unwrap()
}

/// Gives `name` another credential, and waits until its token has changed.
async fn rotated(world: &World, name: &str, secret: &str) {
    let before = object(world, "Secret", name).await["data"]["token"].clone();
    world.simulator.put_credential(
        Vendor::SixMap,
        crate::world::vendors::credential(Vendor::SixMap, name, secret),
    );
    let mut patch = json!({ "stringData": {} });
    for (key, value) in crate::world::vendors::data(Vendor::SixMap, name, secret) {
        patch["stringData"][key] = json!(value);
    }
    let request = requests(world, "Secret")
        .patch(
            &credentials_of(name),
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .unwrap();
    world.admin.request_text(request).await.unwrap();
    world
        .until(&format!("another token of {name}"), async || {
            let present = object(world, "Secret", name).await["data"]["token"].clone();
            if present == before {
                Err("the same token".to_owned())
            } else {
                Ok(())
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_few_parsers_know_hides_no_object() {
    let world = World::new("odd-time").await;
    let operator = world.operator().await;
    for name in ["odd", "other"] {
        world.published(Vendor::SixMap, name).await;
        rotated(&world, name, &format!("{}-1", secret_of(name))).await;
    }
    set_odd_time(&world, "Secret", &credentials_of("odd")).await;
    set_odd_time(&world, "Secret", "odd").await;
    set_odd_time(&world, "VendorToken", "odd").await;
    // Edits are seen, of the object itself too.
    for name in ["other", "odd"] {
        rotated(&world, name, &format!("{}-2", secret_of(name))).await;
    }
    assert_eq!(operator.metric("vendortoken_undecodable_objects"), 0.0);

    // Lists are read as well.
    drop(operator);
    let calls = world.all_calls();
    let operator = world.operator().await;
    world.create(Vendor::Picus, "new").await;
    world.ready("new", "True Published").await;
    assert_eq!(world.all_calls(), calls + 1, "the stored tokens are known");
    for name in ["other", "odd"] {
        rotated(&world, name, &format!("{}-3", secret_of(name))).await;
    }
    assert_eq!(operator.metric("vendortoken_undecodable_objects"), 0.0);
    let token = object(&world, "VendorToken", "odd").await;
    assert!(
        token.to_string().contains(LAST_SECOND),
        "it stood there all the time"
    );
}
