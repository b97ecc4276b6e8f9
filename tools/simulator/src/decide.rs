//! The decision on one request: refusal, rejection or token, and its entry in the ledger.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;

use crate::core::{Core, VendorState, now_ms};
use crate::credential::{Credentials, Judgement, Presented};
use crate::dialect::{self, Answer, Rejection};
use crate::digest::fingerprint_number;
use crate::fault::{self, Effect, Effects};
use crate::ledger::Entry;
use crate::rules::{Refusal, examine};
use crate::token::{Times, mint};
use crate::vendor::Vendor;

/// The answer to a request, before faults change its bytes.
pub(crate) struct Plan {
    /// `None`: the connection is closed without an answer.
    pub(crate) answer: Option<Answer>,
    pub(crate) effects: Effects,
    /// The answer carries a token.
    pub(crate) success: bool,
}

/// A well-formed request, with the credential that it presents.
struct Asked<'a> {
    vendor: Vendor,
    ledger_id: Arc<str>,
    presented: &'a Presented,
    /// Unix milliseconds.
    now: u64,
}

fn signed(milliseconds: u64) -> i64 {
    i64::try_from(milliseconds).unwrap_or(i64::MAX)
}

impl Core {
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
            let asked = Asked {
                vendor,
                ledger_id: ledger_id.clone().unwrap_or_else(|| Arc::from("")),
                presented: &examined.presented,
                now,
            };
            Some(match self.judge(&state.credentials, &asked) {
                Ok(lifetime) => {
                    let (number, answer) = self.issue(&mut state, &asked, lifetime, &effects);
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

    /// The lifetime of the credential's tokens, where it has one of its own, or the reason for no token.
    fn judge(&self, credentials: &Credentials, asked: &Asked<'_>) -> Result<Option<u64>, Rejection> {
        let checkmarx = asked.vendor == Vendor::CheckmarxSca;
        if checkmarx && self.accounts().locked(&asked.ledger_id, asked.now) {
            return Err(Rejection::LockedOut);
        }
        match credentials.judge(&asked.ledger_id, asked.presented) {
            Judgement::Accepted { lifetime_seconds } => {
                if checkmarx {
                    self.accounts().succeeded(&asked.ledger_id);
                }
                Ok(lifetime_seconds)
            }
            judgement @ (Judgement::UnknownId | Judgement::WrongSecret) => {
                if checkmarx {
                    self.accounts()
                        .failed(&asked.ledger_id, asked.now, self.lockout_ms);
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

    /// Issues a token: the number that the ledger knows it by, and the answer.
    fn issue(
        &self,
        state: &mut VendorState,
        asked: &Asked<'_>,
        lifetime_seconds: Option<u64>,
        effects: &Effects,
    ) -> (u128, Answer) {
        let Asked {
            vendor,
            ledger_id,
            presented,
            now,
        } = asked;
        let (vendor, now) = (*vendor, *now);
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

    /// The answer of a fault that replaces the vendor's; none where the fault answers nothing.
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
