//! The bound on requests in flight in all, and the share of it that is kept for each vendor: four vendors that hang
//! must not keep the fifth waiting.

use std::collections::BTreeMap;

use crate::providers::Vendor;

/// The bound in all, as a multiple of the bound of one endpoint.
const ENDPOINTS_IN_ALL: usize = 4;

/// The requests in flight, by vendor.
#[derive(Debug, Default)]
pub(crate) struct InFlightLimiter {
    taken: BTreeMap<Vendor, usize>,
}

impl InFlightLimiter {
    /// The number of requests in flight in all.
    pub(crate) fn taken(&self) -> usize {
        self.taken.values().sum()
    }

    /// True when one more request to `vendor` may be in flight, where `max_concurrent` may be to one endpoint. Half of
    /// that, and one at least, is kept for each vendor; the rest of the bound in all goes to the first to come.
    pub(crate) fn has_one_for(&self, vendor: Vendor, max_concurrent: usize) -> bool {
        let share = (max_concurrent / 2).max(1);
        let common = (max_concurrent * ENDPOINTS_IN_ALL).saturating_sub(share * Vendor::ALL.len());
        let beyond: usize = self.taken.values().map(|taken| taken.saturating_sub(share)).sum();
        self.taken.get(&vendor).is_none_or(|taken| *taken < share) || beyond < common
    }

    /// Takes a place for a request to `vendor`.
    pub(crate) fn take(&mut self, vendor: Vendor) {
        *self.taken.entry(vendor).or_default() += 1;
    }

    /// Gives back a place of `vendor`.
    pub(crate) fn give_back(&mut self, vendor: Vendor) {
        if let Some(taken) = self.taken.get_mut(&vendor) {
            *taken = taken.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many places for `vendor` as it may have, `most` at most, and gives their number.
    fn fill(limiter: &mut InFlightLimiter, vendor: Vendor, bound: usize, most: usize) -> usize {
        (0..most)
            .take_while(|_| {
                let free = limiter.has_one_for(vendor, bound);
                if free {
                    limiter.take(vendor);
                }
                free
            })
            .count()
    }

    #[test]
    fn four_vendors_that_hang_leave_the_fifth_its_share() {
        for bound in [1, 2, 3, 5, 32, 200] {
            for last in Vendor::ALL {
                let mut limiter = InFlightLimiter::default();
                // Requests without end, as the many regions of 6clicks allow.
                for vendor in Vendor::ALL.into_iter().filter(|vendor| *vendor != last) {
                    fill(&mut limiter, vendor, bound, 1000);
                }
                assert_eq!(
                    fill(&mut limiter, last, bound, 1000),
                    (bound / 2).max(1),
                    "{bound}"
                );
                assert_eq!(limiter.taken(), (4 * bound).max(5));
            }
        }
    }

    #[test]
    fn three_busy_endpoints_each_reach_their_bound() {
        for bound in [2, 5, 32, 200] {
            let mut limiter = InFlightLimiter::default();
            for vendor in [Vendor::Picus, Vendor::Mapiq, Vendor::SixMap] {
                assert_eq!(fill(&mut limiter, vendor, bound, bound), bound);
            }
        }
    }

    #[test]
    fn a_place_that_was_given_back_can_be_taken_again() {
        let mut limiter = InFlightLimiter::default();
        assert_eq!(fill(&mut limiter, Vendor::Picus, 1, 9), 1);
        limiter.give_back(Vendor::Picus);
        assert_eq!(limiter.taken(), 0);
        assert_eq!(fill(&mut limiter, Vendor::Picus, 1, 9), 1);
    }
}
