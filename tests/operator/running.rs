//! An operator that runs in this process, and what it tells of itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vendor_token_operator::controller::{self, Parameters};
use vendor_token_operator::metrics::Metrics;

use crate::installation;
use crate::support::PATIENCE;

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

/// An operator that runs in this process.
pub(crate) struct Operator {
    /// Requests that are refused are no failure of the test.
    expects_refusals: AtomicBool,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    pub(crate) metrics: Metrics,
}

impl Operator {
    pub(crate) fn start(parameters: Parameters) -> Self {
        let metrics = parameters.metrics.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(controller::run(parameters, async move {
            let _ = stopped.await;
        }));
        Self {
            expects_refusals: AtomicBool::new(false),
            stop: Some(stop),
            task,
            metrics,
        }
    }

    /// This test has the API server refuse requests.
    pub(crate) fn expect_refusals(&self) {
        self.expects_refusals.store(true, Ordering::SeqCst);
    }

    /// The samples of requests that RBAC or admission has refused.
    fn refused(&self) -> Vec<String> {
        let text = self.metrics.encode().unwrap();
        let is_refusal = |line: &&str| {
            line.starts_with("vendortoken_api_requests_total{") && line.contains(r#"code="403""#)
        };
        text.lines().filter(is_refusal).map(str::to_owned).collect()
    }

    /// A sample of its metrics, summed over label values.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.samples(name, |_| true)
    }

    /// A sample of its metrics, summed over the labels that `label` is one of.
    pub(crate) fn metric_with(&self, name: &str, label: &str) -> f64 {
        self.samples(name, |line| line.contains(label))
    }

    /// The sum of the samples whose labels `accepted` likes.
    fn samples(&self, name: &str, accepted: impl Fn(&str) -> bool) -> f64 {
        let text = self.metrics.encode().unwrap();
        text.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && accepted(line))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// How many reconciles have ended.
    pub(crate) fn reconciles(&self) -> u64 {
        self.metric("vendortoken_reconcile_total") as u64
    }

    /// Waits until no reconcile has ended for half a second. Without a watch of Secrets many objects are never quiet: there
    /// it is enough that nothing was written while each of them was looked at.
    pub(crate) async fn quiet(&self) {
        let rest = Duration::from_millis(500);
        let mut reconciles = Still::since_now(self.reconciles());
        let mut writes = Still::since_now(self.writes());
        let begun = Instant::now();
        loop {
            let looked = reconciles.is_for(self.reconciles());
            let written = writes.is_for(self.writes());
            if looked >= rest || (!installation::has_secret_watch() && written >= installation::POLL + rest) {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "the operator is not quiet: {} reconciles",
                self.reconciles()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How often it has written to the API server.
    fn writes(&self) -> u64 {
        self.samples("vendortoken_api_requests_total", |labels| {
            !labels.contains(r#"verb="GET""#)
        }) as u64
    }

    /// Stops it as SIGTERM does, and waits until it has ended.
    pub(crate) async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        (&mut self.task).await.unwrap();
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
        if !std::thread::panicking() && !self.expects_refusals.load(Ordering::SeqCst) {
            assert_eq!(
                self.refused(),
                Vec::<String>::new(),
                "the API server has refused requests"
            );
        }
    }
}
