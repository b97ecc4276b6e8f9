//! How many requests an endpoint may get: at most N in any 60 s.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(60);

/// The budget of one endpoint. A sliding log and not a token bucket: a bucket lets up to 2 N pass in some 60 s.
#[derive(Debug)]
pub(super) struct Budget {
    per_minute: Option<u32>,
    sent: VecDeque<Instant>,
    started: Instant,
}

impl Budget {
    /// `per_minute` of `None` means no limit. The first minute is paced evenly, for what was sent before the start
    /// is unknown.
    pub(super) fn new(per_minute: Option<u32>, now: Instant) -> Self {
        Self {
            per_minute,
            sent: VecDeque::new(),
            started: now,
        }
    }

    /// When the next request may be sent; not after `now` means now.
    pub(super) fn next_slot(&mut self, now: Instant) -> Instant {
        let Some(per_minute) = self.per_minute else {
            return now;
        };
        while self
            .sent
            .front()
            .is_some_and(|first| now.duration_since(*first) >= WINDOW)
        {
            self.sent.pop_front();
        }
        let mut slot = now;
        if self.sent.len() >= per_minute as usize
            && let Some(oldest) = self.sent.front()
        {
            slot = *oldest + WINDOW;
        }
        if now.duration_since(self.started) < WINDOW
            && let Some(last) = self.sent.back()
        {
            slot = slot.max(*last + WINDOW / per_minute.max(1));
        }
        slot
    }

    /// Notes a request that was sent before this process began.
    pub(super) fn recall(&mut self, at: Instant) {
        if self.per_minute.is_some() {
            let place = self.sent.partition_point(|other| *other <= at);
            self.sent.insert(place, at);
        }
    }

    /// Whether nothing was sent in the last 60 s, so that there is nothing to remember.
    pub(super) fn is_unused(&self, now: Instant) -> bool {
        self.sent
            .back()
            .is_none_or(|last| now.duration_since(*last) >= WINDOW)
    }

    /// Notes that a request is sent now.
    pub(super) fn take(&mut self, now: Instant) {
        if self.per_minute.is_some() {
            self.sent.push_back(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sends as fast as the budget lets it for ten minutes, with pauses of the given seconds in between.
    fn send_all(per_minute: u32, pauses: &[u64]) -> Vec<Duration> {
        let start = Instant::now();
        let mut budget = Budget::new(Some(per_minute), start);
        let mut now = start;
        let mut sent = Vec::new();
        let mut pauses = pauses.iter().cycle();
        while now.duration_since(start) < Duration::from_secs(600) && sent.len() < 2000 {
            now = budget.next_slot(now).max(now);
            budget.take(now);
            sent.push(now.duration_since(start));
            now += Duration::from_secs(*pauses.next().unwrap_or(&0));
        }
        sent
    }

    proptest! {
        #[test]
        fn never_more_than_the_budget_in_any_60_s(per_minute in 1..60_u32, pauses in prop::collection::vec(0..20_u64, 1..5)) {
            let sent = send_all(per_minute, &pauses);
            for (index, first) in sent.iter().enumerate() {
                let within = sent[index..].iter().take_while(|time| **time - *first < WINDOW).count();
                prop_assert!(within <= per_minute as usize, "{within} from {first:?}");
            }
        }
    }

    #[test]
    fn the_first_minute_is_paced_evenly_and_later_ones_need_not_be() {
        let start = Instant::now();
        let mut budget = Budget::new(Some(20), start);
        budget.take(start);
        assert_eq!(budget.next_slot(start) - start, Duration::from_secs(3));
        let later = start + Duration::from_secs(120);
        assert_eq!(budget.next_slot(later), later);
        budget.take(later);
        assert_eq!(budget.next_slot(later), later);
    }

    #[test]
    fn without_a_limit_every_slot_is_now() {
        let now = Instant::now();
        let mut budget = Budget::new(None, now);
        for _ in 0..1000 {
            budget.take(now);
        }
        assert_eq!(budget.next_slot(now), now);
    }
}
