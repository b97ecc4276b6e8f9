//! Leader election by a Lease, with the semantics of client-go: the holder of the Lease acts, the others stand by.
//!
//! May use: `clock`, `error_text`, `sync`, `text`. Each update carries the `resourceVersion` of the Lease, so that one
//! of two contenders gets a conflict. Another's Lease has expired when it stayed unchanged for its duration by the
//! monotonic clock of this process; the times in the Lease are for people. A leader that cannot renew in time stops
//! acting before the others may start: [`Leadership::holds`] is checked before each vendor call and each write.

mod fence;
mod leadership;
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
#[cfg(test)]
pub(crate) use reachability::fake::FakeApiServer;
pub use reachability::{ApiServerReachability, LastAnswer};

use self::leadership::{SharedTerm, Term};

/// Name of the Lease in the operator's namespace.
pub const LEASE_NAME: &str = "vendor-token-operator";

/// Times and identity of an election. The default times are client-go's for controllers.
#[derive(Clone, Debug)]
pub struct ElectionOptions {
    /// Identity of this process, unique among the contenders.
    pub identity: String,
    /// Time without a renewal after which another may take the Lease.
    pub lease_duration: Duration,
    /// Time without a renewal after which the leader stops acting; less than the lease duration.
    pub renew_deadline: Duration,
    /// Time between two renewals. A standby reads the Lease after about half of it.
    pub retry_period: Duration,
    /// Timeout of each call to the API server.
    pub call_timeout: Duration,
}

impl ElectionOptions {
    /// Makes options with a lease of 15 s, a deadline of 10 s, renewals every 2 s, and calls of at most 5 s.
    pub fn new(identity: impl Into<String>) -> Self {
        Self {
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            call_timeout: Duration::from_secs(5),
        }
    }
}

/// A contender for the Lease.
#[derive(Debug)]
pub struct Elector {
    api: Api<Lease>,
    options: ElectionOptions,
    timeline: Arc<Timeline>,
    term: SharedTerm,
    leading: watch::Sender<bool>,
    seen: Option<Seen>,
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
            let attempt = async {
                match (leads, deadline) {
                    // A renewal that hangs must not outlast the right to act.
                    (true, Some(deadline)) => tokio::time::timeout_at(deadline, self.attempt())
                        .await
                        .unwrap_or(Ok(None)),
                    _ => self.attempt().await,
                }
            };
            let result = tokio::select! {
                result = attempt => result,
                () = &mut shutdown => break,
            };
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
            if *self.leading.borrow() && self.term.time_left().is_none_or(|left| left.is_zero()) {
                self.lost("the Lease could not be renewed in time");
            }
            let next = try_started + self.pause();
            let next = self.deadline().map_or(next, |deadline| next.min(deadline));
            tokio::select! {
                () = tokio::time::sleep_until(next.max(Instant::now() + Duration::from_millis(50))) => {}
                () = &mut shutdown => break,
            }
        }
        self.release().await;
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

    fn renewed(&mut self, renewed: Moment) {
        self.term.set(Some(Term {
            renewed,
            lasts: self.options.renew_deadline,
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

    /// Tries once to acquire or to renew the Lease. `Some` with the start of the try after a success.
    async fn attempt(&mut self) -> Result<Option<Moment>, ElectionError> {
        let began = self.timeline.now().moment;
        if *self.leading.borrow()
            && let Some(seen) = self.seen.clone()
            && holder(&seen.lease) == Some(&self.options.identity)
        {
            // Another's change is a conflict; then the Lease is read below.
            if self.update(&seen.lease).await? {
                return Ok(Some(began));
            }
        }
        let Some(lease) = self.call("get", self.api.get_opt(LEASE_NAME)).await? else {
            return Ok(self.create().await?.then_some(began));
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
        let lease = seen.lease.clone();
        Ok(self.update(&lease).await?.then_some(began))
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

    async fn create(&mut self) -> Result<bool, ElectionError> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(LEASE_NAME.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec(None)),
        };
        let created = self
            .call("create", self.api.create(&PostParams::default(), &lease))
            .await;
        self.written(created)
    }

    /// Writes the own identity into `lease`; false when another writer was faster.
    async fn update(&mut self, lease: &Lease) -> Result<bool, ElectionError> {
        let mut lease = lease.clone();
        lease.spec = Some(self.spec(lease.spec.as_ref()));
        lease.metadata.managed_fields = None;
        let replaced = self
            .call(
                "update",
                self.api.replace(LEASE_NAME, &PostParams::default(), &lease),
            )
            .await;
        self.written(replaced)
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

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(self.timeline.now().wall());
        let kept = before.filter(|spec| spec.holder_identity.as_deref() == Some(&self.options.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.options.identity.clone()),
            lease_duration_seconds: Some(
                i32::try_from(self.options.lease_duration.as_secs()).unwrap_or(i32::MAX),
            ),
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

    /// Gives the Lease back, so that another need not wait for its expiry. Reads it first, since a cancelled renewal
    /// may have changed the version, and another's Lease must not be touched.
    async fn release(&mut self) {
        let was_leading = *self.leading.borrow();
        self.lost("stopping");
        if !was_leading {
            return;
        }
        match self.try_release().await {
            Ok(true) => tracing::info!(identity = self.options.identity, "the Lease is given back"),
            Ok(false) => tracing::info!(identity = self.options.identity, "the Lease is another's by now"),
            Err(error) => {
                tracing::warn!(
                    error = with_causes(&error),
                    "the Lease could not be given back; it expires"
                );
            }
        }
    }

    async fn try_release(&mut self) -> Result<bool, ElectionError> {
        let lease = self.call("get", self.api.get_opt(LEASE_NAME)).await?;
        let Some(mut lease) = lease.filter(|lease| holder(lease) == Some(&self.options.identity)) else {
            return Ok(false);
        };
        lease.metadata.managed_fields = None;
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(self.timeline.now().wall()));
        }
        let released = self
            .call(
                "release",
                self.api.replace(LEASE_NAME, &PostParams::default(), &lease),
            )
            .await;
        self.written(released)
    }

    async fn call<T>(
        &self,
        verb: &'static str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ElectionError> {
        match tokio::time::timeout(self.options.call_timeout, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(ElectionError::Call {
                verb,
                source: Box::new(source),
            }),
            Err(_) => Err(ElectionError::Timeout {
                verb,
                seconds: self.options.call_timeout.as_secs(),
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
