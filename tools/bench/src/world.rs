//! The world of a measured program: the control plane, the vendors, the objects.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use test_support::{ControlPlane, Error, Options, install_operator};
use vendor_simulator::Vendor;
use vendor_token_operator::api::VendorToken;

use crate::vendors::Vendors;

/// A few: the operator must not depend on how objects are spread.
const NAMESPACES: usize = 5;
const CREATES_AT_A_TIME: usize = 32;

/// The servers of the measured programs.
pub(crate) struct World {
    pub(crate) vendors: Vendors,
    pub(crate) plane: ControlPlane,
    pub(crate) client: Client,
}

impl World {
    /// Starts the control plane and the vendors, and installs the operator's CRD and rights.
    pub(crate) async fn start() -> Result<Self, Error> {
        // No audit log, which would take a share of the time; the API server's own counters have the requests.
        let plane = ControlPlane::start(Options {
            api_server_arguments: vec!["--audit-policy-file=".to_owned(), "--audit-log-path=".to_owned()],
            ..Options::default()
        })
        .await?;
        let client = plane.admin()?;
        install_operator(&client).await?;
        for name in namespaces() {
            let namespace = Namespace {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    ..Default::default()
                },
                ..Default::default()
            };
            Api::all(client.clone())
                .create(&PostParams::default(), &namespace)
                .await
                .map_err(Error::step(format!("create the namespace {name}")))?;
        }
        Ok(Self {
            vendors: Vendors::start(plane.folder()).await?,
            plane,
            client,
        })
    }

    /// The process ids of the servers.
    pub(crate) fn pids(&self) -> BTreeMap<&'static str, u32> {
        let mut pids = self.plane.pids();
        pids.extend(self.vendors.pid().map(|pid| ("vendor-simulator", pid)));
        pids
    }

    /// Creates the objects, and sets the vendors' counts to 0.
    pub(crate) async fn fill(&mut self, objects: usize, vendors: &[Vendor]) -> Result<(), Error> {
        self.vendors.clear().await?;
        let namespaces = namespaces();
        let world = &*self;
        let objects = (0..objects).map(|number| {
            let vendor = vendors[number % vendors.len()];
            let namespace = &namespaces[number % NAMESPACES];
            world.create(namespace, number, vendor)
        });
        stream::iter(objects)
            .buffer_unordered(CREATES_AT_A_TIME)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await
    }

    async fn create(&self, namespace: &str, number: usize, vendor: Vendor) -> Result<(), Error> {
        let name = format!("token-{number:06}");
        let credentials = format!("{name}-credentials");
        let values = match vendor {
            Vendor::SixMap | Vendor::Mapiq => {
                json!({ "client-id": format!("client-{number}"), "client-secret": format!("secret-{number}") })
            }
            Vendor::SixClicks => json!({ "api-key": format!("key-{number}") }),
            Vendor::CheckmarxSca => {
                json!({ "username": format!("user-{number}"), "password": format!("password-{number}") })
            }
            Vendor::Picus => json!({ "refresh-token": format!("refresh-{number}") }),
        };
        let mut spec = json!({ "vendor": vendor.name(), "credentialsSecretRef": { "name": credentials } });
        match vendor {
            Vendor::SixClicks => spec["sixClicks"] = json!({ "region": "au" }),
            Vendor::CheckmarxSca => spec["checkmarxSCA"] = json!({ "region": "EU", "tenant": "acme" }),
            _ => {}
        }
        let secret = json!({ "metadata": { "name": credentials }, "stringData": values });
        let token = json!({ "metadata": { "name": name }, "spec": spec });
        create::<Secret>(&self.client, namespace, secret).await?;
        create::<VendorToken>(&self.client, namespace, token).await
    }

    /// Deletes all objects.
    pub(crate) async fn empty(&self) -> Result<(), Error> {
        for namespace in namespaces() {
            let all = (DeleteParams::default(), ListParams::default());
            Api::<VendorToken>::namespaced(self.client.clone(), &namespace)
                .delete_collection(&all.0, &all.1)
                .await
                .map_err(Error::step("delete the VendorTokens"))?;
            Api::<Secret>::namespaced(self.client.clone(), &namespace)
                .delete_collection(&all.0, &all.1)
                .await
                .map_err(Error::step("delete the Secrets"))?;
        }
        Ok(())
    }

    /// Stops everything.
    pub(crate) async fn stop(self) {
        self.vendors.stop().await;
        self.plane.stop().await;
    }
}

fn namespaces() -> Vec<String> {
    (0..NAMESPACES).map(|number| format!("cold-{number}")).collect()
}

async fn create<K>(client: &Client, namespace: &str, object: Value) -> Result<(), Error>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + serde::Serialize,
{
    let kind = K::kind(&());
    let object: K = serde_json::from_value(object).map_err(Error::step(format!("make a {kind}")))?;
    Api::<K>::namespaced(client.clone(), namespace)
        .create(&PostParams::default(), &object)
        .await
        .map_err(Error::step(format!("create a {kind}")))?;
    Ok(())
}
