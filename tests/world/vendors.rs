//! One row for each vendor: what a VendorToken and its credentials look like.

use std::future::Future;

use futures::future::join_all;
use serde_json::{Value, json};
use vendor_simulator::{Credential, Vendor};

use crate::world::World;

/// The value of `spec.vendor`.
pub(crate) const fn name(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::SixMap => "SixMap",
        Vendor::SixClicks => "SixClicks",
        Vendor::CheckmarxSca => "CheckmarxSCA",
        Vendor::Mapiq => "Mapiq",
        Vendor::Picus => "Picus",
    }
}

/// A name for a VendorToken of this vendor.
pub(crate) fn object(vendor: Vendor) -> String {
    name(vendor).to_lowercase()
}

/// The data of a credentials Secret.
pub(crate) fn data<'a>(vendor: Vendor, id: &'a str, secret: &'a str) -> Vec<(&'static str, &'a str)> {
    match vendor {
        Vendor::SixMap | Vendor::Mapiq => vec![("client-id", id), ("client-secret", secret)],
        Vendor::SixClicks => vec![("api-key", secret)],
        Vendor::CheckmarxSca => vec![("username", id), ("password", secret)],
        Vendor::Picus => vec![("refresh-token", secret)],
    }
}

/// The key of [`data`] that holds the secret.
pub(crate) const fn secret_key(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::SixMap | Vendor::Mapiq => "client-secret",
        Vendor::SixClicks => "api-key",
        Vendor::CheckmarxSca => "password",
        Vendor::Picus => "refresh-token",
    }
}

/// A spec that names the credentials Secret `<object>-credentials`.
pub(crate) fn spec(vendor: Vendor, object: &str) -> Value {
    spec_with(vendor, &credentials_of(object))
}

/// A spec that names this credentials Secret.
pub(crate) fn spec_with(vendor: Vendor, secret: &str) -> Value {
    let mut spec = json!({ "vendor": name(vendor), "credentialsSecretRef": { "name": secret } });
    match vendor {
        Vendor::SixClicks => spec["sixClicks"] = json!({ "region": "au" }),
        Vendor::CheckmarxSca => spec["checkmarxSCA"] = json!({ "region": "EU", "tenant": "acme" }),
        Vendor::SixMap | Vendor::Mapiq | Vendor::Picus => {}
    }
    spec
}

pub(crate) fn credentials_of(object: &str) -> String {
    format!("{object}-credentials")
}

/// A credential as the vendor knows it; `id` is its name in the simulator's ledger, for Checkmarx behind `acme/`.
pub(crate) fn credential(vendor: Vendor, id: &str, secret: &str) -> Credential {
    let credential = Credential::new(id, secret);
    match vendor {
        Vendor::CheckmarxSca => credential.tenant("acme"),
        _ => credential,
    }
}

/// The secret that [`World::register`] gives out for an object.
pub(crate) fn secret_of(object: &str) -> String {
    format!("secret-of-{object}")
}

impl World {
    /// Lets the vendor know the credential of `object`, and creates its Secret.
    pub(crate) async fn register(&self, vendor: Vendor, object: &str) {
        self.simulator
            .put_credential(vendor, credential(vendor, object, &secret_of(object)));
        self.store(vendor, object, &secret_of(object)).await;
    }

    /// Creates or changes the credentials Secret of `object`.
    pub(crate) async fn store(&self, vendor: Vendor, object: &str, secret: &str) {
        self.credentials(&credentials_of(object), &data(vendor, object, secret))
            .await;
    }

    /// A credential, its Secret and a VendorToken with the default spec.
    pub(crate) async fn create(&self, vendor: Vendor, object: &str) {
        self.register(vendor, object).await;
        self.apply(object, spec(vendor, object)).await;
    }

    /// [`World::create`], and waits for the token.
    pub(crate) async fn published(&self, vendor: Vendor, object: &str) -> String {
        self.create(vendor, object).await;
        self.ready(object, "True Published").await;
        self.data(object, "token").await.unwrap()
    }
}

/// What one VendorToken asks with.
pub(crate) struct Account {
    pub(crate) vendor: Vendor,
    /// Client id or user name; for 6clicks and Picus the simulator's name of the secret.
    pub(crate) id: String,
    pub(crate) secret: String,
}

impl Account {
    pub(crate) fn new(vendor: Vendor, id: &str, secret: &str) -> Self {
        Self {
            vendor,
            id: id.to_owned(),
            secret: secret.to_owned(),
        }
    }

    /// As the simulator registers it.
    pub(crate) fn credential(&self) -> Credential {
        credential(self.vendor, &self.id, &self.secret)
    }

    /// As its Secret holds it.
    pub(crate) fn data(&self) -> Vec<(&'static str, &str)> {
        data(self.vendor, &self.id, &self.secret)
    }

    /// The spec of a VendorToken that reads the Secret of this name.
    pub(crate) fn spec(&self, secret: &str) -> Value {
        spec_with(self.vendor, secret)
    }
}

impl World {
    /// Registers the account, and creates its Secret and the VendorToken `name`.
    pub(crate) async fn create_with(&self, name: &str, account: &Account) {
        self.simulator
            .put_credential(account.vendor, account.credential());
        self.create_unregistered(name, account, json!({})).await;
    }

    /// As [`Self::create_with`], for an account that the vendor does not know, with more of a spec.
    pub(crate) async fn create_unregistered(&self, name: &str, account: &Account, more: Value) {
        self.credentials(&credentials_of(name), &account.data()).await;
        let mut spec = spec(account.vendor, name);
        let members = spec.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        self.apply(name, spec).await;
    }
}

/// Runs the same for the five vendors, at the same time; the object is named after the vendor.
pub(crate) async fn for_every_vendor<F: Future<Output = ()>>(mut test: impl FnMut(Vendor, String) -> F) {
    join_all(Vendor::ALL.map(|vendor| test(vendor, object(vendor)))).await;
}
