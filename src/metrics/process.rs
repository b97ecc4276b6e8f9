//! `process_*`: the usual figures of Prometheus clients, read from `/proc` at each scrape; absent on other systems than
//! Linux.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Clock ticks a second in `/proc`: USER_HZ, 100 on every architecture that the operator is built for.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(figures) = Figures::read() else {
            return Ok(());
        };
        let seconds = Unit::Seconds;
        let cpu = "Total user and system CPU time spent in seconds.";
        let metric = encoder.encode_descriptor("process_cpu", cpu, Some(&seconds), MetricType::Counter)?;
        ConstCounter::new(figures.cpu_seconds).encode(metric)?;
        let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: f64| {
            let metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)
        };
        gauge(
            "process_resident_memory",
            "Resident memory size in bytes.",
            Some(Unit::Bytes),
            figures.resident_bytes,
        )?;
        gauge(
            "process_virtual_memory",
            "Virtual memory size in bytes.",
            Some(Unit::Bytes),
            figures.virtual_bytes,
        )?;
        gauge(
            "process_open_fds",
            "Number of open file descriptors.",
            None,
            figures.open_fds,
        )?;
        gauge(
            "process_max_fds",
            "Maximum number of open file descriptors.",
            None,
            figures.max_fds,
        )?;
        gauge(
            "process_start_time",
            "Start time of the process since unix epoch in seconds.",
            Some(Unit::Seconds),
            figures.start_time_seconds,
        )
    }
}

#[derive(Debug)]
struct Figures {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    open_fds: f64,
    max_fds: f64,
    start_time_seconds: f64,
}

impl Figures {
    /// Reads the figures; `None` without the `/proc` of Linux.
    fn read() -> Option<Self> {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let stat = read("/proc/self/stat")?;
        // The second field, the program's name in parentheses, may hold any character: fields are counted after it
        // (proc(5)).
        let fields: Vec<&str> = stat
            .get(stat.rfind(')')? + 1..)?
            .split_ascii_whitespace()
            .collect();
        let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let boot = number_after(&read("/proc/stat")?, "btime ")?;
        let status = read("/proc/self/status")?;
        Some(Self {
            cpu_seconds: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
            resident_bytes: number_after(&status, "VmRSS:")? * 1024.0,
            virtual_bytes: number_after(&status, "VmSize:")? * 1024.0,
            open_fds: std::fs::read_dir("/proc/self/fd").ok()?.count() as f64,
            max_fds: number_after(&read("/proc/self/limits")?, "Max open files").unwrap_or(f64::INFINITY),
            start_time_seconds: boot + ticks(22)? / TICKS_PER_SECOND,
        })
    }
}

/// The number after `start` on the line that begins with it.
fn number_after(text: &str, start: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(start))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}
