//! A contest for a target: somebody else keeps changing or deleting it.

use std::time::Duration;

use jiff::Timestamp;

use super::token_facts::Stored;

/// The time within which repairs are counted.
pub const WINDOW: Duration = Duration::from_secs(60);
/// The time without a repair, after the last pause, after which the contest is over.
pub const CALM: Duration = Duration::from_secs(60);

/// Repairs within [`WINDOW`] that no pause follows, but for the last of them.
const FREE_REPAIRS: usize = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Takes the number of repairs within [`WINDOW`], the last one included, and the number of pauses in a row, and gives
/// the pause before the next repair: none at first, then 10 s doubling to 5 minutes.
pub fn pause_after(repairs: usize, pauses: u32) -> Option<Duration> {
    let is_contested = pauses > 0 || repairs >= FREE_REPAIRS;
    is_contested.then(|| FIRST_PAUSE.saturating_mul(1 << pauses.min(8)).min(LONGEST_PAUSE))
}

/// The way in which somebody else undoes what is written to a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Undone {
    /// It could not be found out.
    #[default]
    Unknown,
    /// The Secret is changed by this field manager.
    ChangedBy(Box<str>),
    /// The Secret is deleted.
    Deleted,
}

/// A contest that lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contest {
    /// The issue of the token that was written last: writes of it are repairs.
    pub issued: Timestamp,
    /// The end of the pause before the next repair. It may have passed.
    pub paused_until: Timestamp,
    /// The time at which the contest is over, where nothing needs a repair until then.
    pub over_at: Timestamp,
    pub undone: Undone,
}

impl Contest {
    /// The time before which the token that was issued at `issued` is not written; `None` where it may be now.
    pub fn holds(&self, issued: Timestamp, now: Timestamp) -> Option<Timestamp> {
        (self.issued == issued && now < self.paused_until).then_some(self.paused_until)
    }

    /// As [`Self::holds`], for the token in the target.
    pub(super) fn holds_stored(&self, stored: Option<&Stored>, now: Timestamp) -> Option<Timestamp> {
        self.holds(stored?.issued, now)
    }

    /// The message for the user. It stays the same throughout a contest, once it is known what happens.
    pub fn message(&self, secret: &str) -> String {
        match &self.undone {
            Undone::ChangedBy(manager) => format!(
                "field manager '{manager}' keeps changing Secret '{secret}', which is repaired after pauses of up to 5 \
                 minutes: stop that writer, or give one of the two another Secret"
            ),
            Undone::Deleted => format!(
                "somebody keeps deleting Secret '{secret}', which is made again after pauses of up to 5 minutes: look for \
                 the writer in the API server's audit log and stop it, or set another `spec.target.name`"
            ),
            Undone::Unknown => format!(
                "somebody keeps changing or deleting Secret '{secret}', which is repaired after pauses of up to 5 minutes: \
                 look for the writer in the API server's audit log and stop it, or set another `spec.target.name`"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_repairs_in_a_minute_are_free_and_then_pauses_double() {
        assert_eq!(pause_after(4, 0), None);
        let pauses = [(5, 0), (1, 1), (1, 2), (1, 4), (1, 5), (9, u32::MAX)];
        let seconds = pauses.map(|(repairs, pauses)| pause_after(repairs, pauses).unwrap().as_secs());
        assert_eq!(seconds, [10, 20, 40, 160, 300, 300]);
    }

    #[test]
    fn a_message_says_as_much_as_is_known() {
        let message = |undone| {
            let at = Timestamp::UNIX_EPOCH;
            let contest = Contest {
                issued: at,
                paused_until: at,
                over_at: at,
                undone,
            };
            contest.message("s")
        };
        let changed = message(Undone::ChangedBy("kubectl-edit".into()));
        assert!(
            changed.starts_with("field manager 'kubectl-edit' keeps changing"),
            "{changed}"
        );
        assert!(message(Undone::Deleted).starts_with("somebody keeps deleting"));
        assert!(message(Undone::Unknown).starts_with("somebody keeps changing or deleting"));
    }
}
