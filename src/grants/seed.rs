//! What a process that starts to lead takes over of the requests that were sent before: they count against a budget.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Grants;
use crate::providers::{Endpoint, Vendor};

/// An answer that is read back came by then, after the whole second in which its request was sent.
const LATEST_ANSWER: Duration = Duration::from_secs(5);
/// Requests this old still count.
pub(crate) const COUNTED_FOR: SignedDuration = SignedDuration::from_secs(65);

impl Grants {
    /// This process does not lead any more: nothing is sent until it [starts to lead](Self::start_leading) again.
    ///
    /// What waits is given up, and its credentials are wiped: by the time this process leads again another one may have
    /// asked, and the credentials may be others. Whoever still needs a token is decided anew then.
    pub fn step_down(&self) {
        self.lock().step_down();
    }

    /// From now on this process sends; before, another one may have.
    pub fn start_leading(&self) {
        let mut table = self.lock();
        table.start_leading(self.timeline.now().moment);
    }

    /// Counts requests to `endpoint` that were sent before this process led, as far as targets and statuses show, which
    /// is in whole seconds.
    pub fn count_earlier_requests(&self, endpoint: &Endpoint, vendor: Vendor, sent: &[Timestamp]) {
        let mut table = self.lock();
        let now = self.timeline.now();
        let state = table.endpoint(endpoint, vendor, now.moment);
        for sent in sent.iter().filter(|sent| **sent <= now.wall()) {
            state.budget.count_earlier(now.moment_at(*sent) + LATEST_ANSWER);
        }
    }
}

/// The last request, and those before it not before `oldest`, where each was at least `between` after the one before.
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
    fn a_token_that_lives_a_minute_has_had_two_requests_in_it() {
        let requests = |last, between, oldest| -> Vec<i64> {
            requests_before(time(last), SignedDuration::from_secs(between), time(oldest))
                .map(|sent| sent.as_second() - 1_800_000_000)
                .collect()
        };
        assert_eq!(requests(-10, 30, -65), [-10, -40]);
        assert_eq!(requests(-10, 5, -20), [-10, -15, -20]);
        assert_eq!(requests(-10, 2880, -65), [-10]);
        // It was created since, or is older than what counts.
        assert_eq!(requests(-10, 30, -12), [-10]);
        assert_eq!(requests(-100, 30, -65), [-100]);
    }
}
