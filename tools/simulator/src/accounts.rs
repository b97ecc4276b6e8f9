//! Checkmarx' lockout: failures by account.

use std::collections::HashMap;

/// Failures after which an account is locked, as ASP.NET Identity does by default.
const FAILURES_TO_LOCK: u32 = 5;

/// A Checkmarx account (tenant and user) that had failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// `tenant/user`.
    pub id: String,
    /// Failures since the last success or lockout.
    pub failures: u32,
    /// Number of lockouts.
    pub lockouts: u32,
    /// Unix milliseconds until which it is locked; 0 when it never was.
    pub locked_until_ms: u64,
}

/// The accounts that had failures.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    by_id: HashMap<String, Account>,
}

impl Accounts {
    pub(crate) fn locked(&self, id: &str, now_ms: u64) -> bool {
        self.by_id
            .get(id)
            .is_some_and(|account| account.locked_until_ms > now_ms)
    }

    pub(crate) fn failed(&mut self, id: &str, now_ms: u64, lockout_ms: u64) {
        let account = self.by_id.entry(id.to_owned()).or_insert_with(|| Account {
            id: id.to_owned(),
            failures: 0,
            lockouts: 0,
            locked_until_ms: 0,
        });
        account.failures += 1;
        if account.failures >= FAILURES_TO_LOCK {
            account.failures = 0;
            account.lockouts += 1;
            account.locked_until_ms = now_ms + lockout_ms;
        }
    }

    pub(crate) fn succeeded(&mut self, id: &str) {
        if let Some(account) = self.by_id.get_mut(id) {
            account.failures = 0;
        }
    }

    pub(crate) fn list(&self) -> Vec<Account> {
        let mut list: Vec<_> = self.by_id.values().cloned().collect();
        list.sort_by(|left, right| left.id.cmp(&right.id));
        list
    }

    pub(crate) fn clear(&mut self) {
        self.by_id.clear();
    }
}
