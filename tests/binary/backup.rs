//! A backup brings objects back under other UIDs. No garbage collector runs here, which would take a target whose owner
//! has another UID at once.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use serde_json::json;
use test_support::wait_for;
use vendor_simulator::Vendor;
use vendor_token_operator::api::VendorToken;

use crate::world::{Account, PATIENCE, World};

/// What a backup brings back of an object's metadata.
fn restored(metadata: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        uid: None,
        resource_version: None,
        creation_timestamp: None,
        generation: None,
        ..metadata.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backup_restores_under_other_uids_costs_no_vendor_call() {
    for (policy, owners) in [("Retain", 0), ("Delete", 1)] {
        let world = World::new("backup").await;
        let operator = world.program().await;
        let account = Account::new(Vendor::CheckmarxSca, "user", "secret");
        world
            .simulator
            .put_credential(account.vendor, account.credential());
        let target = json!({ "target": { "deletionPolicy": policy } });
        world.create_unregistered("sca", &account, target).await;
        let token = world.ready("sca", "True Published").await;
        drop(operator);

        let mut secrets: Vec<Secret> = Vec::new();
        for name in ["sca", "sca-credentials"] {
            secrets.push(world.secrets().get(name).await.unwrap());
            world
                .secrets()
                .delete(name, &DeleteParams::default())
                .await
                .unwrap();
        }
        world
            .tokens()
            .delete("sca", &DeleteParams::default())
            .await
            .unwrap();
        let create = PostParams::default();
        let anew = VendorToken {
            metadata: restored(&token.metadata),
            ..token.clone()
        };
        let anew = world.tokens().create(&create, &anew).await.unwrap();
        assert_ne!(anew.metadata.uid, token.metadata.uid);
        for secret in &secrets {
            let anew = Secret {
                metadata: restored(&secret.metadata),
                ..secret.clone()
            };
            let anew = world.secrets().create(&create, &anew).await.unwrap();
            assert_ne!(anew.metadata.uid, secret.metadata.uid);
            // Who creates an object owns all of it, so backups bring this back in a second step.
            let owned =
                Patch::Merge(json!({ "metadata": { "managedFields": secret.metadata.managed_fields } }));
            let name = anew.metadata.name.unwrap();
            world
                .secrets()
                .patch(&name, &PatchParams::default(), &owned)
                .await
                .unwrap();
        }

        let _operator = world.program().await;
        world.ready("sca", "True Published").await;
        let target = wait_for("the owner to be the present one", PATIENCE, || async {
            let target = world
                .secrets()
                .get("sca")
                .await
                .map_err(|error| error.to_string())?;
            let found = target.metadata.owner_references.clone().unwrap_or_default();
            if found.len() == owners
                && found
                    .iter()
                    .all(|owner| Some(&owner.uid) == anew.metadata.uid.as_ref())
            {
                Ok(target)
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await
        .unwrap();
        assert_eq!(target.data, secrets[0].data, "{policy}");
        assert_eq!(world.all_calls(), 1, "{policy}");
    }
}
