//! Times until which vendors have asked to wait. A series exists until its time has passed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::sync::lock;

/// Ends of waits, by vendor, in seconds since 1970.
#[derive(Debug)]
pub(super) struct Throttles {
    until: Mutex<BTreeMap<&'static str, i64>>,
    now: fn() -> Timestamp,
}

impl Default for Throttles {
    fn default() -> Self {
        Self {
            until: Mutex::default(),
            now: Timestamp::now,
        }
    }
}

impl Throttles {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, i64>> {
        lock(&self.until)
    }

    pub(super) fn note(&self, vendor: &'static str, until: Timestamp) {
        let mut all = self.lock();
        let latest = all.entry(vendor).or_default();
        *latest = until.as_second().max(*latest);
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }
}

impl Collector for Throttles {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now = (self.now)().as_second();
        let mut all = self.lock();
        all.retain(|_, until| *until > now);
        let mut family = encoder.encode_descriptor(
            "vendortoken_vendor_throttled_until_timestamp",
            "Until when the vendor has asked to wait at the latest; absent once that is over.",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for (vendor, until) in all.iter() {
            ConstGauge::new(*until).encode(family.encode_family(&[("vendor", *vendor)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    static NOW: AtomicI64 = AtomicI64::new(1_800_000_000);

    #[test]
    fn the_latest_of_several_waits_is_shown_until_it_is_over() {
        let throttles = Arc::new(Throttles {
            until: Mutex::default(),
            now: || Timestamp::from_second(NOW.load(Ordering::Relaxed)).unwrap(),
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&throttles)));
        let series = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        for (vendor, second) in [("Mapiq", 300), ("Mapiq", 1), ("Picus", 100)] {
            throttles.note(vendor, Timestamp::from_second(1_800_000_000 + second).unwrap());
        }
        let of = |vendor, second: i64| {
            let name = "vendortoken_vendor_throttled_until_timestamp_seconds";
            format!(r#"{name}{{vendor="{vendor}"}} {}"#, 1_800_000_000 + second)
        };
        assert_eq!(series(), [of("Mapiq", 300), of("Picus", 100)]);
        NOW.fetch_add(299, Ordering::Relaxed);
        assert_eq!(series(), [of("Mapiq", 300)]);
        NOW.fetch_add(1, Ordering::Relaxed);
        assert_eq!(series(), Vec::<String>::new());
        throttles.note("Mapiq", Timestamp::from_second(1_800_000_600).unwrap());
        assert_eq!(series(), [of("Mapiq", 600)]);
        throttles.clear();
        assert_eq!(series(), Vec::<String>::new());
    }
}
