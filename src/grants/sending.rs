//! Sends what may be sent, and takes in what came of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Grants;
use super::entry::Pending;
use crate::failure::{Failure, FailureClass};
use crate::fingerprint::{Account, Fingerprint};
use crate::providers::{Vendor, scrub};
use crate::token::AccessToken;

/// A wall clock that was stepped is noticed this soon.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// A process that does not lead looks this often whether it does.
const STANDBY_LOOK: Duration = Duration::from_millis(500);

/// Ends an attempt when it goes out of scope, so that neither a panic nor a cancelled task keeps its slot for ever.
struct Ending<'a> {
    grants: &'a Grants,
    fingerprint: Fingerprint,
    vendor: Vendor,
    account: Option<Account>,
    started: Instant,
    result: Option<Result<AccessToken, Failure>>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| {
            let message = "the attempt was broken off inside the operator, before the vendor's answer was read: if this \
                           goes on, report it with the operator's log";
            Err(Failure::new(FailureClass::Transient, message))
        });
        let outcome = result.as_ref().map(|_| ()).map_err(|failure| failure.class);
        self.grants
            .observer
            .request_ended(self.vendor, outcome, self.started.elapsed());
        self.grants
            .finish(self.fingerprint, self.vendor, self.account, result);
    }
}

/// A request that may be sent now.
pub(super) struct Job {
    pub(super) fingerprint: Fingerprint,
    pub(super) ask: Pending,
}

impl Grants {
    /// Sends what may be sent, until [`Self::drain`] is called.
    pub async fn run(self: Arc<Self>) {
        loop {
            let silent = self
                .leadership
                .reachability()
                .filter(|api_server| !api_server.is_reachable());
            let ready = {
                let mut inner = self.lock();
                if inner.draining {
                    return;
                }
                inner.sweep(self.clock.now(), Instant::now());
                if inner.stands_by || !self.leadership.holds() {
                    Ok((Vec::new(), STANDBY_LOOK))
                } else {
                    match silent {
                        Some(api_server) if inner.has_queued() => Err(api_server),
                        _ => Ok(inner.ready(&self.options, Instant::now(), self.clock.now())),
                    }
                }
            };
            let (jobs, wait) = match ready {
                Ok(ready) => ready,
                // A token could not be published now.
                Err(api_server) => {
                    api_server.ask().await;
                    continue;
                }
            };
            for job in jobs {
                tokio::spawn(Arc::clone(&self).perform(job));
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait.min(LONGEST_SLEEP)) => {}
            }
        }
    }

    /// Whether nothing is sent any more.
    pub fn is_draining(&self) -> bool {
        self.lock().draining
    }

    /// Sends nothing more, and waits until the requests in flight have ended, at most for `patience`.
    pub async fn drain(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.lock().draining = true;
        self.changed.notify_waiters();
        self.changed.notify_one();
        while self.lock().places.taken() > 0 {
            if tokio::time::timeout_at(deadline, self.changed.notified())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    async fn perform(self: Arc<Self>, job: Job) {
        let Job { fingerprint, ask } = job;
        let vendor = ask.grant.vendor();
        let mut ending = Ending {
            grants: &self,
            fingerprint,
            vendor,
            account: ask.account.map(|(account, _)| account),
            started: Instant::now(),
            result: None,
        };
        let result = match ask.grant.request(&ask.endpoint, &ask.credentials) {
            Ok(request) => match self.transport.send(request).await {
                Ok(response) => ask.grant.read(&response),
                Err(failure) => Err(failure),
            },
            Err(failure) => Err(failure),
        };
        let result = result.map_err(|failure| scrub(failure, &ask.credentials));
        drop(ask);
        match &result {
            Ok(token) => {
                tracing::debug!(%vendor, ?fingerprint, expires = %token.expires, "the vendor issued a token")
            }
            Err(failure) => tracing::warn!(
                %vendor, ?fingerprint, class = ?failure.class, message = failure.message,
                request_id = failure.request_id.as_deref(), "the vendor issued no token"
            ),
        }
        ending.result = Some(result);
    }

    fn finish(
        &self,
        fingerprint: Fingerprint,
        vendor: Vendor,
        account: Option<Account>,
        result: Result<AccessToken, Failure>,
    ) {
        let (now, at) = (self.clock.now(), Instant::now());
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.places.give_back(vendor);
        if let (Some(account), Ok(_)) = (account, &result) {
            inner.accounts.succeeded(account);
        }
        if let Some(entry) = inner.entries.get_mut(&fingerprint) {
            let endpoint = entry
                .endpoint
                .as_ref()
                .and_then(|endpoint| inner.endpoints.get_mut(endpoint));
            let succeeded = result.is_ok();
            let class = result.as_ref().err().map(|failure| failure.class);
            let woken = entry.finish(vendor, fingerprint, result, now, at);
            if let Some(endpoint) = endpoint {
                endpoint.in_flight = endpoint.in_flight.saturating_sub(1);
                endpoint.budget.ended(at);
                if let Some(token) = entry.usable(now).filter(|_| succeeded) {
                    endpoint.upcoming.expect(fingerprint, token.issued, token.expires);
                }
                let next = entry.failure.as_ref().and_then(|failure| failure.next_attempt);
                match next.map(|next| next.until(now, at)) {
                    Some(until) if class == Some(FailureClass::Throttled) => {
                        self.observer.throttled_until(vendor, until);
                        endpoint.throttled(fingerprint, until, now, at);
                    }
                    _ => endpoint.answered(fingerprint, succeeded),
                }
            }
            if entry.users.is_empty() {
                inner.expect_nothing_of(fingerprint);
                inner.give_back(fingerprint, now, at);
            }
            for object in woken {
                // The receiver is gone at shutdown only.
                let _ = self.wake.send(object);
            }
        }
        self.changed.notify_one();
    }
}
