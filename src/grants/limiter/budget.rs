//! The budget of an endpoint: at most N requests in any 60 s, as the vendor counts them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Moment;

/// The period of a budget.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// The part of a budget that may be sent at once, and be in flight at a time.
fn at_once(per_minute: u32) -> usize {
    (per_minute as usize / 4).max(1)
}

/// The budget of one endpoint. A sliding log and not a token bucket: a bucket lets up to 2 N pass in some 60 s.
///
/// A request counts from its start until 60 s after its end. The vendor counts it at some moment in between, and would
/// otherwise count N + 1 in 60 s where a slow request comes before a quick one.
#[derive(Debug)]
pub(crate) struct Budget {
    per_minute: Option<u32>,
    most_in_flight: usize,
    /// The ends of the requests of the last 60 s, the oldest first.
    ended: VecDeque<Moment>,
    in_flight: usize,
    /// The moment at which the last request was sent.
    last_sent: Option<Moment>,
    /// The moment at which the one before it was sent.
    sent_before: Option<Moment>,
}

impl Budget {
    /// Gives a budget of `per_minute` requests (`None`: no limit), of which `max_concurrent` may be in flight, but with
    /// a limit only a quarter of it (at least one): a process that is killed leaves most of a minute's requests to the
    /// next one. This process has sent since `leading_since`.
    pub(crate) fn new(
        per_minute: Option<u32>,
        max_concurrent: usize,
        leading_since: Moment,
        now: Moment,
    ) -> Self {
        let most_in_flight =
            per_minute.map_or(max_concurrent, |requests| max_concurrent.min(at_once(requests)));
        let mut budget = Self {
            per_minute,
            most_in_flight,
            ended: VecDeque::new(),
            in_flight: 0,
            last_sent: None,
            sent_before: None,
        };
        if now.since(leading_since) < WINDOW {
            budget.start_leading(leading_since);
        }
        budget
    }

    /// Counts as sent at `since` the requests that another process may have had in flight when this one began to lead:
    /// were that process killed, nothing would show them.
    pub(crate) fn start_leading(&mut self, since: Moment) {
        for _ in 0..self.possibly_in_flight_before() {
            self.insert(since);
        }
    }

    /// The number of requests that may be in flight.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.most_in_flight
    }

    /// The number of requests that another process may have had in flight, up to a quarter of the budget.
    fn possibly_in_flight_before(&self) -> usize {
        let all = self.per_minute.unwrap_or_default() as usize;
        self.most_in_flight.min(all / 4)
    }

    /// The number of requests in any 60 s; `None` for no limit.
    pub(crate) fn per_minute(&self) -> Option<usize> {
        self.per_minute.map(|requests| requests as usize)
    }

    /// The moment from which the next request may be sent, `now` or earlier for at once; `None` where one in flight has
    /// to end first. Once a quarter of the requests is used, the others are sent evenly: a burst must not use up the
    /// slots of a whole minute, in which tokens end that live for a minute only.
    pub(crate) fn next_slot(&mut self, now: Moment) -> Option<Moment> {
        let Some(per_minute) = self.per_minute else {
            return Some(now);
        };
        while self
            .ended
            .front()
            .is_some_and(|first| now.since(*first) >= WINDOW)
        {
            self.ended.pop_front();
        }
        let used = self.ended.len() + self.in_flight;
        match used.checked_sub(per_minute as usize) {
            Some(too_many) => Some(*self.ended.get(too_many)? + WINDOW),
            None => {
                let evenly = self.last_sent.filter(|_| used >= at_once(per_minute));
                Some(evenly.map_or(now, |last| last + WINDOW / per_minute))
            }
        }
    }

    /// Counts a request that was sent before this process led, and ended at `ended`.
    pub(crate) fn count_earlier(&mut self, ended: Moment) {
        if self.per_minute.is_some() {
            self.insert(ended);
        }
    }

    fn insert(&mut self, ended: Moment) {
        let place = self.ended.partition_point(|other| *other <= ended);
        self.ended.insert(place, ended);
    }

    /// True when no request counts any more, so that the budget can be dropped.
    pub(crate) fn is_unused(&self, now: Moment) -> bool {
        self.in_flight == 0 && self.ended.back().is_none_or(|last| now.since(*last) >= WINDOW)
    }

    /// Counts a request that is sent now.
    pub(crate) fn sent(&mut self, now: Moment) {
        self.sent_before = self.last_sent.replace(now);
        if self.per_minute.is_some() {
            self.in_flight += 1;
        }
    }

    /// Counts no more a request that was to be sent at `slot` and was not: the next one has its slot.
    pub(crate) fn not_sent(&mut self, slot: Moment) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.last_sent == Some(slot) {
            self.last_sent = self.sent_before.take();
        }
    }

    /// Counts a request until 60 s from now, the moment of its end: the vendor may have counted it until now.
    pub(crate) fn ended(&mut self, now: Moment) {
        if self.per_minute.is_some() {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.insert(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn moment(second: i64) -> Moment {
        Moment::at_second(second)
    }

    /// A request as the vendor sees it.
    #[derive(Debug)]
    struct Sent {
        at: Duration,
        counted: Duration,
    }

    /// Sends as fast as the budget allows for ten minutes, with these pauses in seconds, to a vendor with these
    /// latencies in milliseconds. The percentage beside each says when in that time the vendor counts the request.
    fn send_all(per_minute: u32, pauses: &[u64], latencies: &[(u64, u64)]) -> Vec<Sent> {
        let start = moment(0);
        let mut budget = Budget::new(Some(per_minute), 32, start, start);
        let mut now = start;
        let mut sent = Vec::new();
        let mut ends: Vec<Moment> = Vec::new();
        let (mut pauses, mut latencies) = (pauses.iter().cycle(), latencies.iter().cycle());
        while now.since(start) < Duration::from_secs(600) && sent.len() < 2000 {
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
                        at: now.since(start),
                        counted: now.since(start) + latency * u32::try_from(part).unwrap() / 100,
                    });
                    now = now + Duration::from_secs(pauses.next().copied().unwrap_or_default());
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
        fn no_60_s_have_more_requests_than_the_budget(
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
    fn a_request_counts_until_a_minute_after_its_end() {
        let start = moment(0);
        let mut budget = Budget::new(Some(20), 32, start, moment(120));
        let later = moment(120);
        for _ in 0..20 {
            let slot = budget.next_slot(later).unwrap();
            assert!(slot < later + WINDOW);
            budget.sent(slot);
        }
        assert_eq!(budget.next_slot(later), None, "until one has ended");
        budget.ended(moment(122));
        assert_eq!(budget.next_slot(moment(123)), Some(moment(182)));
    }

    #[test]
    fn a_killed_process_leaves_most_of_the_budget() {
        let start = moment(0);
        for (per_minute, in_flight, unknown) in [(1, 1, 0), (3, 1, 0), (20, 5, 5), (600, 32, 32)] {
            let budget = Budget::new(Some(per_minute), 32, start, start);
            assert_eq!(budget.most_in_flight(), in_flight);
            assert_eq!(budget.ended.len(), unknown);
        }
        assert_eq!(Budget::new(None, 32, start, start).most_in_flight(), 32);
    }

    #[test]
    fn earlier_requests_count_for_a_minute() {
        let start = moment(1000);
        let mut budget = Budget::new(Some(20), 32, start, start);
        for ago in 1..=15 {
            budget.count_earlier(moment(1000 - ago));
        }
        assert_eq!(budget.next_slot(start), Some(start + Duration::from_secs(45)));
        let later = start + Duration::from_secs(600);
        assert_eq!(budget.next_slot(later), Some(later));
    }

    #[test]
    fn a_new_term_counts_requests_that_may_be_in_flight() {
        let later = moment(1000);
        let mut budget = Budget::new(Some(20), 32, moment(0), later);
        assert_eq!(budget.ended.len(), 0);
        budget.start_leading(later);
        assert_eq!(budget.ended.len(), 5);
    }

    #[test]
    fn a_quarter_is_sent_at_once_and_the_others_evenly() {
        let mut budget = Budget::new(Some(20), 32, moment(0), moment(120));
        let slots: Vec<_> = (0..8)
            .map(|_| {
                let slot = budget.next_slot(moment(120)).unwrap();
                budget.sent(slot);
                budget.ended(slot);
                slot
            })
            .collect();
        let expected = [120, 120, 120, 120, 120, 123, 126, 129];
        assert_eq!(slots, expected.map(moment));
    }

    #[test]
    fn without_a_limit_every_slot_is_now() {
        let now = moment(0);
        let mut budget = Budget::new(None, 32, now, now);
        for _ in 0..1000 {
            budget.sent(now);
        }
        assert_eq!(budget.next_slot(now), Some(now));
    }
}
