//! A vendor's rate limit: at most N requests in a sliding window.

use std::collections::VecDeque;

/// A limit of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Requests that are answered within any one window.
    pub requests: u32,
    /// Length of the window in seconds.
    pub window_seconds: u32,
    /// A 429 carries `Retry-After`. Picus sends `X-Ratelimit-*` headers either way.
    pub retry_after_header: bool,
}

impl Budget {
    /// As Mapiq documents: 20 requests a minute.
    pub const MAPIQ: Budget = Budget {
        requests: 20,
        window_seconds: 60,
        retry_after_header: true,
    };
}

/// The window's judgement of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The request is within the budget.
    pub(crate) allowed: bool,
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    /// Milliseconds until the oldest request leaves the window.
    pub(crate) wait_ms: u64,
    pub(crate) retry_after_header: bool,
}

/// The requests of the present window.
#[derive(Debug, Default)]
pub(crate) struct Window {
    admitted: VecDeque<u64>,
}

impl Window {
    /// Counts a request at `now_ms`. A refused one does not count, as in Azure API Management.
    pub(crate) fn take(&mut self, budget: Budget, now_ms: u64) -> Verdict {
        let length = u64::from(budget.window_seconds) * 1000;
        while self.admitted.front().is_some_and(|at| at + length <= now_ms) {
            self.admitted.pop_front();
        }
        let allowed = self.admitted.len() < budget.requests as usize;
        if allowed {
            self.admitted.push_back(now_ms);
        }
        let oldest = self.admitted.front().copied().unwrap_or(now_ms);
        let used = u32::try_from(self.admitted.len()).unwrap_or(u32::MAX);
        Verdict {
            allowed,
            limit: budget.requests,
            remaining: budget.requests.saturating_sub(used),
            wait_ms: (oldest + length).saturating_sub(now_ms),
            retry_after_header: budget.retry_after_header,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.admitted.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides() {
        let budget = Budget {
            requests: 2,
            window_seconds: 10,
            retry_after_header: true,
        };
        let mut window = Window::default();
        assert!(window.take(budget, 1_000).allowed);
        assert!(window.take(budget, 6_000).allowed);
        let refused = window.take(budget, 10_999);
        assert!(!refused.allowed);
        assert_eq!(refused.wait_ms, 1);
        assert!(window.take(budget, 11_000).allowed);
        assert!(
            !window.take(budget, 11_001).allowed,
            "the request at 6 s still counts"
        );
        assert!(window.take(budget, 16_000).allowed);
    }
}
