//! The running simulator and what a test does with it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::admin;
use crate::authority::{Authority, ClientCertificate, TlsMode};
use crate::budget::Budget;
use crate::core::{Core, now_ms};
use crate::credential::{Account, Credential, CredentialView};
use crate::error::Error;
use crate::fault::{Fault, ScriptedFault};
use crate::ledger::{Call, Counts, TrapRecord, Validation, VendorCounts};
use crate::listener::{Listener, Role};
use crate::options::Options;
use crate::vendor::Vendor;

/// Where the simulator listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Origins {
    /// Each vendor's origin, as in `https://localhost:40001`.
    #[serde(flatten)]
    pub vendors: BTreeMap<Vendor, String>,
    /// The second host of redirects.
    pub trap: String,
    /// The admin API, plain HTTP.
    pub admin: Option<String>,
}

/// The running simulator. It stops when dropped; [`Simulator::stop`] also waits for it.
pub struct Simulator {
    control: Arc<Control>,
    origins: Origins,
    stopping: watch::Sender<bool>,
    admin: Option<JoinHandle<()>>,
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
    /// Starts the listeners; needs a tokio runtime, on which it runs in tasks of its own.
    ///
    /// # Errors
    ///
    /// When a port cannot be bound or a certificate cannot be made.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let core = Arc::new(Core::new(&options));
        let authority = Authority::new()?;
        let mut listeners = Vec::with_capacity(5);
        for vendor in Vendor::ALL {
            let tls = authority.server_config(TlsMode::Trusted, vendor == Vendor::SixClicks)?;
            let port = options.ports[vendor.index()];
            listeners.push(Listener::start(
                Role::Vendor(vendor),
                Arc::clone(&core),
                port,
                tls,
            )?);
        }
        let tls = authority.server_config(TlsMode::Trusted, false)?;
        let trap = Listener::start(Role::Trap, Arc::clone(&core), options.trap_port, tls)?;
        let _ = core.trap_origin.set(trap.origin());
        let mut origins = Origins {
            vendors: Vendor::ALL
                .into_iter()
                .zip(listeners.iter().map(Listener::origin))
                .collect(),
            trap: trap.origin(),
            admin: None,
        };
        let control = Arc::new(Control {
            core,
            authority,
            listeners,
            trap,
        });
        let (stopping, stopped) = watch::channel(false);
        let mut admin = None;
        if let Some(port) = options.admin_port {
            let (listener, origin) = admin::bind(port).await?;
            origins.admin = Some(origin);
            admin = Some(tokio::spawn(admin::serve(
                listener,
                Arc::clone(&control),
                origins.clone(),
                stopped,
            )));
        }
        Ok(Self {
            control,
            origins,
            stopping,
            admin,
        })
    }

    /// Stops listening and closes all connections.
    pub async fn stop(mut self) {
        let _ = self.stopping.send(true);
        for listener in &self.control.listeners {
            listener.stop().await;
        }
        self.control.trap.stop().await;
        if let Some(mut admin) = self.admin.take()
            && timeout(Duration::from_secs(1), &mut admin).await.is_err()
        {
            admin.abort();
        }
    }

    /// Where it listens.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// A vendor's origin: what the operator's `--endpoint VENDOR=` takes.
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

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.stopping.send(true);
    }
}

impl std::ops::Deref for Simulator {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

/// What can be set and asked while the simulator runs; the admin API offers the same.
pub struct Control {
    core: Arc<Core>,
    authority: Authority,
    listeners: Vec<Listener>,
    trap: Listener,
}

impl fmt::Debug for Control {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    /// The certificate authority of the servers, PEM: what a client has to trust.
    pub fn ca_pem(&self) -> &str {
        self.authority.ca_pem()
    }

    /// The certificate authority of client certificates, PEM.
    pub fn client_ca_pem(&self) -> &str {
        self.authority.client_ca_pem()
    }

    /// Mints a client certificate for 6clicks.
    ///
    /// # Errors
    ///
    /// When the certificate cannot be made.
    pub fn client_certificate(&self, name: &str) -> Result<ClientCertificate, Error> {
        self.authority.client_certificate(name, false)
    }

    /// Mints a client certificate of an authority that 6clicks does not know.
    ///
    /// # Errors
    ///
    /// When the certificate cannot be made.
    pub fn stranger_certificate(&self, name: &str) -> Result<ClientCertificate, Error> {
        self.authority.client_certificate(name, true)
    }

    /// Registers a credential, in place of the one with the same ledger id.
    pub fn put_credential(&self, vendor: Vendor, credential: Credential) {
        self.core.vendor(vendor).credentials.put(vendor, credential);
    }

    /// Forgets a credential; says whether it was there.
    pub fn remove_credential(&self, vendor: Vendor, ledger_id: &str) -> bool {
        self.core.vendor(vendor).credentials.remove(ledger_id)
    }

    /// Forgets all credentials of a vendor.
    pub fn clear_credentials(&self, vendor: Vendor) {
        self.core.vendor(vendor).credentials.clear();
    }

    /// The registered credentials, without secrets.
    pub fn credentials(&self, vendor: Vendor) -> Vec<CredentialView> {
        self.core.vendor(vendor).credentials.list()
    }

    /// Whether any well-formed credential that is not registered is accepted.
    pub fn set_wildcard(&self, vendor: Vendor, accepted: bool) {
        self.core.vendor(vendor).credentials.wildcard = accepted;
    }

    /// Scripts a fault; the number clears it.
    pub fn add_fault(&self, fault: Fault) -> u64 {
        let id = self.core.next_fault.fetch_add(1, Ordering::Relaxed);
        self.core
            .vendor(fault.vendor)
            .script
            .push(ScriptedFault { id, fault });
        id
    }

    /// The faults in force.
    pub fn faults(&self) -> Vec<ScriptedFault> {
        Vendor::ALL
            .into_iter()
            .flat_map(|vendor| self.core.vendor(vendor).script.clone())
            .collect()
    }

    /// Ends a fault; says whether it was in force. Answers that are already under way are not changed.
    pub fn clear_fault(&self, id: u64) -> bool {
        Vendor::ALL.into_iter().any(|vendor| {
            let script = &mut self.core.vendor(vendor).script;
            let before = script.len();
            script.retain(|fault| fault.id != id);
            script.len() < before
        })
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        for vendor in Vendor::ALL {
            self.core.vendor(vendor).script.clear();
        }
    }

    /// The lifetime of a vendor's tokens in seconds.
    pub fn lifetime(&self, vendor: Vendor) -> u64 {
        self.core.vendor(vendor).lifetime_seconds
    }

    /// Sets the lifetime of a vendor's tokens in seconds, for those issued from now on.
    pub fn set_lifetime(&self, vendor: Vendor, seconds: u64) {
        self.core.vendor(vendor).lifetime_seconds = seconds;
    }

    /// A vendor's budget.
    pub fn budget(&self, vendor: Vendor) -> Option<Budget> {
        self.core.vendor(vendor).budget
    }

    /// Sets a vendor's budget, or none; the window starts empty.
    pub fn set_budget(&self, vendor: Vendor, budget: Option<Budget>) {
        let mut state = self.core.vendor(vendor);
        state.budget = budget;
        state.window.clear();
    }

    /// Refuses connections to a vendor, and closes those that are open.
    ///
    /// # Errors
    ///
    /// When the port cannot be held.
    pub async fn pause(&self, vendor: Vendor) -> Result<(), Error> {
        self.listeners[vendor.index()].pause().await
    }

    /// Accepts connections to a vendor again, at the same port.
    ///
    /// # Errors
    ///
    /// When the port cannot be listened on.
    pub async fn resume(&self, vendor: Vendor) -> Result<(), Error> {
        self.listeners[vendor.index()].resume().await
    }

    /// Closes the open connections of a vendor.
    pub async fn close_connections(&self, vendor: Vendor) {
        self.listeners[vendor.index()].close_connections().await;
    }

    /// Changes what a vendor's listener presents and asks for; open connections are closed.
    ///
    /// # Errors
    ///
    /// When the certificate cannot be made.
    pub async fn set_tls(&self, vendor: Vendor, mode: TlsMode) -> Result<(), Error> {
        let config = self.authority.server_config(mode, vendor == Vendor::SixClicks)?;
        self.listeners[vendor.index()].set_tls(config).await;
        Ok(())
    }

    /// A vendor's counts, with each credential's.
    pub fn counts(&self, vendor: Vendor) -> VendorCounts {
        self.core.ledger().counts(vendor)
    }

    /// One credential's counts.
    pub fn credential_counts(&self, vendor: Vendor, ledger_id: &str) -> Counts {
        self.core.ledger().credential_counts(vendor, ledger_id)
    }

    /// A vendor's counts without connections and credentials: cheap with many of them.
    pub fn total(&self, vendor: Vendor) -> Counts {
        self.core.ledger().total(vendor)
    }

    /// The calls kept, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        self.calls_since(0)
    }

    /// The calls after the one with this sequence number.
    pub fn calls_since(&self, sequence: u64) -> Vec<Call> {
        self.core.ledger().calls_since(sequence)
    }

    /// The sequence number of the last call.
    pub fn sequence(&self) -> u64 {
        self.core.ledger().sequence()
    }

    /// The calls that a vendor's page does not allow.
    pub fn violations(&self) -> Vec<Call> {
        self.core.ledger().violations()
    }

    /// Forgets calls and counts. Issued tokens stay known, and sequence numbers go on.
    pub fn clear_ledger(&self) {
        self.core.ledger().clear();
    }

    /// Looks a token up: whose it is and whether it is still good.
    pub fn validate(&self, vendor: Vendor, token: &str) -> Validation {
        self.core.ledger().validate(vendor, token, now_ms())
    }

    /// What followed redirects.
    pub fn trap(&self) -> TrapRecord {
        self.core.ledger().trap()
    }

    /// Checkmarx accounts that had failures.
    pub fn accounts(&self) -> Vec<Account> {
        self.core.accounts().list()
    }

    /// Forgets failures and unlocks all Checkmarx accounts.
    pub fn clear_accounts(&self) {
        self.core.accounts().clear();
    }

    /// Waits until a vendor has had `calls` calls since the ledger was cleared; `false` when `within` has
    /// passed before.
    pub async fn wait_for_calls(&self, vendor: Vendor, calls: u64, within: Duration) -> bool {
        let end = Instant::now() + within;
        while self.total(vendor).calls < calls {
            if Instant::now() >= end {
                return false;
            }
            sleep(Duration::from_millis(5)).await;
        }
        true
    }
}
