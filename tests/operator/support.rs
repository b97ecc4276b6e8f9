//! Worlds for an operator with Roles in the namespaces that it serves.

use serde_json::json;
use test_support::ControlPlane;
use vendor_simulator::{Options, Vendor};

use crate::world::installation::{in_namespaces, install_for_namespaces, served_namespace};
use crate::world::{World, vendors};

/// The control plane of these tests, with kube-controller-manager collecting garbage.
pub(crate) async fn plane_with_garbage_collection() -> &'static ControlPlane {
    // The CRD first: the garbage collector learns of kinds that come later only after a while.
    in_namespaces().await;
    test_support::shared_with_garbage_collection().await.unwrap()
}

/// The admission plugin that asks for the right to delete an object whose owner references are changed. OpenShift has it
/// on.
pub(crate) const OWNERS_ARE_GUARDED: &str = "--enable-admission-plugins=OwnerReferencesPermissionEnforcement";

/// A control plane of its own with these arguments of kube-apiserver and this CustomResourceDefinition.
pub(crate) async fn plane_with(arguments: &[&str], definition: &str) -> &'static ControlPlane {
    let options = test_support::Options {
        api_server_arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        ..Default::default()
    };
    // The control plane ends with the process.
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start(options).await.unwrap()));
    plane.apply_yaml("default", definition).await.unwrap();
    install_for_namespaces(plane).await;
    plane
}

impl World {
    pub(crate) async fn new(prefix: &str) -> Self {
        Self::with(prefix, Options::default()).await
    }

    pub(crate) async fn with(prefix: &str, options: Options) -> Self {
        Self::served_on(in_namespaces().await, prefix, options).await
    }

    pub(crate) async fn served_on(plane: &'static ControlPlane, prefix: &str, options: Options) -> Self {
        let namespace = served_namespace(plane, prefix).await;
        Self::in_namespace(plane, namespace, options).await
    }

    /// Waits until the target has this many owners.
    pub(crate) async fn until_owners(&self, name: &str, count: usize) {
        self.until(&format!("{count} owners"), async || {
            let owners = self.secret(name).await.metadata.owner_references;
            let found = owners.unwrap_or_default().len();
            if found == count {
                Ok(())
            } else {
                Err(found.to_string())
            }
        })
        .await;
    }

    /// Has a VendorToken of Checkmarx ask in another tenant, where its password is valid too.
    pub(crate) async fn change_tenant(&self, name: &str, tenant: &str) {
        let vendor = Vendor::CheckmarxSca;
        let secret = vendors::secret_of(name);
        let credential = vendors::credential(vendor, name, &secret).tenant(tenant);
        self.simulator.put_credential(vendor, credential);
        let edit = json!({ "spec": { "checkmarxSCA": { "tenant": tenant } } });
        self.edit(name, edit).await;
    }

    /// Another served namespace with the same vendors and the same clock; an operator that is to work in both is started
    /// with [`Self::operator_in`].
    pub(crate) async fn neighbour(&self, prefix: &str) -> Self {
        self.beside(served_namespace(self.plane, prefix).await)
    }
}
