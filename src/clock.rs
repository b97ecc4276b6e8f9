//! The process's clock: a steady timeline inside, the time of day at the border, and a list of the wall clock's steps.
//!
//! May use: `sync`.
//!
//! Waits, gaps, budgets and back-offs are measured in [`Moment`]s, which no step of the wall clock moves. A time that
//! leaves the process (an annotation, a status, an expiry) or comes from outside is a [`Timestamp`]; [`Now`] converts
//! between the two.

use std::fmt::Debug;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::sync::lock;

/// The two clocks of the machine.
pub trait Clock: Send + Sync + Debug {
    /// The time of day, which may be stepped.
    fn now(&self) -> Timestamp;
    /// The time since a fixed point in the past. No step of the wall clock moves it, and it goes on while the machine
    /// sleeps (on Linux: CLOCK_BOOTTIME, see clock_gettime(2)). Zero where the clock cannot be read.
    fn steady(&self) -> Duration {
        // CLOCK_MONOTONIC stands still while a Linux machine sleeps, CLOCK_BOOTTIME does not.
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let clock = rustix::time::ClockId::Monotonic;
        Duration::try_from(rustix::time::clock_gettime(clock)).unwrap_or_default()
    }
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock for tests: it starts at a given time and moves with tokio's clock, which a test pauses and advances.
#[derive(Debug)]
pub struct TokioClock {
    base: Timestamp,
    started: Instant,
    /// The sum of all steps, in nanoseconds.
    stepped: AtomicI64,
    /// The sum of all sleeps, in nanoseconds.
    slept: AtomicI64,
}

impl TokioClock {
    /// Gives a clock that shows `base` now. Call it inside the tokio runtime whose time is paused.
    pub fn new(base: Timestamp) -> Self {
        Self {
            base,
            started: Instant::now(),
            stepped: AtomicI64::new(0),
            slept: AtomicI64::new(0),
        }
    }

    /// Sets the time of day ahead by `step` (negative: back), as a correction by NTP does. No timer moves.
    pub fn step(&self, step: SignedDuration) {
        self.stepped.fetch_add(nanoseconds(step), Ordering::Relaxed);
    }

    /// Lets the machine sleep for `time`: both clocks go on, and no timer moves.
    pub fn sleep(&self, time: SignedDuration) {
        self.slept.fetch_add(nanoseconds(time), Ordering::Relaxed);
    }
}

fn nanoseconds(duration: SignedDuration) -> i64 {
    let limit = if duration.is_negative() {
        i64::MIN
    } else {
        i64::MAX
    };
    i64::try_from(duration.as_nanos()).unwrap_or(limit)
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.steady()).unwrap_or(SignedDuration::MAX);
        let stepped = SignedDuration::from_nanos(self.stepped.load(Ordering::Relaxed));
        // Saturates: a test that runs past the year 9999 stays there.
        self.base
            .saturating_add(elapsed.saturating_add(stepped))
            .unwrap_or(self.base)
    }

    fn steady(&self) -> Duration {
        let slept = u64::try_from(self.slept.load(Ordering::Relaxed)).unwrap_or_default();
        self.started.elapsed() + Duration::from_nanos(slept)
    }
}

/// A point on the timeline of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(SignedDuration);

impl Moment {
    /// The moment this many seconds after the timeline's start.
    #[cfg(test)]
    pub(crate) const fn at_second(second: i64) -> Self {
        Self(SignedDuration::from_secs(second))
    }

    /// The time from `earlier` to this moment; zero where `earlier` is the later one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self - earlier).unwrap_or_default()
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    /// The moment `duration` later. Saturates.
    fn add(self, duration: Duration) -> Self {
        let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        Self(self.0.saturating_add(duration))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    /// The moment `duration` earlier. Saturates.
    fn sub(self, duration: Duration) -> Self {
        let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        Self(self.0.saturating_sub(duration))
    }
}

impl Sub for Moment {
    type Output = SignedDuration;

    /// The time from `other` to this moment, negative where `other` is the later one. Saturates.
    fn sub(self, other: Self) -> SignedDuration {
        self.0.saturating_sub(other.0)
    }
}

/// One reading of both clocks: the present moment, and the time of day.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The present moment.
    pub moment: Moment,
    /// The time of day at the timeline's start, by the wall clock as it goes now.
    origin: Timestamp,
}

impl Now {
    /// The time of day.
    pub fn wall(&self) -> Timestamp {
        self.wall_at(self.moment)
    }

    /// The time of day at `moment`, by the wall clock as it goes now. Saturates.
    pub fn wall_at(&self, moment: Moment) -> Timestamp {
        let limit = if moment.0.is_negative() {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        };
        self.origin.saturating_add(moment.0).unwrap_or(limit)
    }

    /// The moment at which the wall clock shows `time`, as it goes now.
    pub fn moment_at(&self, time: Timestamp) -> Moment {
        Moment(time.duration_since(self.origin))
    }
}

/// A step of the wall clock: it was set, by more than it drifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    seen: Moment,
    /// Negative where the clock was set back.
    by: SignedDuration,
}

/// A smaller difference between the wall clock and the steady clock is drift, and no step.
const DRIFT_TOLERANCE: SignedDuration = SignedDuration::from_secs(1);
/// Steps that are kept at most; the oldest are dropped first.
const MOST_STEPS: usize = 256;
/// The longest time between two readings that show one moment.
const LONGEST_READING: Duration = Duration::from_millis(100);
/// Attempts to read both clocks at one moment.
const READINGS: usize = 3;

/// The timeline of this process, and the steps that the wall clock has made beside it.
#[derive(Debug)]
pub struct Timeline {
    clock: Arc<dyn Clock>,
    inner: Mutex<TimelineState>,
}

#[derive(Debug)]
struct TimelineState {
    origin: Timestamp,
    steps: Vec<Step>,
}

impl Timeline {
    /// Takes the clocks of the machine. The timeline begins at the zero of the steady clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let origin = origin_of(clock.now(), clock.steady());
        Self {
            clock,
            inner: Mutex::new(TimelineState {
                origin,
                steps: Vec::new(),
            }),
        }
    }

    /// Reads both clocks, and adds a step of the wall clock since the last reading to the list.
    pub fn now(&self) -> Now {
        let mut state = lock(&self.inner);
        let (wall, steady) = self.read();
        let moment = Moment(SignedDuration::try_from(steady).unwrap_or(SignedDuration::MAX));
        let drift = origin_of(wall, steady).duration_since(state.origin);
        if drift.abs() >= DRIFT_TOLERANCE {
            // In whole seconds, so that a time in whole seconds stays one when it is converted there and back.
            let by =
                SignedDuration::from_secs(drift.as_secs() + i64::from(drift.subsec_nanos() / 500_000_000));
            state.origin = state.origin.saturating_add(by).unwrap_or(state.origin);
            if state.steps.len() == MOST_STEPS {
                state.steps.remove(0);
            }
            state.steps.push(Step { seen: moment, by });
        }
        Now {
            moment,
            origin: state.origin,
        }
    }

    /// Reads both clocks at one moment. A thread that was held up between the two readings reads them again: the delay
    /// would look like a step.
    fn read(&self) -> (Timestamp, Duration) {
        let mut steady = self.clock.steady();
        for _ in 0..READINGS {
            let wall = self.clock.now();
            let after = self.clock.steady();
            if after.saturating_sub(steady) < LONGEST_READING {
                return (wall, steady);
            }
            steady = after;
        }
        (self.clock.now(), steady)
    }

    /// The sum of the wall clock's steps since `earlier`; negative where the steps back outweigh those ahead.
    pub fn stepped_since(&self, earlier: Moment) -> SignedDuration {
        self.steps_since(earlier)
            .fold(SignedDuration::ZERO, SignedDuration::saturating_add)
    }

    /// The sum of the wall clock's steps back since `earlier`, as a positive duration. Steps ahead do not count: times
    /// that were written before them may have been right.
    pub fn set_back_since(&self, earlier: Moment) -> SignedDuration {
        self.steps_since(earlier)
            .filter(SignedDuration::is_negative)
            .fold(SignedDuration::ZERO, SignedDuration::saturating_sub)
    }

    fn steps_since(&self, earlier: Moment) -> impl Iterator<Item = SignedDuration> + use<> {
        self.now();
        let steps = lock(&self.inner).steps.clone();
        steps
            .into_iter()
            .filter(move |step| step.seen > earlier)
            .map(|step| step.by)
    }
}

/// The time of day at the zero of the steady clock.
fn origin_of(wall: Timestamp, steady: Duration) -> Timestamp {
    let steady = SignedDuration::try_from(steady).unwrap_or(SignedDuration::MAX);
    wall.saturating_sub(steady).unwrap_or(Timestamp::MIN)
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

    /// A timeline over a clock that a test sets.
    fn timeline() -> (Arc<TokioClock>, Timeline) {
        let clock = Arc::new(TokioClock::new(base()));
        let timeline = Timeline::new(Arc::clone(&clock) as Arc<dyn Clock>);
        (clock, timeline)
    }

    fn seconds(seconds: i64) -> SignedDuration {
        SignedDuration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_of_the_wall_clock_moves_no_moment() {
        let (clock, timeline) = timeline();
        let before = timeline.now();
        for step in [-3600, 7200, -1, 86_400] {
            clock.step(seconds(step));
            assert_eq!(timeline.now().moment, before.moment, "{step}");
            assert_eq!(timeline.now().wall(), clock.now(), "{step}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_of_the_machine_is_no_step() {
        let (clock, timeline) = timeline();
        let before = timeline.now().moment;
        clock.sleep(seconds(600));
        assert_eq!(timeline.now().moment.since(before), Duration::from_secs(600));
        assert_eq!(timeline.now().wall(), clock.now());
        assert_eq!(timeline.stepped_since(before), SignedDuration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_ahead_does_not_offset_steps_back() {
        let (clock, timeline) = timeline();
        let start = timeline.now().moment;
        for (step, set_back) in [(-240, 240), (90_000, 240), (-60, 300)] {
            tokio::time::advance(Duration::from_secs(10)).await;
            clock.step(seconds(step));
            assert_eq!(timeline.set_back_since(start), seconds(set_back));
        }
        assert_eq!(timeline.stepped_since(start), seconds(89_700));
        assert_eq!(
            timeline.set_back_since(timeline.now().moment),
            SignedDuration::ZERO
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_drift_of_less_than_a_second_is_no_step() {
        let (clock, timeline) = timeline();
        let start = timeline.now();
        tokio::time::advance(Duration::from_secs(1)).await;
        clock.step(SignedDuration::from_millis(-999));
        assert_eq!(timeline.stepped_since(start.moment), SignedDuration::ZERO);
        assert_eq!(timeline.now().wall().duration_since(start.wall()), seconds(1));
        clock.step(SignedDuration::from_millis(-1));
        assert_eq!(timeline.stepped_since(start.moment), seconds(-1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_in_whole_seconds_stays_one_over_a_step_of_any_size() {
        let (clock, timeline) = timeline();
        let deadline = timeline
            .now()
            .moment_at(base().saturating_add(seconds(600)).unwrap());
        for milliseconds in [-1700, 3_600_400, -86_400_600] {
            clock.step(SignedDuration::from_millis(milliseconds));
            let shown = timeline.now().wall_at(deadline);
            assert_eq!(shown.subsec_nanosecond(), 0, "{milliseconds}");
            let error = shown.duration_since(clock.now()) - seconds(600);
            assert!(error.abs() <= SignedDuration::from_secs(1), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_last_steps_are_remembered() {
        let (clock, timeline) = timeline();
        for _ in 0..2 * MOST_STEPS {
            tokio::time::advance(Duration::from_secs(1)).await;
            clock.step(seconds(5));
            timeline.now();
        }
        let start = Moment::at_second(0);
        assert_eq!(timeline.stepped_since(start), seconds(5 * MOST_STEPS as i64));
    }

    proptest! {
        #[test]
        fn a_time_is_the_same_after_a_conversion_there_and_back(origin in any::<i64>(), moment in any::<i32>()) {
            let origin = Timestamp::from_second(origin % 253_402_207_200).unwrap_or(Timestamp::MAX);
            let now = Now { moment: Moment::at_second(0), origin };
            let moment = Moment::at_second(i64::from(moment));
            let wall = now.wall_at(moment);
            prop_assume!(wall > Timestamp::MIN && wall < Timestamp::MAX);
            prop_assert_eq!(now.moment_at(wall), moment);
        }
    }
}
