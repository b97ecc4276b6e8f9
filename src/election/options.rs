//! Times of an election, and the duration of a Lease on a slow API server.

use std::time::Duration;

/// Times and identity of an election. The default times are client-go's for controllers.
#[derive(Clone, Debug)]
pub struct ElectionOptions {
    /// Identity of this process, unique among the contenders.
    pub identity: String,
    /// Time without a renewal after which another may take the Lease.
    pub lease_duration: Duration,
    /// Time without a renewal after which the leader stops acting; less than the lease duration.
    pub renew_deadline: Duration,
    /// Time between two renewals. A standby reads the Lease after about half of it.
    pub retry_period: Duration,
    /// Timeout of each call to the API server. A leader's call may take what is left of its term at most.
    pub call_timeout: Duration,
    /// Time after which a call without an answer is made once more, beside the first: its connection may be dead.
    pub second_call_after: Duration,
}

/// The Lease's duration is this many times as long as the API server takes for an answer: two renewals in a row fit into
/// two thirds of it.
const ANSWERS_IN_A_LEASE: u32 = 4;
/// The longest duration of a Lease, for any answer time.
const LONGEST_LEASE: Duration = Duration::from_secs(80);

impl ElectionOptions {
    /// Makes options with a lease of 15 s, a deadline of 10 s, renewals every 2 s, and calls of at most 20 s.
    pub fn new(identity: impl Into<String>) -> Self {
        Self {
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            call_timeout: Duration::from_secs(20),
            second_call_after: Duration::from_secs(4),
        }
    }

    /// The duration of a Lease on an API server that takes `answer_time`, and the deadline for its renewal.
    pub(super) fn lease_for(&self, answer_time: Duration) -> (Duration, Duration) {
        let wanted = (answer_time * ANSWERS_IN_A_LEASE).min(LONGEST_LEASE);
        // In whole seconds, as the Lease has them.
        let wanted = Duration::from_secs(wanted.as_secs());
        if wanted <= self.lease_duration {
            return (self.lease_duration, self.renew_deadline);
        }
        let share = self.renew_deadline.as_secs_f64() / self.lease_duration.as_secs_f64();
        (wanted, wanted.mul_f64(share))
    }
}
