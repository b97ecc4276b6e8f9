//! The order in which waiting grants of one endpoint are served: live tokens by their expiry, and every fifth slot
//! for expired and first-time grants, round robin by namespace, so that neither starves the other.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

use super::upcoming::LEAD_SECONDS;
use crate::fingerprint::Fingerprint;
use crate::policy::schedule::later;

/// After so many live tokens, the next slot goes to those who have none.
const LIVE_IN_A_ROW: u32 = 4;

/// Where a waiting grant stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Live(Timestamp),
    Needy(String),
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) fingerprint: Fingerprint,
    /// Until when its token is valid; `None` without one.
    pub(super) live_until: Option<Timestamp>,
    /// It is served now, whatever else needs the slot: those without a token have waited for four others.
    pub(super) owed: bool,
}

/// The waiting grants of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Queue {
    places: HashMap<Fingerprint, (Place, u64)>,
    live: BTreeMap<(Timestamp, u64), Fingerprint>,
    /// Namespaces in the order of their turns, each with its grants in the order of arrival.
    needy: VecDeque<(String, VecDeque<Fingerprint>)>,
    arrivals: u64,
    /// Live tokens that were served since the last one that had none.
    live_in_a_row: u32,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds a grant whose token expires at `live_until`, or one of `namespace` without a live token.
    pub(super) fn push(&mut self, fingerprint: Fingerprint, live_until: Option<Timestamp>, namespace: &str) {
        if self.places.contains_key(&fingerprint) {
            return;
        }
        self.arrivals += 1;
        let place = match live_until {
            Some(expires) => {
                self.live.insert((expires, self.arrivals), fingerprint);
                Place::Live(expires)
            }
            None => {
                match self.needy.iter_mut().find(|(name, _)| name == namespace) {
                    Some((_, waiting)) => waiting.push_back(fingerprint),
                    None => self
                        .needy
                        .push_back((namespace.to_owned(), VecDeque::from([fingerprint]))),
                }
                Place::Needy(namespace.to_owned())
            }
        };
        self.places.insert(fingerprint, (place, self.arrivals));
    }

    /// Brings a waiting grant forward, where somebody who joined it has a token that ends sooner than is known.
    pub(super) fn hasten(&mut self, fingerprint: Fingerprint, live_until: Option<Timestamp>) {
        let sooner = match (self.places.get(&fingerprint), live_until) {
            (Some((Place::Live(known), _)), Some(expires)) => expires < *known,
            (Some((Place::Needy(_), _)), Some(_)) => true,
            _ => false,
        };
        if sooner {
            self.remove(fingerprint);
            self.push(fingerprint, live_until, "");
        }
    }

    /// Takes a grant out of the queue.
    pub(super) fn remove(&mut self, fingerprint: Fingerprint) {
        let Some((place, arrival)) = self.places.remove(&fingerprint) else {
            return;
        };
        match place {
            Place::Live(expires) => {
                self.live.remove(&(expires, arrival));
            }
            Place::Needy(namespace) => {
                if let Some((_, waiting)) = self.needy.iter_mut().find(|(name, _)| *name == namespace) {
                    waiting.retain(|other| *other != fingerprint);
                }
                self.needy.retain(|(_, waiting)| !waiting.is_empty());
            }
        }
    }

    /// Whose turn it is, leaving out those that `may` refuses.
    pub(super) fn turn(&self, may: impl Fn(Fingerprint) -> bool) -> Option<Turn> {
        let live = |owed| {
            let (place, fingerprint) = self.live.iter().find(|(_, fingerprint)| may(**fingerprint))?;
            Some(Turn {
                fingerprint: *fingerprint,
                live_until: Some(place.0),
                owed,
            })
        };
        let needy = |owed| {
            let mut waiting = self.needy.iter().flat_map(|(_, waiting)| waiting);
            let fingerprint = *waiting.find(|fingerprint| may(**fingerprint))?;
            Some(Turn {
                fingerprint,
                live_until: None,
                owed,
            })
        };
        if self.live_in_a_row >= LIVE_IN_A_ROW {
            needy(true).or_else(|| live(false))
        } else {
            live(false).or_else(|| needy(false))
        }
    }

    /// Whether a token would end before its turn comes, were one grant served every `pace` from `now` on.
    pub(super) fn is_in_a_hurry(&self, pace: Duration, now: Timestamp) -> bool {
        // Those without a token take every fifth slot.
        let pace = if self.needy.is_empty() {
            pace
        } else {
            pace * (LIVE_IN_A_ROW + 1) / LIVE_IN_A_ROW
        };
        let all = pace.saturating_mul(u32::try_from(self.live.len()).unwrap_or(u32::MAX));
        let left = |end: Timestamp| {
            Duration::try_from(later(end, -LEAD_SECONDS).duration_since(now)).unwrap_or_default()
        };
        self.live
            .keys()
            .map(|(end, _)| left(*end))
            .take_while(|left| *left < all)
            .zip(1_u32..)
            .any(|(left, turn)| left < pace.saturating_mul(turn))
    }

    /// Serves the one whose turn it is.
    pub(super) fn serve(&mut self, turn: &Turn) {
        if turn.live_until.is_some() {
            self.live_in_a_row = self.live_in_a_row.saturating_add(1);
        } else {
            self.live_in_a_row = 0;
        }
        if let Some((Place::Needy(namespace), _)) = self.places.get(&turn.fingerprint)
            && let Some(turn) = self.needy.iter().position(|(name, _)| name == namespace)
            && let Some(served) = self.needy.remove(turn)
        {
            self.needy.push_back(served);
        }
        self.remove(turn.fingerprint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(number: u8) -> Fingerprint {
        Fingerprint::from_bytes([number; 16])
    }

    fn time(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    fn drain(queue: &mut Queue) -> Vec<u8> {
        let mut served = Vec::new();
        while let Some(turn) = queue.turn(|_| true) {
            queue.serve(&turn);
            served.push(turn.fingerprint.jitter());
        }
        served
    }

    #[test]
    fn live_tokens_are_served_by_their_expiry() {
        let mut queue = Queue::default();
        for (number, expires) in [(1, 300), (2, 100), (3, 200)] {
            queue.push(grant(number), time(expires), "a");
        }
        assert_eq!(drain(&mut queue), [2, 3, 1]);
    }

    #[test]
    fn every_fifth_slot_goes_to_those_without_a_token() {
        let mut queue = Queue::default();
        for number in 0..8 {
            queue.push(grant(number), time(i64::from(number)), "a");
        }
        queue.push(grant(100), None, "a");
        queue.push(grant(101), None, "a");
        assert_eq!(drain(&mut queue), [0, 1, 2, 3, 100, 4, 5, 6, 7, 101]);
    }

    #[test]
    fn those_without_a_token_are_served_round_robin_by_namespace() {
        let mut queue = Queue::default();
        for number in 1..=3 {
            queue.push(grant(number), None, "many");
        }
        queue.push(grant(9), None, "few");
        assert_eq!(drain(&mut queue), [1, 9, 2, 3]);
    }

    #[test]
    fn a_hurry_is_when_one_would_end_before_its_turn() {
        let hurry = |ends: &[i64], needy: u8| {
            let mut queue = Queue::default();
            for (number, end) in (0..).zip(ends) {
                queue.push(grant(number), time(1000 + LEAD_SECONDS + end), "a");
            }
            for number in 0..needy {
                queue.push(grant(100 + number), None, "a");
            }
            queue.is_in_a_hurry(Duration::from_secs(4), time(1000).unwrap())
        };
        assert!(!hurry(&[], 9));
        assert!(!hurry(&[4, 8, 12], 0));
        assert!(hurry(&[4, 7, 12], 0));
        assert!(hurry(&[-100, 8, 12], 0));
        assert!(hurry(&[9, 9, 9], 0), "the third of them");
        assert!(hurry(&[4, 8, 12], 1), "every fifth slot is another's");
        assert!(!hurry(&[5, 10, 15], 1));
    }

    #[test]
    fn a_grant_waits_once_and_can_leave() {
        let mut queue = Queue::default();
        queue.push(grant(1), None, "a");
        queue.push(grant(1), None, "b");
        queue.push(grant(2), time(5), "a");
        assert_eq!(queue.places.len(), 2);
        queue.remove(grant(1));
        queue.remove(grant(1));
        assert_eq!(drain(&mut queue), [2]);
        assert!(queue.is_empty());
    }
}
