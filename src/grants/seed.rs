//! The requests that were sent before this process led: they count against the budgets.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::book::Grants;
use super::limiter::VendorEndpoint;
use crate::providers::{Endpoint, Vendor};

/// The answer to an earlier request came within this time of the second in which a target or a status shows the
/// request.
const LATEST_ANSWER: Duration = Duration::from_secs(5);
/// Earlier requests count for this long: the 60 s of a budget, and the time for the answer.
pub(crate) const COUNTED_FOR: SignedDuration = SignedDuration::from_secs(65);

impl Grants {
    /// Stops sending, because this process does not lead any more, until it [starts to lead](Self::start_leading)
    /// again.
    ///
    /// Requests that wait are given up, and their credentials are wiped: by the time this process leads again, another
    /// one may have asked, and the credentials may be others. An object that still needs a token is decided anew then.
    pub fn step_down(&self) {
        self.lock().step_down();
    }

    /// Starts to send. Requests that another process may have in flight count against the budgets.
    pub fn start_leading(&self) {
        let mut table = self.lock();
        table.start_leading(self.timeline.now().moment);
    }

    /// Counts the requests to `vendor` at `endpoint` that were sent before this process led, by the whole seconds that targets and
    /// statuses show. Times in the future are left out.
    pub fn count_earlier_requests(&self, endpoint: &Endpoint, vendor: Vendor, sent: &[Timestamp]) {
        let mut table = self.lock();
        let now = self.timeline.now();
        let server = VendorEndpoint::new(vendor, endpoint);
        let state = table.endpoint(&server, now.moment);
        for sent in sent.iter().filter(|sent| **sent <= now.wall()) {
            state.budget.count_earlier(now.moment_at(*sent) + LATEST_ANSWER);
        }
    }
}

/// The times of the requests before now, the latest first: `last`, and those that may have been sent before it, each at
/// least `between` (and a second) earlier, back to `oldest`.
pub(crate) fn requests_before(
    last: Timestamp,
    between: SignedDuration,
    oldest: Timestamp,
) -> impl Iterator<Item = Timestamp> {
    std::iter::successors(Some(last), move |sent| {
        let before = sent.checked_sub(between.max(SignedDuration::from_secs(1))).ok()?;
        (before >= oldest).then_some(before)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn earlier_requests_lie_a_refresh_interval_apart() {
        let requests = |last, between, oldest| -> Vec<i64> {
            requests_before(time(last), SignedDuration::from_secs(between), time(oldest))
                .map(|sent| sent.as_second() - 1_800_000_000)
                .collect()
        };
        assert_eq!(requests(-10, 30, -65), [-10, -40]);
        assert_eq!(requests(-10, 5, -20), [-10, -15, -20]);
        assert_eq!(requests(-10, 2880, -65), [-10]);
        // No request lies before the creation of the object, and the last one is given whatever its age.
        assert_eq!(requests(-10, 30, -12), [-10]);
        assert_eq!(requests(-100, 30, -65), [-100]);
    }
}
