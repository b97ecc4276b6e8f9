//! The use of processors and memory, from Linux's `/proc`; elsewhere nothing.

use std::fs;

/// Linux counts processor time in this unit, on all architectures.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process's user and system time in seconds.
pub(crate) fn seconds_of(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may hold blanks.
    let (_, rest) = text.rsplit_once(')')?;
    sum_of_two(rest, 11)
}

/// Seconds without work of all processors since the machine's start, waiting for disks included.
pub(crate) fn idle_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    sum_of_two(text.lines().next()?, 4)
}

fn sum_of_two(fields: &str, skipped: usize) -> Option<f64> {
    let mut fields = fields.split_whitespace().skip(skipped);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

/// A process's peak resident memory (`VmHWM`) in KiB.
pub(crate) fn peak_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
