//! The right of this process to act, and its end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::ApiServerReachability;
use crate::clock::{Moment, Timeline};
use crate::sync::lock;

/// The right of this process to act. Clones share the state.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// `None` without an election: always leading.
    pub(super) term: Option<SharedTerm>,
    /// Notified at each change.
    pub(super) leading: watch::Receiver<bool>,
    pub(super) reachability: Option<ApiServerReachability>,
}

/// A term of leadership from its last renewal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    pub(super) renewed: Moment,
    pub(super) lasts: Duration,
}

/// The present term, `None` while another process leads. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct SharedTerm {
    term: Arc<Mutex<Option<Term>>>,
    timeline: Arc<Timeline>,
}

impl SharedTerm {
    pub(super) fn new(timeline: Arc<Timeline>) -> Self {
        Self {
            term: Arc::default(),
            timeline,
        }
    }

    pub(super) fn set(&self, term: Option<Term>) {
        *lock(&self.term) = term;
    }

    /// The time until the end of the term; `None` while there is none.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let term = (*lock(&self.term))?;
        let since = self.timeline.now().moment.since(term.renewed);
        Some(term.lasts.saturating_sub(since))
    }
}

impl Leadership {
    /// Makes a leadership without an election, which always holds.
    pub fn always() -> Self {
        let (sender, leading) = watch::channel(true);
        // A closed channel keeps its last value.
        drop(sender);
        Self {
            term: None,
            leading,
            reachability: None,
        }
    }

    /// Makes the reachability of the API server a condition of each vendor call.
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
        term.time_left().is_some_and(|left| !left.is_zero())
    }

    /// A leadership that holds at first, with a function that ends and renews it.
    #[cfg(test)]
    pub(crate) fn switchable(timeline: Arc<Timeline>) -> (Self, impl Fn(bool)) {
        let (sender, leading) = watch::channel(true);
        let held = Term {
            renewed: timeline.now().moment,
            lasts: Duration::from_secs(86_400),
        };
        let term = SharedTerm::new(timeline);
        term.set(Some(held));
        let leadership = Self {
            term: Some(term.clone()),
            leading,
            reachability: None,
        };
        let set = move |leads: bool| {
            term.set(leads.then_some(held));
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
