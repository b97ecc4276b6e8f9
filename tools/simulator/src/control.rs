//! The switches and the records of a running simulator: credentials, faults, limits, listeners, ledger.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::accounts::Account;
use crate::authority::{ClientCertificate, TlsMode};
use crate::budget::Budget;
use crate::core::now_ms;
use crate::credential::Credential;
use crate::error::Error;
use crate::fault::{Fault, ScriptedFault};
use crate::ledger::{Call, Counts, TrapRecord, Validation, VendorCounts};
use crate::simulator::Simulator;
use crate::vendor::Vendor;

/// Credentials and certificates.
impl Simulator {
    /// The certificate authority of the servers, PEM, for a client to trust.
    pub fn ca_pem(&self) -> &str {
        self.authority.ca_pem()
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

    /// Forgets all credentials of a vendor.
    pub fn clear_credentials(&self, vendor: Vendor) {
        self.core.vendor(vendor).credentials.clear();
    }

    /// Checkmarx accounts that had failures.
    pub fn accounts(&self) -> Vec<Account> {
        self.core.accounts().list()
    }

    /// Forgets failures and unlocks all Checkmarx accounts.
    pub fn clear_accounts(&self) {
        self.core.accounts().clear();
    }
}

/// Faults and limits.
impl Simulator {
    /// Scripts a fault and gives the number that [`Self::clear_fault`] takes.
    pub fn add_fault(&self, fault: Fault) -> u64 {
        let id = self.core.next_fault.fetch_add(1, Ordering::Relaxed);
        self.core
            .vendor(fault.vendor)
            .script
            .push(ScriptedFault { id, fault });
        id
    }

    /// Ends a fault, and gives `false` when it was not in force. Answers that are already under way do not change.
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

    /// Sets the lifetime of a vendor's tokens in seconds, for those issued from now on.
    pub fn set_lifetime(&self, vendor: Vendor, seconds: u64) {
        self.core.vendor(vendor).lifetime_seconds = seconds;
    }

    /// Sets a vendor's budget, or none; the window starts empty.
    pub fn set_budget(&self, vendor: Vendor, budget: Option<Budget>) {
        let mut state = self.core.vendor(vendor);
        state.budget = budget;
        state.window.clear();
    }
}

/// Listeners.
impl Simulator {
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

    /// Changes the certificate that a vendor's listener presents and the one that it asks for; open connections are
    /// closed.
    ///
    /// # Errors
    ///
    /// When the certificate cannot be made.
    pub async fn set_tls(&self, vendor: Vendor, mode: TlsMode) -> Result<(), Error> {
        let config = self.authority.server_config(mode, vendor == Vendor::SixClicks)?;
        self.listeners[vendor.index()].set_tls(config).await;
        Ok(())
    }
}

/// The ledger.
impl Simulator {
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

    /// The owner and the times of a token.
    pub fn validate(&self, vendor: Vendor, token: &str) -> Validation {
        self.core.ledger().validate(vendor, token, now_ms())
    }

    /// The connections and requests that followed redirects.
    pub fn trap(&self) -> TrapRecord {
        self.core.ledger().trap()
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
