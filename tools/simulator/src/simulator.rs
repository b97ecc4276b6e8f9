//! The running simulator: start, addresses, stop. Its switches and its records are in `control`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::authority::{Authority, TlsMode};
use crate::core::Core;
use crate::error::Error;
use crate::listener::{Listener, Role};
use crate::options::Options;
use crate::vendor::Vendor;

/// The addresses of a simulator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    /// Each vendor's origin, as in `https://localhost:40001`.
    pub vendors: BTreeMap<Vendor, String>,
    /// The second host of redirects.
    pub trap: String,
}

/// The running simulator. It stops when dropped; [`Simulator::stop`] also waits until it has stopped.
pub struct Simulator {
    pub(crate) core: Arc<Core>,
    pub(crate) authority: Authority,
    /// In the order of [`Vendor::ALL`].
    pub(crate) listeners: Vec<Listener>,
    trap: Listener,
    origins: Origins,
}

impl fmt::Debug for Simulator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Simulator")
            .field("origins", &self.origins)
            .finish_non_exhaustive()
    }
}

impl Simulator {
    /// Starts the listeners on free ports of 127.0.0.1, in tasks of the caller's tokio runtime.
    ///
    /// # Errors
    ///
    /// When no port can be bound or a certificate cannot be made.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let core = Arc::new(Core::new(&options));
        let authority = Authority::new()?;
        let mut listeners = Vec::with_capacity(Vendor::ALL.len());
        for vendor in Vendor::ALL {
            let tls = authority.server_config(TlsMode::Trusted, vendor == Vendor::SixClicks)?;
            listeners.push(Listener::start(Role::Vendor(vendor), Arc::clone(&core), tls)?);
        }
        let tls = authority.server_config(TlsMode::Trusted, false)?;
        let trap = Listener::start(Role::Trap, Arc::clone(&core), tls)?;
        let _ = core.trap_origin.set(trap.origin());
        let origins = Origins {
            vendors: Vendor::ALL
                .into_iter()
                .zip(listeners.iter().map(Listener::origin))
                .collect(),
            trap: trap.origin(),
        };
        Ok(Self {
            core,
            authority,
            listeners,
            trap,
            origins,
        })
    }

    /// Stops listening and closes all connections.
    pub async fn stop(self) {
        for listener in &self.listeners {
            listener.stop().await;
        }
        self.trap.stop().await;
    }

    /// All addresses.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// A vendor's origin, the value of the operator's `--endpoint VENDOR=`.
    pub fn origin(&self, vendor: Vendor) -> &str {
        self.origins
            .vendors
            .get(&vendor)
            .map(String::as_str)
            .unwrap_or_default()
    }

    /// The full URL of a vendor's token endpoint.
    pub fn url(&self, vendor: Vendor) -> String {
        format!("{}{}", self.origin(vendor), vendor.path())
    }
}
