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

/// How far the wall clock went ahead of the timer (negative: behind) between two looks at both: by what it was set, or for
/// how long the machine slept.
pub fn gone_ahead((wall, timer): (Timestamp, Instant), (now, at): (Timestamp, Instant)) -> SignedDuration {
    let elapsed =
        SignedDuration::try_from(at.saturating_duration_since(timer)).unwrap_or(SignedDuration::MAX);
    now.duration_since(wall).saturating_sub(elapsed)
}

/// Clocks that are read one after the other differ by less.
const NOTICED: SignedDuration = SignedDuration::from_secs(1);

/// When a wait ends, noted by both clocks: a wall clock that is set back must not make it longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    until: Timestamp,
    noted: (Timestamp, Instant),
}

impl Deadline {
    /// `until`, by the clock that shows `now`.
    pub const fn new(until: Timestamp, now: Timestamp, at: Instant) -> Self {
        Self {
            until,
            noted: (now, at),
        }
    }

    /// When it ends by the clock as it goes now: sooner by what the clock was set back since, and a second later than that,
    /// so that nobody is early. A clock that was set ahead takes nothing away: a machine that slept looks the same.
    pub fn until(&self, now: Timestamp, at: Instant) -> Timestamp {
        let lost = SignedDuration::ZERO.saturating_sub(gone_ahead(self.noted, (now, at)));
        if lost < NOTICED {
            return self.until;
        }
        // To the nearest second, or the status would change with each look.
        let lost = SignedDuration::from_secs(lost.saturating_add(NOTICED / 2).as_secs() - 1);
        self.until.saturating_sub(lost).unwrap_or(Timestamp::MIN)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

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

    fn start_of_wait() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// How long a wait of 600 s that began 100 s ago still lasts, where the clock has since made these steps, in
    /// milliseconds.
    fn left(steps: &[i64]) -> i64 {
        let at = Instant::now();
        let deadline = Deadline::new(
            start_of_wait()
                .checked_add(SignedDuration::from_secs(600))
                .unwrap(),
            start_of_wait(),
            at,
        );
        let shown = SignedDuration::from_millis(100_000 + steps.iter().sum::<i64>());
        let now = start_of_wait().checked_add(shown).unwrap();
        let until = deadline.until(now, at + Duration::from_secs(100));
        until.duration_since(now).as_secs()
    }

    #[test]
    fn a_clock_that_is_set_back_lengthens_no_wait_and_shortens_none() {
        assert_eq!(left(&[]), 500);
        for back in [-1000, -240_000, -3_600_000, -86_400_000] {
            assert_eq!(left(&[back]), 501, "{back}");
        }
        assert_eq!(left(&[-999]), 500, "too little to be told from none");
    }

    #[test]
    fn a_clock_that_is_set_ahead_ends_a_wait_sooner_until_it_is_set_back() {
        assert_eq!(left(&[400_000]), 100);
        assert_eq!(left(&[3_600_000, -3_600_000]), 500);
        assert_eq!(left(&[3_600_000, -3_700_000]), 501);
    }

    proptest! {
        #[test]
        fn no_clock_shortens_a_wait_by_being_set_back_and_none_makes_it_panic(
            until in any::<i64>(), noted in any::<i64>(), now in any::<i64>(), elapsed in 0..1_000_000_000_u64
        ) {
            let time = |second: i64| Timestamp::from_second(second % 253_402_207_200).unwrap_or(Timestamp::MAX);
            let at = Instant::now();
            let deadline = Deadline::new(time(until), time(noted), at);
            let after = Duration::from_millis(elapsed);
            let ends = deadline.until(time(now), at + after);
            let told = SignedDuration::try_from(after).unwrap() + ends.duration_since(time(now));
            let asked = time(until).duration_since(time(noted));
            let was_set_ahead = time(now).duration_since(time(noted)) > SignedDuration::try_from(after).unwrap();
            prop_assert!(was_set_ahead || told >= asked || ends == Timestamp::MIN, "{told:?} of {asked:?}");
        }
    }
}
