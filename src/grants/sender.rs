//! Sends the requests that may be sent, and takes in their outcomes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::accounts::End;
use super::book::Grants;
use super::call::CallSource;
use super::table::{LONGEST_SLEEP, SendJob};
use crate::failure::{Failure, FailureClass};
use crate::fingerprint::{Fingerprint, Login};
use crate::policy::backoff;
use crate::providers::{Vendor, scrub};
use crate::token::AccessToken;

/// Interval at which a process that does not lead checks its leadership.
const STANDBY_LOOK: Duration = Duration::from_millis(500);

/// Ends an attempt when it is dropped, so that neither a panic nor a cancelled task keeps its slot for ever.
struct CompletionGuard<'a> {
    grants: &'a Grants,
    fingerprint: Fingerprint,
    vendor: Vendor,
    login: Option<Login>,
    started: Instant,
    outcome: Option<Outcome>,
}

/// The outcome of an attempt.
enum Outcome {
    /// The request was not sent: the credentials have changed or cannot be read, or this process sends no more.
    NotSent,
    Ended(Result<AccessToken, Failure>),
}

impl Drop for CompletionGuard<'_> {
    fn drop(&mut self) {
        let result = match self.outcome.take() {
            Some(Outcome::NotSent) => {
                self.grants.not_sent(self.fingerprint, self.vendor, self.login);
                return;
            }
            Some(Outcome::Ended(result)) => result,
            None => Err(Failure::new(
                FailureClass::Transient,
                "the attempt was broken off inside the operator, before the vendor's answer was read: if this goes on, report \
                 it with the operator's log",
            )),
        };
        let outcome = result.as_ref().map(|_| ()).map_err(|failure| failure.class);
        self.grants
            .observer
            .request_ended(self.vendor, outcome, self.started.elapsed());
        self.grants
            .finish(self.fingerprint, self.vendor, self.login, result);
    }
}

impl Grants {
    /// Sends the requests that may be sent, with credentials from `source`, until [`Self::drain`] is called. Sends none
    /// while this process does not lead, or while the API server does not answer.
    pub async fn run(self: Arc<Self>, source: Arc<dyn CallSource>) {
        let mut unanswered = 0;
        loop {
            let silent = self
                .leadership
                .reachability()
                .filter(|api_server| !api_server.is_reachable());
            let ready = {
                let mut table = self.lock();
                if table.draining {
                    return;
                }
                let now = self.timeline.now();
                table.sweep(&now);
                if table.standing_by || !self.leadership.holds() {
                    Ok((Vec::new(), STANDBY_LOOK))
                } else {
                    match silent {
                        Some(api_server) if table.has_queued() => Err(api_server),
                        _ => Ok(table.ready(&now)),
                    }
                }
            };
            let (jobs, wait) = match ready {
                Ok(ready) => ready,
                // No request is sent: its token could not be published.
                Err(api_server) => {
                    api_server.ask().await;
                    if !api_server.is_reachable() {
                        unanswered += 1;
                        tokio::time::sleep(backoff::after_server_error(unanswered, None)).await;
                    }
                    continue;
                }
            };
            if silent.is_none() {
                unanswered = 0;
            }
            for job in jobs {
                tokio::spawn(Arc::clone(&self).perform(job, Arc::clone(&source)));
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait.min(LONGEST_SLEEP)) => {}
            }
        }
    }

    /// Stops sending, and waits until the requests in flight have ended, for `patience` at most.
    pub async fn drain(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.lock().draining = true;
        self.changed.notify_waiters();
        self.changed.notify_one();
        while self.lock().in_flight.taken() > 0 {
            if tokio::time::timeout_at(deadline, self.changed.notified())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    async fn perform(self: Arc<Self>, job: SendJob, source: Arc<dyn CallSource>) {
        let SendJob {
            fingerprint,
            vendor,
            login,
            object,
            call,
        } = job;
        let mut completion = CompletionGuard {
            grants: &self,
            fingerprint,
            vendor,
            login,
            started: Instant::now(),
            outcome: None,
        };
        let call = match call {
            Some(call) => Some(call),
            None => {
                let read = source.call(object).await;
                read.and_then(|(read, call)| (read == fingerprint).then_some(call))
            }
        };
        let Some(call) = call.filter(|_| self.may_send()) else {
            tracing::debug!(%vendor, ?fingerprint, "a request is not sent: its credentials are others by now");
            completion.outcome = Some(Outcome::NotSent);
            return;
        };
        if !self.lock().begin(fingerprint, login, &self.timeline.now()) {
            tracing::debug!(%vendor, ?fingerprint, "a request is not sent: its account was closed while it waited");
            completion.outcome = Some(Outcome::NotSent);
            return;
        }
        completion.started = Instant::now();
        let result = match call.grant.request(&call.endpoint, &call.credentials) {
            Ok(request) => match self.transport.send(request).await {
                Ok(response) => call.grant.read(&response),
                Err(failure) => Err(failure),
            },
            Err(failure) => Err(failure),
        };
        let result = result.map_err(|failure| scrub(failure, &call.credentials));
        drop(call);
        match &result {
            Ok(token) => {
                tracing::debug!(%vendor, ?fingerprint, expires = %token.expires, "the vendor issued a token");
                if token.type_is_unusual {
                    tracing::info!(
                        %vendor, ?fingerprint, "the vendor's token_type is not spelt Bearer, and was read so"
                    );
                }
            }
            Err(failure) => tracing::warn!(
                %vendor, ?fingerprint, class = ?failure.class, message = failure.message,
                request_id = failure.request_id.as_deref(), "the vendor issued no token"
            ),
        }
        completion.outcome = Some(Outcome::Ended(result));
    }

    /// True while this process may send. Asked again after the read of the credentials: leadership may have ended
    /// during it.
    fn may_send(&self) -> bool {
        let table = self.lock();
        !table.draining && !table.standing_by && self.leadership.holds()
    }

    /// Gives the slot of a request back that is not sent after all, and wakes the objects that waited for it, so that
    /// each is reconciled again. An attempt that was recorded stays counted against its account.
    fn not_sent(&self, fingerprint: Fingerprint, vendor: Vendor, login: Option<Login>) {
        let mut table = self.lock();
        let table = &mut *table;
        let now = self.timeline.now();
        table.in_flight.give_back(vendor);
        if let Some(login) = login {
            table.accounts.not_sent(login.account, fingerprint, now.moment);
        }
        if let Some(grant) = table.grants.get_mut(&fingerprint) {
            let server = grant.server.as_ref();
            if let Some(endpoint) = server.and_then(|server| table.endpoints.get_mut(server)) {
                endpoint.not_sent(fingerprint);
            }
            for object in grant.give_up() {
                self.wake(object);
            }
            if grant.users.is_empty() {
                table.give_back(fingerprint, &now);
            }
        }
        self.changed.notify_one();
    }

    fn finish(
        &self,
        fingerprint: Fingerprint,
        vendor: Vendor,
        login: Option<Login>,
        result: Result<AccessToken, Failure>,
    ) {
        let mut table = self.lock();
        let table = &mut *table;
        let now = self.timeline.now();
        table.in_flight.give_back(vendor);
        if let Some(login) = login {
            let end = match &result {
                Ok(_) => End::Token,
                Err(failure) if failure.may_be_rejection() => End::Rejected,
                Err(_) => End::Failed,
            };
            table.accounts.end(login, fingerprint, end, now.moment);
        }
        let is_lock = result.as_ref().is_err_and(Failure::is_lock);
        if let Some(grant) = table.grants.get_mut(&fingerprint) {
            let endpoint = grant
                .server
                .as_ref()
                .and_then(|server| table.endpoints.get_mut(server));
            let succeeded = result.is_ok();
            if let Some(login) = grant.login.filter(|_| succeeded) {
                for user in &grant.users {
                    table.accounts.proven(login.account, &user.namespace, now.moment);
                }
            }
            let class = result.as_ref().err().map(|failure| failure.class);
            let woken = grant.finish(vendor, fingerprint, result, &now);
            let next = grant.failure.as_ref().and_then(|failure| failure.next_attempt);
            if let (Some(login), Some(until)) = (login, next.filter(|_| is_lock)) {
                table.accounts.lock_until(login.account, until);
            }
            if let Some(endpoint) = endpoint {
                let throttled = next.filter(|_| class == Some(FailureClass::Throttled));
                if let Some(until) = throttled {
                    self.observer.throttled_until(vendor, now.wall_at(until));
                }
                endpoint.ended(fingerprint, throttled, succeeded, now.moment);
            }
            if grant.users.is_empty() {
                table.give_back(fingerprint, &now);
            }
            if !succeeded {
                table.note_attempted(woken.iter());
            }
            for object in woken {
                self.wake(object);
            }
        }
        self.changed.notify_one();
    }
}
