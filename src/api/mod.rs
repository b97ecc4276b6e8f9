//! The VendorToken API, `vendortoken.io/v1alpha1`: schema and constants only. Uses nothing of ours.
//!
//! The Rust types are the source of the CustomResourceDefinition: doc comments become what `kubectl explain`
//! prints, and the functions of `constraints` become bounds and CEL rules. What an API server reads is
//! [`custom_resource_definition`]; its text is kept in `crds/vendortokens.yaml`.

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
