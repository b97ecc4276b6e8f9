//! The order in which the waiting grants of one endpoint are served, fair between namespaces.
//!
//! A grant is *live* while its stored token is valid. Live ones are served by the end of that token, until a namespace
//! has had its share of the last 60 s: then the namespace that was served least comes next. Every fifth slot goes to
//! those that are not live, round robin by namespace. So neither a namespace nor one of the two kinds starves another.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::budget::WINDOW;
use crate::clock::Moment;
use crate::fingerprint::Fingerprint;

/// Live grants that are served in a row, while another waits.
const LIVE_IN_A_ROW: u32 = 4;
/// A token that ends within this time cannot be saved: the answer takes some of it, and so does its publishing. Its
/// grant is served as if it had ended, so that it takes no slot from one that can be saved.
const LEAD: Duration = Duration::from_secs(2);
/// Services that are remembered at most. An endpoint that serves more in 60 s makes nobody wait for long.
const MOST_SERVICES: usize = 4096;

/// The name of a namespace.
pub(crate) type Namespace = Arc<str>;

/// A grant that is to be served now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) fingerprint: Fingerprint,
    /// The namespace whose turn it is.
    pub(crate) namespace: Namespace,
}

/// The place of a grant in the line of one namespace.
#[derive(Clone, Copy, Debug)]
struct Place {
    arrival: u64,
    /// The end of the stored token, while it counts as live.
    live_until: Option<Moment>,
}

/// The waiting grants of one namespace.
#[derive(Debug, Default)]
struct Line {
    /// By the end of their stored tokens.
    live: BTreeSet<(Moment, u64, Fingerprint)>,
    /// In the order of arrival.
    waiting: BTreeSet<(u64, Fingerprint)>,
    /// The services of live grants in the last 60 s.
    served: usize,
}

/// The waiting grants of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// A grant that several namespaces use has a place in the line of each, and the first turn serves all.
    places: HashMap<Fingerprint, BTreeMap<Namespace, Place>>,
    lines: BTreeMap<Namespace, Line>,
    /// The namespaces with a grant that is not live, in the order of their turns.
    turns: VecDeque<Namespace>,
    /// The services of live grants in the last 60 s, the oldest first.
    services: VecDeque<(Moment, Namespace)>,
    arrivals: u64,
    /// The number of live grants that were served since the last grant without a live token.
    live_in_a_row: u32,
}

impl Queue {
    /// True when no grant waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The end of the live token that ends first.
    pub(crate) fn first_end(&self) -> Option<Moment> {
        let heads = self.lines.values().filter_map(|line| line.live.first());
        heads.map(|(end, _, _)| *end).min()
    }

    /// Adds a grant of `namespace`, with the end of its stored token where that token is live. A grant that waits there
    /// already stays where it is, or moves forward.
    pub(crate) fn push(&mut self, fingerprint: Fingerprint, live_until: Option<Moment>, namespace: &str) {
        let known = self
            .places
            .get(&fingerprint)
            .and_then(|places| places.get_key_value(namespace));
        match known {
            Some((namespace, place)) => {
                let (namespace, place) = (Arc::clone(namespace), *place);
                let is_sooner = match (place.live_until, live_until) {
                    (Some(known), Some(end)) => end < known,
                    (None, end) => end.is_some(),
                    (Some(_), None) => false,
                };
                if is_sooner {
                    self.leave(fingerprint, &namespace, place);
                    self.enter(fingerprint, &namespace, Place { live_until, ..place });
                }
            }
            None => {
                self.arrivals += 1;
                let namespace = self
                    .lines
                    .get_key_value(namespace)
                    .map_or_else(|| Arc::from(namespace), |(name, _)| Arc::clone(name));
                let arrival = self.arrivals;
                self.enter(fingerprint, &namespace, Place { arrival, live_until });
            }
        }
    }

    /// Takes a grant out of the queue.
    pub(crate) fn remove(&mut self, fingerprint: Fingerprint) {
        for (namespace, place) in self.places.remove(&fingerprint).unwrap_or_default() {
            self.leave(fingerprint, &namespace, place);
        }
    }

    /// Takes the next grant to be served now out of the queue, without those that `may` refuses. `capacity` is the number
    /// of requests that the endpoint can serve in 60 s (`None`: as many as it has).
    pub(crate) fn next(
        &mut self,
        now: Moment,
        capacity: Option<usize>,
        may: impl Fn(Fingerprint) -> bool,
    ) -> Option<Served> {
        self.pass_to(now);
        let live = || Some((self.next_live(capacity, &may)?, true));
        let waiting = || Some((self.next_waiting(&may)?, false));
        let (served, is_live) = if self.live_in_a_row >= LIVE_IN_A_ROW {
            waiting().or_else(live)?
        } else {
            live().or_else(waiting)?
        };
        if is_live {
            self.live_in_a_row = self.live_in_a_row.saturating_add(1);
            self.lines
                .entry(Arc::clone(&served.namespace))
                .or_default()
                .served += 1;
            self.services.push_back((now, Arc::clone(&served.namespace)));
            if self.services.len() > MOST_SERVICES {
                self.forget_oldest_service();
            }
        } else {
            self.live_in_a_row = 0;
            // The namespace's next turn comes after that of all others.
            self.turns.retain(|name| *name != served.namespace);
            self.turns.push_back(Arc::clone(&served.namespace));
        }
        self.remove(served.fingerprint);
        Some(served)
    }

    /// Takes the rank from grants whose stored token has ended by `now`, and forgets services of more than 60 s ago.
    fn pass_to(&mut self, now: Moment) {
        while self
            .services
            .front()
            .is_some_and(|(at, _)| now.since(*at) >= WINDOW)
        {
            self.forget_oldest_service();
        }
        let ended: Vec<_> = self
            .lines
            .iter()
            .flat_map(|(namespace, line)| {
                let ended = line.live.iter().take_while(|(end, _, _)| *end <= now + LEAD);
                ended.map(|(_, _, fingerprint)| (*fingerprint, Arc::clone(namespace)))
            })
            .collect();
        for (fingerprint, namespace) in ended {
            let place = self
                .places
                .get(&fingerprint)
                .and_then(|places| places.get(&namespace));
            if let Some(place) = place.copied() {
                self.leave(fingerprint, &namespace, place);
                let live_until = None;
                self.enter(fingerprint, &namespace, Place { live_until, ..place });
            }
        }
    }

    fn forget_oldest_service(&mut self) {
        if let Some((_, namespace)) = self.services.pop_front()
            && let Some(line) = self.lines.get_mut(&namespace)
        {
            line.served = line.served.saturating_sub(1);
            self.drop_line_if_unused(&namespace);
        }
    }

    /// The live grant whose token ends first, among the namespaces that have not had their share. Where all have had
    /// it, the first of the namespace that was served least.
    fn next_live(&self, capacity: Option<usize>, may: impl Fn(Fingerprint) -> bool) -> Option<Served> {
        let heads: Vec<_> = self
            .lines
            .iter()
            .filter_map(|(namespace, line)| {
                let mut live = line.live.iter();
                let (end, arrival, fingerprint) = *live.find(|(_, _, fingerprint)| may(*fingerprint))?;
                Some((line.served, end, arrival, fingerprint, namespace))
            })
            .collect();
        let share = share(capacity.unwrap_or(self.services.len()), heads.len());
        let rank = |(served, end, arrival, ..): &(usize, Moment, u64, Fingerprint, &Namespace)| {
            let beyond = if *served < share { 0 } else { *served };
            (beyond, *end, *arrival)
        };
        let (.., fingerprint, namespace) = heads.into_iter().min_by_key(rank)?;
        Some(Served {
            fingerprint,
            namespace: Arc::clone(namespace),
        })
    }

    /// The grant without a live token that came first, of the namespace whose turn it is.
    fn next_waiting(&self, may: impl Fn(Fingerprint) -> bool) -> Option<Served> {
        self.turns.iter().find_map(|namespace| {
            let mut waiting = self.lines.get(namespace)?.waiting.iter();
            let (_, fingerprint) = *waiting.find(|(_, fingerprint)| may(*fingerprint))?;
            Some(Served {
                fingerprint,
                namespace: Arc::clone(namespace),
            })
        })
    }

    /// Gives a grant its place in the line of `namespace`.
    fn enter(&mut self, fingerprint: Fingerprint, namespace: &Namespace, place: Place) {
        let line = self.lines.entry(Arc::clone(namespace)).or_default();
        match place.live_until {
            Some(end) => {
                line.live.insert((end, place.arrival, fingerprint));
            }
            None => {
                if line.waiting.is_empty() && !self.turns.contains(namespace) {
                    self.turns.push_back(Arc::clone(namespace));
                }
                line.waiting.insert((place.arrival, fingerprint));
            }
        }
        let places = self.places.entry(fingerprint).or_default();
        places.insert(Arc::clone(namespace), place);
    }

    /// Takes a grant out of the line of `namespace`.
    fn leave(&mut self, fingerprint: Fingerprint, namespace: &Namespace, place: Place) {
        if let Some(line) = self.lines.get_mut(namespace) {
            match place.live_until {
                Some(end) => {
                    line.live.remove(&(end, place.arrival, fingerprint));
                }
                None => {
                    line.waiting.remove(&(place.arrival, fingerprint));
                    if line.waiting.is_empty() {
                        self.turns.retain(|name| name != namespace);
                    }
                }
            }
        }
        if let Some(places) = self.places.get_mut(&fingerprint) {
            places.remove(namespace);
        }
        self.drop_line_if_unused(namespace);
    }

    fn drop_line_if_unused(&mut self, namespace: &Namespace) {
        let is_unused = self
            .lines
            .get(namespace)
            .is_some_and(|line| line.served == 0 && line.live.is_empty() && line.waiting.is_empty());
        if is_unused {
            self.lines.remove(namespace);
        }
    }
}

/// The live grants of one namespace that are served by their end alone, where as many namespaces have live ones. The
/// fifth slots are not for live grants.
fn share(capacity: usize, namespaces: usize) -> usize {
    let for_live = capacity * LIVE_IN_A_ROW as usize / (LIVE_IN_A_ROW as usize + 1);
    (for_live / namespaces.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::grants::tests::{at, grant};

    /// Waiting grants: the number, the namespace, and the second after the 100th in which the stored token ends.
    type Waiting<'a> = (u8, &'a str, Option<i64>);

    fn queue(waiting: &[Waiting<'_>]) -> Queue {
        let mut queue = Queue::default();
        for (number, namespace, end) in waiting {
            queue.push(grant(*number), end.map(|end| at(100 + end)), namespace);
        }
        queue
    }

    /// The numbers of the grants in the order in which they are served, all at this second, by an endpoint that serves so
    /// many in a minute.
    fn served(queue: &mut Queue, second: i64, capacity: usize) -> Vec<u8> {
        std::iter::from_fn(|| queue.next(at(second), Some(capacity), |_| true))
            .map(|served| served.fingerprint.jitter())
            .collect()
    }

    #[rstest]
    #[case::live_ones_by_the_end_of_their_tokens(
        &[(1, "a", Some(300)), (2, "b", Some(100)), (3, "a", Some(200))], &[2, 3, 1]
    )]
    #[case::those_without_a_live_token_by_turns_of_their_namespaces(
        &[(1, "many", None), (2, "many", None), (3, "many", None), (9, "few", None)], &[1, 9, 2, 3]
    )]
    #[case::those_without_a_live_token_in_every_fifth_slot(
        &[(1, "a", Some(1)), (2, "a", Some(2)), (3, "a", Some(3)), (4, "a", Some(4)), (5, "a", Some(5)),
          (6, "a", Some(6)), (7, "a", Some(7)), (8, "a", Some(8)), (100, "a", None), (101, "a", None)],
        &[1, 2, 3, 4, 100, 5, 6, 7, 8, 101]
    )]
    #[case::a_namespace_that_has_had_its_share_after_those_that_have_not(
        // Four of five slots in a minute, for two namespaces.
        &[(1, "a", Some(1)), (2, "a", Some(2)), (3, "a", Some(3)), (4, "a", Some(4)), (9, "b", Some(99)),
          (10, "b", Some(100))],
        &[1, 2, 9, 10, 3, 4]
    )]
    #[case::namespaces_by_turns_once_all_have_had_their_share(
        &[(1, "a", Some(1)), (2, "a", Some(2)), (3, "a", Some(3)), (4, "a", Some(4)), (9, "b", Some(99)),
          (10, "b", Some(100)), (11, "b", Some(101)), (12, "b", Some(102))],
        &[1, 2, 9, 10, 3, 11, 4, 12]
    )]
    #[case::a_grant_of_two_namespaces_once(
        &[(1, "a", None), (2, "a", None), (1, "b", None), (3, "b", None)], &[1, 3, 2]
    )]
    #[case::a_grant_that_another_object_has_a_live_token_of_as_a_live_one(
        &[(1, "a", None), (2, "a", Some(50)), (1, "a", Some(20))], &[1, 2]
    )]
    #[case::a_grant_of_a_namespace_without_turns_in_the_turn_of_another(
        &[(1, "a", Some(1)), (2, "a", Some(2)), (3, "a", Some(3)), (4, "a", Some(4)), (3, "b", Some(900))],
        &[1, 2, 3, 4]
    )]
    fn waiting_grants_are_served_in_an_order(#[case] waiting: &[Waiting<'_>], #[case] expected: &[u8]) {
        let mut queue = queue(waiting);
        assert_eq!(served(&mut queue, 0, 5), expected);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_grant_whose_token_cannot_be_saved_loses_its_rank() {
        let mut queue = queue(&[(1, "a", Some(10)), (2, "b", Some(20))]);
        assert_eq!(served(&mut queue, 108, 20), [2, 1]);
    }

    #[test]
    fn a_share_is_one_of_the_last_60_s() {
        let mut queue = Queue::default();
        let mut first = |second: i64| {
            for (number, end) in [(1, 200), (2, 201), (3, 202)] {
                queue.push(grant(number), Some(at(end)), "a");
            }
            queue.push(grant(9), Some(at(999)), "b");
            let served = served(&mut queue, second, 5);
            served.iter().position(|number| *number == 9)
        };
        assert_eq!(first(0), Some(2));
        assert_eq!(first(59), Some(0), "the other one has had its share");
        assert_eq!(first(150), Some(2));
    }

    #[test]
    fn a_removed_grant_is_not_served() {
        let mut queue = queue(&[(1, "a", None), (2, "a", Some(5)), (1, "b", Some(7))]);
        queue.remove(grant(1));
        queue.remove(grant(1));
        assert_eq!(served(&mut queue, 0, 20), [2]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_namespace_leaves_nothing_behind() {
        let mut queue = queue(&[(1, "a", None), (2, "b", Some(5)), (3, "c", Some(7))]);
        queue.remove(grant(3));
        assert_eq!(served(&mut queue, 0, 20), [2, 1]);
        assert_eq!(queue.next(at(60), None, |_| true), None);
        assert!(queue.lines.is_empty() && queue.turns.is_empty() && queue.places.is_empty());
    }

    #[test]
    fn a_namespace_with_many_takes_no_turns_from_one_with_few() {
        // 250 of one namespace, whose tokens all end first, at an endpoint of 20 a minute.
        let mut queue = Queue::default();
        for number in 0..250 {
            queue.push(grant(number), Some(at(100 + i64::from(number))), "many");
        }
        queue.push(grant(251), Some(at(900)), "few");
        queue.push(grant(252), Some(at(901)), "few");
        let order: Vec<_> = served(&mut queue, 0, 20);
        let places = [251, 252].map(|few| order.iter().position(|number| *number == few));
        assert_eq!(places, [Some(8), Some(9)]);
    }

    /// One event of a run: some seconds pass, a grant of a namespace comes, and some are served.
    #[derive(Clone, Debug)]
    struct Step {
        seconds: i64,
        namespace: u8,
        life: Option<i64>,
        serves: usize,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (
            0..4_i64,
            0..4_u8,
            prop::option::weighted(0.8, 1..200_i64),
            0..3_usize,
        );
        let step = step.prop_map(|(seconds, namespace, life, serves)| Step {
            seconds,
            namespace,
            life,
            serves,
        });
        prop::collection::vec(step, 1..150)
    }

    /// A waiting grant, as the rule sees it.
    #[derive(Clone, Debug)]
    struct Model {
        namespace: u8,
        end: Option<i64>,
    }

    proptest! {
        /// The rule in plain form, over whole runs: whatever waits is served while there are slots, no namespace gets more
        /// than its share while another that has live grants got less, and below the share the first to end is served.
        #[test]
        fn no_namespace_gets_less_than_its_share_while_another_has_more(steps in steps()) {
            const CAPACITY: usize = 10;
            let mut queue = Queue::default();
            let mut waiting: BTreeMap<u8, Model> = BTreeMap::new();
            let mut services: Vec<(i64, u8)> = Vec::new();
            let (mut now, mut live_in_a_row) = (0, 0);
            for (number, step) in (0..).zip(&steps) {
                now += step.seconds;
                let end = step.life.map(|life| now + life);
                queue.push(grant(number), end.map(at), &step.namespace.to_string());
                waiting.insert(number, Model { namespace: step.namespace, end });
                for _ in 0..step.serves {
                    services.retain(|(sent, _)| now - sent < 60);
                    for model in waiting.values_mut() {
                        model.end = model.end.filter(|end| at(now) + LEAD < at(*end));
                    }
                    let Some(served) = queue.next(at(now), Some(CAPACITY), |_| true) else {
                        prop_assert!(waiting.is_empty());
                        break;
                    };
                    let number = served.fingerprint.jitter();
                    let served = waiting.remove(&number).unwrap();
                    let live: Vec<_> = waiting.values().filter(|model| model.end.is_some()).collect();
                    let had = |namespace: u8| services.iter().filter(|(_, other)| *other == namespace).count();
                    let Some(end) = served.end else {
                        prop_assert!(live.is_empty() || live_in_a_row >= 4);
                        live_in_a_row = 0;
                        continue;
                    };
                    let others_wait = waiting.values().any(|model| model.end.is_none());
                    prop_assert!(live_in_a_row < 4 || !others_wait);
                    live_in_a_row += 1;
                    let mut namespaces: Vec<_> = live.iter().map(|model| model.namespace).collect();
                    namespaces.push(served.namespace);
                    namespaces.sort_unstable();
                    namespaces.dedup();
                    let share = (CAPACITY * 4 / 5 / namespaces.len()).max(1);
                    for other in live {
                        if had(served.namespace) >= share {
                            prop_assert!(had(other.namespace) >= had(served.namespace));
                        } else if had(other.namespace) < share {
                            prop_assert!(other.end.unwrap() >= end);
                        }
                    }
                    services.push((now, served.namespace));
                }
            }
        }
    }
}
