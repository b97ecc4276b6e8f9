//! A real control plane on loopback for the tests, the demo and the benchmark: etcd, kube-apiserver with RBAC and an
//! audit log, and, on request, kube-controller-manager (for garbage collection); and the operator as a process beside
//! it.
//!
//! The binaries come from `KUBEBUILDER_ASSETS` or, built by `hack/build-control-plane`, from `target/control-plane/`.
//! A program stops with the process that started it, however that ends; see [`ControlPlane`].

mod apply;
mod assets;
mod audit;
mod certificates;
mod clients;
mod connection;
mod control_plane;
mod error;
mod folder;
mod kubeconfig;
mod launch;
mod operator;
mod paths;
mod ports;
mod process;
mod proxy;
mod shared;
mod wait;

pub use apply::{apply, apply_kustomization, read_kustomization};
pub use assets::kubectl;
pub use audit::{AuditEntries, AuditEntry, AuditLog, Mark};
pub use clients::Output;
pub use control_plane::{ControlPlane, Options};
pub use error::{Error, with_causes};
pub use operator::{
    OPERATOR_NAMESPACE, OPERATOR_SERVICE_ACCOUNT, Operator, OperatorSettings, install_operator,
};
pub use paths::{program, workspace};
pub use process::Process;
pub use proxy::{ApiProxy, Breakage, Broken, BrokenCall, Calls};
pub use shared::{shared, shared_with_garbage_collection};
pub use wait::{DEADLINE, wait_for};
