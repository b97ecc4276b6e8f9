//! The right of this process to act, and its end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use super::ApiServerReachability;
use crate::clock::Clock;
use crate::sync::lock;

/// The right of this process to act. Clones share the state.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// `None` without an election: always leading.
    pub(super) term: Option<Arc<Mutex<Option<Term>>>>,
    /// Notified at each change.
    pub(super) leading: watch::Receiver<bool>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) reachability: Option<ApiServerReachability>,
}

/// A term of leadership from its last renewal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    pub(super) renewed: Instant,
    /// The same moment by the wall clock: the monotonic clock stands still while the machine sleeps.
    pub(super) renewed_wall: Timestamp,
    pub(super) lasts: Duration,
}

impl Leadership {
    /// Makes a leadership without an election, which always holds.
    pub fn always(clock: Arc<dyn Clock>) -> Self {
        let (sender, leading) = watch::channel(true);
        // A closed channel keeps its last value.
        drop(sender);
        Self {
            term: None,
            leading,
            clock,
            reachability: None,
        }
    }

    /// The same, with the reachability of the API server as a condition of each vendor call.
    #[must_use]
    pub fn with_reachability(self, reachability: ApiServerReachability) -> Self {
        Self {
            reachability: Some(reachability),
            ..self
        }
    }

    /// Reachability of the API server; `None` where nothing notes its answers.
    pub fn reachability(&self) -> Option<&ApiServerReachability> {
        self.reachability.as_ref()
    }

    /// True while this process may act.
    pub fn holds(&self) -> bool {
        let Some(term) = &self.term else { return true };
        let Some(term) = *lock(term) else {
            return false;
        };
        let wall = self.clock.now().duration_since(term.renewed_wall);
        term.renewed.elapsed() < term.lasts
            && wall < SignedDuration::try_from(term.lasts).unwrap_or(SignedDuration::MAX)
    }

    /// A leadership that holds at first, with a function that ends and renews it.
    #[cfg(test)]
    pub(crate) fn switchable(clock: Arc<dyn Clock>) -> (Self, impl Fn(bool)) {
        let (sender, leading) = watch::channel(true);
        let held = Term {
            renewed: Instant::now(),
            renewed_wall: clock.now(),
            lasts: Duration::from_secs(86_400),
        };
        let term = Arc::new(Mutex::new(Some(held)));
        let leadership = Self {
            term: Some(Arc::clone(&term)),
            leading,
            clock,
            reachability: None,
        };
        let set = move |leads: bool| {
            *lock(&term) = leads.then_some(held);
            sender.send_replace(leads);
        };
        (leadership, set)
    }

    /// Waits until this process leads (`true`) or does not lead (`false`).
    pub async fn becomes(&mut self, leading: bool) {
        if self.leading.wait_for(|now| *now == leading).await.is_err() {
            // Without an election, or after its end, the value stays.
            std::future::pending::<()>().await;
        }
    }
}
