//! A VendorToken that this version cannot read is reported, and stops no other.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::discovery::ApiResource;
use serde_json::json;
use tokio::sync::OnceCell;
use vendor_simulator::Vendor;
use vendor_token_operator::api::VendorToken;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_token_of_an_unknown_vendor_stops_no_other() {
    let world = World::new("undecodable").await;
    allow_another_vendor(&world).await;
    let resource = ApiResource::erase::<VendorToken>(&());
    let tokens: Api<DynamicObject> = Api::namespaced_with(world.admin.clone(), &world.namespace, &resource);
    let unknown = DynamicObject::new("unknown", &resource).data(json!({
        "spec": { "vendor": "Newcomer", "credentialsSecretRef": { "name": "unknown-credentials" } },
    }));
    // The API server takes a moment to serve a changed schema.
    world
        .until("the looser schema", async || {
            let created = tokens.create(&PostParams::default(), &unknown).await;
            created.map(|_| ()).map_err(|error| error.to_string())
        })
        .await;

    let operator = world.operator().await;
    world.published(Vendor::Mapiq, "mapiq").await;
    assert_eq!(operator.metric("vendortoken_undecodable_objects"), 1.0);
    // Also one that comes, changes and goes while the operator runs.
    let mut later = unknown.clone();
    later.metadata.name = Some("later".to_owned());
    tokens.create(&PostParams::default(), &later).await.unwrap();
    undecodable(&world, &operator, 2.0).await;
    tokens.delete("later", &Default::default()).await.unwrap();
    undecodable(&world, &operator, 1.0).await;
    world.published(Vendor::Picus, "picus").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_read_any_more_keeps_its_target() {
    let world = World::new("unreadable").await;
    allow_another_vendor(&world).await;
    let operator = world.operator().await;
    world.published(Vendor::Mapiq, "mapiq").await;
    let edit = json!({ "spec": { "vendor": "Newcomer" } });
    let resource = ApiResource::erase::<VendorToken>(&());
    let tokens: Api<DynamicObject> = Api::namespaced_with(world.admin.clone(), &world.namespace, &resource);
    world
        .until("the looser schema", async || {
            let patch = Patch::Merge(&edit);
            let edited = tokens.patch("mapiq", &PatchParams::default(), &patch).await;
            edited.map(|_| ()).map_err(|error| error.to_string())
        })
        .await;
    undecodable(&world, &operator, 1.0).await;

    // Nobody works on it by the spec that could be read, and no other takes what is its own.
    world.delete_secret("mapiq").await;
    world
        .apply(
            "rival",
            json!({ "vendor": "Picus", "credentialsSecretRef": { "name": "rival-credentials" },
                "target": { "name": "mapiq" } }),
        )
        .await;
    world.ready("rival", "False TargetConflict +Stalled").await;
    world.settle("rival", &operator).await;
    assert!(
        world.data("mapiq", "token").await.is_none(),
        "an old spec was used"
    );
    assert_eq!(operator.metric("vendortoken_ready"), 0.0);

    // It is free when it is deleted.
    tokens.delete("mapiq", &Default::default()).await.unwrap();
    world
        .ready("rival", "False CredentialsNotFound +Reconciling")
        .await;
    undecodable(&world, &operator, 0.0).await;
}

async fn undecodable(world: &World, operator: &crate::world::Operator, count: f64) {
    world
        .until("the count of undecodable objects", async || {
            let found = operator.metric("vendortoken_undecodable_objects");
            if found == count {
                Ok(())
            } else {
                Err(found.to_string())
            }
        })
        .await;
}

/// Has the CustomResourceDefinition take one vendor more, as a newer version's would; no other test asks for it.
async fn allow_another_vendor(world: &World) {
    static ALLOWED: OnceCell<()> = OnceCell::const_new();
    ALLOWED
        .get_or_init(|| async {
            let crds: Api<CustomResourceDefinition> = Api::all(world.admin.clone());
            let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/vendor/enum/-";
            let patch =
                serde_json::from_value(json!([{ "op": "add", "path": path, "value": "Newcomer" }])).unwrap();
            crds.patch(
                "vendortokens.vendortoken.io",
                &PatchParams::default(),
                &Patch::<()>::Json(patch),
            )
            .await
            .unwrap();
        })
        .await;
}
