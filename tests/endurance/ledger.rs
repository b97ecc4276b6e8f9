//! Verdicts from the vendors' ledger: its order and its times say what was asked and when, whenever a test has looked.

use std::time::Duration;

use jiff::Timestamp;
use vendor_simulator::Vendor;

use crate::world::World;

/// Times are rounded to whole seconds, and a request takes a moment to arrive.
pub(crate) const TOLERANCE: Duration = Duration::from_secs(2);

/// The present, in Unix milliseconds, as the ledger counts.
pub(crate) fn now() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap()
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

/// When a vendor was asked, in order.
pub(crate) fn times(world: &World, vendor: Vendor) -> Vec<u64> {
    let calls = world.simulator.calls();
    let of_vendor = calls.iter().filter(|call| call.vendor == vendor);
    let mut times: Vec<u64> = of_vendor.map(|call| call.time_ms).collect();
    times.sort_unstable();
    times
}

/// The times between successive calls that are shorter than `period`.
pub(crate) fn shorter_than(period: Duration, times: &[u64]) -> Vec<u64> {
    let least = milliseconds(period - TOLERANCE);
    let gaps = times.windows(2).map(|two| two[1] - two[0]);
    gaps.filter(|gap| *gap < least).collect()
}

/// The calls after `gone` that were not due by then: each call is due `period` after the one before it. One that was due
/// was under way, however long it took to arrive.
pub(crate) fn begun_after(gone: u64, period: Duration, times: &[u64]) -> Vec<u64> {
    // An answer of the API server counts for a second.
    let noticed = gone + 1_000 + milliseconds(TOLERANCE);
    let after = times.windows(2).filter(|two| two[1] > noticed);
    let begun = after.filter(|two| two[0] + milliseconds(period) > noticed);
    begun.map(|two| two[1]).collect()
}
