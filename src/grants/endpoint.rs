//! One vendor endpoint: its budget, its queue, its pauses.

use jiff::Timestamp;
use tokio::time::Instant;

use super::budget::Budget;
use super::queue::Queue;
use crate::fingerprint::Fingerprint;
use crate::policy::backoff::holds;
use crate::vendor::Vendor;

/// The state of one endpoint.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) vendor: Vendor,
    pub(super) queue: Queue,
    pub(super) budget: Budget,
    pub(super) in_flight: usize,
    /// Nothing is sent before this time.
    paused_until: Option<Timestamp>,
    suspicion: Option<Suspicion>,
}

/// One grant was throttled, and whether the endpoint is meant is not known: one other grant finds out.
#[derive(Debug)]
struct Suspicion {
    throttled: Fingerprint,
    until: Timestamp,
    probe: Option<Fingerprint>,
}

/// The limits of these vendors are per endpoint and per address, so a 429 of one grant is a 429 for all.
const fn is_limited_as_a_whole(vendor: Vendor) -> bool {
    matches!(vendor, Vendor::Mapiq | Vendor::Picus)
}

impl EndpointState {
    pub(super) fn new(vendor: Vendor, per_minute: Option<u32>, now: Instant) -> Self {
        Self {
            vendor,
            queue: Queue::default(),
            budget: Budget::new(per_minute, now),
            in_flight: 0,
            paused_until: None,
            suspicion: None,
        }
    }

    /// Until when the whole endpoint is paused.
    pub(super) fn paused_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.paused_until.filter(|until| holds(*until, now))
    }

    /// Whether there is nothing to remember of this endpoint: nothing waits, is in flight, is paused or was sent lately.
    pub(super) fn is_idle(&self, now: Instant, wall: Timestamp) -> bool {
        let suspected = self
            .suspicion
            .as_ref()
            .is_some_and(|suspicion| holds(suspicion.until, wall));
        self.queue.is_empty()
            && self.in_flight == 0
            && self.paused_until(wall).is_none()
            && !suspected
            && self.budget.is_unused(now)
    }

    /// Takes the next grant that may be sent now, budget apart.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<Fingerprint> {
        if self.paused_until(now).is_some() {
            return None;
        }
        self.suspicion = self
            .suspicion
            .take()
            .filter(|suspicion| holds(suspicion.until, now));
        match &mut self.suspicion {
            None => self.queue.pop(|_| true),
            Some(suspicion) if suspicion.probe.is_some() => None,
            Some(suspicion) => {
                let throttled = suspicion.throttled;
                let probe = self.queue.pop(|fingerprint| fingerprint != throttled)?;
                suspicion.probe = Some(probe);
                Some(probe)
            }
        }
    }

    /// When waiting for a pause may end.
    pub(super) fn resumes_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.paused_until(now)
            .or_else(|| self.suspicion.as_ref().map(|suspicion| suspicion.until))
    }

    /// The vendor asked `fingerprint` to wait until `until`.
    pub(super) fn throttled(&mut self, fingerprint: Fingerprint, until: Timestamp) {
        let second = self
            .suspicion
            .as_ref()
            .is_some_and(|suspicion| suspicion.throttled != fingerprint);
        if is_limited_as_a_whole(self.vendor) || second {
            self.pause(until);
            self.suspicion = None;
        } else {
            self.suspicion = Some(Suspicion {
                throttled: fingerprint,
                until,
                probe: None,
            });
        }
    }

    /// Pauses the whole endpoint.
    pub(super) fn pause(&mut self, until: Timestamp) {
        self.paused_until = self.paused_until.max(Some(until));
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

    fn endpoint(vendor: Vendor, waiting: &[u8]) -> EndpointState {
        let mut endpoint = EndpointState::new(vendor, None, Instant::now());
        for number in waiting {
            endpoint.queue.push(grant(*number), None, "a");
        }
        endpoint
    }

    #[test]
    fn a_429_of_a_vendor_limited_as_a_whole_pauses_the_endpoint_until_its_deadline() {
        for vendor in [Vendor::Mapiq, Vendor::Picus] {
            let mut endpoint = endpoint(vendor, &[2]);
            endpoint.throttled(grant(1), later(now(), 289));
            assert_eq!(endpoint.next(now()), None);
            assert_eq!(endpoint.next(later(now(), 288)), None);
            assert_eq!(endpoint.next(later(now(), 289)), Some(grant(2)));
        }
    }

    #[test]
    fn elsewhere_one_other_grant_probes_and_a_success_clears_the_endpoint() {
        let mut endpoint = endpoint(Vendor::SixMap, &[1, 2, 3]);
        endpoint.throttled(grant(1), later(now(), 60));
        assert_eq!(endpoint.next(now()), Some(grant(2)));
        assert_eq!(endpoint.next(now()), None, "one probe at a time");
        endpoint.answered(grant(2), true);
        assert_eq!(endpoint.next(now()), Some(grant(1)));
    }

    #[test]
    fn a_second_429_pauses_all() {
        let mut endpoint = endpoint(Vendor::SixMap, &[2, 3]);
        endpoint.throttled(grant(1), later(now(), 60));
        assert_eq!(endpoint.next(now()), Some(grant(2)));
        endpoint.throttled(grant(2), later(now(), 90));
        assert_eq!(endpoint.next(later(now(), 60)), None);
        assert_eq!(endpoint.next(later(now(), 90)), Some(grant(3)));
    }

    #[test]
    fn a_probe_that_failed_otherwise_lets_the_next_one_probe() {
        let mut endpoint = endpoint(Vendor::SixMap, &[2, 3]);
        endpoint.throttled(grant(1), later(now(), 60));
        assert_eq!(endpoint.next(now()), Some(grant(2)));
        endpoint.answered(grant(2), false);
        assert_eq!(endpoint.next(now()), Some(grant(3)));
    }
}
