//! The VendorToken API, `vendortoken.io/v1alpha1`: schema and constants only. Uses nothing of ours.
//!
//! The Rust types are the source of the CustomResourceDefinition: `kubectl explain` prints their doc comments, and the
//! functions of `constraints` make bounds and CEL rules. [`custom_resource_definition`] gives the result, which
//! `crds/vendortokens.yaml` holds as text.

mod constraints;
mod crd;
mod lenient;
pub mod names;
mod status;
mod vendor_members;
mod vendor_token;

pub use crd::{custom_resource_definition, custom_resource_definition_yaml};
pub use status::*;
pub use vendor_members::*;
pub use vendor_token::*;
