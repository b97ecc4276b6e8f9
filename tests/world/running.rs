//! What tests ask of an operator at work, in this process or in one of its own.

use std::time::{Duration, Instant};

use crate::world::PATIENCE;
use crate::world::installation::{POLL, has_secret_watch};

/// The text of `/metrics`.
pub(crate) struct Samples(pub(crate) String);

impl Samples {
    /// The sum of the samples of a metric. Labels may be given too: `vendortoken_watch_failures_total{watch="secrets"}`.
    pub(crate) fn sum(&self, metric: &str) -> f64 {
        self.sum_where(metric, |_| true)
    }

    /// The sum of those samples of a metric whose line `accepted` takes.
    pub(crate) fn sum_where(&self, metric: &str, accepted: impl Fn(&str) -> bool) -> f64 {
        self.lines(metric)
            .filter(|line| accepted(line))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// As [`Self::sum`], of a metric that must have a sample.
    pub(crate) fn one(&self, metric: &str) -> f64 {
        assert!(self.lines(metric).next().is_some(), "no {metric} in {}", self.0);
        self.sum(metric)
    }

    fn lines(&self, metric: &str) -> impl Iterator<Item = &str> {
        self.0.lines().filter(move |line| {
            line.strip_prefix(metric)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        })
    }

    fn reconciles(&self) -> u64 {
        self.sum("vendortoken_reconcile_total") as u64
    }

    fn writes(&self) -> u64 {
        self.sum_where("vendortoken_api_requests_total", |line| {
            !line.contains(r#"verb="GET""#)
        }) as u64
    }
}

/// An operator at work.
pub(crate) trait Running {
    async fn samples(&self) -> Samples;

    /// Ends it as SIGTERM does, and waits until it has ended.
    async fn stop(self);

    /// Ends it as a crash does: what it has in flight is lost.
    async fn kill(self);

    /// How many reconciles have ended.
    async fn reconciles(&self) -> u64 {
        self.samples().await.reconciles()
    }

    /// Waits until no reconcile has ended for half a second. Without a watch of Secrets many objects are never quiet: there
    /// it is enough that nothing was written while each of them was looked at.
    async fn quiet(&self) {
        let rest = Duration::from_millis(500);
        let samples = self.samples().await;
        let mut reconciles = Still::since_now(samples.reconciles());
        let mut writes = Still::since_now(samples.writes());
        let begun = Instant::now();
        loop {
            let samples = self.samples().await;
            let looked = reconciles.is_for(samples.reconciles());
            let written = writes.is_for(samples.writes());
            if looked >= rest || (!has_secret_watch() && written >= POLL + rest) {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "the operator is not quiet: {} reconciles",
                samples.reconciles()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A number, and since when it has not changed.
struct Still {
    number: u64,
    since: Instant,
}

impl Still {
    fn since_now(number: u64) -> Self {
        Self {
            number,
            since: Instant::now(),
        }
    }

    fn is_for(&mut self, number: u64) -> Duration {
        if number != self.number {
            *self = Self::since_now(number);
        }
        self.since.elapsed()
    }
}
