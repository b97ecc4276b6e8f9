//! The VendorToken API, `vendortoken.io/v1alpha1`: schema and constants only. Uses nothing of ours.

pub mod names;
mod vendor_token;

pub use vendor_token::*;
