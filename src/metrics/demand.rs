//! What the present tokens need of their vendors.

use std::collections::{BTreeMap, HashMap};

/// How often one VendorToken has its token refreshed, and what it shares with others. The numbers tell grants and
/// endpoints apart, and say nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The endpoint that is asked.
    pub endpoint: u64,
    /// The grant, as it is known without its credentials: those who share it in one namespace have the same number.
    pub published: u64,
    /// The grant, where this process has read the credentials: those who share it anywhere have the same number.
    pub grant: Option<u64>,
    /// Seconds from one refresh to the next.
    pub seconds: i64,
}

/// By vendor, requests a minute that its busiest endpoint needs: a limit is for one endpoint. Each grant counts once,
/// with the shortest time among those who share it. A vendor whose VendorTokens have no token yet needs 0.
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
        let most = required.entry(vendor).or_insert(0.0);
        *most = needed.max(*most);
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
    fn each_grant_counts_by_the_time_between_its_refreshes() {
        let found = required(&[
            ("Mapiq", need(1, 1, Some(10), 30)),
            ("Mapiq", need(1, 2, Some(20), 120)),
            ("Picus", need(2, 3, Some(30), 2880)),
        ]);
        assert_eq!(found, [("Mapiq", 2.5), ("Picus", 0.021)]);
    }

    #[test]
    fn who_shares_a_grant_counts_once_with_the_shortest_time() {
        let found = required(&[
            ("Mapiq", need(1, 1, Some(10), 120)),
            ("Mapiq", need(1, 1, Some(10), 60)),
            // In another namespace.
            ("Mapiq", need(1, 2, Some(10), 90)),
            // Not read yet, and known from those who share it in its namespace.
            ("Mapiq", need(1, 2, None, 100)),
            // Not read yet, and known from nobody.
            ("Mapiq", need(1, 3, None, 60)),
        ]);
        assert_eq!(found, [("Mapiq", 2.0)]);
    }

    #[test]
    fn of_several_endpoints_the_busiest_tells() {
        let found = required(&[
            ("SixClicks", need(1, 1, None, 60)),
            ("SixClicks", need(2, 2, None, 30)),
            ("SixClicks", need(2, 3, None, 60)),
        ]);
        assert_eq!(found, [("SixClicks", 3.0)]);
    }

    #[test]
    fn a_vendor_in_use_without_a_token_needs_nothing_and_one_that_is_not_in_use_is_not_there() {
        assert_eq!(required(&[("SixMap", None)]), [("SixMap", 0.0)]);
        assert_eq!(required(&[]), []);
    }

    #[test]
    fn no_time_makes_it_infinite() {
        assert_eq!(required(&[("SixMap", need(1, 1, None, 0))]), [("SixMap", 60.0)]);
    }
}
