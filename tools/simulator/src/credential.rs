//! The credentials that the simulator knows, and its judgement of those presented.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::digest::fingerprint;
use crate::vendor::Vendor;

/// A credential as registered. `Debug` does not show the secret.
#[derive(Clone)]
pub struct Credential {
    /// `client_id` for SixMap and Mapiq, the user name for Checkmarx; for 6clicks and Picus, whose requests
    /// carry a secret only, a name of the caller's choice.
    pub id: String,
    /// `client_secret`, password, API key or refresh token.
    pub secret: String,
    /// Checkmarx: the tenant, without the prefix.
    pub tenant: Option<String>,
    /// SixMap, Checkmarx: the scopes that may be asked for; `None` is any (SixMap), both (Checkmarx).
    pub scopes: Option<Vec<String>>,
    /// Lifetime of its tokens in seconds, instead of the vendor's.
    pub lifetime_seconds: Option<u64>,
    /// 6clicks: the fingerprint of the client certificate registered with the key, which a request must then
    /// present (see `Simulator::client_certificate`).
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

/// The credential that a request presented.
#[derive(Default)]
pub(crate) struct Presented {
    pub(crate) id: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) secret: Option<String>,
    pub(crate) scopes: Vec<String>,
    /// SHA-256 of the client certificate.
    pub(crate) certificate: Option<Arc<str>>,
}

/// A registered credential, with its history.
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

/// The vendor's judgement of a credential; the account's lockout is judged apart.
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

    fn remove(&mut self, ledger_id: &str) {
        self.by_secret.retain(|_, id| &**id != ledger_id);
        self.by_ledger_id.remove(ledger_id);
    }

    pub(crate) fn clear(&mut self) {
        self.by_secret.clear();
        self.by_ledger_id.clear();
    }

    pub(crate) fn known(&mut self, ledger_id: &str) -> Option<&mut Known> {
        self.by_ledger_id.get_mut(ledger_id)
    }

    /// The ledger id of the credential presented. A secret that is not registered is named by its fingerprint.
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
