//! What all listeners share: the vendors' state and the ledger.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;

use crate::budget::{Budget, Window};
use crate::credential::{Accounts, Credentials, Judgement, Presented};
use crate::dialect::{self, Answer, Rejection};
use crate::digest::fingerprint_number;
use crate::fault::{self, Effect, Effects, ScriptedFault};
use crate::ledger::{Entry, Ledger};
use crate::options::Options;
use crate::rules::{Refusal, examine};
use crate::token::{Times, mint};
use crate::vendor::Vendor;

pub(crate) struct VendorState {
    pub(crate) credentials: Credentials,
    pub(crate) script: Vec<ScriptedFault>,
    pub(crate) lifetime_seconds: u64,
    pub(crate) budget: Option<Budget>,
    pub(crate) window: Window,
}

pub(crate) struct Core {
    vendors: [Mutex<VendorState>; 5],
    ledger: Mutex<Ledger>,
    accounts: Mutex<Accounts>,
    lockout_ms: u64,
    pub(crate) latency: Duration,
    pub(crate) next_fault: AtomicU64,
    pub(crate) trap_origin: OnceLock<String>,
}

/// What will be answered: `None` is nothing at all.
pub(crate) struct Plan {
    pub(crate) answer: Option<Answer>,
    pub(crate) effects: Effects,
    /// Whether the answer carries a token.
    pub(crate) success: bool,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn signed(milliseconds: u64) -> i64 {
    i64::try_from(milliseconds).unwrap_or(i64::MAX)
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
            latency: options.latency,
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

    /// Judges a request, issues a token where it deserves one, and records the call.
    pub(crate) fn decide(
        &self,
        vendor: Vendor,
        head: &Parts,
        body: Option<&[u8]>,
        certificate: Option<&Arc<str>>,
    ) -> Plan {
        let now = now_ms();
        let mut examined = examine(vendor, head, body);
        examined.presented.certificate = certificate.cloned();
        let mut state = self.vendor(vendor);
        let ledger_id = state.credentials.ledger_id(vendor, &examined.presented);
        let effects = fault::take(&mut state.script, ledger_id.as_deref());
        let verdict = state.budget.map(|budget| state.window.take(budget, now));
        let mut token = None;
        let mut answer = if let Some(effect) = &effects.replacement {
            self.replaced(vendor, effect, now)
        } else if let Some(verdict) = verdict.filter(|verdict| !verdict.allowed) {
            Some(dialect::over_budget(vendor, verdict))
        } else if examined.refusal() == Some(Refusal::Rotated) {
            Some(self.rotate(&mut state, ledger_id.as_deref(), &examined.presented, now))
        } else if let Some(refusal) = examined.refusal() {
            Some(dialect::refusal(vendor, refusal))
        } else {
            let id = ledger_id.clone().unwrap_or_else(|| Arc::from(""));
            let judged = self.judge(vendor, &state.credentials, &id, &examined.presented, now);
            Some(match judged {
                Ok(lifetime) => {
                    let (number, answer) = self.issue(
                        vendor,
                        &mut state,
                        &id,
                        &examined.presented,
                        lifetime,
                        &effects,
                        now,
                    );
                    token = Some(number);
                    answer
                }
                Err(rejection) => dialect::rejection(vendor, rejection),
            })
        };
        if vendor == Vendor::Picus && effects.replacement.is_none() {
            answer = match (answer, verdict) {
                (Some(answer), Some(verdict)) => Some(dialect::rate_limit_headers(
                    answer,
                    verdict.limit,
                    verdict.remaining,
                    now + verdict.wait_ms,
                )),
                (answer, _) => answer,
            };
        }
        drop(state);
        self.ledger().record(Entry {
            time_ms: now,
            vendor,
            credential: ledger_id,
            method: head.method.as_str(),
            path: head.uri.path(),
            status: answer.as_ref().map(|answer| answer.status),
            violation: examined.violation(),
            token,
            fault: effects.any(),
            client_certificate: certificate.is_some(),
        });
        Plan {
            answer,
            effects,
            success: token.is_some(),
        }
    }

    fn judge(
        &self,
        vendor: Vendor,
        credentials: &Credentials,
        ledger_id: &str,
        presented: &Presented,
        now: u64,
    ) -> Result<Option<u64>, Rejection> {
        let checkmarx = vendor == Vendor::CheckmarxSca;
        if checkmarx && self.accounts().locked(ledger_id, now) {
            return Err(Rejection::LockedOut);
        }
        match credentials.judge(ledger_id, presented) {
            Judgement::Accepted { lifetime_seconds } => {
                if checkmarx {
                    self.accounts().succeeded(ledger_id);
                }
                Ok(lifetime_seconds)
            }
            judgement @ (Judgement::UnknownId | Judgement::WrongSecret) => {
                if checkmarx {
                    self.accounts().failed(ledger_id, now, self.lockout_ms);
                }
                Err(match judgement {
                    Judgement::UnknownId => Rejection::UnknownId,
                    _ => Rejection::WrongSecret,
                })
            }
            Judgement::ScopeNotAllowed => Err(Rejection::ScopeNotAllowed),
            Judgement::CertificateNeeded => Err(Rejection::CertificateNeeded),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "all of it decides the token, and one caller has it at hand"
    )]
    fn issue(
        &self,
        vendor: Vendor,
        state: &mut VendorState,
        ledger_id: &Arc<str>,
        presented: &Presented,
        lifetime_seconds: Option<u64>,
        effects: &Effects,
        now: u64,
    ) -> (u128, Answer) {
        let mut lifetime =
            i64::try_from(lifetime_seconds.unwrap_or(state.lifetime_seconds)).unwrap_or(i64::MAX);
        let (mut skew_ms, mut opaque, mut same) = (0, false, false);
        for effect in &effects.changes {
            match effect {
                Effect::Lifetime { seconds } => lifetime = *seconds,
                Effect::ClockSkew {
                    seconds,
                    header_only: false,
                } => skew_ms = seconds.saturating_mul(1000),
                Effect::OpaqueToken => opaque = true,
                Effect::SameToken => same = true,
                _ => {}
            }
        }
        let times = Times {
            issued_ms: signed(now).saturating_add(skew_ms),
            lifetime_seconds: lifetime,
        };
        let known = state.credentials.known(ledger_id);
        let token: Arc<str> = match known
            .as_ref()
            .and_then(|known| known.last_token.clone())
            .filter(|_| same)
        {
            Some(token) => token,
            None => mint(vendor, presented, ledger_id, times, opaque).into(),
        };
        if let Some(known) = known {
            known.last_token = Some(Arc::clone(&token));
        }
        let number = fingerprint_number(token.as_bytes());
        let expires = signed(now).saturating_add(lifetime.saturating_mul(1000));
        let expires = u64::try_from(expires).unwrap_or(0);
        self.ledger()
            .issued(vendor, Arc::clone(ledger_id), number, now, expires);
        (number, dialect::success(vendor, &token, times))
    }

    /// Picus' `/v1/auth/refresh`: the refresh token and every access token made from it end.
    fn rotate(
        &self,
        state: &mut VendorState,
        ledger_id: Option<&str>,
        presented: &Presented,
        now: u64,
    ) -> Answer {
        let secret = presented.secret.as_deref();
        let known = ledger_id
            .and_then(|id| state.credentials.known(id))
            .filter(|known| !known.revoked && Some(known.credential.secret.as_str()) == secret);
        let Some(known) = known else {
            return dialect::rejection(Vendor::Picus, Rejection::UnknownId);
        };
        known.revoked = true;
        let id = known.credential.ledger_id();
        self.ledger().revoke(Vendor::Picus, &id);
        let times = Times {
            issued_ms: signed(now),
            lifetime_seconds: 7200,
        };
        let token = mint(Vendor::Picus, presented, &id, times, true);
        dialect::success(Vendor::Picus, &token, times)
    }

    fn replaced(&self, vendor: Vendor, effect: &Effect, now: u64) -> Option<Answer> {
        match effect {
            Effect::Answer {
                status,
                headers,
                body,
            } => {
                let headers = headers.iter().filter_map(|(name, value)| {
                    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
                    Some((name, HeaderValue::from_str(value).ok()?))
                });
                Some(Answer {
                    status: *status,
                    content_type: None,
                    headers: headers.collect(),
                    body: Bytes::from(body.clone()),
                })
            }
            Effect::Throttle { retry_after, seconds } => {
                let mut answer = dialect::throttled(vendor, *seconds);
                if let Some(text) = retry_after {
                    answer = answer.with(header::RETRY_AFTER, text);
                }
                if vendor == Vendor::Picus {
                    let reset = now.saturating_add(seconds.saturating_mul(1000));
                    answer = dialect::rate_limit_headers(answer, 20, 0, reset);
                }
                Some(answer)
            }
            Effect::Redirect { status, location } => {
                let trap = || {
                    let origin = self.trap_origin.get().map(String::as_str).unwrap_or_default();
                    format!("{origin}{}", vendor.path())
                };
                Some(dialect::redirect(*status, &location.clone().unwrap_or_else(trap)))
            }
            _ => None,
        }
    }
}
