//! One vendor at one endpoint: its budget, its queue and its pauses.

mod budget;
mod in_flight;
mod queue;

use std::collections::HashMap;

pub(super) use self::budget::Budget;
pub(super) use self::in_flight::InFlightLimiter;
pub(super) use self::queue::Served;
use self::queue::{Namespace, Queue};
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
    /// The grants whose requests are in flight, each with the namespace whose turn it was, and its slot.
    in_flight: HashMap<Fingerprint, (Namespace, Moment)>,
    /// Nothing is sent before this moment.
    paused_until: Option<Moment>,
    suspicion: Option<Suspicion>,
}

/// Grants of one namespace were throttled, and it is not known yet if the vendor limits the whole endpoint: one other
/// grant at a time finds out.
#[derive(Debug)]
struct Suspicion {
    throttled: Vec<Fingerprint>,
    namespace: Namespace,
    until: Moment,
    probe: Option<Fingerprint>,
}

/// This many throttled grants of one namespace pause an endpoint, and two of two namespaces do: a single tenant with
/// two clients says little about the vendor.
const MOST_THROTTLED: usize = 3;

impl EndpointState {
    pub(super) fn new(vendor: Vendor, budget: Budget) -> Self {
        Self {
            vendor,
            queue: Queue::default(),
            budget,
            in_flight: HashMap::new(),
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
            && self.in_flight.is_empty()
            && self.paused_until(now).is_none()
            && self
                .suspicion
                .as_ref()
                .is_none_or(|suspicion| suspicion.until <= now)
            && self.budget.is_unused(now)
    }

    /// True while requests are sent as soon as others have ended: neither the budget nor a pause holds them back.
    pub(super) fn is_open(&mut self, now: Moment) -> bool {
        let has_slot = self.budget.next_slot(now).is_some_and(|slot| slot <= now);
        let is_suspected = self
            .suspicion
            .as_ref()
            .is_some_and(|suspicion| now < suspicion.until);
        has_slot && self.paused_until(now).is_none() && !is_suspected
    }

    /// Takes the next grant that `may` be sent now out of the queue. Without one, gives the moment of the next look,
    /// `None` where an event will bring it.
    pub(super) fn next(
        &mut self,
        now: Moment,
        may: impl Fn(Fingerprint) -> bool,
    ) -> Result<Served, Option<Moment>> {
        if self.in_flight.len() >= self.budget.most_in_flight() {
            return Err(None);
        }
        match self.budget.next_slot(now) {
            Some(slot) if slot <= now => {}
            later => return Err(later),
        }
        if let Some(until) = self.paused_until(now) {
            return Err(Some(until));
        }
        self.suspicion.take_if(|suspicion| suspicion.until <= now);
        let throttled = match &self.suspicion {
            None => &[],
            Some(suspicion) if suspicion.probe.is_some() => return Err(Some(suspicion.until)),
            Some(suspicion) => suspicion.throttled.as_slice(),
        };
        let next = self.queue.next(now, self.budget.per_minute(), |fingerprint| {
            !throttled.contains(&fingerprint) && may(fingerprint)
        });
        let Some(served) = next else {
            return Err(self.suspicion.as_ref().map(|suspicion| suspicion.until));
        };
        Ok(served)
    }

    /// Counts a request that is sent now. Under suspicion it is the probe.
    pub(super) fn sent(&mut self, served: Served, now: Moment) {
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.probe = Some(served.fingerprint);
        }
        self.budget.sent(now);
        self.in_flight.insert(served.fingerprint, (served.namespace, now));
    }

    /// Notes that the request of `fingerprint` has ended. The vendor asked to wait until `throttled`, or gave another
    /// answer, which was a token where `succeeded`.
    pub(super) fn ended(
        &mut self,
        fingerprint: Fingerprint,
        throttled: Option<Moment>,
        succeeded: bool,
        now: Moment,
    ) {
        let Some((namespace, _)) = self.in_flight.remove(&fingerprint) else {
            return;
        };
        self.budget.ended(now);
        match throttled {
            Some(until) => self.throttled(fingerprint, &namespace, until),
            None => self.answered(fingerprint, succeeded),
        }
    }

    /// Notes that the request of `fingerprint` was not sent after all.
    pub(super) fn not_sent(&mut self, fingerprint: Fingerprint) {
        if let Some((_, slot)) = self.in_flight.remove(&fingerprint) {
            self.budget.not_sent(slot);
            self.answered(fingerprint, false);
        }
    }

    /// Notes that the vendor asked `fingerprint` of `namespace` to wait until `until`. The whole endpoint is paused where
    /// the vendor limits it as a whole, where grants of two namespaces were throttled, or [`MOST_THROTTLED`] of one.
    pub(super) fn throttled(&mut self, fingerprint: Fingerprint, namespace: &str, until: Moment) {
        let mut suspicion = self.suspicion.take().unwrap_or_else(|| Suspicion {
            throttled: Vec::new(),
            namespace: Namespace::from(namespace),
            until,
            probe: None,
        });
        if !suspicion.throttled.contains(&fingerprint) {
            suspicion.throttled.push(fingerprint);
        }
        let is_of_two_namespaces = suspicion.throttled.len() > 1 && *suspicion.namespace != *namespace;
        if self.vendor.is_limited_as_a_whole()
            || is_of_two_namespaces
            || suspicion.throttled.len() >= MOST_THROTTLED
        {
            self.paused_until = self.paused_until.max(Some(until));
            return;
        }
        suspicion.until = suspicion.until.max(until);
        suspicion.probe = None;
        self.suspicion = Some(suspicion);
    }

    /// Notes that the request of `fingerprint` ended without being throttled. A success ends the suspicion; after
    /// another failure of the probe, the next grant probes.
    fn answered(&mut self, fingerprint: Fingerprint, succeeded: bool) {
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
    use rstest::rstest;

    use super::*;
    use crate::grants::tests::{at, grant};

    fn endpoint(vendor: Vendor, waiting: &[u8]) -> EndpointState {
        let mut endpoint = EndpointState::new(vendor, Budget::new(None, 32, at(0), at(0)));
        for number in waiting {
            endpoint.queue.push(grant(*number), None, "a");
        }
        endpoint
    }

    /// The grant that is sent at this second.
    fn sent(endpoint: &mut EndpointState, second: i64) -> Option<Fingerprint> {
        let served = endpoint.next(at(second), |_| true).ok()?;
        endpoint.sent(served.clone(), at(second));
        Some(served.fingerprint)
    }

    #[test]
    fn a_429_of_a_vendor_limited_as_a_whole_pauses_the_endpoint_until_its_deadline() {
        for vendor in [Vendor::Mapiq, Vendor::Picus] {
            let mut endpoint = endpoint(vendor, &[2]);
            endpoint.throttled(grant(1), "a", at(289));
            assert_eq!(sent(&mut endpoint, 0), None);
            assert_eq!(endpoint.next(at(288), |_| true), Err(Some(at(289))));
            assert_eq!(sent(&mut endpoint, 289), Some(grant(2)));
        }
    }

    #[test]
    fn at_other_vendors_one_grant_at_a_time_probes_after_a_429() {
        let mut endpoint = endpoint(Vendor::SixMap, &[1, 2, 3]);
        endpoint.throttled(grant(1), "a", at(60));
        assert_eq!(sent(&mut endpoint, 0), Some(grant(2)));
        assert_eq!(sent(&mut endpoint, 0), None);
    }

    #[test]
    fn a_grant_that_is_gone_when_its_turn_comes_is_no_probe() {
        let mut endpoint = endpoint(Vendor::SixMap, &[1, 2, 3]);
        endpoint.throttled(grant(1), "a", at(60));
        let gone = endpoint.next(at(0), |_| true);
        assert_eq!(gone.ok().map(|served| served.fingerprint), Some(grant(2)));
        assert_eq!(sent(&mut endpoint, 0), Some(grant(3)));
    }

    #[test]
    fn a_probe_that_succeeds_clears_the_endpoint() {
        let mut endpoint = endpoint(Vendor::SixMap, &[1, 2, 3]);
        endpoint.throttled(grant(1), "a", at(60));
        assert_eq!(sent(&mut endpoint, 0), Some(grant(2)));
        endpoint.ended(grant(2), None, true, at(1));
        assert_eq!(sent(&mut endpoint, 1), Some(grant(1)));
    }

    #[rstest]
    #[case::two_of_two_namespaces(&["a", "b"], true)]
    #[case::two_of_one_namespace(&["a", "a"], false)]
    #[case::three_of_one_namespace(&["a", "a", "a"], true)]
    fn throttled_grants_pause_the_endpoint(#[case] namespaces: &[&str], #[case] pauses: bool) {
        let mut endpoint = endpoint(Vendor::SixMap, &[9]);
        for (number, namespace) in (1..).zip(namespaces) {
            endpoint.throttled(grant(number), namespace, at(90));
        }
        assert_eq!(endpoint.paused_until(at(0)).is_some(), pauses);
        assert_eq!(sent(&mut endpoint, 0), (!pauses).then_some(grant(9)));
    }

    #[test]
    fn one_grant_that_is_throttled_again_and_again_pauses_no_endpoint() {
        let mut endpoint = endpoint(Vendor::SixMap, &[]);
        for namespace in ["a", "a", "b", "a"] {
            endpoint.throttled(grant(1), namespace, at(90));
            assert_eq!(endpoint.paused_until(at(0)), None);
        }
    }

    #[test]
    fn a_second_429_of_another_namespace_pauses_until_its_deadline() {
        let mut endpoint = endpoint(Vendor::SixMap, &[3]);
        endpoint.queue.push(grant(2), Some(at(1000)), "b");
        endpoint.throttled(grant(1), "a", at(60));
        assert_eq!(sent(&mut endpoint, 0), Some(grant(2)));
        endpoint.ended(grant(2), Some(at(90)), false, at(1));
        assert_eq!(sent(&mut endpoint, 60), None);
        assert_eq!(sent(&mut endpoint, 90), Some(grant(3)));
    }

    #[test]
    fn a_probe_that_failed_otherwise_lets_the_next_one_probe() {
        let mut endpoint = endpoint(Vendor::SixMap, &[2, 3]);
        endpoint.throttled(grant(1), "a", at(60));
        assert_eq!(sent(&mut endpoint, 0), Some(grant(2)));
        endpoint.ended(grant(2), None, false, at(1));
        assert_eq!(sent(&mut endpoint, 1), Some(grant(3)));
    }
}
