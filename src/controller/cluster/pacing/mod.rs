//! The pace of calls to an API server that fails. A failure closes a gate, and behind it one call at a time tries the
//! API server again, after pauses that grow; an answer opens the gate. So many objects cost no more than one does.
//!
//! Each namespace has gates of its own: an admission webhook of one namespace, or one Secret that cannot be decrypted,
//! holds up no other. The gate of the whole API server closes where two namespaces fail with no answer in between, and
//! where nothing is answered at all. Reads of Secrets, writes of Secrets and writes of statuses have gates apart, since
//! one kind may fail alone.

mod client;
mod gate;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock::{Moment, Timeline};
use crate::grants::ObjectKey;
use crate::policy::backoff;
use crate::sync::lock;

use gate::{Gate, Seen};

pub(crate) use client::paced;

/// The longest pause that the API server may ask for by `Retry-After`.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
/// A namespace that has failed lets the others try first for this long, when the gate of the API server may be tried.
const COURTESY: Duration = Duration::from_millis(500);
/// The distance between the looks of two objects that wait at a gate.
const SPACING: Duration = Duration::from_millis(50);
/// The longest wait of an object at a gate. It is woken sooner when the gate opens.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// A gate whose pause ended so long ago is forgotten.
const RETENTION: Duration = Duration::from_secs(600);
/// The time between two log lines about a gate that stays closed.
const REMINDER: Duration = Duration::from_secs(60);

/// A kind of calls that may fail by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CallKind {
    ReadSecret,
    WriteSecret,
    WriteStatus,
}

impl CallKind {
    #[cfg(test)]
    const ALL: [Self; 3] = [Self::ReadSecret, Self::WriteSecret, Self::WriteStatus];

    /// The words for it in logs and messages.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::ReadSecret => "reads of Secrets",
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
    /// It did not answer.
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

/// The gates of one kind of calls.
#[derive(Debug, Default)]
struct Gates {
    server: Gate,
    namespaces: HashMap<String, Gate>,
    /// The last answer.
    answered: Option<Moment>,
    /// The objects that wait.
    waiting: HashSet<ObjectKey>,
}

/// The gates of all calls. See the module.
pub(crate) struct Pacer {
    timeline: Arc<Timeline>,
    /// Takes the objects that may go on.
    queue: mpsc::UnboundedSender<ObjectKey>,
    gates: Mutex<HashMap<CallKind, Gates>>,
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
    server: Seen,
    namespace: Seen,
    ended: bool,
}

impl Pacer {
    /// Open gates. Objects that waited at one go to `queue` when it opens.
    pub(crate) fn new(timeline: Arc<Timeline>, queue: mpsc::UnboundedSender<ObjectKey>) -> Arc<Self> {
        Arc::new(Self {
            timeline,
            queue,
            gates: Mutex::default(),
        })
    }

    /// Asks for the right to send `call`.
    ///
    /// # Errors
    /// Where such calls fail, and it is not time for another try or one is under way.
    pub(crate) fn enter(self: &Arc<Self>, call: Call) -> Result<Pass, Held> {
        let now = self.timeline.now().moment;
        let mut all = lock(&self.gates);
        let gates = all.entry(call.kind).or_default();
        let has_failed = gates.namespaces.contains_key(&call.namespace);
        let courtesy = if has_failed { COURTESY } else { Duration::ZERO };
        let waits = [
            gates.server.wait(now, courtesy),
            gates
                .namespaces
                .get(&call.namespace)
                .and_then(|gate| gate.wait(now, Duration::ZERO)),
        ];
        if let Some(wait) = waits.into_iter().flatten().max() {
            return Err(Held { call, wait });
        }
        let namespace = match gates.namespaces.get_mut(&call.namespace) {
            Some(gate) => gate.try_now(now),
            None => Seen::default(),
        };
        Ok(Pass {
            server: gates.server.try_now(now),
            namespace,
            pacer: Arc::clone(self),
            call,
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

    /// Has `object` wait until the gate opens, and gives the time of its next look: however many wait, their looks are
    /// [`SPACING`] apart.
    pub(crate) fn wait_at(&self, held: &Held, object: &ObjectKey) -> Duration {
        let mut all = lock(&self.gates);
        let waiting = &mut all.entry(held.call.kind).or_default().waiting;
        waiting.insert(object.clone());
        let others = u32::try_from(waiting.len() - 1).unwrap_or(u32::MAX);
        (held.wait + SPACING.saturating_mul(others)).min(LONGEST_WAIT)
    }

    /// Has `object`, whose `call` has failed, go on when the gate opens.
    pub(crate) fn wake_at_opening(&self, call: &Call, object: &ObjectKey) {
        let mut all = lock(&self.gates);
        all.entry(call.kind).or_default().waiting.insert(object.clone());
    }

    /// The wait for the next try of a call that has failed; `None` where the gate is open.
    pub(crate) fn wait_after(&self, call: &Call) -> Option<Duration> {
        let now = self.timeline.now().moment;
        let all = lock(&self.gates);
        let gates = all.get(&call.kind)?;
        let namespace = gates.namespaces.get(&call.namespace);
        let waits = [
            gates.server.wait(now, Duration::ZERO),
            namespace.and_then(|gate| gate.wait(now, Duration::ZERO)),
        ];
        waits.into_iter().flatten().max()
    }

    /// True where such calls have been answered since `moment`.
    pub(crate) fn was_answered_since(&self, kind: CallKind, moment: Moment) -> bool {
        let all = lock(&self.gates);
        let answered = all.get(&kind).and_then(|gates| gates.answered);
        answered.is_some_and(|answered| answered > moment)
    }

    fn end(&self, pass: &Pass, outcome: Outcome) {
        let now = self.timeline.now().moment;
        let mut all = lock(&self.gates);
        let gates = all.entry(pass.call.kind).or_default();
        let namespace = &pass.call.namespace;
        let woken = match outcome {
            Outcome::Answered => {
                gates.answered = Some(now);
                gates.open(namespace, pass.call.kind, now)
            }
            Outcome::Failed { code, retry_after } => {
                gates.fail(pass, &format!("HTTP {code}"), retry_after, false, now);
                Vec::new()
            }
            Outcome::Unanswered => {
                gates.fail(pass, "no answer", None, true, now);
                Vec::new()
            }
            Outcome::Unknown => {
                gates.server.give_back(pass.server);
                if let Some(gate) = gates.namespaces.get_mut(namespace) {
                    gate.give_back(pass.namespace);
                }
                Vec::new()
            }
        };
        drop(all);
        for object in woken {
            // The receiver is gone at shutdown only.
            let _ = self.queue.send(object);
        }
    }
}

impl Gates {
    /// An answer in `namespace` opens the gates. Gives the objects that may go on.
    fn open(&mut self, namespace: &str, kind: CallKind, now: Moment) -> Vec<ObjectKey> {
        let of_server = self.server.open();
        if of_server.is_some() {
            // The other namespaces may be tried at once; each opens by its own answer.
            self.namespaces.values_mut().for_each(|gate| gate.try_at(now));
        }
        let of_namespace = self.namespaces.remove(namespace).and_then(|mut gate| gate.open());
        let Some(since) = of_server.or(of_namespace) else {
            return Vec::new();
        };
        tracing::info!(
            calls = kind.words(),
            namespace,
            seconds = now.since(since).as_secs(),
            waiting = self.waiting.len(),
            "the API server answers again"
        );
        // One object of each namespace that still has to be tried goes on too.
        let mut tried = HashSet::new();
        let namespaces = &self.namespaces;
        self.waiting
            .extract_if(|object| {
                !namespaces.contains_key(&object.namespace) || tried.insert(object.namespace.clone())
            })
            .collect()
    }

    fn fail(&mut self, pass: &Pass, told: &str, retry_after: Option<Duration>, of_server: bool, now: Moment) {
        let (kind, namespace) = (pass.call.kind, &pass.call.namespace);
        let retry_after = retry_after.map(|wait| wait.min(LONGEST_RETRY_AFTER));
        let pause = |failures| backoff::after_server_error(failures, retry_after);
        self.namespaces.retain(|_, gate| !gate.is_stale(now, RETENTION));
        let gate = self.namespaces.entry(namespace.clone()).or_default();
        gate.close(pass.namespace, now, pause);
        if gate.reminds(now, REMINDER) {
            tracing::warn!(
                calls = kind.words(),
                namespace,
                told,
                seconds = gate.failing_for(now).as_secs(),
                waiting = self.waiting.len(),
                "the API server fails: such calls in this namespace are held back and tried one at a time"
            );
        }
        let answered = self.answered;
        let failing = self
            .namespaces
            .values()
            .filter(|gate| gate.has_failed_since(answered));
        if of_server || !self.server.is_open() || failing.count() > 1 {
            self.server.close(pass.server, now, pause);
            if self.server.reminds(now, REMINDER) {
                tracing::warn!(
                    calls = kind.words(),
                    told,
                    seconds = self.server.failing_for(now).as_secs(),
                    waiting = self.waiting.len(),
                    "the API server fails: such calls are held back everywhere and tried one at a time"
                );
            }
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
