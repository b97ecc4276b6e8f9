//! The state that all listeners share: credentials, faults and limits of the vendors, accounts, ledger.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use crate::accounts::Accounts;
use crate::budget::{Budget, Window};
use crate::credential::Credentials;
use crate::fault::ScriptedFault;
use crate::ledger::Ledger;
use crate::options::Options;
use crate::vendor::Vendor;

/// One vendor's state.
pub(crate) struct VendorState {
    pub(crate) credentials: Credentials,
    pub(crate) script: Vec<ScriptedFault>,
    pub(crate) lifetime_seconds: u64,
    pub(crate) budget: Option<Budget>,
    pub(crate) window: Window,
}

/// The state of a simulator.
pub(crate) struct Core {
    vendors: [Mutex<VendorState>; 5],
    ledger: Mutex<Ledger>,
    accounts: Mutex<Accounts>,
    pub(crate) lockout_ms: u64,
    pub(crate) next_fault: AtomicU64,
    pub(crate) trap_origin: OnceLock<String>,
}

/// Locks; a panic of another holder leaves nothing half done here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Core {
    pub(crate) fn new(options: &Options) -> Self {
        let state = |vendor: Vendor| {
            let mut credentials = Credentials::default();
            credentials.wildcard = options.wildcard_credentials;
            Mutex::new(VendorState {
                credentials,
                script: Vec::new(),
                lifetime_seconds: options.lifetimes[vendor.index()]
                    .unwrap_or(vendor.default_lifetime_seconds()),
                budget: options.budgets[vendor.index()],
                window: Window::default(),
            })
        };
        let lockout = options.lockout.unwrap_or(Duration::from_secs(300));
        Self {
            vendors: Vendor::ALL.map(state),
            ledger: Mutex::new(Ledger::new(options.detail)),
            accounts: Mutex::default(),
            lockout_ms: u64::try_from(lockout.as_millis()).unwrap_or(u64::MAX / 4),
            next_fault: AtomicU64::new(1),
            trap_origin: OnceLock::new(),
        }
    }

    pub(crate) fn vendor(&self, vendor: Vendor) -> MutexGuard<'_, VendorState> {
        lock(&self.vendors[vendor.index()])
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    pub(crate) fn accounts(&self) -> MutexGuard<'_, Accounts> {
        lock(&self.accounts)
    }
}
