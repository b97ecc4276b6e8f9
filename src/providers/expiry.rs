//! When a token expires: the earliest time that one of its sources credibly gives.
//!
//! A relative time (`expires_in`) needs no clock but ours. An absolute one (`expires_on`, `expire_at`, `exp`) is by
//! the vendor's clock, and the `Date` header tells how far that is from ours.

use jiff::{SignedDuration, Timestamp};

use super::date;
use super::exchange::TokenResponse;

/// No token is taken to live longer than this, in seconds.
pub(super) const LONGEST_LIFE: i64 = 400 * 24 * 60 * 60;
/// A `Date` header farther off than this is no measure of anything, in seconds.
const CREDIBLE_OFFSET: i64 = 86_400;
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

/// How far the clock may be set while a vendor answers, before nothing is believed of the life of its token. Half of the
/// shortest life is left at a refresh, and this is small beside it.
const STEP_TOLERANCE: SignedDuration = SignedDuration::from_secs(5);

/// Whether the clock was set while the vendor answered: by then the time of the request says nothing about now. That the
/// machine slept looks the same, and the token is then as old as it slept long.
pub(super) fn clock_was_set(response: &TokenResponse) -> bool {
    response.clock_step > STEP_TOLERANCE || response.clock_step < -STEP_TOLERANCE
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
    // A clock that is off by more than a day proves nothing.
    let is_compared = offset.is_some_and(|offset| offset.abs() <= CREDIBLE_OFFSET);
    let unproven = !is_compared && relative.is_some_and(|time| time > now);
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use http::header::DATE;
    use rstest::rstest;

    const SENT: i64 = 1_700_000_000;
    const DAY: i64 = 24 * 60 * 60;

    /// An answer after two seconds; `offset` is how far the vendor's clock is ahead, where it sends a `Date`.
    fn response(offset: Option<i64>) -> TokenResponse {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut headers = HeaderMap::new();
        if let Some(offset) = offset {
            let text = jiff::fmt::rfc2822::DateTimePrinter::new()
                .timestamp_to_rfc9110_string(&at(SENT + 1 + offset));
            headers.insert(DATE, text.unwrap().parse().unwrap());
        }
        TokenResponse {
            status: 200,
            headers,
            body: Vec::new().into(),
            sent: at(SENT),
            received: at(SENT + 2),
            clock_step: SignedDuration::ZERO,
        }
    }

    fn sources(relative: Option<i64>, absolute: &[i64]) -> Sources {
        Sources {
            relative,
            absolute: absolute.iter().map(|time| SENT + time).collect(),
            not_before: Vec::new(),
        }
    }

    // edge cases 17 to 21, 23 and 25. Times are seconds from the request.
    #[rstest]
    #[case::relative(None, Some(3600), &[], 3600, false, false)]
    #[case::absolute(None, None, &[7200], 7200, false, false)]
    #[case::the_earliest_of_all(None, Some(3600), &[3590, 3700], 3590, false, false)]
    #[case::nothing_told(None, None, &[], 1000, true, false)]
    #[case::huge_is_cut(None, Some(i64::MAX), &[], 400 * DAY, false, false)]
    #[case::beyond_400_days_is_not_credible(None, None, &[400 * DAY + 1], 1000, true, false)]
    #[case::four_hundred_days_are(None, None, &[400 * DAY], 400 * DAY, false, false)]
    #[case::two_minutes_apart_agree(None, Some(3600), &[3720], 3600, false, false)]
    #[case::more_disagree(None, Some(3600), &[3721], 3600, false, true)]
    #[case::a_minute_off_is_no_skew(Some(61), None, &[7200], 7200, false, false)]
    #[case::the_vendor_is_two_hours_ahead(Some(7201), None, &[2 * 7200], 7200, false, true)]
    #[case::the_vendor_is_two_hours_behind(Some(-7201), None, &[0], 7200, false, true)]
    #[case::relative_needs_no_clock(Some(-7201), Some(3600), &[3600 - 7200], 3600, false, true)]
    #[case::past_by_our_clock_alone(None, Some(3600), &[-3600], 3600, false, true)]
    fn the_earliest_credible_time_counts(
        #[case] offset: Option<i64>,
        #[case] relative: Option<i64>,
        #[case] absolute: &[i64],
        #[case] expires: i64,
        #[case] assumed: bool,
        #[case] clock_skew_suspected: bool,
    ) {
        let life = settle(&response(offset), &sources(relative, absolute), 1000).unwrap();
        assert_eq!(life.expires.as_second() - SENT, expires);
        assert_eq!(
            (life.assumed, life.clock_skew_suspected),
            (assumed, clock_skew_suspected)
        );
        assert_eq!((life.issued.as_second(), life.not_before), (SENT, None));
    }

    // edge case 23
    #[rstest]
    #[case::absolute(None, None, &[2])]
    #[case::absolute_by_a_compared_clock(Some(0), Some(3600), &[-3600])]
    #[case::one_of_two(None, None, &[7200, -1])]
    #[case::gone_while_it_was_on_its_way(None, Some(2), &[])]
    fn an_expired_token_is_useless(
        #[case] offset: Option<i64>,
        #[case] relative: Option<i64>,
        #[case] absolute: &[i64],
    ) {
        assert_eq!(
            settle(&response(offset), &sources(relative, absolute), 1000),
            Err(Useless::Expired)
        );
    }

    // edge case 18
    #[test]
    fn milliseconds_are_told_by_their_magnitude() {
        for time in [SENT + 7200, (SENT + 7200) * 1000 + 155] {
            let sources = Sources {
                absolute: vec![time],
                ..Sources::default()
            };
            let life = settle(&response(None), &sources, 1000).unwrap();
            assert_eq!(life.expires.as_second() - SENT, 7200);
        }
    }

    // edge case 22
    #[rstest]
    #[case::in_the_past(None, &[-300], Ok(None))]
    #[case::in_the_future(None, &[60, -300], Ok(Some(60)))]
    #[case::by_the_vendors_clock(Some(7201), &[7199], Ok(None))]
    #[case::not_credible(None, &[400 * DAY + 1], Ok(None))]
    #[case::never(Some(0), &[3600], Err(Useless::NeverValid))]
    #[case::by_our_clock_alone(None, &[7200], Ok(None))]
    fn a_token_may_have_to_wait(
        #[case] offset: Option<i64>,
        #[case] not_before: &[i64],
        #[case] expected: Result<Option<i64>, Useless>,
    ) {
        let not_before = not_before.iter().map(|time| SENT + time).collect();
        let sources = Sources {
            relative: Some(3600),
            absolute: Vec::new(),
            not_before,
        };
        let found = settle(&response(offset), &sources, 1000)
            .map(|life| life.not_before.map(|time| time.as_second() - SENT));
        assert_eq!(found, expected);
    }

    // edge case 21
    #[rstest]
    #[case::not_at_all(0, false)]
    #[case::as_little_as_clocks_are_corrected_by(5, false)]
    #[case::ahead(6, true)]
    #[case::back(-6, true)]
    #[case::as_long_as_any_machine_sleeps(i64::MAX, true)]
    #[case::to_the_beginning(i64::MIN, true)]
    fn a_clock_may_be_set_by_seconds_while_a_vendor_answers(#[case] step: i64, #[case] expected: bool) {
        let mut response = response(None);
        response.clock_step = SignedDuration::from_secs(step);
        assert_eq!(clock_was_set(&response), expected);
    }

    #[test]
    fn a_clock_that_was_set_back_meanwhile_does_no_harm() {
        let mut response = response(None);
        response.received = Timestamp::from_second(SENT - 500).unwrap();
        let life = settle(&response, &sources(Some(i64::MAX), &[]), 1000).unwrap();
        assert_eq!(life.expires.as_second(), SENT - 500 + 400 * DAY);
    }
}
