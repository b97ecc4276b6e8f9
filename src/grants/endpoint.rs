//! One vendor endpoint: its budget, its queue, its pauses.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::budget::Budget;
use super::queue::Queue;
use super::upcoming::Upcoming;
use crate::clock::Deadline;
use crate::fingerprint::Fingerprint;
use crate::policy::backoff::holds;
use crate::providers::Vendor;

/// A slot that is kept for a token is looked at again this soon.
const NEXT_LOOK: Duration = Duration::from_millis(250);

/// The state of one endpoint.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) vendor: Vendor,
    pub(super) queue: Queue,
    pub(super) budget: Budget,
    pub(super) upcoming: Upcoming,
    pub(super) in_flight: usize,
    /// Nothing is sent before this time.
    paused_until: Option<Deadline>,
    suspicion: Option<Suspicion>,
    /// Nobody who waits is in a hurry until then.
    unhurried_until: Option<Instant>,
}

/// One grant was throttled, and whether the endpoint is meant is not known: one other grant finds out.
#[derive(Debug)]
struct Suspicion {
    throttled: Fingerprint,
    until: Deadline,
    probe: Option<Fingerprint>,
}

impl EndpointState {
    pub(super) fn new(vendor: Vendor, budget: Budget) -> Self {
        Self {
            vendor,
            queue: Queue::default(),
            budget,
            upcoming: Upcoming::default(),
            in_flight: 0,
            paused_until: None,
            suspicion: None,
            unhurried_until: None,
        }
    }

    /// Until when the whole endpoint is paused.
    pub(super) fn paused_until(&self, now: Timestamp, at: Instant) -> Option<Timestamp> {
        let pause = self.paused_until.filter(|pause| holds(pause.until(now, at), now));
        pause.map(|pause| pause.until(now, at))
    }

    /// Whether there is nothing to remember of this endpoint: nothing waits, is in flight, is paused or was sent lately.
    pub(super) fn is_idle(&mut self, now: Instant, wall: Timestamp) -> bool {
        self.upcoming.sweep(wall);
        let suspected = self
            .suspicion
            .as_ref()
            .is_some_and(|suspicion| holds(suspicion.until.until(wall, now), wall));
        self.queue.is_empty()
            && self.in_flight == 0
            && self.paused_until(wall, now).is_none()
            && !suspected
            && self.upcoming.is_empty()
            && self.budget.is_unused(now)
    }

    /// Takes the next grant that may be sent now, where the budget has a slot for one.
    pub(super) fn next(&mut self, at: Instant, now: Timestamp) -> Option<Fingerprint> {
        if self.paused_until(now, at).is_some() {
            return None;
        }
        self.suspicion = self
            .suspicion
            .take()
            .filter(|suspicion| holds(suspicion.until.until(now, at), now));
        let throttled = match &self.suspicion {
            None => None,
            Some(suspicion) if suspicion.probe.is_some() => return None,
            Some(suspicion) => Some(suspicion.throttled),
        };
        let turn = self.queue.turn(|fingerprint| Some(fingerprint) != throttled)?;
        self.upcoming.sweep(now);
        if !turn.owed && !self.upcoming.allow(turn.live_until, &self.budget, at, now) {
            return None;
        }
        self.queue.serve(&turn);
        self.upcoming.forget(turn.fingerprint);
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.probe = Some(turn.fingerprint);
        }
        Some(turn.fingerprint)
    }

    /// How long to wait though the budget has a slot: until the even pace allows one, unless somebody is in a hurry. That
    /// is looked at once for each slot.
    pub(super) fn pace_left(&mut self, at: Instant, now: Timestamp) -> Option<Duration> {
        let even = self.budget.even_slot(at);
        if even <= at {
            return None;
        }
        if self.unhurried_until.is_none_or(|until| until <= at) {
            if self.queue.is_in_a_hurry(self.budget.even_pace(), now) {
                return None;
            }
            self.unhurried_until = Some(even);
        }
        Some(even - at)
    }

    /// How long to wait where [`Self::next`] gave none: until a pause may end, or a look later where a slot is kept.
    pub(super) fn pause_left(&self, at: Instant, now: Timestamp) -> Duration {
        let suspicion = self.suspicion.as_ref();
        let until = self
            .paused_until(now, at)
            .or_else(|| suspicion.map(|suspicion| suspicion.until.until(now, at)));
        until.map_or(NEXT_LOOK, |until| {
            Duration::try_from(until.duration_since(now)).unwrap_or_default()
        })
    }

    /// The vendor asked `fingerprint` to wait until `until`.
    pub(super) fn throttled(
        &mut self,
        fingerprint: Fingerprint,
        until: Timestamp,
        now: Timestamp,
        at: Instant,
    ) {
        let second = self
            .suspicion
            .as_ref()
            .is_some_and(|suspicion| suspicion.throttled != fingerprint);
        if self.vendor.is_limited_as_a_whole() || second {
            self.pause(until, now, at);
            self.suspicion = None;
        } else {
            self.suspicion = Some(Suspicion {
                throttled: fingerprint,
                until: Deadline::new(until, now, at),
                probe: None,
            });
        }
    }

    /// Pauses the whole endpoint.
    pub(super) fn pause(&mut self, until: Timestamp, now: Timestamp, at: Instant) {
        if self.paused_until(now, at).is_none_or(|paused| paused < until) {
            self.paused_until = Some(Deadline::new(until, now, at));
        }
    }

    /// The request of `fingerprint` ended without being throttled.
    pub(super) fn answered(&mut self, fingerprint: Fingerprint, succeeded: bool) {
        if succeeded {
            self.suspicion = None;
        } else if let Some(suspicion) = &mut self.suspicion
            && suspicion.probe == Some(fingerprint)
        {
            suspicion.probe = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::schedule::later;

    fn grant(number: u8) -> Fingerprint {
        Fingerprint::from_bytes([number; 16])
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn at() -> Instant {
        Instant::now()
    }

    fn endpoint(vendor: Vendor, waiting: &[u8]) -> EndpointState {
        let mut endpoint = EndpointState::new(vendor, Budget::new(None, 32, at(), at()));
        for number in waiting {
            endpoint.queue.push(grant(*number), None, "a");
        }
        endpoint
    }

    #[test]
    fn a_429_of_a_vendor_limited_as_a_whole_pauses_the_endpoint_until_its_deadline() {
        for vendor in [Vendor::Mapiq, Vendor::Picus] {
            let mut endpoint = endpoint(vendor, &[2]);
            endpoint.throttled(grant(1), later(now(), 289), now(), at());
            assert_eq!(endpoint.next(at(), now()), None);
            assert_eq!(endpoint.next(at(), later(now(), 288)), None);
            assert_eq!(endpoint.next(at(), later(now(), 289)), Some(grant(2)));
        }
    }

    #[test]
    fn elsewhere_one_other_grant_probes_and_a_success_clears_the_endpoint() {
        let mut endpoint = endpoint(Vendor::SixMap, &[1, 2, 3]);
        endpoint.throttled(grant(1), later(now(), 60), now(), at());
        assert_eq!(endpoint.next(at(), now()), Some(grant(2)));
        assert_eq!(endpoint.next(at(), now()), None, "one probe at a time");
        endpoint.answered(grant(2), true);
        assert_eq!(endpoint.next(at(), now()), Some(grant(1)));
    }

    #[test]
    fn a_second_429_pauses_all() {
        let mut endpoint = endpoint(Vendor::SixMap, &[2, 3]);
        endpoint.throttled(grant(1), later(now(), 60), now(), at());
        assert_eq!(endpoint.next(at(), now()), Some(grant(2)));
        endpoint.throttled(grant(2), later(now(), 90), now(), at());
        assert_eq!(endpoint.next(at(), later(now(), 60)), None);
        assert_eq!(endpoint.next(at(), later(now(), 90)), Some(grant(3)));
    }

    #[test]
    fn a_probe_that_failed_otherwise_lets_the_next_one_probe() {
        let mut endpoint = endpoint(Vendor::SixMap, &[2, 3]);
        endpoint.throttled(grant(1), later(now(), 60), now(), at());
        assert_eq!(endpoint.next(at(), now()), Some(grant(2)));
        endpoint.answered(grant(2), false);
        assert_eq!(endpoint.next(at(), now()), Some(grant(3)));
    }

    /// An endpoint with one slot left in this minute, and a token that ends in 20 s.
    fn nearly_used_up() -> (EndpointState, Instant) {
        let later_on = at() + Duration::from_secs(600);
        let mut budget = Budget::new(Some(20), 32, at(), later_on);
        for _ in 0..19 {
            budget.sent(later_on);
            budget.ended(later_on);
        }
        let mut endpoint = EndpointState::new(Vendor::Mapiq, budget);
        endpoint
            .upcoming
            .expect(grant(1), later(now(), -40), later(now(), 20));
        (endpoint, later_on)
    }

    #[test]
    fn a_slot_is_kept_until_the_token_is_refreshed() {
        let (mut endpoint, at) = nearly_used_up();
        endpoint.queue.push(grant(2), None, "a");
        assert_eq!(endpoint.next(at, now()), None);
        endpoint.queue.push(grant(1), Some(later(now(), 20)), "a");
        assert_eq!(endpoint.next(at, now()), Some(grant(1)));
        assert!(endpoint.upcoming.is_empty());
        assert_eq!(endpoint.next(at, now()), Some(grant(2)));
    }

    #[test]
    fn no_slot_is_kept_from_who_has_waited_for_four_live_tokens() {
        let (mut endpoint, at) = nearly_used_up();
        for number in 10..14 {
            endpoint.queue.push(grant(number), Some(later(now(), 10)), "a");
            assert_eq!(endpoint.next(at, now()), Some(grant(number)));
        }
        endpoint.queue.push(grant(2), None, "a");
        endpoint.queue.push(grant(3), None, "a");
        assert_eq!(endpoint.next(at, now()), Some(grant(2)));
        assert_eq!(endpoint.next(at, now()), None);
    }
}
