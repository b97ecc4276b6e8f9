//! The pace of calls to an API server that fails. A failure closes a gate, and behind it one call at a time tries the
//! API server again, after pauses that grow; an answer opens the gate. So many objects cost no more than one does.
//!
//! Each namespace has gates of its own: an admission webhook of one namespace, or one Secret that cannot be decrypted,
//! holds up no other, whether such calls fail or hang. The gate of all namespaces closes where two of them fail with no
//! answer in between. Reads of Secrets, reads of VendorTokens, writes of Secrets and writes of statuses have gates apart,
//! since one kind may fail alone. Where calls of two namespaces are not answered, and nobody else's either, one gate is
//! closed for all of them. A call that was not answered tells of the time since it was sent: an answer to another one
//! after that shows that the API server is there.

mod client;
mod gate;
mod gates;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock::{Moment, Timeline};
use crate::grants::ObjectKey;
use crate::policy::backoff;
use crate::sync::lock;

use gate::{Gate, Seen};
use gates::{Failure, Gates};

pub(crate) use client::paced;

/// The longest pause that the API server may ask for by `Retry-After`.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
/// A namespace that has failed lets the others try first for this long, when the gate of all may be tried.
const COURTESY: Duration = Duration::from_millis(500);
/// The distance between the looks of two objects that wait at a gate.
const SPACING: Duration = Duration::from_millis(50);
/// The longest wait of an object at a gate. It is woken sooner when the gate opens.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// The time between two log lines about a gate that stays closed.
const REMINDER: Duration = Duration::from_secs(60);

/// A kind of calls that may fail by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CallKind {
    ReadSecret,
    ReadVendorToken,
    WriteSecret,
    WriteStatus,
}

impl CallKind {
    #[cfg(test)]
    const ALL: [Self; 4] = [
        Self::ReadSecret,
        Self::ReadVendorToken,
        Self::WriteSecret,
        Self::WriteStatus,
    ];

    /// The words for it in logs and messages.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::ReadSecret => "reads of Secrets",
            Self::ReadVendorToken => "reads of VendorTokens",
            Self::WriteSecret => "writes of Secrets",
            Self::WriteStatus => "writes of the status of VendorTokens",
        }
    }
}

/// One call: its kind, and the namespace that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) kind: CallKind,
    pub(crate) namespace: String,
}

/// The end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The API server answered, be it with a refusal.
    Answered,
    /// It answered with a server error or asked to wait: 5xx or 429.
    Failed {
        code: u16,
        retry_after: Option<Duration>,
    },
    /// It did not answer: the connection failed, or the call has taken [`LONGEST_CALL`](crate::metrics::api::LONGEST_CALL).
    Unanswered,
    /// The call says nothing of the API server.
    Unknown,
}

/// A call was not sent, since such calls fail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not sent, because {} fail at the API server; they are tried again one at a time", .call.kind.words())]
pub(crate) struct Held {
    pub(crate) call: Call,
    /// The time until the next try.
    pub(crate) wait: Duration,
}

impl Held {
    /// The refusal in `error`, where its call was not sent.
    pub(crate) fn of(error: &kube::Error) -> Option<&Self> {
        match error {
            kube::Error::Service(error) => error.downcast_ref(),
            _ => None,
        }
    }
}

/// The gates of all calls. See the module.
pub(crate) struct Pacer {
    timeline: Arc<Timeline>,
    /// Takes the objects that may go on.
    queue: mpsc::UnboundedSender<ObjectKey>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The gate of all calls: it is closed while nothing is answered.
    reach: Gate,
    /// The last answer to any call.
    answered: Option<Moment>,
    /// The namespace of the first call since then that was not answered.
    unanswered: Option<String>,
    kinds: HashMap<CallKind, Gates>,
}

impl std::fmt::Debug for Pacer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pacer").finish_non_exhaustive()
    }
}

/// The right to send one call. Dropped without an outcome, it says nothing of the API server.
#[derive(Debug)]
pub(crate) struct Pass {
    pacer: Arc<Pacer>,
    call: Call,
    sent: Moment,
    reach: Seen,
    all: Seen,
    namespace: Seen,
    ended: bool,
}

impl Pacer {
    /// Open gates. Objects that waited at one go to `queue` when it opens.
    pub(crate) fn new(timeline: Arc<Timeline>, queue: mpsc::UnboundedSender<ObjectKey>) -> Arc<Self> {
        Arc::new(Self {
            timeline,
            queue,
            state: Mutex::default(),
        })
    }

    /// Asks for the right to send `call`.
    ///
    /// # Errors
    /// Where such calls fail, and it is not time for another try or one is under way.
    pub(crate) fn enter(self: &Arc<Self>, call: Call) -> Result<Pass, Held> {
        let now = self.timeline.now().moment;
        let mut state = lock(&self.state);
        let state = &mut *state;
        if let Some(wait) = state.wait(&call, now, COURTESY) {
            return Err(Held { call, wait });
        }
        let gates = state.kinds.entry(call.kind).or_default();
        let namespace = match gates.namespaces.get_mut(&call.namespace) {
            Some(gate) => gate.try_now(now),
            None => Seen::default(),
        };
        Ok(Pass {
            reach: state.reach.try_now(now),
            all: gates.all.try_now(now),
            namespace,
            pacer: Arc::clone(self),
            call,
            sent: now,
            ended: false,
        })
    }

    /// Tells whether such calls are held up, without sending one.
    ///
    /// # Errors
    /// Where they are.
    pub(crate) fn check(self: &Arc<Self>, kind: CallKind, namespace: &str) -> Result<(), Held> {
        let call = Call {
            kind,
            namespace: namespace.to_owned(),
        };
        self.enter(call).map(drop)
    }

    /// Has `object` wait until the gate opens, and gives the time of its next look. One object of each namespace looks as
    /// soon as the gate may be tried; the looks of others are [`SPACING`] apart, however many wait.
    pub(crate) fn wait_at(&self, held: &Held, object: &ObjectKey) -> Duration {
        let now = self.timeline.now().moment;
        let mut state = lock(&self.state);
        let gates = state.kinds.entry(held.call.kind).or_default();
        if gates.wait_for(object, now, held.wait) {
            return held.wait;
        }
        let others = u32::try_from(gates.waiting.len() - 1).unwrap_or(u32::MAX);
        (held.wait + SPACING.saturating_mul(others)).min(LONGEST_WAIT)
    }

    /// Has `object`, whose `call` has failed, go on when the gate opens.
    pub(crate) fn wake_at_opening(&self, call: &Call, object: &ObjectKey) {
        let now = self.timeline.now().moment;
        let mut state = lock(&self.state);
        let wait = state.wait(call, now, Duration::ZERO).unwrap_or_default();
        let gates = state.kinds.entry(call.kind).or_default();
        gates.wait_for(object, now, wait);
    }

    /// The wait for the next try of a call that has failed; `None` where the gate is open.
    pub(crate) fn wait_after(&self, call: &Call) -> Option<Duration> {
        let now = self.timeline.now().moment;
        lock(&self.state).wait(call, now, Duration::ZERO)
    }

    /// True where such calls have been answered since `moment`.
    pub(crate) fn was_answered_since(&self, kind: CallKind, moment: Moment) -> bool {
        let state = lock(&self.state);
        let answered = state.kinds.get(&kind).and_then(|gates| gates.answered);
        answered.is_some_and(|answered| answered > moment)
    }

    /// Forgets an object that is gone.
    pub(crate) fn forget(&self, object: &ObjectKey) {
        for gates in lock(&self.state).kinds.values_mut() {
            gates.waiting.remove(object);
            gates.triers.retain(|_, (trier, _)| trier != object);
        }
    }

    /// Forgets the objects that do not exist.
    pub(crate) fn forget_unless(&self, exists: impl Fn(&ObjectKey) -> bool) {
        for gates in lock(&self.state).kinds.values_mut() {
            gates.waiting.retain(&exists);
            gates.triers.retain(|_, (trier, _)| exists(trier));
        }
    }

    /// A call that has no gates was answered.
    fn is_answered(&self) {
        let now = self.timeline.now().moment;
        let woken = lock(&self.state).is_reached(now);
        self.wake(woken);
    }

    fn end(&self, pass: &Pass, outcome: Outcome) {
        let now = self.timeline.now().moment;
        let mut state = lock(&self.state);
        let mut woken = match outcome {
            Outcome::Answered | Outcome::Failed { .. } => state.is_reached(now),
            Outcome::Unanswered => {
                state.is_unanswered(pass, now);
                Vec::new()
            }
            Outcome::Unknown => {
                state.reach.give_back(pass.reach);
                Vec::new()
            }
        };
        let is_told = !state.reach.is_open();
        let gates = state.kinds.entry(pass.call.kind).or_default();
        let failure = match outcome {
            Outcome::Failed { code, retry_after } => Some(Failure {
                code: Some(code),
                retry_after: retry_after.map(|wait| wait.min(LONGEST_RETRY_AFTER)),
                at: now,
            }),
            Outcome::Unanswered => Some(Failure {
                code: None,
                retry_after: None,
                at: pass.sent,
            }),
            Outcome::Answered => {
                woken.extend(gates.open(&pass.call, now));
                None
            }
            Outcome::Unknown => {
                gates.give_back(pass);
                None
            }
        };
        if let Some(failure) = failure {
            gates.fail(pass, failure, is_told, now);
        }
        drop(state);
        self.wake(woken);
    }

    fn wake(&self, objects: Vec<ObjectKey>) {
        for object in objects {
            // The receiver is gone at shutdown only.
            let _ = self.queue.send(object);
        }
    }
}

impl State {
    /// The time until `call` may be sent; `None`: now. A namespace that has failed lets others go first for `courtesy`.
    fn wait(&self, call: &Call, now: Moment, courtesy: Duration) -> Option<Duration> {
        let gates = self.kinds.get(&call.kind);
        let namespace = gates.and_then(|gates| gates.namespaces.get(&call.namespace));
        let courtesy = namespace.map_or(Duration::ZERO, |_| courtesy);
        let of_all = gates.and_then(|gates| gates.all.wait(now, courtesy));
        let of_namespace = namespace.and_then(|gate| gate.wait(now, Duration::ZERO));
        self.reach.wait(now, courtesy).max(of_all).max(of_namespace)
    }

    /// Something was answered. Gives the objects that may go on.
    fn is_reached(&mut self, now: Moment) -> Vec<ObjectKey> {
        self.answered = Some(now);
        self.unanswered = None;
        let Some(since) = self.reach.open() else {
            return Vec::new();
        };
        tracing::info!(
            seconds = now.since(since).as_secs(),
            "the API server answers again"
        );
        self.kinds.values_mut().flat_map(Gates::wake).collect()
    }

    /// A call was not answered. The gate of all calls closes where one of another namespace was not either, and no call
    /// has been answered since this one was sent.
    fn is_unanswered(&mut self, pass: &Pass, now: Moment) {
        if self.answered.is_some_and(|answered| answered > pass.sent) {
            return;
        }
        let namespace = &pass.call.namespace;
        let first = self.unanswered.get_or_insert_with(|| namespace.clone());
        if self.reach.is_open() && first == namespace {
            return;
        }
        let pause = |failures| backoff::after_server_error(failures, None);
        self.reach.close(pass.reach, now, now, pause);
        if self.reach.reminds(now, REMINDER) {
            tracing::warn!(
                seconds = self.reach.failing_for(now).as_secs(),
                waiting = self
                    .kinds
                    .values()
                    .map(|gates| gates.waiting.len())
                    .sum::<usize>(),
                "the API server does not answer: it is tried with one call at a time"
            );
        }
    }
}

impl Pass {
    /// Tells how the call ended.
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.ended = true;
        self.pacer.end(&self, outcome);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.ended {
            self.pacer.end(self, Outcome::Unknown);
        }
    }
}

#[cfg(test)]
mod tests;
