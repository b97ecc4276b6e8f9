//! Request rate that the present tokens need of their vendors.

use std::collections::{BTreeMap, HashMap};

/// Refresh rate of one VendorToken, with numbers that identify the grant and the endpoint which it shares with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The endpoint.
    pub endpoint: u64,
    /// The grant as known without its credentials: equal among those who share it in one namespace.
    pub published: u64,
    /// The grant, where this process has read the credentials: equal among all who share it.
    pub grant: Option<u64>,
    /// Seconds from one refresh to the next.
    pub seconds: i64,
}

/// Requests a minute, by vendor, that its busiest endpoint needs, since limits hold for one endpoint. A grant counts
/// once, at the highest rate among those who share it. A vendor whose VendorTokens have no token yet needs 0.
pub(super) fn required_per_minute(
    needs: impl Iterator<Item = (&'static str, Option<Need>)>,
) -> BTreeMap<&'static str, f64> {
    let mut required = BTreeMap::new();
    let mut known: HashMap<u64, u64> = HashMap::new();
    let mut present = Vec::new();
    for (vendor, need) in needs {
        required.entry(vendor).or_insert(0.0);
        if let Some(need) = need {
            known.extend(need.grant.map(|grant| (need.published, grant)));
            present.push((vendor, need));
        }
    }
    let mut grants: HashMap<u64, (&'static str, u64, i64)> = HashMap::new();
    for (vendor, need) in present {
        let grant = known.get(&need.published).copied().unwrap_or(need.published);
        let shared = grants
            .entry(grant)
            .or_insert((vendor, need.endpoint, need.seconds));
        shared.2 = need.seconds.min(shared.2);
    }
    let mut endpoints: BTreeMap<(&'static str, u64), f64> = BTreeMap::new();
    for (vendor, endpoint, seconds) in grants.into_values() {
        *endpoints.entry((vendor, endpoint)).or_default() += 60.0 / seconds.max(1) as f64;
    }
    for ((vendor, _), needed) in endpoints {
        let busiest = required.entry(vendor).or_insert(0.0);
        *busiest = needed.max(*busiest);
    }
    required
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(endpoint: u64, published: u64, grant: Option<u64>, seconds: i64) -> Option<Need> {
        Some(Need {
            endpoint,
            published,
            grant,
            seconds,
        })
    }

    fn required(needs: &[(&'static str, Option<Need>)]) -> Vec<(&'static str, f64)> {
        // Rounded: sums of thirds depend on their order.
        let rounded = |number: f64| (number * 1000.0).round() / 1000.0;
        let all = required_per_minute(needs.iter().copied()).into_iter();
        all.map(|(vendor, needed)| (vendor, rounded(needed))).collect()
    }

    #[test]
    fn each_grant_counts_by_its_refresh_rate() {
        let found = required(&[
            ("Mapiq", need(1, 1, Some(10), 30)),
            ("Mapiq", need(1, 2, Some(20), 120)),
            ("Picus", need(2, 3, Some(30), 2880)),
        ]);
        assert_eq!(found, [("Mapiq", 2.5), ("Picus", 0.021)]);
    }

    #[test]
    fn a_shared_grant_counts_once_at_its_highest_rate() {
        let found = required(&[
            ("Mapiq", need(1, 1, Some(10), 120)),
            ("Mapiq", need(1, 1, Some(10), 60)),
            // Shared from another namespace.
            ("Mapiq", need(1, 2, Some(10), 90)),
            // Credentials not read yet; the grant is known from another in its namespace.
            ("Mapiq", need(1, 2, None, 100)),
            // Credentials not read yet, and no other in its namespace.
            ("Mapiq", need(1, 3, None, 60)),
        ]);
        assert_eq!(found, [("Mapiq", 2.0)]);
    }

    #[test]
    fn the_busiest_of_several_endpoints_counts() {
        let found = required(&[
            ("SixClicks", need(1, 1, None, 60)),
            ("SixClicks", need(2, 2, None, 30)),
            ("SixClicks", need(2, 3, None, 60)),
        ]);
        assert_eq!(found, [("SixClicks", 3.0)]);
    }

    #[test]
    fn a_vendor_without_a_token_needs_nothing() {
        assert_eq!(required(&[("SixMap", None)]), [("SixMap", 0.0)]);
    }

    #[test]
    fn a_vendor_that_is_not_in_use_is_absent() {
        assert_eq!(required(&[]), []);
    }

    #[test]
    fn a_refresh_time_of_zero_counts_as_one_second() {
        assert_eq!(required(&[("SixMap", need(1, 1, None, 0))]), [("SixMap", 60.0)]);
    }
}
