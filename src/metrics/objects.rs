//! The series of VendorTokens, kept once for each object: three metric families would hold its labels three times, and
//! one of them could be forgotten.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::demand::{Need, required_per_minute};
use crate::sync::lock;

/// Labels of the series of one VendorToken.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct ObjectLabels {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// `spec.vendor`.
    pub vendor: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ObjectState {
    pub(super) ready: bool,
    /// Seconds since 1970.
    pub(super) expires: Option<i64>,
    /// Seconds since 1970.
    pub(super) next_refresh: Option<i64>,
    pub(super) need: Option<Need>,
}

#[derive(Debug)]
struct ObjectSeries {
    vendor: &'static str,
    state: ObjectState,
}

/// Series by namespace, then by name.
type SeriesByName = BTreeMap<String, BTreeMap<String, ObjectSeries>>;

#[derive(Debug, Default)]
pub(super) struct Objects(Mutex<SeriesByName>);

impl Objects {
    pub(super) fn set(&self, labels: &ObjectLabels, state: ObjectState) {
        let mut all = lock(&self.0);
        let series = ObjectSeries {
            vendor: labels.vendor,
            state,
        };
        match all.get_mut(&labels.namespace) {
            Some(namespace) => namespace.insert(labels.name.clone(), series),
            None => all
                .entry(labels.namespace.clone())
                .or_default()
                .insert(labels.name.clone(), series),
        };
    }

    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }

    pub(super) fn remove(&self, namespace: &str, name: &str) {
        let mut all = lock(&self.0);
        if let Some(objects) = all.get_mut(namespace) {
            objects.remove(name);
            if objects.is_empty() {
                all.remove(namespace);
            }
        }
    }
}

impl Collector for Objects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = lock(&self.0);
        let mut family = |name, help, unit, value: fn(&ObjectState) -> Option<i64>| {
            encode_family(&mut encoder, &all, (name, help, unit), value)
        };
        family(
            "vendortoken_ready",
            "1 while the VendorToken is Ready, else 0.",
            None,
            |state| Some(i64::from(state.ready)),
        )?;
        family(
            "vendortoken_expiration_timestamp",
            "When the published token expires; absent without one.",
            Some(Unit::Seconds),
            |state| state.expires,
        )?;
        family(
            "vendortoken_next_refresh_timestamp",
            "When the token is due to be refreshed; absent when nothing is planned.",
            Some(Unit::Seconds),
            |state| state.next_refresh,
        )?;
        encode_required(&mut encoder, &all)
    }
}

fn encode_required(encoder: &mut DescriptorEncoder<'_>, all: &SeriesByName) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "vendortoken_vendor_budget_required_per_minute",
        "Requests a minute that the present tokens need of one endpoint of the vendor, the busiest, to stay fresh.",
        None,
        MetricType::Gauge,
    )?;
    let needs = all
        .values()
        .flat_map(BTreeMap::values)
        .map(|series| (series.vendor, series.state.need));
    for (vendor, required) in required_per_minute(needs) {
        ConstGauge::new(required).encode(family.encode_family(&[("vendor", vendor)])?)?;
    }
    Ok(())
}

fn encode_family(
    encoder: &mut DescriptorEncoder<'_>,
    all: &SeriesByName,
    (name, help, unit): (&str, &str, Option<Unit>),
    value: fn(&ObjectState) -> Option<i64>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
    for (namespace, objects) in all {
        for (name, series) in objects {
            if let Some(value) = value(&series.state) {
                let labels = [
                    ("namespace", namespace.as_str()),
                    ("name", name),
                    ("vendor", series.vendor),
                ];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}
