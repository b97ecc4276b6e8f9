//! One vendor at one endpoint: its budget, its queue and its pauses.

mod budget;
mod in_flight;
mod queue;

use std::time::Duration;

pub(super) use self::budget::Budget;
pub(super) use self::in_flight::InFlightLimiter;
use self::queue::Queue;
use crate::clock::Moment;
use crate::fingerprint::Fingerprint;
use crate::providers::{Endpoint, Vendor};

/// A vendor at an endpoint, which has a budget, a queue and pauses of its own: several vendors behind one gateway share
/// an endpoint, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct VendorEndpoint {
    pub(super) vendor: Vendor,
    pub(super) endpoint: Endpoint,
}

impl VendorEndpoint {
    pub(super) fn new(vendor: Vendor, endpoint: &Endpoint) -> Self {
        Self {
            vendor,
            endpoint: endpoint.clone(),
        }
    }
}

/// The state of one vendor at one endpoint.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) vendor: Vendor,
    pub(super) queue: Queue,
    pub(super) budget: Budget,
    pub(super) in_flight: usize,
    /// Nothing is sent before this moment.
    paused_until: Option<Moment>,
    suspicion: Option<Suspicion>,
}

/// One grant was throttled, and it is not known yet if the vendor limits the whole endpoint: one other grant finds out.
#[derive(Debug)]
struct Suspicion {
    throttled: Fingerprint,
    until: Moment,
    probe: Option<Fingerprint>,
}

impl EndpointState {
    pub(super) fn new(vendor: Vendor, budget: Budget) -> Self {
        Self {
            vendor,
            queue: Queue::default(),
            budget,
            in_flight: 0,
            paused_until: None,
            suspicion: None,
        }
    }

    /// The end of the pause of the whole endpoint; `None` where it has passed.
    pub(super) fn paused_until(&self, now: Moment) -> Option<Moment> {
        self.paused_until.filter(|until| now < *until)
    }

    /// True when nothing waits, is in flight, is paused or was sent lately, so that the endpoint can be dropped.
    pub(super) fn is_idle(&self, now: Moment) -> bool {
        self.queue.is_empty()
            && self.in_flight == 0
            && self.paused_until(now).is_none()
            && self
                .suspicion
                .as_ref()
                .is_none_or(|suspicion| suspicion.until <= now)
            && self.budget.is_unused(now)
    }

    /// Takes the next grant that may be sent now out of the queue. The caller has made sure that the budget has a slot.
    pub(super) fn next(&mut self, now: Moment) -> Option<Fingerprint> {
        if self.paused_until(now).is_some() {
            return None;
        }
        self.suspicion.take_if(|suspicion| suspicion.until <= now);
        let throttled = match &self.suspicion {
            None => None,
            Some(suspicion) if suspicion.probe.is_some() => return None,
            Some(suspicion) => Some(suspicion.throttled),
        };
        let next = self.queue.next(|fingerprint| Some(fingerprint) != throttled)?;
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.probe = Some(next);
        }
        Some(next)
    }

    /// The wait until a pause may end, where [`Self::next`] gave no grant; zero without a pause.
    pub(super) fn pause_left(&self, now: Moment) -> Duration {
        let suspicion = self.suspicion.as_ref().map(|suspicion| suspicion.until);
        self.paused_until(now)
            .or(suspicion)
            .map_or(Duration::ZERO, |until| until.since(now))
    }

    /// Notes that the vendor asked `fingerprint` to wait until `until`. The whole endpoint is paused where the vendor
    /// limits it as a whole, or where a second grant was throttled.
    pub(super) fn throttled(&mut self, fingerprint: Fingerprint, until: Moment) {
        let second = self
            .suspicion
            .as_ref()
            .is_some_and(|suspicion| suspicion.throttled != fingerprint);
        if self.vendor.is_limited_as_a_whole() || second {
            self.paused_until = self.paused_until.max(Some(until));
            self.suspicion = None;
        } else {
            self.suspicion = Some(Suspicion {
                throttled: fingerprint,
                until,
                probe: None,
            });
        }
    }

    /// Notes that the request of `fingerprint` ended without being throttled. A success ends the suspicion; after
    /// another failure of the probe, the next grant probes.
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

    fn grant(number: u8) -> Fingerprint {
        Fingerprint::from_bytes([number; 16])
    }

    fn at(second: i64) -> Moment {
        Moment::at_second(second)
    }

    fn endpoint(vendor: Vendor, waiting: &[u8]) -> EndpointState {
        let mut endpoint = EndpointState::new(vendor, Budget::new(None, 32, at(0), at(0)));
        for number in waiting {
            endpoint.queue.push(grant(*number), None, "a");
        }
        endpoint
    }

    #[test]
    fn a_429_of_a_vendor_limited_as_a_whole_pauses_the_endpoint_until_its_deadline() {
        for vendor in [Vendor::Mapiq, Vendor::Picus] {
            let mut endpoint = endpoint(vendor, &[2]);
            endpoint.throttled(grant(1), at(289));
            assert_eq!(endpoint.next(at(0)), None);
            assert_eq!(endpoint.next(at(288)), None);
            assert_eq!(endpoint.next(at(289)), Some(grant(2)));
        }
    }

    #[test]
    fn at_other_vendors_one_grant_at_a_time_probes_after_a_429() {
        let mut endpoint = endpoint(Vendor::SixMap, &[1, 2, 3]);
        endpoint.throttled(grant(1), at(60));
        assert_eq!(endpoint.next(at(0)), Some(grant(2)));
        assert_eq!(endpoint.next(at(0)), None);
    }

    #[test]
    fn a_probe_that_succeeds_clears_the_endpoint() {
        let mut endpoint = endpoint(Vendor::SixMap, &[1, 2, 3]);
        endpoint.throttled(grant(1), at(60));
        assert_eq!(endpoint.next(at(0)), Some(grant(2)));
        endpoint.answered(grant(2), true);
        assert_eq!(endpoint.next(at(0)), Some(grant(1)));
    }

    #[test]
    fn a_second_429_pauses_the_endpoint() {
        let mut endpoint = endpoint(Vendor::SixMap, &[2, 3]);
        endpoint.throttled(grant(1), at(60));
        assert_eq!(endpoint.next(at(0)), Some(grant(2)));
        endpoint.throttled(grant(2), at(90));
        assert_eq!(endpoint.next(at(60)), None);
        assert_eq!(endpoint.next(at(90)), Some(grant(3)));
    }

    #[test]
    fn a_probe_that_failed_otherwise_lets_the_next_one_probe() {
        let mut endpoint = endpoint(Vendor::SixMap, &[2, 3]);
        endpoint.throttled(grant(1), at(60));
        assert_eq!(endpoint.next(at(0)), Some(grant(2)));
        endpoint.answered(grant(2), false);
        assert_eq!(endpoint.next(at(0)), Some(grant(3)));
    }
}
