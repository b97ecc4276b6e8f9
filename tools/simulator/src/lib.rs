//! The five vendors' token endpoints as a real TLS server: strict about requests, with distinct tokens, a ledger
//! of calls and scripted faults. For the demo, the tests and the benchmark.
//!
//! ```no_run
//! # async fn example() -> Result<(), vendor_simulator::Error> {
//! use vendor_simulator::{Credential, Effect, Fault, Options, Simulator, Vendor};
//!
//! let simulator = Simulator::start(Options::default()).await?;
//! simulator.put_credential(Vendor::Mapiq, Credential::new("client", "secret"));
//! simulator.add_fault(Fault::new(Vendor::Mapiq, Effect::Throttle { retry_after: None, seconds: 289 }).times(1));
//! println!("{}", simulator.origin(Vendor::Mapiq));
//! assert!(simulator.violations().is_empty());
//! simulator.stop().await;
//! # Ok(())
//! # }
//! ```

mod accounts;
mod authority;
mod body;
mod budget;
mod control;
mod core;
mod credential;
mod decide;
mod dialect;
mod digest;
mod endpoint;
mod error;
mod fault;
mod form;
mod gzip;
mod ledger;
mod listener;
mod options;
mod rules;
mod simulator;
mod token;
mod trap;
mod vendor;

pub use accounts::Account;
pub use authority::{ClientCertificate, TlsMode};
pub use budget::Budget;
pub use credential::Credential;
pub use digest::fingerprint;
pub use error::Error;
pub use fault::{Effect, Fault};
pub use ledger::{Call, Counts, Detail, TrapRecord, TrapRequest, Validation, VendorCounts};
pub use options::Options;
pub use simulator::{Origins, Simulator};
pub use vendor::{UnknownVendor, Vendor};
