//! The least possible program: two watches, and for each object one read of the credentials, one vendor call, and two
//! server-side applies. It judges nothing, retries nothing and remembers nothing; an error ends it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use futures::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde_json::{Value, json};
use test_support::Error;
use vendor_simulator::Vendor;
use vendor_token_operator::api::{VendorName, VendorToken};

const FIELD_MANAGER: &str = "vendor-token-operator";

struct Floor {
    client: Client,
    http: reqwest::Client,
    urls: HashMap<Vendor, String>,
    same_writes: bool,
}

/// Settings of the floor; those that the operator has too are called as there.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Settings {
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The certificate authority of the endpoints.
    #[arg(long)]
    vendor_ca_file: PathBuf,
    /// The origin of a vendor's endpoint.
    #[arg(long, value_name = "VENDOR=ORIGIN", value_parser = endpoint)]
    endpoint: Vec<(Vendor, String)>,
    /// Requests at a time.
    #[arg(long)]
    in_flight: usize,
    /// Write as much as the operator does.
    #[arg(long)]
    same_writes: bool,
}

fn endpoint(text: &str) -> Result<(Vendor, String), String> {
    let (vendor, origin) = text.split_once('=').ok_or("VENDOR=ORIGIN is expected")?;
    let vendor: Vendor = vendor
        .parse()
        .map_err(|error: vendor_simulator::UnknownVendor| error.to_string())?;
    Ok((vendor, origin.to_owned()))
}

/// Serves all VendorTokens until it is killed.
pub(crate) async fn run(settings: &Settings) -> Result<(), Error> {
    let kubeconfig =
        Kubeconfig::read_from(&settings.kubeconfig).map_err(Error::step("read the kubeconfig"))?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(Error::step("use the kubeconfig"))?;
    config.default_retry = false;
    let client = Client::try_from(config).map_err(Error::step("make a client"))?;
    let authority = fs::read(&settings.vendor_ca_file).map_err(Error::step("read the vendors' authority"))?;
    let http = reqwest::Certificate::from_pem(&authority)
        .and_then(|authority| {
            reqwest::Client::builder()
                .no_proxy()
                .tls_certs_only([authority])
                .build()
        })
        .map_err(Error::step("make an HTTP client"))?;
    let floor = Floor {
        client: client.clone(),
        http,
        urls: settings
            .endpoint
            .iter()
            .map(|(vendor, origin)| (*vendor, format!("{origin}{}", vendor.path())))
            .collect(),
        same_writes: settings.same_writes,
    };

    let secrets: Api<PartialObjectMeta<Secret>> = Api::all(client.clone());
    tokio::spawn(kube::runtime::watcher(secrets, watcher::Config::default()).for_each(|_| async {}));
    let mut seen = HashSet::new();
    kube::runtime::watcher(Api::<VendorToken>::all(client), watcher::Config::default())
        .map_err(|error| Error::step("watch VendorTokens")(error))
        .try_filter_map(|event| {
            let token = match event {
                Event::InitApply(token) | Event::Apply(token) => Some(token),
                _ => None,
            };
            let new = token.filter(|token| seen.insert(token.uid()));
            std::future::ready(Ok(new))
        })
        .map_ok(|token| serve(&floor, token))
        .try_buffer_unordered(settings.in_flight)
        .try_for_each(|()| std::future::ready(Ok(())))
        .await
}

async fn serve(floor: &Floor, owner: VendorToken) -> Result<(), Error> {
    let namespace = owner.namespace().unwrap_or_default();
    let name = owner.name_any();
    let secrets: Api<Secret> = Api::namespaced(floor.client.clone(), &namespace);
    let credentials = secrets
        .get(&owner.spec.credentials_secret_ref.name)
        .await
        .map_err(Error::step("read the credentials"))?;
    let issued = Timestamp::now();
    let token = ask(floor, &owner, &credentials).await?;
    let expires = issued + SignedDuration::from_hours(1);
    let (issued, expires) = (seconds(issued), seconds(expires));

    let mut secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": name,
            "labels": { "app.kubernetes.io/managed-by": FIELD_MANAGER, "vendortoken.io/name": name },
            "annotations": { "vendortoken.io/issued-time": issued, "vendortoken.io/expiration-time": expires },
            "ownerReferences": owner.controller_owner_ref(&()).map(|reference| vec![reference]),
        },
        "data": { "token": k8s_openapi::ByteString(token.into_bytes()) },
    });
    if floor.same_writes {
        secret["type"] = json!("Opaque");
        secret["metadata"]["resourceVersion"] = json!("1");
        let inputs = "00000000.11111111111111111111111111111111.22222222.33333333333333333333333333333333.07";
        for (key, value) in [
            ("inputs", inputs),
            ("content", "created.0011223344556677.8899aabbccddeeff"),
            (
                "seal",
                "00000000.11111111111111111111111111111111.22222222222222222222222222222222",
            ),
            (
                "credentials-version",
                "11111111-2222-3333-4444-555555555555/123456",
            ),
        ] {
            secret["metadata"]["annotations"][format!("vendortoken.io/{key}")] = json!(value);
        }
    }
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let targets: Api<PartialObjectMeta<Secret>> = Api::namespaced(floor.client.clone(), &namespace);
    targets
        .patch(&name, &parameters, &Patch::Apply(secret))
        .await
        .map_err(Error::step("apply a target"))?;
    let mut status = json!({
        "apiVersion": VendorToken::api_version(&()), "kind": VendorToken::kind(&()),
        "metadata": { "name": name },
        "status": {
            "observedGeneration": owner.metadata.generation,
            "issuedTime": issued, "expirationTime": expires,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Published", "message": "the token is in the Secret",
                "lastTransitionTime": issued, "observedGeneration": owner.metadata.generation,
            }],
        },
    });
    if floor.same_writes {
        status["metadata"]["uid"] = json!(owner.uid());
        status["status"]["nextRefreshTime"] = json!(expires);
        status["status"]["binding"] = json!({ "name": name });
        status["status"]["endpoint"] = json!("localhost:40000");
        status["status"]["conditions"][0]["message"] = json!(format!(
            "the token is in Secret '{name}' and valid until {expires}"
        ));
    }
    let patch = Patch::Apply(status);
    let applied = if floor.same_writes {
        // The operator takes the whole object from the answer.
        let tokens: Api<VendorToken> = Api::namespaced(floor.client.clone(), &namespace);
        tokens.patch_status(&name, &parameters, &patch).await.map(|_| ())
    } else {
        let tokens: Api<PartialObjectMeta<VendorToken>> = Api::namespaced(floor.client.clone(), &namespace);
        tokens.patch_status(&name, &parameters, &patch).await.map(|_| ())
    };
    applied.map_err(Error::step("apply a status"))
}

/// RFC 3339 in whole seconds.
fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn ask(floor: &Floor, owner: &VendorToken, credentials: &Secret) -> Result<String, Error> {
    let failed = || Error::step::<reqwest::Error>("ask a vendor");
    let value = |key: &str| {
        let bytes = credentials.data.as_ref().and_then(|data| data.get(key));
        bytes
            .map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
            .unwrap_or_default()
    };
    let post = |vendor: Vendor| {
        let url = floor.urls.get(&vendor).map(String::as_str).unwrap_or_default();
        floor.http.post(url).header("Accept", "application/json")
    };
    let (request, member) = match owner.spec.vendor {
        VendorName::SixMap => (
            post(Vendor::SixMap).json(&json!({
                "client_id": value("client-id"), "client_secret": value("client-secret"),
                "grant_type": "client_credentials",
            })),
            "access_token",
        ),
        VendorName::SixClicks => (
            post(Vendor::SixClicks)
                .header("6Clicks-Api-Key", value("api-key"))
                .header("Content-Length", "0"),
            "accessToken",
        ),
        VendorName::CheckmarxSCA => (
            post(Vendor::CheckmarxSca).form(&[
                ("username", value("username").as_str()),
                ("password", value("password").as_str()),
                ("acr_values", "Tenant:acme"),
                ("scope", "sca_api"),
                ("client_id", "sca_resource_owner"),
                ("grant_type", "password"),
            ]),
            "access_token",
        ),
        VendorName::Mapiq => (
            post(Vendor::Mapiq).form(&[
                ("grant_type", "client_credentials"),
                ("scope", "https://api.mapiq.com/public/.default"),
                ("client_id", value("client-id").as_str()),
                ("client_secret", value("client-secret").as_str()),
            ]),
            "access_token",
        ),
        VendorName::Picus => (
            post(Vendor::Picus).json(&json!({ "refresh_token": value("refresh-token") })),
            "token",
        ),
    };
    let answer = request.send().await.map_err(failed())?;
    let answer: Value = answer
        .error_for_status()
        .map_err(failed())?
        .json()
        .await
        .map_err(failed())?;
    Ok(answer[member].as_str().unwrap_or_default().to_owned())
}
