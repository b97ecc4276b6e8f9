//! The signs of life of the watches: for the liveness probe, for the metrics, and for those who wait for the first
//! lists.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::clock::Timeline;
use crate::metrics::Metrics;
use crate::server::Health;
use crate::sync::lock;

/// Takes the signs of life of all watches.
#[derive(Debug)]
pub(crate) struct WatchMonitor {
    timeline: Arc<Timeline>,
    health: Health,
    metrics: Metrics,
    /// The time of the last event, by watch and scope.
    heard: Mutex<BTreeMap<(&'static str, String), Timestamp>>,
    lists: Notify,
}

impl WatchMonitor {
    /// A monitor of no watches.
    pub(crate) fn new(timeline: Arc<Timeline>, health: Health, metrics: Metrics) -> Self {
        Self {
            timeline,
            health,
            metrics,
            heard: Mutex::default(),
            lists: Notify::new(),
        }
    }

    /// The task of a watch is alive: it received something, or waits.
    pub(crate) fn alive(&self, watch: &'static str, scope: &str) {
        self.health.watch_alive(watch, scope);
    }

    /// A watch received something from the API server, be it a bookmark.
    pub(crate) fn heard(&self, watch: &'static str, scope: &str) {
        let mut heard = lock(&self.heard);
        heard.insert((watch, scope.to_owned()), self.timeline.now().wall());
        let of_watch = heard.iter().filter(|((other, _), _)| *other == watch);
        if let Some(longest_ago) = of_watch.map(|(_, at)| *at).min() {
            self.metrics.watch_event(watch, longest_ago);
        }
    }

    /// A watch failed.
    pub(crate) fn failed(&self, watch: &'static str) {
        self.metrics.watch_failure(watch);
    }

    /// A list is complete.
    pub(crate) fn list_ended(&self) {
        self.lists.notify_waiters();
    }

    /// Completes when the next list is complete.
    pub(crate) fn next_list(&self) -> Notified<'_> {
        self.lists.notified()
    }

    /// All watches were ended on purpose: no sign of life is expected any more.
    pub(crate) fn ended(&self) {
        self.health.watches_ended();
        self.metrics.watches_ended();
        lock(&self.heard).clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::TokioClock;

    #[tokio::test(start_paused = true)]
    async fn the_metric_shows_the_namespace_that_was_silent_for_longest() {
        let metrics = Metrics::new();
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        let clock = Arc::new(TokioClock::new(start));
        let monitor = WatchMonitor::new(Arc::new(Timeline::new(clock)), Health::new(&[]), metrics.clone());
        let shown = || {
            let text = metrics.encode().unwrap();
            let series = "vendortoken_watch_last_event_timestamp_seconds{watch=\"secrets\"} ";
            let value = text.lines().find_map(|line| line.strip_prefix(series));
            value.map(|value| value.parse::<i64>().unwrap())
        };
        monitor.heard("secrets", "a");
        monitor.heard("secrets", "b");
        tokio::time::advance(Duration::from_secs(60)).await;
        monitor.heard("vendortokens", "b");
        monitor.heard("secrets", "a");
        assert_eq!(shown(), Some(1_700_000_000));
        monitor.heard("secrets", "b");
        assert_eq!(shown(), Some(1_700_000_060));
        monitor.ended();
        assert_eq!(shown(), None);
    }
}
