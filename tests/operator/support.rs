//! Worlds for an operator with Roles in the namespaces that it serves.

use test_support::ControlPlane;
use vendor_simulator::Options;

use crate::world::World;
use crate::world::installation::{in_namespaces, served_namespace};

/// The control plane of these tests, with kube-controller-manager collecting garbage.
pub(crate) async fn plane_with_garbage_collection() -> &'static ControlPlane {
    // The CRD first: the garbage collector learns of kinds that come later only after a while.
    in_namespaces().await;
    test_support::shared_with_garbage_collection().await.unwrap()
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

    /// Another served namespace with the same vendors and the same clock; an operator that is to work in both is started
    /// with [`Self::operator_in`].
    pub(crate) async fn neighbour(&self, prefix: &str) -> Self {
        self.beside(served_namespace(self.plane, prefix).await)
    }
}
