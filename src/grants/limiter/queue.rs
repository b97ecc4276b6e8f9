//! The order in which the waiting grants of one endpoint are served. Those with a live token come by its expiry; every
//! fifth slot goes to those without one, round robin by namespace. So neither starves the other.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::clock::Moment;
use crate::fingerprint::Fingerprint;

/// Grants with a live token that are served in a row, while one without waits.
const LIVE_IN_A_ROW: u32 = 4;

/// The rank of a waiting grant.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rank {
    /// By the expiry of its live token.
    Live(Moment),
    /// By the turn of this namespace.
    Tokenless(String),
}

/// The waiting grants of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    ranks: HashMap<Fingerprint, (Rank, u64)>,
    live: BTreeMap<(Moment, u64), Fingerprint>,
    /// Namespaces in the order of their turns, each with its grants in the order of arrival.
    tokenless: VecDeque<(String, VecDeque<Fingerprint>)>,
    arrivals: u64,
    /// Grants with a live token that were served since the last one without.
    live_in_a_row: u32,
}

impl Queue {
    /// True when no grant waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranks.is_empty()
    }

    /// Adds a grant with the expiry of its live token, or one of `namespace` without a live token. A grant that waits
    /// already stays where it is.
    pub(crate) fn push(&mut self, fingerprint: Fingerprint, live_until: Option<Moment>, namespace: &str) {
        if self.ranks.contains_key(&fingerprint) {
            return;
        }
        self.arrivals += 1;
        let rank = match live_until {
            Some(end) => {
                self.live.insert((end, self.arrivals), fingerprint);
                Rank::Live(end)
            }
            None => {
                match self.tokenless.iter_mut().find(|(name, _)| name == namespace) {
                    Some((_, waiting)) => waiting.push_back(fingerprint),
                    None => self
                        .tokenless
                        .push_back((namespace.to_owned(), VecDeque::from([fingerprint]))),
                }
                Rank::Tokenless(namespace.to_owned())
            }
        };
        self.ranks.insert(fingerprint, (rank, self.arrivals));
    }

    /// Moves a waiting grant forward, where an object that joined it has a live token with an earlier expiry than is
    /// known.
    pub(crate) fn promote(&mut self, fingerprint: Fingerprint, live_until: Option<Moment>) {
        let sooner = match (self.ranks.get(&fingerprint), live_until) {
            (Some((Rank::Live(known), _)), Some(end)) => end < *known,
            (Some((Rank::Tokenless(_), _)), Some(_)) => true,
            _ => false,
        };
        if sooner {
            self.remove(fingerprint);
            self.push(fingerprint, live_until, "");
        }
    }

    /// Takes a grant out of the queue.
    pub(crate) fn remove(&mut self, fingerprint: Fingerprint) {
        let Some((rank, arrival)) = self.ranks.remove(&fingerprint) else {
            return;
        };
        match rank {
            Rank::Live(end) => {
                self.live.remove(&(end, arrival));
            }
            Rank::Tokenless(namespace) => {
                if let Some((_, waiting)) = self.tokenless.iter_mut().find(|(name, _)| *name == namespace) {
                    waiting.retain(|other| *other != fingerprint);
                }
                self.tokenless.retain(|(_, waiting)| !waiting.is_empty());
            }
        }
    }

    /// Takes the next grant to be served out of the queue, without those that `may` refuses.
    pub(crate) fn next(&mut self, may: impl Fn(Fingerprint) -> bool) -> Option<Fingerprint> {
        let live = || self.live.values().copied().find(|fingerprint| may(*fingerprint));
        let tokenless = || {
            let waiting = self.tokenless.iter().flat_map(|(_, waiting)| waiting);
            waiting.copied().find(|fingerprint| may(*fingerprint))
        };
        let fingerprint = if self.live_in_a_row >= LIVE_IN_A_ROW {
            tokenless().or_else(live)?
        } else {
            live().or_else(tokenless)?
        };
        match self.ranks.get(&fingerprint) {
            Some((Rank::Tokenless(namespace), _)) => {
                self.live_in_a_row = 0;
                // The namespace's next turn comes after that of all others.
                if let Some(turn) = self.tokenless.iter().position(|(name, _)| name == namespace)
                    && let Some(served) = self.tokenless.remove(turn)
                {
                    self.tokenless.push_back(served);
                }
            }
            _ => self.live_in_a_row = self.live_in_a_row.saturating_add(1),
        }
        self.remove(fingerprint);
        Some(fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(number: u8) -> Fingerprint {
        Fingerprint::from_bytes([number; 16])
    }

    fn at(second: i64) -> Option<Moment> {
        Some(Moment::at_second(second))
    }

    fn drain(queue: &mut Queue) -> Vec<u8> {
        let mut served = Vec::new();
        while let Some(fingerprint) = queue.next(|_| true) {
            served.push(fingerprint.jitter());
        }
        served
    }

    #[test]
    fn live_tokens_are_served_by_their_expiry() {
        let mut queue = Queue::default();
        for (number, expires) in [(1, 300), (2, 100), (3, 200)] {
            queue.push(grant(number), at(expires), "a");
        }
        assert_eq!(drain(&mut queue), [2, 3, 1]);
    }

    #[test]
    fn every_fifth_slot_goes_to_those_without_a_token() {
        let mut queue = Queue::default();
        for number in 0..8 {
            queue.push(grant(number), at(i64::from(number)), "a");
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
    fn a_grant_waits_in_one_place_only() {
        let mut queue = Queue::default();
        queue.push(grant(1), None, "a");
        queue.push(grant(1), None, "b");
        queue.push(grant(2), at(5), "a");
        assert_eq!(queue.ranks.len(), 2);
        assert_eq!(drain(&mut queue), [2, 1]);
    }

    #[test]
    fn a_removed_grant_is_not_served() {
        let mut queue = Queue::default();
        queue.push(grant(1), None, "a");
        queue.push(grant(2), at(5), "a");
        queue.remove(grant(1));
        queue.remove(grant(1));
        assert_eq!(drain(&mut queue), [2]);
        assert!(queue.is_empty());
    }
}
