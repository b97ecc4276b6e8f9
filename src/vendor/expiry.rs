//! When a token expires: the earliest time that one of its sources credibly gives.
//!
//! A relative time (`expires_in`) needs no clock but ours. An absolute one (`expires_on`, `expire_at`, `exp`) is by
//! the vendor's clock, and the `Date` header tells how far that is from ours.

use jiff::{SignedDuration, Timestamp};

use super::date;
use super::exchange::TokenResponse;

/// No token is taken to live longer than this, in seconds.
pub(super) const LONGEST_LIFE: i64 = 400 * 24 * 60 * 60;
/// A `Date` header farther off than this means that a clock is wrong, in seconds.
const CLOCK_TOLERANCE: i64 = 60;
/// Sources farther apart than this disagree, in seconds.
const SOURCE_TOLERANCE: i64 = 120;
/// Epoch times from here on are in milliseconds: as seconds this is the year 5138.
const MILLISECONDS_FROM: i64 = 100_000_000_000;

/// What an answer says about the life of its token.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Seconds from the request.
    pub(super) relative: Option<i64>,
    /// Seconds, or milliseconds by their magnitude, since the epoch.
    pub(super) absolute: Vec<i64>,
    /// The token is not to be used before any of these.
    pub(super) not_before: Vec<i64>,
}

/// The life of a token by the local clock.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) issued: Timestamp,
    pub(super) expires: Timestamp,
    pub(super) assumed: bool,
    pub(super) clock_skew_suspected: bool,
    pub(super) not_before: Option<Timestamp>,
}

/// Why a token is of no use.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Useless {
    /// It has expired on arrival.
    Expired,
    /// It expires before it may be used.
    NeverValid,
}

/// Settles the life of the token that came with `response`; `default_life` (seconds) where nothing credible is said.
pub(super) fn settle(
    response: &TokenResponse,
    sources: &Sources,
    default_life: i64,
) -> Result<Life, Useless> {
    let sent = response.sent.as_second();
    let now = response.received.as_second().max(sent);
    let latest = sent
        .min(response.received.as_second())
        .saturating_add(LONGEST_LIFE);
    let offset = clock_offset(response);
    let clock_is_off = offset.is_some_and(|offset| offset.abs() > CLOCK_TOLERANCE);
    let correction = if clock_is_off { offset.unwrap_or(0) } else { 0 };
    let to_local = |time: i64| epoch_seconds(time).saturating_sub(correction);

    let relative = sources.relative.map(|life| sent.saturating_add(life).min(latest));
    let absolute: Vec<i64> = sources
        .absolute
        .iter()
        .map(|time| to_local(*time))
        .filter(|time| *time <= latest)
        .collect();
    // A time that has passed is proof only by a clock that was compared; else our own may be the wrong one.
    let unproven = offset.is_none() && relative.is_some_and(|time| time > now);
    let credible = |time: &&i64| !unproven || **time > now;
    let candidates: Vec<i64> = relative
        .iter()
        .chain(absolute.iter().filter(credible))
        .copied()
        .collect();

    let expires = candidates
        .iter()
        .min()
        .copied()
        .unwrap_or(sent.saturating_add(default_life));
    if expires <= now {
        return Err(Useless::Expired);
    }
    let spread = candidates
        .iter()
        .max()
        .copied()
        .unwrap_or(expires)
        .saturating_sub(expires);
    let ignored = absolute.iter().any(|time| !credible(&time));
    let not_before = sources
        .not_before
        .iter()
        .map(|time| to_local(*time))
        .filter(|time| *time <= latest)
        .max();
    let never_valid = not_before.is_some_and(|time| time >= expires);
    if never_valid && !unproven {
        return Err(Useless::NeverValid);
    }
    let not_before = not_before.filter(|time| *time > now && !never_valid);
    Ok(Life {
        issued: at(sent),
        expires: at(expires),
        assumed: candidates.is_empty(),
        clock_skew_suspected: clock_is_off || ignored || never_valid || spread > SOURCE_TOLERANCE,
        not_before: not_before.map(at),
    })
}

/// How far the vendor's clock is ahead of ours, in seconds: zero where its `Date` lies between request and answer.
pub(super) fn clock_offset(response: &TokenResponse) -> Option<i64> {
    let date = date::of(&response.headers)?.as_second();
    let (sent, received) = (response.sent.as_second(), response.received.as_second());
    Some(if date < sent {
        date.saturating_sub(sent)
    } else if date > received {
        date.saturating_sub(received)
    } else {
        0
    })
}

/// Brings an epoch time to seconds: Picus documents `expire_at` in both units.
pub(super) fn epoch_seconds(time: i64) -> i64 {
    if time >= MILLISECONDS_FROM {
        time / 1000
    } else {
        time
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}

/// `time` and a number of seconds more.
pub(super) fn after(time: Timestamp, seconds: i64) -> Timestamp {
    time.saturating_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}
