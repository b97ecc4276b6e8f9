//! The credentials that the simulator knows, and Checkmarx' count of failures.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::fingerprint;
use crate::vendor::Vendor;

/// A credential as registered. The secret is never shown: not by `Debug`, not by the admin API.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credential {
    /// `client_id` for SixMap and Mapiq, the user name for Checkmarx; for 6clicks and Picus, whose requests
    /// carry a secret only, a name of the caller's choice.
    pub id: String,
    /// `client_secret`, password, API key or refresh token.
    pub secret: String,
    /// Checkmarx: the tenant, without the prefix.
    #[serde(default)]
    pub tenant: Option<String>,
    /// SixMap, Checkmarx: the scopes that may be asked for; `None` is any (SixMap), both (Checkmarx).
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
    /// Lifetime of its tokens in seconds, instead of the vendor's.
    #[serde(default)]
    pub lifetime_seconds: Option<u64>,
    /// 6clicks: the fingerprint of the client certificate registered with the key, which a request must then
    /// present (see `Simulator::client_certificate`).
    #[serde(default)]
    pub client_certificate: Option<String>,
}

impl Credential {
    /// An identifier and its secret.
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            secret: secret.into(),
            tenant: None,
            scopes: None,
            lifetime_seconds: None,
            client_certificate: None,
        }
    }

    /// Sets Checkmarx' tenant.
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// Sets the scopes that may be asked for.
    pub fn scopes<T: Into<String>>(mut self, scopes: impl IntoIterator<Item = T>) -> Self {
        self.scopes = Some(scopes.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the lifetime of its tokens in seconds.
    pub fn lifetime_seconds(mut self, seconds: u64) -> Self {
        self.lifetime_seconds = Some(seconds);
        self
    }

    /// Demands the client certificate with this fingerprint.
    pub fn client_certificate(mut self, fingerprint: impl Into<String>) -> Self {
        self.client_certificate = Some(fingerprint.into());
        self
    }

    /// The name under which the ledger and faults know it: `tenant/user` for Checkmarx, the id otherwise.
    pub fn ledger_id(&self) -> String {
        match &self.tenant {
            Some(tenant) => format!("{tenant}/{}", self.id),
            None => self.id.clone(),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credential")
            .field("id", &self.id)
            .field("secret", &"***")
            .field("tenant", &self.tenant)
            .field("scopes", &self.scopes)
            .field("lifetime_seconds", &self.lifetime_seconds)
            .finish_non_exhaustive()
    }
}

/// What a request presented.
#[derive(Default)]
pub(crate) struct Presented {
    pub(crate) id: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) secret: Option<String>,
    pub(crate) scopes: Vec<String>,
    /// SHA-256 of the client certificate.
    pub(crate) certificate: Option<Arc<str>>,
}

/// A registered credential with what the simulator remembers of it.
pub(crate) struct Known {
    pub(crate) credential: Credential,
    /// Picus: `/v1/auth/refresh` was called with it.
    pub(crate) revoked: bool,
    /// For the fault "the same token again".
    pub(crate) last_token: Option<Arc<str>>,
}

/// All credentials of one vendor.
#[derive(Default)]
pub(crate) struct Credentials {
    by_ledger_id: HashMap<Arc<str>, Known>,
    /// 6clicks and Picus: the secret's fingerprint -> ledger id.
    by_secret: HashMap<String, Arc<str>>,
    pub(crate) wildcard: bool,
}

/// What the vendor thinks of a credential, the account's lockout apart.
pub(crate) enum Judgement {
    Accepted { lifetime_seconds: Option<u64> },
    UnknownId,
    WrongSecret,
    ScopeNotAllowed,
    CertificateNeeded,
}

fn carries_secret_only(vendor: Vendor) -> bool {
    matches!(vendor, Vendor::SixClicks | Vendor::Picus)
}

impl Credentials {
    pub(crate) fn put(&mut self, vendor: Vendor, credential: Credential) {
        let id: Arc<str> = credential.ledger_id().into();
        self.remove(&id);
        if carries_secret_only(vendor) {
            self.by_secret
                .insert(fingerprint(credential.secret.as_bytes()), Arc::clone(&id));
        }
        self.by_ledger_id.insert(
            id,
            Known {
                credential,
                revoked: false,
                last_token: None,
            },
        );
    }

    pub(crate) fn remove(&mut self, ledger_id: &str) -> bool {
        self.by_secret.retain(|_, id| &**id != ledger_id);
        self.by_ledger_id.remove(ledger_id).is_some()
    }

    pub(crate) fn clear(&mut self) {
        self.by_secret.clear();
        self.by_ledger_id.clear();
    }

    pub(crate) fn known(&mut self, ledger_id: &str) -> Option<&mut Known> {
        self.by_ledger_id.get_mut(ledger_id)
    }

    pub(crate) fn list(&self) -> Vec<CredentialView> {
        let mut list: Vec<_> = self
            .by_ledger_id
            .iter()
            .map(|(ledger_id, known)| CredentialView {
                ledger_id: ledger_id.to_string(),
                id: known.credential.id.clone(),
                tenant: known.credential.tenant.clone(),
                scopes: known.credential.scopes.clone(),
                lifetime_seconds: known.credential.lifetime_seconds,
                client_certificate: known.credential.client_certificate.clone(),
                revoked: known.revoked,
            })
            .collect();
        list.sort_by(|left, right| left.ledger_id.cmp(&right.ledger_id));
        list
    }

    /// The name of what was presented, for the ledger. A secret that is not registered is named by its
    /// fingerprint.
    pub(crate) fn ledger_id(&self, vendor: Vendor, presented: &Presented) -> Option<Arc<str>> {
        if carries_secret_only(vendor) {
            let print = fingerprint(presented.secret.as_deref()?.as_bytes());
            return Some(match self.by_secret.get(&print) {
                Some(id) => Arc::clone(id),
                None => format!("unregistered-{}", print.get(..16).unwrap_or_default()).into(),
            });
        }
        let id = presented.id.as_deref()?;
        Some(match &presented.tenant {
            Some(tenant) => format!("{tenant}/{id}").into(),
            None => id.into(),
        })
    }

    pub(crate) fn judge(&self, ledger_id: &str, presented: &Presented) -> Judgement {
        let Some(known) = self.by_ledger_id.get(ledger_id) else {
            return if self.wildcard {
                Judgement::Accepted {
                    lifetime_seconds: None,
                }
            } else {
                Judgement::UnknownId
            };
        };
        let credential = &known.credential;
        if known.revoked || presented.secret.as_deref() != Some(credential.secret.as_str()) {
            return Judgement::WrongSecret;
        }
        if credential.client_certificate.is_some()
            && credential.client_certificate.as_deref() != presented.certificate.as_deref()
        {
            return Judgement::CertificateNeeded;
        }
        if let Some(allowed) = &credential.scopes
            && !presented.scopes.iter().all(|scope| allowed.contains(scope))
        {
            return Judgement::ScopeNotAllowed;
        }
        Judgement::Accepted {
            lifetime_seconds: credential.lifetime_seconds,
        }
    }
}

/// A registered credential as the admin API shows it: without the secret.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialView {
    /// See [`Credential::ledger_id`].
    pub ledger_id: String,
    /// As registered.
    pub id: String,
    /// As registered.
    pub tenant: Option<String>,
    /// As registered.
    pub scopes: Option<Vec<String>>,
    /// As registered.
    pub lifetime_seconds: Option<u64>,
    /// As registered.
    pub client_certificate: Option<String>,
    /// Picus: `/v1/auth/refresh` has ended it.
    pub revoked: bool,
}

/// A Checkmarx account (tenant and user) that had failures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// `tenant/user`.
    pub id: String,
    /// Failures since the last success or lockout.
    pub failures: u32,
    /// How often it was locked.
    pub lockouts: u32,
    /// Unix milliseconds until which it is locked; 0 when it never was.
    pub locked_until_ms: u64,
}

/// Failures after which an account is locked, as ASP.NET Identity does by default.
const FAILURES_TO_LOCK: u32 = 5;

/// Failures by account.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    accounts: HashMap<String, Account>,
}

impl Accounts {
    pub(crate) fn locked(&self, id: &str, now_ms: u64) -> bool {
        self.accounts
            .get(id)
            .is_some_and(|account| account.locked_until_ms > now_ms)
    }

    pub(crate) fn failed(&mut self, id: &str, now_ms: u64, lockout_ms: u64) {
        let account = self.accounts.entry(id.to_owned()).or_insert_with(|| Account {
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
        if let Some(account) = self.accounts.get_mut(id) {
            account.failures = 0;
        }
    }

    pub(crate) fn list(&self) -> Vec<Account> {
        let mut list: Vec<_> = self.accounts.values().cloned().collect();
        list.sort_by(|left, right| left.id.cmp(&right.id));
        list
    }

    pub(crate) fn clear(&mut self) {
        self.accounts.clear();
    }
}
