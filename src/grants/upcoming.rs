//! Tokens that will need a request before long, and for which slots of the budget are kept: a burst of first-time
//! grants must not use up a minute's budget while a short-lived token ends in that minute.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::budget::Budget;
use crate::fingerprint::Fingerprint;
use crate::policy::schedule::later;

/// A request is sent this long before the token's end at the latest, so that the new one is published by then.
pub(super) const LEAD_SECONDS: i64 = 5;
/// A request that is sent now and answered soon counts this long at the most.
const HORIZON: Duration = Duration::from_secs(65);
/// Tokens that live longer are due, and stand in the queue, longer than that before their end.
const LONGEST_LIFE: SignedDuration = SignedDuration::from_secs(150);

/// The tokens of one endpoint of which no refresh is sent yet, by their end.
#[derive(Debug, Default)]
pub(super) struct Upcoming {
    by_end: BTreeSet<(Timestamp, Fingerprint)>,
    ends: HashMap<Fingerprint, Timestamp>,
}

impl Upcoming {
    /// A token that lives from `issued` to `expires` will be refreshed.
    pub(super) fn expect(&mut self, fingerprint: Fingerprint, issued: Timestamp, expires: Timestamp) {
        self.forget(fingerprint);
        if expires.duration_since(issued) <= LONGEST_LIFE {
            self.ends.insert(fingerprint, expires);
            self.by_end.insert((expires, fingerprint));
        }
    }

    /// Its refresh is sent, or nobody uses it.
    pub(super) fn forget(&mut self, fingerprint: Fingerprint) {
        if let Some(end) = self.ends.remove(&fingerprint) {
            self.by_end.remove(&(end, fingerprint));
        }
    }

    /// Whether none is expected.
    pub(super) fn is_empty(&self) -> bool {
        self.by_end.is_empty()
    }

    /// Forgets tokens that have ended.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        while let Some((end, fingerprint)) = self.by_end.first().copied()
            && end <= now
        {
            self.by_end.remove(&(end, fingerprint));
            self.ends.remove(&fingerprint);
        }
    }

    /// Whether each of them can still be refreshed in time when a request with the deadline `live_until` is sent now.
    /// Those that end after it are no reason to hold it back.
    pub(super) fn allow(
        &self,
        live_until: Option<Timestamp>,
        budget: &Budget,
        now: Instant,
        wall: Timestamp,
    ) -> bool {
        if !budget.is_limited() {
            return true;
        }
        let sooner = self.by_end.iter().map(|(end, _)| *end);
        sooner
            .take_while(|end| live_until.is_none_or(|deadline| *end < deadline))
            .enumerate()
            .filter_map(|(earlier, end)| {
                let left = later(end, -LEAD_SECONDS).duration_since(wall);
                Some((earlier, Duration::try_from(left).ok()?))
            })
            .take_while(|(_, left)| *left < HORIZON)
            .all(|(earlier, left)| budget.left_until(now + left, now) > earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: i64 = 1_800_000_000;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(WALL + second).unwrap()
    }

    fn grant(number: u8) -> Fingerprint {
        Fingerprint::from_bytes([number; 16])
    }

    /// A budget with `left` requests in this minute.
    fn budget(left: usize) -> (Budget, Instant) {
        let began = Instant::now();
        let now = began + Duration::from_secs(3600);
        let mut budget = Budget::new(Some(20), 32, began, now);
        for _ in left..20 {
            budget.sent(now);
            budget.ended(now);
        }
        (budget, now)
    }

    fn upcoming(ends: &[i64]) -> Upcoming {
        let mut upcoming = Upcoming::default();
        for (number, end) in (0..).zip(ends) {
            upcoming.expect(grant(number), time(end - 60), time(*end));
        }
        upcoming
    }

    #[test]
    fn a_slot_is_kept_for_each_token_that_ends_within_the_window() {
        let upcoming = upcoming(&[20, 40, 200]);
        for (left, allowed) in [(1, false), (2, false), (3, true)] {
            let (budget, now) = budget(left);
            assert_eq!(upcoming.allow(None, &budget, now, time(0)), allowed, "{left}");
        }
    }

    #[test]
    fn slots_that_come_free_in_time_need_not_be_kept() {
        let upcoming = upcoming(&[20, 40]);
        let (budget, now) = budget(1);
        // 21 s later, one token has ended and the other ends after the window has moved on.
        let later = now + Duration::from_secs(30);
        assert!(!upcoming.allow(None, &budget, now, time(0)));
        assert!(upcoming.allow(None, &budget, later, time(-60)));
    }

    #[test]
    fn a_token_that_ends_sooner_is_not_held_back() {
        let upcoming = upcoming(&[20, 40]);
        let (budget, now) = budget(1);
        assert!(upcoming.allow(Some(time(10)), &budget, now, time(0)));
        assert!(upcoming.allow(Some(time(20)), &budget, now, time(0)));
        assert!(!upcoming.allow(Some(time(30)), &budget, now, time(0)));
    }

    #[test]
    fn what_is_asked_for_has_ended_or_lives_long_keeps_nothing() {
        let mut upcoming = upcoming(&[20, 40]);
        upcoming.expect(grant(9), time(-100), time(51));
        upcoming.forget(grant(0));
        upcoming.sweep(time(40));
        let (budget, now) = budget(1);
        assert!(upcoming.allow(None, &budget, now, time(40)));
        assert!(upcoming.is_empty() && upcoming.ends.is_empty());
    }

    #[test]
    fn without_a_limit_nothing_is_kept() {
        let now = Instant::now();
        let budget = Budget::new(None, 32, now, now);
        assert!(upcoming(&[20]).allow(None, &budget, now, time(0)));
    }
}
