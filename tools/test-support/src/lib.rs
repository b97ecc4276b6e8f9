//! A real control plane on loopback for the tests and the demo: etcd, kube-apiserver with RBAC and an audit log, and,
//! on request, kube-controller-manager (for garbage collection).
//!
//! The binaries come from `KUBEBUILDER_ASSETS` or, built by `make control-plane`, from `target/control-plane/`.
//! What is started stops with the process that started it, however that ends; see [`ControlPlane`].

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
mod ports;
mod process;
mod proxy;
mod shared;
mod wait;

pub use apply::{apply, apply_kustomization, read_kustomization};
pub use audit::{AuditEntries, AuditEntry, AuditLog, Mark};
pub use clients::Output;
pub use control_plane::{ControlPlane, LeftRunning, Options};
pub use error::Error;
pub use process::Process;
pub use proxy::{ApiProxy, Breakage, Broken, Calls};
pub use shared::{shared, shared_with_garbage_collection};
pub use wait::{DEADLINE, wait_for};
