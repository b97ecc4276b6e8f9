//! The objects to be reconciled: those that are due, and those whose turn it is. Namespaces take turns, so that many
//! objects of one namespace delay no other.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use crate::grants::ObjectKey;

/// The state of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is looked at then.
    Due(Instant),
    /// It waits for its turn.
    Ready,
    /// It is being reconciled; `again` after a change that came meanwhile.
    Running { again: bool },
}

/// The objects that are to be reconciled, each once.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    states: HashMap<Arc<ObjectKey>, State>,
    due: BTreeSet<(Instant, Arc<ObjectKey>)>,
    /// By namespace, the objects that wait for their turn.
    ready: HashMap<Box<str>, VecDeque<Arc<ObjectKey>>>,
    /// The namespaces with objects that wait, the next first.
    namespaces: VecDeque<Box<str>>,
}

impl Turns {
    /// Takes a change: the object is reconciled as soon as it is its turn, and once more where it is being reconciled.
    pub(crate) fn trigger(&mut self, object: ObjectKey) {
        let Some((object, state)) = self.states.get_key_value(&object) else {
            return self.make_ready(Arc::new(object));
        };
        let (object, state) = (Arc::clone(object), *state);
        match state {
            State::Ready => {}
            State::Running { .. } => drop(self.states.insert(object, State::Running { again: true })),
            State::Due(at) => {
                self.due.remove(&(at, Arc::clone(&object)));
                self.make_ready(object);
            }
        }
    }

    /// The object whose turn it is, which counts as being reconciled from now on.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Arc<ObjectKey>> {
        while let Some((at, _)) = self.due.first()
            && *at <= now
        {
            let (_, object) = self.due.pop_first()?;
            self.make_ready(object);
        }
        let namespace = self.namespaces.pop_front()?;
        let waiting = self.ready.get_mut(&namespace)?;
        let object = waiting.pop_front()?;
        if waiting.is_empty() {
            self.ready.remove(&namespace);
        } else {
            self.namespaces.push_back(namespace);
        }
        self.states
            .insert(Arc::clone(&object), State::Running { again: false });
        Some(object)
    }

    /// Takes the end of a reconcile, after which the object is due at `next`; `None` where only a change brings it back.
    pub(crate) fn ended(&mut self, object: Arc<ObjectKey>, next: Option<Instant>) {
        match (self.states.get(&object), next) {
            (Some(State::Running { again: true }), _) => self.make_ready(object),
            (_, Some(at)) => {
                self.states.insert(Arc::clone(&object), State::Due(at));
                self.due.insert((at, object));
            }
            (_, None) => drop(self.states.remove(&object)),
        }
    }

    /// The time at which the next object is due that does not wait for its turn yet.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn make_ready(&mut self, object: Arc<ObjectKey>) {
        self.states.insert(Arc::clone(&object), State::Ready);
        match self.ready.get_mut(object.namespace.as_str()) {
            Some(waiting) => waiting.push_back(object),
            None => {
                let namespace: Box<str> = object.namespace.as_str().into();
                self.namespaces.push_back(namespace.clone());
                self.ready.insert(namespace, VecDeque::from([object]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn key(namespace: &str, number: usize) -> ObjectKey {
        ObjectKey {
            namespace: namespace.to_owned(),
            name: number.to_string(),
        }
    }

    fn next(turns: &mut Turns, now: Instant) -> Option<String> {
        turns.next(now).map(|object| object.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn namespaces_take_turns() {
        let mut turns = Turns::default();
        for number in 0..5000 {
            turns.trigger(key("junk", number));
        }
        for namespace in ["a", "b"] {
            turns.trigger(key(namespace, 1));
            turns.trigger(key(namespace, 2));
        }
        let first: Vec<_> = (0..7).filter_map(|_| next(&mut turns, Instant::now())).collect();
        assert_eq!(first, ["junk/0", "a/1", "b/1", "junk/1", "a/2", "b/2", "junk/2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_reconciled_once_at_a_time_and_once_more_after_a_change() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.trigger(key("a", 1));
        turns.trigger(key("a", 1));
        let running = turns.next(now).unwrap();
        assert_eq!(turns.next(now), None);
        turns.trigger(key("a", 1));
        turns.trigger(key("a", 1));
        assert_eq!(turns.next(now), None, "it is being reconciled");
        turns.ended(running, Some(now + Duration::from_secs(300)));
        let again = turns.next(now).unwrap();
        turns.ended(again, None);
        assert_eq!((turns.next(now), turns.next_due()), (None, None));
        assert!(turns.states.is_empty() && turns.ready.is_empty() && turns.namespaces.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_comes_before_the_time_of_the_next_look() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.trigger(key("a", 1));
        let object = turns.next(now).unwrap();
        let due = now + Duration::from_secs(300);
        turns.ended(Arc::clone(&object), Some(due));
        assert_eq!((turns.next(now), turns.next_due()), (None, Some(due)));
        turns.trigger(key("a", 1));
        assert_eq!(turns.next(now), Some(Arc::clone(&object)));
        assert_eq!(turns.next_due(), None);
        turns.ended(object, Some(due));
        assert_eq!(next(&mut turns, due), Some("a/1".to_owned()));
    }

    proptest! {
        #[test]
        fn every_trigger_is_followed_by_a_reconcile_that_begins_after_it(
            steps in prop::collection::vec((0..3_u8, 0..4_usize, 0..40_u64), 0..60)
        ) {
            let start = Instant::now();
            let mut turns = Turns::default();
            let mut now = start;
            let mut running: Vec<Arc<ObjectKey>> = Vec::new();
            let mut owed = BTreeSet::new();
            for (step, number, seconds) in steps {
                let object = key(if number % 2 == 0 { "a" } else { "b" }, number);
                match step {
                    0 => {
                        owed.insert(object.clone());
                        turns.trigger(object);
                    }
                    1 => {
                        now += Duration::from_secs(seconds);
                        if let Some(object) = turns.next(now) {
                            prop_assert!(!running.contains(&object), "twice at a time");
                            owed.remove(&*object);
                            running.push(object);
                        }
                    }
                    _ => if !running.is_empty() {
                        let ended = running.remove(number % running.len());
                        turns.ended(ended, (seconds > 5).then(|| now + Duration::from_secs(seconds)));
                    },
                }
            }
            for ended in running {
                turns.ended(ended, None);
            }
            while let Some(object) = turns.next(now) {
                owed.remove(&*object);
                turns.ended(object, None);
            }
            prop_assert!(owed.is_empty(), "{owed:?}");
        }
    }
}
