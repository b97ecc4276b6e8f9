//! What the demo and the benchmark share: where things are, errors, and the operator as a process of its own.

mod error;
mod operator;
mod paths;

pub use error::{Error, with_causes};
pub use operator::{NAMESPACE, Operator, SERVICE_ACCOUNT, Settings, install, vendor_name};
pub use paths::{binary, kubectl, workspace};
