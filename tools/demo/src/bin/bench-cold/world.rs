//! What is there before the measured program starts: the control plane, the simulator, the objects.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use demo::{Error, binary, install, vendor_name};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use test_support::{ControlPlane, Options, Process, wait_for};
use vendor_simulator::Vendor;
use vendor_token_operator::api::VendorToken;

/// A few: the operator must not depend on how objects are spread.
const NAMESPACES: usize = 5;
const CREATES_AT_A_TIME: usize = 32;
const PATIENCE: Duration = Duration::from_secs(120);

/// The simulator's first line, as in its README.
#[derive(Clone, Debug)]
pub(crate) struct Origins {
    pub(crate) vendors: BTreeMap<Vendor, String>,
    pub(crate) authority: PathBuf,
    admin: String,
}

impl Origins {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let failed = |reason: String| Error::Other(format!("failed to read {}: {reason}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let line: Value = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        let member = |name: &str| {
            let value = line[name].as_str().map(str::to_owned);
            value.ok_or_else(|| failed(format!("it has no {name}")))
        };
        let vendors = Vendor::ALL
            .into_iter()
            .map(|vendor| Ok((vendor, member(vendor.name())?)))
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            vendors,
            authority: member("caFile")?.into(),
            admin: member("admin")?,
        })
    }
}

pub(crate) struct World {
    // Before the control plane, in whose folder its files are.
    simulator: Process,
    pub(crate) plane: ControlPlane,
    pub(crate) client: Client,
    pub(crate) origins: Origins,
    http: reqwest::Client,
}

impl World {
    pub(crate) async fn start() -> Result<Self, Error> {
        // No audit log: what is measured is not how fast it is written. The API server's own counters tell the requests.
        let plane = ControlPlane::start(Options {
            api_server_arguments: vec!["--audit-policy-file=".to_owned(), "--audit-log-path=".to_owned()],
            ..Options::default()
        })
        .await?;
        let client = plane.admin()?;
        install(&client).await?;
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
                .map_err(Error::kube(format!("create the namespace {name}")))?;
        }
        let folder = plane.folder().join("simulator");
        let arguments = [
            "--wildcard-credentials".to_owned(),
            "--counts-only".to_owned(),
            format!("--state-dir={}", folder.display()),
        ];
        let mut simulator = Process::start(
            "vendor-simulator",
            &binary("vendor-simulator")?,
            arguments,
            &plane.folder().join("simulator.log"),
        )?;
        let origins = wait_for("the simulator's start", PATIENCE, || {
            let state = match simulator.exit_status() {
                Some(status) => Ok(Err(simulator.not_started(format!("it ended with {status}")))),
                None => Origins::read(&folder.join("origins.json")).map(Ok),
            };
            std::future::ready(state)
        })
        .await??;
        let http = reqwest::Client::builder().no_proxy().build();
        Ok(Self {
            simulator,
            plane,
            client,
            origins,
            http: http.map_err(|error| Error::Other(format!("failed to make an HTTP client: {error}")))?,
        })
    }

    /// The process ids of what serves the measured program.
    pub(crate) fn pids(&self) -> BTreeMap<&'static str, u32> {
        let mut pids = self.plane.pids();
        pids.insert("vendor-simulator", self.simulator.pid());
        pids
    }

    /// Creates the objects.
    pub(crate) async fn fill(&self, objects: usize, vendors: &[Vendor]) -> Result<(), Error> {
        self.admin(reqwest::Method::DELETE, "ledger").await?;
        let namespaces = namespaces();
        let objects = (0..objects).map(|number| {
            let vendor = vendors[number % vendors.len()];
            let namespace = &namespaces[number % NAMESPACES];
            self.create(namespace, number, vendor)
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
        let mut spec =
            json!({ "vendor": vendor_name(vendor), "credentialsSecretRef": { "name": credentials } });
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
                .map_err(Error::kube("delete the VendorTokens"))?;
            Api::<Secret>::namespaced(self.client.clone(), &namespace)
                .delete_collection(&all.0, &all.1)
                .await
                .map_err(Error::kube("delete the Secrets"))?;
        }
        Ok(())
    }

    /// The vendors' calls, and those of them that were against their rules.
    pub(crate) async fn vendor_calls(&self) -> Result<(u64, u64), Error> {
        let text = self
            .admin(reqwest::Method::GET, "ledger?credentials=false")
            .await?;
        let ledger: Value = serde_json::from_str(&text)
            .map_err(|error| Error::Other(format!("failed to read the simulator's ledger: {error}")))?;
        let sum = |member: &str| {
            let vendors = ledger["vendors"].as_object().into_iter().flatten();
            vendors.filter_map(|(_, counts)| counts[member].as_u64()).sum()
        };
        Ok((sum("calls"), sum("violations")))
    }

    async fn admin(&self, method: reqwest::Method, path: &str) -> Result<String, Error> {
        let failed = |error: reqwest::Error| Error::Other(format!("failed to ask the simulator: {error}"));
        let url = format!("{}/{path}", self.origins.admin);
        let answer = self.http.request(method, url).send().await.map_err(failed)?;
        answer
            .error_for_status()
            .map_err(failed)?
            .text()
            .await
            .map_err(failed)
    }

    pub(crate) async fn stop(self) {
        let Self {
            mut simulator, plane, ..
        } = self;
        // It fails only when stopping panics, and then the process is dropped, which ends it too.
        let _ = tokio::task::spawn_blocking(move || simulator.stop(Duration::from_secs(5))).await;
        plane.stop().await;
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
    let object: K = serde_json::from_value(object)
        .map_err(|error| Error::Other(format!("failed to make a {kind}: {error}")))?;
    Api::<K>::namespaced(client.clone(), namespace)
        .create(&PostParams::default(), &object)
        .await
        .map_err(Error::kube(format!("create a {kind}")))?;
    Ok(())
}
