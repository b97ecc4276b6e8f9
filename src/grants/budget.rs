//! How many requests an endpoint may get: at most N in any 60 s, as the vendor counts them.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// The budget of one endpoint. A sliding log and not a token bucket: a bucket lets up to 2 N pass in some 60 s.
///
/// A request counts from when it is sent until 60 s after it has ended: when in between the vendor has counted it is
/// not known, and a slow request before a quick one would make N + 1 in 60 s there.
#[derive(Debug)]
pub(super) struct Budget {
    per_minute: Option<u32>,
    most_in_flight: usize,
    /// When the requests of the last 60 s ended, the oldest first.
    ended: VecDeque<Instant>,
    in_flight: usize,
    last_sent: Option<Instant>,
    began: Instant,
}

impl Budget {
    /// `per_minute` of `None` means no limit. `began` is when this process began to send: what was sent before is known
    /// in part only, so the first minute is paced evenly. At most `max_concurrent` requests are in flight, and of a
    /// limited number few enough that a process which is killed leaves most of a minute's to the next one.
    pub(super) fn new(per_minute: Option<u32>, max_concurrent: usize, began: Instant, now: Instant) -> Self {
        let most_in_flight = per_minute.map_or(max_concurrent, |requests| {
            max_concurrent.min(requests as usize / 4).max(1)
        });
        let mut budget = Self {
            per_minute,
            most_in_flight,
            ended: VecDeque::new(),
            in_flight: 0,
            last_sent: None,
            began,
        };
        if now.duration_since(began) < WINDOW {
            budget.begins(began);
        }
        budget
    }

    /// From `began` on this process sends, and another one may have sent until then. Were it killed, nothing would tell
    /// of what it had in flight: as many requests as that can be count as sent.
    pub(super) fn begins(&mut self, began: Instant) {
        self.began = began;
        for _ in 0..self.unknown() {
            self.note(began);
        }
    }

    /// How many requests may be in flight.
    pub(super) fn most_in_flight(&self) -> usize {
        self.most_in_flight
    }

    /// How many requests another process may have had in flight; none where that would be all there are.
    fn unknown(&self) -> usize {
        let all = self.per_minute.unwrap_or_default() as usize;
        self.most_in_flight.min(all / 4)
    }

    /// When the next request may be sent; not after `now` means now, and `None` when one in flight has ended.
    pub(super) fn next_slot(&mut self, now: Instant) -> Option<Instant> {
        let Some(per_minute) = self.per_minute else {
            return Some(now);
        };
        while self
            .ended
            .front()
            .is_some_and(|first| now.duration_since(*first) >= WINDOW)
        {
            self.ended.pop_front();
        }
        let mut slot = now;
        let too_many = (self.ended.len() + self.in_flight + 1).saturating_sub(per_minute as usize);
        if let Some(last) = too_many.checked_sub(1) {
            slot = *self.ended.get(last)? + WINDOW;
        }
        Some(slot.max(self.paced_from(now).unwrap_or(now)))
    }

    /// In the first minute: when the next request may be sent at the even pace.
    fn paced_from(&self, now: Instant) -> Option<Instant> {
        let last = self.last_sent?;
        (now.duration_since(self.began) < WINDOW).then(|| last + self.even_pace())
    }

    /// When the next request may be sent that has time: once half of the window is used up, they are sent evenly, so
    /// that whoever comes in a hurry finds a slot soon. What was sent in one moment comes free in one moment.
    pub(super) fn even_slot(&self, now: Instant) -> Instant {
        let used = self.ended.len() + self.in_flight;
        match (self.per_minute, self.last_sent) {
            (Some(per_minute), Some(last)) if used * 2 >= per_minute as usize => {
                now.max(last + self.even_pace())
            }
            _ => now,
        }
    }

    /// The time between two requests when the whole budget is used evenly.
    pub(super) fn even_pace(&self) -> Duration {
        WINDOW / self.per_minute.unwrap_or(u32::MAX).max(1)
    }

    /// How many requests can be sent until `then` after one that is sent now.
    pub(super) fn left_until(&self, then: Instant, now: Instant) -> usize {
        let Some(per_minute) = self.per_minute else {
            return usize::MAX;
        };
        let counting = self.ended.iter().filter(|ended| **ended + WINDOW > then).count();
        let left = (per_minute as usize).saturating_sub(counting + self.in_flight + 1);
        if now.duration_since(self.began) < WINDOW {
            let paced = then.duration_since(now).as_millis() / self.even_pace().as_millis().max(1);
            left.min(usize::try_from(paced).unwrap_or(usize::MAX))
        } else {
            left
        }
    }

    /// Whether requests are limited.
    pub(super) fn is_limited(&self) -> bool {
        self.per_minute.is_some()
    }

    /// Notes a request that was sent before this process began, and had ended at `at`.
    pub(super) fn recall(&mut self, at: Instant) {
        if self.per_minute.is_some() {
            self.note(at);
            self.last_sent = self.last_sent.max(Some(at.min(self.began)));
        }
    }

    fn note(&mut self, at: Instant) {
        let place = self.ended.partition_point(|other| *other <= at);
        self.ended.insert(place, at);
    }

    /// Whether nothing was sent in the last 60 s, so that there is nothing to remember.
    pub(super) fn is_unused(&self, now: Instant) -> bool {
        self.in_flight == 0
            && self
                .ended
                .back()
                .is_none_or(|last| now.duration_since(*last) >= WINDOW)
    }

    /// Notes that a request is sent now.
    pub(super) fn sent(&mut self, now: Instant) {
        if self.per_minute.is_some() {
            self.in_flight += 1;
            self.last_sent = Some(now);
        }
    }

    /// Notes that a request has ended, however it did: it may have been counted up to now.
    pub(super) fn ended(&mut self, now: Instant) {
        if self.per_minute.is_some() {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.note(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A request as the vendor sees it.
    #[derive(Debug)]
    struct Sent {
        at: Duration,
        counted: Duration,
    }

    /// Sends as fast as the budget lets it for ten minutes, with pauses of the given seconds in between, to a vendor
    /// that takes the given milliseconds for an answer and counts a request somewhere in between.
    fn send_all(per_minute: u32, pauses: &[u64], latencies: &[(u64, u64)]) -> Vec<Sent> {
        let start = Instant::now();
        let mut budget = Budget::new(Some(per_minute), 32, start, start);
        let mut now = start;
        let mut sent = Vec::new();
        let mut ends: Vec<Instant> = Vec::new();
        let (mut pauses, mut latencies) = (pauses.iter().cycle(), latencies.iter().cycle());
        while now.duration_since(start) < Duration::from_secs(600) && sent.len() < 2000 {
            let slot = budget.next_slot(now);
            let end = ends.iter().min().copied();
            match (slot, end) {
                (Some(slot), end) if end.is_none_or(|end| slot < end) => {
                    now = slot.max(now);
                    budget.sent(now);
                    let (latency, part) = latencies.next().copied().unwrap_or_default();
                    let latency = Duration::from_millis(latency);
                    ends.push(now + latency);
                    sent.push(Sent {
                        at: now - start,
                        counted: now - start + latency * u32::try_from(part).unwrap() / 100,
                    });
                    now += Duration::from_secs(pauses.next().copied().unwrap_or_default());
                }
                (_, Some(end)) => {
                    ends.retain(|other| *other != end);
                    now = now.max(end);
                    budget.ended(end);
                }
                (None, None) => panic!("waits for nothing"),
                (Some(_), None) => unreachable!(),
            }
        }
        sent
    }

    fn most_in_a_minute(mut counted: Vec<Duration>) -> usize {
        counted.sort();
        let within = |(index, first): (usize, &Duration)| {
            counted[index..]
                .iter()
                .take_while(|time| **time - *first < WINDOW)
                .count()
        };
        counted.iter().enumerate().map(within).max().unwrap_or_default()
    }

    proptest! {
        #[test]
        fn never_more_than_the_budget_in_any_60_s(
            per_minute in 1..60_u32,
            pauses in prop::collection::vec(0..20_u64, 1..5),
            latencies in prop::collection::vec((0..30_000_u64, 0..=100_u64), 1..7),
        ) {
            let sent = send_all(per_minute, &pauses, &latencies);
            let most = most_in_a_minute(sent.iter().map(|sent| sent.counted).collect());
            prop_assert!(most <= per_minute as usize, "{most}: {sent:?}");
        }
    }

    #[test]
    fn all_of_the_budget_can_be_used() {
        for per_minute in [1, 3, 20, 150] {
            let sent = send_all(per_minute, &[0], &[(0, 0)]);
            let late: Vec<_> = sent.iter().filter(|sent| sent.at >= WINDOW * 2).collect();
            assert!(
                late.len() >= 7 * per_minute as usize,
                "{} of {per_minute}",
                late.len()
            );
        }
    }

    #[test]
    fn the_first_minute_is_paced_evenly_and_later_ones_need_not_be() {
        let start = Instant::now();
        let mut budget = Budget::new(Some(20), 32, start, start);
        assert_eq!(budget.next_slot(start), Some(start));
        budget.sent(start);
        budget.ended(start);
        let pace = budget.next_slot(start).unwrap() - start;
        assert_eq!(pace, Duration::from_secs(3));
        let later = start + Duration::from_secs(120);
        for _ in 0..20 {
            assert_eq!(budget.next_slot(later), Some(later));
            budget.sent(later);
        }
        assert_eq!(budget.next_slot(later), None, "until one has ended");
        budget.ended(later + Duration::from_secs(2));
        let again = budget.next_slot(later + Duration::from_secs(3));
        assert_eq!(again, Some(later + Duration::from_secs(62)));
    }

    #[test]
    fn a_process_that_is_killed_leaves_most_of_a_minute() {
        let start = Instant::now();
        for (per_minute, in_flight, unknown) in [(1, 1, 0), (3, 1, 0), (20, 5, 5), (600, 32, 32)] {
            let budget = Budget::new(Some(per_minute), 32, start, start);
            assert_eq!(budget.most_in_flight(), in_flight);
            assert_eq!(budget.ended.len(), unknown);
        }
        assert_eq!(Budget::new(None, 32, start, start).most_in_flight(), 32);
    }

    #[test]
    fn what_was_sent_before_counts_and_so_does_what_may_have_been_in_flight() {
        let start = Instant::now() + Duration::from_secs(1000);
        let mut budget = Budget::new(Some(20), 32, start, start);
        for ago in 1..=15 {
            budget.recall(start - Duration::from_secs(ago));
        }
        assert_eq!(budget.next_slot(start), Some(start + Duration::from_secs(45)));
        let later = start + Duration::from_secs(600);
        assert_eq!(budget.next_slot(later), Some(later));
        budget.begins(later);
        assert_eq!(budget.ended.len(), 5, "it leads again");
    }

    #[test]
    fn what_can_be_sent_by_a_time_is_known_beforehand() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut budget = Budget::new(Some(20), 32, start, at(600));
        for second in 0..10 {
            budget.sent(at(600));
            budget.ended(at(600 + second));
        }
        budget.sent(at(610));
        assert_eq!(budget.left_until(at(659), at(610)), 8);
        assert_eq!(budget.left_until(at(660), at(610)), 9);
        assert_eq!(budget.left_until(at(669), at(610)), 18);
        let mut paced = Budget::new(Some(20), 32, start, start);
        paced.sent(start);
        assert_eq!(paced.left_until(at(30), start), 10);
        assert_eq!(
            paced.left_until(at(59), start),
            13,
            "a quarter may have been in flight"
        );
    }

    #[test]
    fn half_of_the_window_is_for_who_comes_first_and_the_rest_is_spread() {
        let began = Instant::now();
        let now = began + Duration::from_secs(600);
        let mut budget = Budget::new(Some(20), 32, began, now);
        for _ in 0..10 {
            assert_eq!(budget.even_slot(now), now);
            budget.sent(now);
            budget.ended(now);
        }
        assert_eq!(budget.even_slot(now), now + Duration::from_secs(3));
        assert_eq!(budget.next_slot(now), Some(now), "there is room for a hurry");
    }

    #[test]
    fn without_a_limit_every_slot_is_now() {
        let now = Instant::now();
        let mut budget = Budget::new(None, 32, now, now);
        for _ in 0..1000 {
            budget.sent(now);
        }
        assert_eq!(budget.next_slot(now), Some(now));
        assert_eq!(budget.even_slot(now), now);
    }
}
