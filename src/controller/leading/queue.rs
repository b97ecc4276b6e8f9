//! The VendorTokens that wait for a reconcile. Namespaces take turns, so that a tenant with thousands of them delays
//! nobody else's, and none has all places, so that a tenant whose calls hang delays nobody else's either.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use crate::grants::ObjectKey;

/// A namespace has no more reconciles at a time than this many for each place that is free: three quarters of all places
/// where it is alone, fewer beside others.
const RUNNING_FOR_EACH_FREE: usize = 3;

/// The reason for a reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// A change in the cluster, or the time of the next look.
    Look,
    /// An attempt at a vendor has ended: its token is published before another one is asked for.
    Outcome,
}

/// The state of one VendorToken in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting(Cause),
    /// It is reconciled now, and then again where a cause came meanwhile.
    Running(Option<Cause>),
    Later(Instant),
}

/// The waiting VendorTokens of one namespace, in the order in which they came.
#[derive(Debug, Default)]
struct Line {
    outcomes: VecDeque<Arc<ObjectKey>>,
    looks: VecDeque<Arc<ObjectKey>>,
}

/// The queue (see [the module](self)). A VendorToken is in it once, and is reconciled by one task at a time.
#[derive(Debug, Default)]
pub(super) struct ReconcileQueue {
    states: HashMap<Arc<ObjectKey>, State>,
    /// The waiting ones, by namespace. An entry of which the state says otherwise was served in another line.
    lines: HashMap<String, Line>,
    /// The namespaces with an entry, in the order of their turns.
    turns: VecDeque<String>,
    /// The number of reconciles that are under way, by namespace.
    running: HashMap<String, usize>,
    later: BTreeSet<(Instant, Arc<ObjectKey>)>,
}

impl ReconcileQueue {
    /// Adds a VendorToken that is to be reconciled now.
    pub(super) fn trigger(&mut self, object: ObjectKey, cause: Cause) {
        let (object, state) = match self.states.remove_entry(&object) {
            Some((object, state)) => (object, Some(state)),
            None => (Arc::new(object), None),
        };
        let next = match state {
            Some(State::Waiting(known)) if known >= cause => State::Waiting(known),
            Some(State::Running(again)) => State::Running(again.max(Some(cause))),
            Some(State::Later(at)) => {
                self.later.remove(&(at, Arc::clone(&object)));
                State::Waiting(cause)
            }
            Some(State::Waiting(_)) | None => State::Waiting(cause),
        };
        if matches!(next, State::Waiting(_)) && state != Some(next) {
            self.enter(&object, cause);
        }
        self.states.insert(object, next);
    }

    /// Adds the VendorTokens whose next look is due.
    pub(super) fn pass_to(&mut self, now: Instant) {
        while let Some((at, object)) = self.later.first().cloned()
            && at <= now
        {
            self.later.pop_first();
            self.states
                .insert(Arc::clone(&object), State::Waiting(Cause::Look));
            self.enter(&object, Cause::Look);
        }
    }

    /// Takes the next VendorToken to be reconciled, where so many places are `free`: of the namespace whose turn it is.
    /// One that has its share of the places keeps its turn until it may have another.
    pub(super) fn next(&mut self, free: usize) -> Option<Arc<ObjectKey>> {
        while let Some(turn) = self
            .turns
            .iter()
            .position(|namespace| self.may_run(namespace, free))
            && let Some(namespace) = self.turns.remove(turn)
        {
            let Some(line) = self.lines.get_mut(&namespace) else {
                continue;
            };
            let found = loop {
                let (object, cause) = match line.outcomes.pop_front() {
                    Some(object) => (object, Cause::Outcome),
                    None => match line.looks.pop_front() {
                        Some(object) => (object, Cause::Look),
                        None => break None,
                    },
                };
                if self.states.get(&object) == Some(&State::Waiting(cause)) {
                    break Some(object);
                }
            };
            if line.outcomes.is_empty() && line.looks.is_empty() {
                self.lines.remove(&namespace);
            } else {
                self.turns.push_back(namespace);
            }
            if let Some(object) = found {
                *self.running.entry(object.namespace.clone()).or_default() += 1;
                self.states.insert(Arc::clone(&object), State::Running(None));
                return Some(object);
            }
        }
        None
    }

    /// True where the namespace has less than its share of the places. Few have more: their reconciles are counted.
    fn may_run(&self, namespace: &str, free: usize) -> bool {
        let running = self.running.get(namespace).copied().unwrap_or_default();
        running < free.saturating_mul(RUNNING_FOR_EACH_FREE)
    }

    /// Notes that the reconcile of `object` has ended, and is to be followed by another look at `next` at the latest.
    pub(super) fn done(&mut self, object: &Arc<ObjectKey>, next: Option<Instant>) {
        let again = match self.states.remove(object) {
            Some(State::Running(again)) => {
                self.has_ended(&object.namespace);
                again
            }
            Some(State::Waiting(_) | State::Later(_)) | None => None,
        };
        if let Some(cause) = again {
            self.states.insert(Arc::clone(object), State::Waiting(cause));
            self.enter(object, cause);
        } else if let Some(at) = next {
            self.states.insert(Arc::clone(object), State::Later(at));
            self.later.insert((at, Arc::clone(object)));
        }
    }

    fn has_ended(&mut self, namespace: &str) {
        if let Some(running) = self.running.get_mut(namespace) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(namespace);
            }
        }
    }

    /// The time of the next look of all; `None` without one.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    fn enter(&mut self, object: &Arc<ObjectKey>, cause: Cause) {
        let namespace = &object.namespace;
        if !self.lines.contains_key(namespace) {
            self.turns.push_back(namespace.clone());
            self.lines.insert(namespace.clone(), Line::default());
        }
        if let Some(line) = self.lines.get_mut(namespace) {
            match cause {
                Cause::Outcome => line.outcomes.push_back(Arc::clone(object)),
                Cause::Look => line.looks.push_back(Arc::clone(object)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// As many free places as anybody needs.
    const ALL: usize = usize::MAX;

    fn object(name: &str) -> ObjectKey {
        let (namespace, name) = name.split_once('/').unwrap();
        ObjectKey {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn queue(looks: &[&str]) -> ReconcileQueue {
        let mut queue = ReconcileQueue::default();
        for name in looks {
            queue.trigger(object(name), Cause::Look);
        }
        queue
    }

    /// All that wait, in the order in which they are reconciled.
    fn order(queue: &mut ReconcileQueue) -> Vec<String> {
        std::iter::from_fn(|| queue.next(ALL))
            .map(|object| object.to_string())
            .collect()
    }

    #[test]
    fn namespaces_take_turns() {
        let mut queue = queue(&["many/1", "many/2", "many/3", "few/1", "other/1", "few/2"]);
        let expected = ["many/1", "few/1", "other/1", "many/2", "few/2", "many/3"];
        assert_eq!(order(&mut queue), expected);
    }

    #[test]
    fn an_object_of_another_namespace_comes_next_beside_thousands() {
        let mut queue = ReconcileQueue::default();
        for number in 0..5000 {
            queue.trigger(object(&format!("hostile/{number}")), Cause::Look);
        }
        order(&mut queue).truncate(0);
        for number in 0..5000 {
            queue.done(&Arc::new(object(&format!("hostile/{number}"))), None);
            queue.trigger(object(&format!("hostile/{number}")), Cause::Look);
        }
        queue.trigger(object("other/1"), Cause::Look);
        assert_eq!(order(&mut queue)[1], "other/1");
    }

    #[test]
    fn the_outcome_of_an_attempt_comes_before_other_looks_of_its_namespace() {
        let mut queue = queue(&["a/1", "a/2", "b/1"]);
        queue.trigger(object("a/2"), Cause::Outcome);
        queue.trigger(object("a/3"), Cause::Outcome);
        assert_eq!(order(&mut queue), ["a/2", "b/1", "a/3", "a/1"]);
    }

    /// Begins reconciles until all places are taken or none may begin, and gives their number by namespace.
    fn fill(queue: &mut ReconcileQueue, places: usize) -> HashMap<String, usize> {
        while let Some(free) = places.checked_sub(queue.running.values().sum())
            && free > 0
            && queue.next(free).is_some()
        {}
        queue.running.clone()
    }

    #[test]
    fn a_namespace_whose_reconciles_hang_leaves_places_to_others() {
        let mut queue = ReconcileQueue::default();
        for number in 0..100 {
            queue.trigger(object(&format!("hanging/{number}")), Cause::Look);
        }
        assert_eq!(fill(&mut queue, 42), HashMap::from([("hanging".to_owned(), 32)]));
        for number in 0..100 {
            queue.trigger(object(&format!("worse/{number}")), Cause::Look);
        }
        assert_eq!(fill(&mut queue, 42)["worse"], 8);
        // One at a time is served there, as fast as its reconciles end.
        for number in 0..100 {
            queue.trigger(object(&format!("good/{number}")), Cause::Look);
            let served = queue.next(2).unwrap();
            assert_eq!(served.to_string(), format!("good/{number}"));
            queue.done(&served, None);
        }
        // A reconcile that hung has ended: the namespaces that waited take their turns.
        queue.done(&Arc::new(object("hanging/0")), None);
        assert_eq!(queue.next(3).unwrap().namespace, "worse");
    }

    #[test]
    fn namespaces_share_the_places_evenly() {
        let mut queue = ReconcileQueue::default();
        for number in 0..100 {
            for namespace in ["a", "b", "c"] {
                queue.trigger(object(&format!("{namespace}/{number}")), Cause::Look);
            }
        }
        let expected =
            [("a", 10), ("b", 10), ("c", 9)].map(|(namespace, count)| (namespace.to_owned(), count));
        assert_eq!(fill(&mut queue, 32), HashMap::from(expected));
        assert_eq!(
            fill(&mut super::tests::queue(&["a/1", "a/2"]), 1)["a"],
            1,
            "one place is used"
        );
    }

    #[test]
    fn an_object_that_waits_already_is_reconciled_once() {
        let mut queue = queue(&["a/1", "a/1"]);
        queue.trigger(object("a/1"), Cause::Outcome);
        queue.trigger(object("a/1"), Cause::Look);
        assert_eq!(order(&mut queue), ["a/1"]);
    }

    #[test]
    fn a_change_during_a_reconcile_brings_another_one_after_it() {
        let mut queue = queue(&["a/1"]);
        let running = queue.next(ALL).unwrap();
        queue.trigger(object("a/1"), Cause::Look);
        assert_eq!(queue.next(ALL), None, "one task at a time");
        queue.done(&running, Some(Instant::now() + Duration::from_secs(300)));
        assert_eq!(order(&mut queue), ["a/1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_next_look_waits_for_its_time_or_for_a_change() {
        let mut queue = queue(&["a/1", "a/2"]);
        let start = Instant::now();
        for seconds in [300, 100] {
            let running = queue.next(ALL).unwrap();
            queue.done(&running, Some(start + Duration::from_secs(seconds)));
        }
        assert_eq!(queue.next_look(), Some(start + Duration::from_secs(100)));
        queue.pass_to(start + Duration::from_secs(99));
        assert_eq!(queue.next(ALL), None);
        queue.trigger(object("a/1"), Cause::Look);
        queue.pass_to(start + Duration::from_secs(100));
        assert_eq!(order(&mut queue), ["a/1", "a/2"]);
        assert_eq!(
            queue.next_look(),
            None,
            "a look that came sooner takes the place of the later one"
        );
    }

    #[test]
    fn an_object_without_a_next_look_leaves_nothing_behind() {
        let mut queue = queue(&["a/1"]);
        let running = queue.next(ALL).unwrap();
        queue.done(&running, None);
        assert_eq!(queue.next(ALL), None);
        assert!(queue.states.is_empty() && queue.lines.is_empty() && queue.turns.is_empty());
        assert!(queue.running.is_empty());
    }

    proptest! {
        /// Whatever comes, nothing that was asked for is lost, nothing runs twice at a time, and no namespace has two turns
        /// while another waits.
        #[test]
        fn every_object_is_reconciled_after_its_last_cause(
            steps in prop::collection::vec((0..4_u8, 0..3_u8, 0..4_u8), 1..200)
        ) {
            let start = Instant::now();
            let mut queue = ReconcileQueue::default();
            let mut wanted: HashSet<ObjectKey> = HashSet::new();
            let mut running: Vec<Arc<ObjectKey>> = Vec::new();
            let mut turns: Vec<(String, HashSet<String>)> = Vec::new();
            for (number, (step, namespace, name)) in (0_u64..).zip(steps) {
                let key = object(&format!("{namespace}/{name}"));
                match step {
                    0 | 1 => {
                        let cause = if step == 0 { Cause::Look } else { Cause::Outcome };
                        queue.trigger(key.clone(), cause);
                        wanted.insert(key);
                        turns.clear();
                    }
                    2 => {
                        let next = queue.next(ALL);
                        let can_run = wanted.iter().any(|key| !running.iter().any(|other| **other == *key));
                        prop_assert_eq!(next.is_some(), can_run);
                        if let Some(next) = next {
                            prop_assert!(!running.contains(&next));
                            prop_assert!(wanted.remove(&*next));
                            let others: HashSet<_> = wanted
                                .iter()
                                .filter(|key| !running.iter().any(|other| **other == **key))
                                .map(|key| key.namespace.clone())
                                .collect();
                            for (namespace, waited) in &mut turns {
                                let starved = waited.contains(&next.namespace) && others.contains(namespace);
                                prop_assert!(!starved, "{} twice while {namespace} waits", next.namespace);
                                waited.insert(next.namespace.clone());
                            }
                            turns.retain(|(namespace, _)| *namespace != next.namespace);
                            turns.extend(others.iter().map(|namespace| (namespace.clone(), HashSet::new())));
                            running.push(next);
                        }
                    }
                    _ => {
                        if let Some(ended) = running.pop() {
                            queue.done(&ended, Some(start + Duration::from_secs(1_000_000 + number)));
                            turns.clear();
                        }
                    }
                }
            }
            for ended in running {
                queue.done(&ended, None);
            }
            let rest: HashSet<_> = std::iter::from_fn(|| queue.next(ALL)).map(|key| (*key).clone()).collect();
            prop_assert_eq!(rest, wanted);
        }
    }
}
