//! Leader election by a Lease, with the semantics of client-go: the holder of the Lease acts, the others stand by.
//!
//! May use: `clock`, `error_text`, `sync`, `text`. Each update carries the `resourceVersion` of the Lease, so that one
//! of two contenders gets a conflict. Another's Lease has expired when it stayed unchanged for its duration by the
//! monotonic clock of this process; the times in the Lease are for people. A leader that cannot renew in time stops
//! acting before the others may start: [`Leadership::holds`] is checked before each vendor call and each write.
//!
//! Behind an API server that answers slowly the holder states a longer duration, which the others wait out, and renews
//! within two thirds of it as always.

mod fence;
mod leadership;
mod options;
mod reachability;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::{Moment, Timeline};
use crate::error_text::with_causes;
use crate::text::spread;

pub use fence::{NotLeading, writes_need_leadership};
pub use leadership::Leadership;
pub use options::ElectionOptions;
#[cfg(test)]
pub(crate) use reachability::fake::FakeApiServer;
pub use reachability::{ApiServerReachability, LastAnswer};

use self::leadership::{SharedTerm, Term};

/// Name of the Lease in the operator's namespace.
pub const LEASE_NAME: &str = "vendor-token-operator";

/// A long answer is remembered: each later one that is shorter takes this share off it. From 12 s to those of a usual
/// Lease it takes 18 answers, about half a minute.
const FORGOTTEN_WITH_EACH_ANSWER: f64 = 1.0 / 16.0;
/// Time at the end of the process for the call that is under way, and for giving the Lease back: with the 6 s that a leader
/// takes before, less than the 30 s that a pod has. It is enough where an answer takes up to 11 s, and beyond that for a
/// write that is carried out before its answer comes.
const RELEASE_PATIENCE: Duration = Duration::from_secs(22);

/// A contender for the Lease.
#[derive(Debug)]
pub struct Elector {
    api: Api<Lease>,
    options: ElectionOptions,
    timeline: Arc<Timeline>,
    term: SharedTerm,
    leading: watch::Sender<bool>,
    seen: Option<Seen>,
    /// The time that the API server takes for an answer, by the longest of late.
    answer_time: Duration,
}

/// A renewal of the Lease.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    began: Moment,
    deadline: Duration,
}

/// A Lease as last read, with the time since which it is unchanged by the local monotonic clock.
#[derive(Clone, Debug)]
struct Seen {
    lease: Lease,
    unchanged_since: Instant,
}

/// Error in a try to get or keep the Lease.
#[derive(Debug, thiserror::Error)]
pub enum ElectionError {
    #[error("failed to {verb} Lease '{LEASE_NAME}'")]
    Call {
        verb: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("failed to {verb} Lease '{LEASE_NAME}': no answer within {seconds} s")]
    Timeout { verb: &'static str, seconds: u64 },
}

impl Elector {
    /// Makes an elector, which does not run yet, and its leadership. The client of `api` must not have the layer of
    /// [`writes_need_leadership`].
    pub fn new(api: Api<Lease>, options: ElectionOptions, timeline: Arc<Timeline>) -> (Self, Leadership) {
        let term = SharedTerm::new(Arc::clone(&timeline));
        let (leading, changes) = watch::channel(false);
        let leadership = Leadership {
            term: Some(term.clone()),
            leading: changes,
            reachability: None,
        };
        let elector = Self {
            api,
            options,
            timeline,
            term,
            leading,
            seen: None,
            answer_time: Duration::ZERO,
        };
        (elector, leadership)
    }

    /// Contends until `shutdown` completes, then gives back a Lease of its own.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        loop {
            let try_started = Instant::now();
            let leads = *self.leading.borrow();
            let deadline = self.deadline();
            let (result, stop_at) = {
                let attempt = async {
                    match (leads, deadline) {
                        // A renewal that hangs must not outlast the right to act.
                        (true, Some(deadline)) => {
                            tokio::time::timeout_at(deadline, self.attempt()).await.ok()
                        }
                        _ => Some(self.attempt().await),
                    }
                };
                tokio::pin!(attempt);
                tokio::select! {
                    result = &mut attempt => (result, None),
                    () = &mut shutdown => {
                        // It may have changed the Lease already: its answer tells.
                        let stop_at = Instant::now() + RELEASE_PATIENCE;
                        let result = tokio::time::timeout_at(stop_at, attempt).await;
                        (result.ok().flatten(), Some(stop_at))
                    }
                }
            };
            let result = result.unwrap_or_else(|| {
                self.answer_time = self.answer_time.max(try_started.elapsed());
                Ok(None)
            });
            match result {
                Ok(Some(renewed)) => self.renewed(renewed),
                Ok(None) if leads && self.lost_to_another() => self.lost("another holds the Lease"),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        error = with_causes(&error),
                        leading = leads,
                        "an election call failed and is tried again"
                    );
                }
            }
            if let Some(stop_at) = stop_at {
                return self.release(stop_at).await;
            }
            if *self.leading.borrow() && self.term.time_left().is_none_or(|left| left.is_zero()) {
                self.lost("the Lease could not be renewed in time");
            }
            let next = try_started + self.pause();
            let next = self.deadline().map_or(next, |deadline| next.min(deadline));
            tokio::select! {
                () = tokio::time::sleep_until(next.max(Instant::now() + Duration::from_millis(50))) => {}
                () = &mut shutdown => return self.release(Instant::now() + RELEASE_PATIENCE).await,
            }
        }
    }

    /// Time until the next try. A standby reads twice as often as a leader renews, so that a Lease which is given back
    /// after a drain of 3 s is taken within 5 s in all. Its identity spreads a contender's reads, so that not all come
    /// at once.
    fn pause(&self) -> Duration {
        if *self.leading.borrow() {
            return self.options.retry_period;
        }
        let spread = (spread(&self.options.identity) % 100) as f64;
        self.options.retry_period.mul_f64(0.5 + spread / 1000.0)
    }

    /// End of the right to act.
    fn deadline(&self) -> Option<Instant> {
        self.term.time_left().map(|left| Instant::now() + left)
    }

    fn renewed(&mut self, renewal: Renewal) {
        self.term.set(Some(Term {
            renewed: renewal.began,
            lasts: renewal.deadline,
        }));
        if !self.leading.send_replace(true) {
            tracing::info!(identity = self.options.identity, "leading");
        }
    }

    fn lost(&mut self, why: &str) {
        self.term.set(None);
        if self.leading.send_replace(false) {
            tracing::warn!(
                identity = self.options.identity,
                why,
                "no longer leading: standing by"
            );
        }
    }

    /// True when the Lease, as last read, names another holder.
    fn lost_to_another(&self) -> bool {
        self.seen
            .as_ref()
            .and_then(|seen| holder(&seen.lease))
            .is_some_and(|holder| *holder != self.options.identity)
    }

    /// Tries once to acquire or to renew the Lease. `Some` after a success.
    async fn attempt(&mut self) -> Result<Option<Renewal>, ElectionError> {
        if *self.leading.borrow()
            && let Some(seen) = self.seen.clone()
            && holder(&seen.lease) == Some(&self.options.identity)
        {
            // Another's change is a conflict; then the Lease is read below.
            if let Some(renewal) = self.update(seen.lease).await? {
                return Ok(Some(renewal));
            }
        }
        let api = self.api.clone();
        let Some(lease) = self.call("get", || api.get_opt(LEASE_NAME)).await? else {
            return self.create().await;
        };
        self.look_at(lease);
        let Some(seen) = &self.seen else { return Ok(None) };
        let free = match holder(&seen.lease) {
            None => true,
            Some(holder) if *holder == self.options.identity => true,
            Some(_) => seen.unchanged_since.elapsed() >= self.duration_of(&seen.lease),
        };
        if !free {
            return Ok(None);
        }
        self.update(seen.lease.clone()).await
    }

    /// Duration of another's Lease: the stated one, and not less than that of the options.
    fn duration_of(&self, lease: &Lease) -> Duration {
        let stated = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.lease_duration_seconds)
            .unwrap_or_default();
        Duration::from_secs(u64::try_from(stated).unwrap_or_default().min(3600))
            .max(self.options.lease_duration)
    }

    fn look_at(&mut self, lease: Lease) {
        let unchanged = self.seen.as_ref().filter(|seen| {
            seen.lease.metadata.resource_version == lease.metadata.resource_version
                && seen.lease.metadata.uid == lease.metadata.uid
        });
        let unchanged_since = unchanged.map_or_else(Instant::now, |seen| seen.unchanged_since);
        self.seen = Some(Seen {
            lease,
            unchanged_since,
        });
    }

    async fn create(&mut self) -> Result<Option<Renewal>, ElectionError> {
        let (duration, renewal) = self.begin();
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(LEASE_NAME.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec(None, duration)),
        };
        let (api, parameters) = (self.api.clone(), PostParams::default());
        let created = self.call("create", || api.create(&parameters, &lease)).await;
        Ok(self.written(created)?.then_some(renewal))
    }

    /// Writes the own identity into `lease`; `None` when another writer was faster.
    async fn update(&mut self, mut lease: Lease) -> Result<Option<Renewal>, ElectionError> {
        let (duration, renewal) = self.begin();
        lease.spec = Some(self.spec(lease.spec.as_ref(), duration));
        lease.metadata.managed_fields = None;
        let (api, parameters) = (self.api.clone(), PostParams::default());
        let replaced = self
            .call("update", || api.replace(LEASE_NAME, &parameters, &lease))
            .await;
        Ok(self.written(replaced)?.then_some(renewal))
    }

    /// The duration for a write that begins now, and the renewal that it makes.
    fn begin(&self) -> (Duration, Renewal) {
        let (duration, deadline) = self.options.lease_for(self.answer_time);
        let began = self.timeline.now().moment;
        (duration, Renewal { began, deadline })
    }

    fn written(&mut self, result: Result<Lease, ElectionError>) -> Result<bool, ElectionError> {
        match result {
            Ok(lease) => {
                self.seen = Some(Seen {
                    lease,
                    unchanged_since: Instant::now(),
                });
                Ok(true)
            }
            Err(ElectionError::Call { source, .. }) if is_race(&source) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>, duration: Duration) -> LeaseSpec {
        let now = MicroTime(self.timeline.now().wall());
        let kept = before.filter(|spec| spec.holder_identity.as_deref() == Some(&self.options.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.options.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: kept
                .and_then(|spec| spec.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(match (before, kept) {
                (Some(_), None) => transitions.saturating_add(1),
                _ => transitions,
            }),
            ..LeaseSpec::default()
        }
    }

    /// Gives the Lease back until `stop_at`, so that another need not wait for its expiry.
    async fn release(&mut self, stop_at: Instant) {
        self.lost("stopping");
        let released = match self.lease_of_our_own() {
            Some(lease) => tokio::time::timeout_at(stop_at, self.try_release(lease)).await,
            None => return,
        };
        match released {
            Ok(Ok(true)) => tracing::info!(identity = self.options.identity, "the Lease is given back"),
            Ok(Ok(false)) => {
                tracing::info!(identity = self.options.identity, "the Lease is another's by now")
            }
            Ok(Err(error)) => {
                tracing::warn!(
                    error = with_causes(&error),
                    "the Lease could not be given back; it expires"
                );
            }
            Err(_) => tracing::warn!("the Lease could not be given back in time; it expires"),
        }
    }

    /// The Lease as last read, where it names this process.
    fn lease_of_our_own(&self) -> Option<Lease> {
        let lease = &self.seen.as_ref()?.lease;
        (holder(lease) == Some(&self.options.identity)).then(|| lease.clone())
    }

    /// Writes the Lease as last read. Reads it where that version is gone: a renewal whose answer was lost may have changed
    /// it, and another's Lease must not be touched.
    async fn try_release(&mut self, lease: Lease) -> Result<bool, ElectionError> {
        if self.give_back(lease).await? {
            return Ok(true);
        }
        let api = self.api.clone();
        let Some(lease) = self.call("get", || api.get_opt(LEASE_NAME)).await? else {
            return Ok(false);
        };
        self.look_at(lease);
        match self.lease_of_our_own() {
            Some(lease) => self.give_back(lease).await,
            None => Ok(false),
        }
    }

    async fn give_back(&mut self, mut lease: Lease) -> Result<bool, ElectionError> {
        lease.metadata.managed_fields = None;
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(self.timeline.now().wall()));
        }
        let (api, parameters) = (self.api.clone(), PostParams::default());
        let released = self
            .call("release", || api.replace(LEASE_NAME, &parameters, &lease))
            .await;
        self.written(released)
    }

    /// Makes a call, and once more where its answer takes long; the first success counts. The second of two writes
    /// carries the same `resourceVersion`, so that one of them does nothing.
    async fn call<T, F>(&mut self, verb: &'static str, call: impl Fn() -> F) -> Result<T, ElectionError>
    where
        F: Future<Output = Result<T, kube::Error>>,
    {
        let (began, limit) = (Instant::now(), self.options.call_timeout);
        let calls = async {
            let mut first = std::pin::pin!(call());
            if let Ok(answer) = tokio::time::timeout(self.options.second_call_after, &mut first).await {
                return answer;
            }
            let second = std::pin::pin!(call());
            let (answer, other) = futures::future::select(first, second).await.factor_first();
            match answer {
                Ok(value) => Ok(value),
                Err(error) => other.await.map_err(|_| error),
            }
        };
        let answer = tokio::time::timeout(limit, calls).await;
        let remembered = self.answer_time.mul_f64(1.0 - FORGOTTEN_WITH_EACH_ANSWER);
        self.answer_time = remembered.max(began.elapsed());
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(ElectionError::Call {
                verb,
                source: Box::new(source),
            }),
            Err(_) => Err(ElectionError::Timeout {
                verb,
                seconds: limit.as_secs(),
            }),
        }
    }
}

/// The holder of a Lease; `None` after it was given back.
fn holder(lease: &Lease) -> Option<&String> {
    lease
        .spec
        .as_ref()?
        .holder_identity
        .as_ref()
        .filter(|holder| !holder.is_empty())
}

/// True when another has written, created or deleted the Lease in between.
fn is_race(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() || status.is_not_found())
}

#[cfg(test)]
mod tests;
