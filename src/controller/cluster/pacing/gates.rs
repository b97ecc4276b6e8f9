//! The gates of one kind of calls, and the objects that wait at them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::clock::Moment;
use crate::grants::ObjectKey;
use crate::policy::backoff;

use super::gate::Gate;
use super::{Call, Pass, REMINDER};

/// The number of objects that look at a gate as soon as it may be tried: one of a namespace, of as many namespaces.
const MOST_TRIERS: usize = 20;
/// A gate whose pause ended so long ago is forgotten.
const RETENTION: Duration = Duration::from_secs(600);

/// The failure of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    /// The HTTP status; `None` without an answer.
    pub(super) code: Option<u16>,
    pub(super) retry_after: Option<Duration>,
    /// The moment of the answer; without one, that at which the call was sent.
    pub(super) at: Moment,
}

/// The gates of one kind of calls.
#[derive(Debug, Default)]
pub(super) struct Gates {
    /// That of all namespaces.
    pub(super) all: Gate,
    pub(super) namespaces: HashMap<String, Gate>,
    /// The last answer.
    pub(super) answered: Option<Moment>,
    /// The objects that wait.
    pub(super) waiting: HashSet<ObjectKey>,
    /// Those of them that look as soon as the gate may be tried, by namespace, and the moment of that look.
    pub(super) triers: HashMap<String, (ObjectKey, Moment)>,
}

impl Gates {
    /// An answer to `call` opens the gates. Gives the objects that may go on.
    pub(super) fn open(&mut self, call: &Call, now: Moment) -> Vec<ObjectKey> {
        self.answered = Some(now);
        let of_all = self.all.open();
        if of_all.is_some() {
            // The other namespaces may be tried at once; each opens by its own answer.
            self.namespaces.values_mut().for_each(|gate| gate.try_at(now));
        }
        let of_namespace = self.namespaces.remove(&call.namespace);
        let Some(since) = of_all.or(of_namespace.and_then(|mut gate| gate.open())) else {
            return Vec::new();
        };
        tracing::info!(
            calls = call.kind.words(),
            namespace = call.namespace,
            seconds = now.since(since).as_secs(),
            waiting = self.waiting.len(),
            "the API server answers such calls again"
        );
        self.wake()
    }

    /// Has `object` wait until the gate opens. True where it is to look after `wait`, when the gate may be tried: no other
    /// one of its namespace does, or has missed its time.
    pub(super) fn wait_for(&mut self, object: &ObjectKey, now: Moment, wait: Duration) -> bool {
        self.waiting.insert(object.clone());
        self.triers.retain(|_, (trier, at)| *at >= now && trier != object);
        let may_try = self.triers.len() < MOST_TRIERS && !self.triers.contains_key(&object.namespace);
        if may_try {
            let trier = (object.clone(), now + wait);
            self.triers.insert(object.namespace.clone(), trier);
        }
        may_try
    }

    /// Takes the objects that may go on.
    pub(super) fn wake(&mut self) -> Vec<ObjectKey> {
        if !self.all.is_open() {
            return Vec::new();
        }
        self.triers.clear();
        // One object of each namespace that still has to be tried goes on too.
        let mut tried = HashSet::new();
        let namespaces = &self.namespaces;
        self.waiting
            .extract_if(|object| {
                !namespaces.contains_key(&object.namespace) || tried.insert(object.namespace.clone())
            })
            .collect()
    }

    pub(super) fn give_back(&mut self, pass: &Pass) {
        self.all.give_back(pass.all);
        if let Some(gate) = self.namespaces.get_mut(&pass.call.namespace) {
            gate.give_back(pass.namespace);
        }
    }

    /// Closes the gate of the namespace, and that of all where such calls of another one have failed too, with no answer
    /// in between. Nothing is logged where it `is_told` already that nothing is answered.
    pub(super) fn fail(&mut self, pass: &Pass, failure: Failure, is_told: bool, now: Moment) {
        let (kind, namespace) = (pass.call.kind, &pass.call.namespace);
        let pause = |failures| backoff::after_server_error(failures, failure.retry_after);
        self.namespaces.retain(|_, gate| !gate.is_stale(now, RETENTION));
        let gate = self.namespaces.entry(namespace.clone()).or_default();
        gate.close(pass.namespace, failure.at, now, pause);
        if !is_told && gate.reminds(now, REMINDER) {
            tracing::warn!(
                calls = kind.words(),
                namespace,
                code = failure.code,
                seconds = gate.failing_for(now).as_secs(),
                waiting = self.waiting.len(),
                "the API server fails or does not answer: such calls in this namespace are held back and tried one at a time"
            );
        }
        let answered = self.answered;
        let failing = self
            .namespaces
            .values()
            .filter(|gate| gate.has_failed_since(answered));
        let is_outdated = answered.is_some_and(|answered| answered > failure.at);
        if !is_outdated && (!self.all.is_open() || failing.count() > 1) {
            self.all.close(pass.all, failure.at, now, pause);
            if !is_told && self.all.reminds(now, REMINDER) {
                tracing::warn!(
                    calls = kind.words(),
                    code = failure.code,
                    seconds = self.all.failing_for(now).as_secs(),
                    waiting = self.waiting.len(),
                    "the API server fails or does not answer: such calls are held back everywhere and tried one at a time"
                );
            }
        }
    }
}
