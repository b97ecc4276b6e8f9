//! The wall clock, behind a trait, so that tests decide what time it is.
//!
//! May use: nothing of ours.

use std::fmt::Debug;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Where the time of day comes from. Durations inside one process are measured with [`tokio::time::Instant`];
/// this clock is for times that leave the process (annotations, status, expiries) or come from outside.
pub trait Clock: Send + Sync + Debug {
    /// The present time.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that starts at a given time and moves with tokio's clock: where a test pauses and advances tokio's time,
/// the time of day moves along. [`TokioClock::step`] sets it ahead or back, as an NTP correction does, without
/// moving timers.
#[derive(Debug)]
pub struct TokioClock {
    base: Timestamp,
    started: Instant,
    /// Sum of all steps, in nanoseconds (reaches 292 years).
    offset: AtomicI64,
}

impl TokioClock {
    /// A clock that shows `base` now. Call it inside a tokio runtime where tokio's time may be paused.
    pub fn new(base: Timestamp) -> Self {
        Self {
            base,
            started: Instant::now(),
            offset: AtomicI64::new(0),
        }
    }

    /// Moves the time of day by `step` (negative: back), and leaves tokio's time alone.
    pub fn step(&self, step: SignedDuration) {
        let nanoseconds =
            i64::try_from(step.as_nanos()).unwrap_or(if step.is_negative() { i64::MIN } else { i64::MAX });
        self.offset.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::MAX);
        let offset = SignedDuration::from_nanos(self.offset.load(Ordering::Relaxed));
        // Saturates: a test that runs past the year 9999 stays there.
        self.base
            .saturating_add(elapsed.saturating_add(offset))
            .unwrap_or(self.base)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn base() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_day_moves_with_a_paused_tokio_clock() {
        let clock = TokioClock::new(base());
        assert_eq!(clock.now(), base());
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now(), "2026-03-01T12:01:30Z".parse().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_moves_the_time_of_day_and_no_timer() {
        let clock = TokioClock::new(base());
        let before = Instant::now();
        clock.step(SignedDuration::from_hours(2));
        clock.step(SignedDuration::from_mins(-30));
        assert_eq!(clock.now(), "2026-03-01T13:30:00Z".parse().unwrap());
        assert_eq!(Instant::now(), before);
    }

    #[test]
    fn the_system_clock_shows_the_present() {
        let before = Timestamp::now();
        let shown = SystemClock.now();
        assert!(before <= shown && shown <= Timestamp::now());
    }
}
