//! A schedule that knows every token's life beforehand, to compare with: requests in the order of deadlines over the
//! vendor's windows. It shares no code with the book of grants.

use jiff::Timestamp;

use crate::policy::schedule::{self, RefreshPolicy};

/// A grant that is first asked for at `from`, whose tokens live `life` seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    /// Seconds since the start.
    pub(super) from: i64,
    pub(super) life: i64,
    pub(super) jitter: u8,
}

/// The vendor's limit: so many requests in any so many seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) requests: usize,
    pub(super) window: i64,
}

/// The order in which the schedule sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// At once, while the window has room.
    AtOnce,
    /// Evenly over the window.
    Paced,
    /// At once for a grant with a token. One without gets the rest of the window, less the slots for tokens that end
    /// within it.
    FirstTimeLast,
    /// Evenly over the window, with every fifth slot for a grant without a token, while one waits.
    EveryFifth,
}

pub(super) const WAYS: [Way; 3] = [Way::AtOnce, Way::Paced, Way::FirstTimeLast];

/// A token: the second in which it is due, and the second in which it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) due: i64,
    pub(super) ends: i64,
}

/// The grants of which a token expires before the next one comes, in the first `seconds`. Time goes in whole seconds, and
/// begins with these tokens.
///
/// `restarts` are the ends of a process, each with the seconds until the next one begins. That one cannot know the
/// requests in flight before it, and counts a quarter of a window's requests.
pub(super) fn lost(
    mut tokens: Vec<Option<Token>>,
    needs: &[Need],
    limit: Limit,
    way: Way,
    restarts: &[(i64, i64)],
    seconds: i64,
) -> Vec<usize> {
    let mut lost = Vec::new();
    let mut sent: Vec<i64> = Vec::new();
    let mut live_in_a_row = 0;
    for now in 0..seconds {
        sent.retain(|at| now - at < limit.window);
        for (index, token) in tokens.iter_mut().enumerate() {
            if token.is_some_and(|token| token.ends <= now) {
                lost.push(index);
                *token = None;
            }
        }
        if restarts.iter().any(|(at, away)| (*at..at + away).contains(&now)) {
            continue;
        }
        if restarts.iter().any(|(at, away)| at + away == now) {
            sent.extend(std::iter::repeat_n(now, limit.requests / 4));
        }
        let pace = limit.window / limit.requests as i64;
        while sent.len() < limit.requests {
            if matches!(way, Way::Paced | Way::EveryFifth)
                && sent.last().is_some_and(|last| now - last < pace)
            {
                break;
            }
            let waits =
                |index: &usize| tokens[*index].map_or(needs[*index].from <= now, |token| token.due <= now);
            let deadline = |index: &usize| tokens[*index].map_or(i64::MAX, |token| token.ends);
            let without = |index: &usize| tokens[*index].is_none();
            let fifth = (0..needs.len())
                .filter(waits)
                .find(without)
                .filter(|_| way == Way::EveryFifth && live_in_a_row >= 4);
            let Some(next) = fifth.or_else(|| (0..needs.len()).filter(waits).min_by_key(deadline)) else {
                break;
            };
            live_in_a_row = if tokens[next].is_some() {
                live_in_a_row + 1
            } else {
                0
            };
            if way == Way::FirstTimeLast && tokens[next].is_none() {
                let soon = now + limit.window;
                let ending = tokens.iter().flatten().filter(|token| token.ends <= soon).count();
                if limit.requests - sent.len() <= ending {
                    break;
                }
            }
            let need = needs[next];
            let issued = Timestamp::from_second(now).unwrap();
            let expires = Timestamp::from_second(now + need.life).unwrap();
            let due = schedule::due(RefreshPolicy::AtLifetimePercent(80), issued, expires, need.jitter);
            tokens[next] = Some(Token {
                due: due.as_second(),
                ends: expires.as_second(),
            });
            sent.push(now);
        }
    }
    lost.sort_unstable();
    lost.dedup();
    lost
}

#[test]
fn the_offline_schedule_keeps_the_limit_and_the_order() {
    let need = |life| Need {
        from: 0,
        life,
        jitter: 0,
    };
    let limit = Limit {
        requests: 2,
        window: 60,
    };
    // Two requests a minute are enough for these, but not for four tokens that live less than a minute.
    for (lives, way, can_be_carried) in [
        (&[120, 120][..], Way::AtOnce, true),
        (&[120, 120, 3600], Way::Paced, true),
        (&[50, 50, 50, 50], Way::AtOnce, false),
    ] {
        let needs: Vec<_> = lives.iter().copied().map(need).collect();
        let lost = lost(vec![None; needs.len()], &needs, limit, way, &[], 3600);
        assert_eq!(lost.is_empty(), can_be_carried, "{lives:?}");
    }
}
