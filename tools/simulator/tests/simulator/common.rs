//! Clients and requests as the vendors' pages show them.

use reqwest::header::CONTENT_LENGTH;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use vendor_simulator::{ClientCertificate, Credential, Effect, Fault, Options, Simulator, Vendor};

pub(crate) const SECRET: &str = "se&cr=et+%~ é";
pub(crate) const KEY: &str = "an-api-key";

/// A simulator that knows one credential of each vendor.
pub(crate) async fn start() -> Simulator {
    start_with(Options::default()).await
}

pub(crate) async fn start_with(options: Options) -> Simulator {
    let simulator = Simulator::start(options).await.unwrap();
    for vendor in Vendor::ALL {
        simulator.put_credential(vendor, credential(vendor));
    }
    simulator
}

pub(crate) fn credential(vendor: Vendor) -> Credential {
    match vendor {
        Vendor::CheckmarxSca => Credential::new("user", SECRET).tenant("acme"),
        Vendor::SixClicks => Credential::new("six", KEY),
        Vendor::Picus => Credential::new("pi", SECRET),
        _ => Credential::new("client", SECRET),
    }
}

pub(crate) fn client(simulator: &Simulator) -> Client {
    builder(simulator).build().unwrap()
}

pub(crate) fn client_with(simulator: &Simulator, certificate: &ClientCertificate) -> Client {
    let pem = format!("{}{}", certificate.key_pem, certificate.certificate_pem);
    builder(simulator)
        .identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap())
        .build()
        .unwrap()
}

pub(crate) fn builder(simulator: &Simulator) -> reqwest::ClientBuilder {
    let certificate = reqwest::Certificate::from_pem(simulator.ca_pem().as_bytes()).unwrap();
    Client::builder()
        .tls_certs_only([certificate])
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(std::time::Duration::from_secs(20))
}

pub(crate) fn form(vendor: Vendor, secret: &str) -> Vec<(&'static str, String)> {
    match vendor {
        Vendor::Mapiq => vec![
            ("grant_type", "client_credentials".into()),
            ("scope", "https://api.mapiq.com/public/.default".into()),
            ("client_id", "client".into()),
            ("client_secret", secret.into()),
        ],
        _ => vec![
            ("username", "user".into()),
            ("password", secret.into()),
            ("acr_values", "Tenant:acme".into()),
            ("scope", "sca_api".into()),
            ("client_id", "sca_resource_owner".into()),
            ("grant_type", "password".into()),
        ],
    }
}

pub(crate) fn json(vendor: Vendor, secret: &str) -> Value {
    match vendor {
        Vendor::Picus => json!({"refresh_token": secret}),
        _ => json!({"client_id": "client", "client_secret": secret, "grant_type": "client_credentials"}),
    }
}

/// The request of the vendor's page, with this secret.
pub(crate) fn request_with(
    client: &Client,
    simulator: &Simulator,
    vendor: Vendor,
    secret: &str,
) -> RequestBuilder {
    let request = client.post(simulator.url(vendor));
    match vendor {
        Vendor::SixMap | Vendor::Picus => request.json(&json(vendor, secret)),
        Vendor::CheckmarxSca | Vendor::Mapiq => request.form(&form(vendor, secret)),
        Vendor::SixClicks => request
            .header("6Clicks-Api-Key", secret)
            .header(CONTENT_LENGTH, "0"),
    }
}

pub(crate) fn right(vendor: Vendor) -> &'static str {
    if vendor == Vendor::SixClicks { KEY } else { SECRET }
}

pub(crate) fn request(client: &Client, simulator: &Simulator, vendor: Vendor) -> RequestBuilder {
    request_with(client, simulator, vendor, right(vendor))
}

pub(crate) async fn ask(client: &Client, simulator: &Simulator, vendor: Vendor) -> Response {
    request(client, simulator, vendor).send().await.unwrap()
}

/// The JSON of the answer to the right request.
pub(crate) async fn answer(client: &Client, simulator: &Simulator, vendor: Vendor) -> Value {
    ask(client, simulator, vendor).await.json().await.unwrap()
}

/// The answer to the right request, under a fault that acts once.
pub(crate) async fn ask_under(
    client: &Client,
    simulator: &Simulator,
    vendor: Vendor,
    effect: Effect,
) -> Response {
    simulator.add_fault(Fault::new(vendor, effect).times(1));
    ask(client, simulator, vendor).await
}

/// The token of a success.
pub(crate) fn token(body: &Value) -> String {
    let member = ["access_token", "accessToken", "token"]
        .into_iter()
        .find_map(|name| body.get(name));
    member.unwrap().as_str().unwrap().to_owned()
}
