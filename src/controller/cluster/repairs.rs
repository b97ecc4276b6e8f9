//! The repairs of one target: writes of a token that was written before.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::{Moment, Now};
use crate::policy::contest::{self, Contest, Undone};

/// A write of the target: the token's issue, and the generation of the spec that it was made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TargetWrite {
    pub(crate) issued: Timestamp,
    pub(crate) generation: Option<i64>,
}

/// The repairs of a target: writes of a token that was written before, since somebody else has changed or deleted the
/// Secret.
#[derive(Clone, Debug, Default)]
pub(super) struct Repairs {
    last_write: Option<TargetWrite>,
    /// Those within [`contest::WINDOW`], at most as many as are free of a pause.
    recent: Vec<Moment>,
    /// The pauses in a row.
    pauses: u32,
    /// The end of the last pause.
    paused_until: Option<Moment>,
    undone: Undone,
}

impl Repairs {
    /// True while the contest lasts: it is over when no repair was needed for a while after the last pause.
    fn is_contested(&self, now: Moment) -> bool {
        self.paused_until
            .is_some_and(|until| now.since(until) < contest::CALM)
    }

    fn forget_what_is_over(&mut self, now: Moment) {
        self.recent.retain(|repair| now.since(*repair) < contest::WINDOW);
        if self.paused_until.is_some() && !self.is_contested(now) {
            *self = Self {
                last_write: self.last_write,
                ..Self::default()
            };
        }
    }

    /// The pause that would follow a write, where it is a repair that is one too many.
    pub(super) fn pause_after(&mut self, write: TargetWrite, now: Moment) -> Option<Duration> {
        self.forget_what_is_over(now);
        let is_repair = self.last_write == Some(write);
        is_repair
            .then(|| contest::pause_after(self.recent.len() + 1, self.pauses))
            .flatten()
    }

    /// Notes a write, and how the one before it was undone, where that was asked for.
    pub(super) fn written(&mut self, write: TargetWrite, undone: Undone, now: Moment) {
        let pause = self.pause_after(write, now);
        if self.last_write.replace(write) == Some(write) {
            self.recent.push(now);
        }
        if let Some(pause) = pause {
            self.pauses = self.pauses.saturating_add(1);
            self.paused_until = Some(now + pause);
            if self.undone == Undone::Unknown {
                self.undone = undone;
            }
            // From here on each repair brings a pause.
            self.recent.clear();
        }
    }

    /// The contest that lasts, by the wall clock as it goes now.
    pub(super) fn contest(&self, now: &Now) -> Option<Contest> {
        let paused_until = self.paused_until.filter(|_| self.is_contested(now.moment))?;
        Some(Contest {
            issued: self.last_write?.issued,
            paused_until: now.wall_at(paused_until),
            over_at: now.wall_at(paused_until + contest::CALM),
            undone: self.undone.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::{Timeline, TokioClock};

    fn write(issued: i64) -> TargetWrite {
        TargetWrite {
            issued: Timestamp::from_second(1_800_000_000 + issued).unwrap(),
            generation: Some(1),
        }
    }

    fn at(second: i64) -> Moment {
        Moment::at_second(second)
    }

    /// Writes for as long as nothing holds a repair, with a repair as soon as it may be: the times of the writes.
    fn war(seconds: i64) -> Vec<i64> {
        let mut repairs = Repairs::default();
        let mut writes = Vec::new();
        for second in 0..seconds {
            while repairs.paused_until.is_none_or(|until| at(second) >= until) && writes.len() < 100 {
                repairs.written(write(0), Undone::Unknown, at(second));
                writes.push(second);
            }
        }
        writes
    }

    #[test]
    fn a_war_is_answered_with_five_repairs_and_then_after_pauses_that_double() {
        assert_eq!(
            war(1800),
            [0, 0, 0, 0, 0, 0, 10, 30, 70, 150, 310, 610, 910, 1210, 1510]
        );
    }

    #[test]
    fn writes_of_other_tokens_and_rare_repairs_are_no_contest() {
        let mut repairs = Repairs::default();
        for second in 0..100 {
            repairs.written(write(second), Undone::Unknown, at(second));
            assert_eq!(repairs.paused_until, None);
        }
        for second in 0..100 {
            repairs.written(write(0), Undone::Unknown, at(200 + second * 16));
            assert_eq!(repairs.paused_until, None, "a repair each 16 s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_contest_is_over_a_minute_after_its_last_pause() {
        let clock = TokioClock::new(Timestamp::from_second(1_800_000_000).unwrap());
        let timeline = Timeline::new(Arc::new(clock));
        let mut repairs = Repairs::default();
        let begun = timeline.now().moment;
        for undone in [
            Undone::Unknown,
            Undone::Unknown,
            Undone::Unknown,
            Undone::Unknown,
            Undone::Unknown,
            Undone::ChangedBy("first".into()),
            Undone::ChangedBy("later".into()),
        ] {
            repairs.written(write(0), undone, begun);
        }
        let contest = repairs.contest(&timeline.now()).unwrap();
        assert_eq!(
            contest.undone,
            Undone::ChangedBy("first".into()),
            "one name for one event"
        );
        let seconds = |time: Timestamp| time.duration_since(timeline.now().wall()).as_secs();
        assert_eq!(
            (seconds(contest.paused_until), seconds(contest.over_at)),
            (20, 80)
        );
        tokio::time::advance(Duration::from_secs(79)).await;
        assert!(repairs.contest(&timeline.now()).is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(repairs.contest(&timeline.now()), None);
        // The next one begins from the start.
        let now = timeline.now().moment;
        assert_eq!(repairs.pause_after(write(0), now), None);
    }
    #[tokio::test(start_paused = true)]
    async fn who_undoes_writes_is_told_once_it_is_known() {
        let clock = TokioClock::new(Timestamp::from_second(1_800_000_000).unwrap());
        let timeline = Timeline::new(Arc::new(clock));
        let now = timeline.now();
        for known in [Undone::ChangedBy("someone".into()), Undone::Deleted] {
            let mut repairs = Repairs::default();
            for _ in 0..6 {
                repairs.written(write(0), Undone::Unknown, now.moment);
            }
            assert_eq!(repairs.contest(&now).unwrap().undone, Undone::Unknown);
            for undone in [known.clone(), Undone::Unknown] {
                repairs.written(write(0), undone, now.moment);
                assert_eq!(repairs.contest(&now).unwrap().undone, known);
            }
        }
    }
}
