//! The expiry of a token: the earliest credible time among its sources.
//!
//! A relative time (`expires_in`) needs the local clock alone. An absolute one (`expires_on`, `expire_at`, `exp`) is by
//! the vendor's clock; the `Date` header shows its offset from the local one.

use jiff::{SignedDuration, Timestamp};

use super::date;
use super::exchange::TokenResponse;

/// Upper limit of a token's life, in seconds.
pub(super) const LONGEST_LIFE_SECONDS: i64 = 400 * 24 * 60 * 60;
/// Largest offset of the vendor's clock that its `Date` header proves, in seconds.
const LARGEST_CREDIBLE_OFFSET_SECONDS: i64 = 86_400;
/// Largest offset of a clock that counts as right, in seconds.
const CLOCK_TOLERANCE_SECONDS: i64 = 60;
/// Largest distance of sources that agree, in seconds.
const SOURCE_TOLERANCE_SECONDS: i64 = 120;
/// Smallest epoch time that counts as milliseconds: in seconds it is the year 5138.
const SMALLEST_MILLISECONDS: i64 = 100_000_000_000;

/// Times in an answer that bound the life of its token.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// The life, in seconds from the request.
    pub(super) relative: Option<i64>,
    /// Ends of life, in seconds or milliseconds since the epoch.
    pub(super) absolute: Vec<i64>,
    /// Starts of validity, in seconds or milliseconds since the epoch.
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

/// Reason to refuse a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum UnusableToken {
    /// Expired on arrival.
    Expired,
    /// Expires before it becomes valid.
    NeverValid,
}

/// Largest step of the local clock during an exchange after which the token's life is still believed. It is small
/// beside the time that a refresh leaves of the shortest life.
const CLOCK_STEP_TOLERANCE: SignedDuration = SignedDuration::from_secs(5);

/// True when the local clock was set, or the machine slept, during the exchange: the token's age cannot be computed
/// from the time of the request.
pub(super) fn clock_was_set(response: &TokenResponse) -> bool {
    response.clock_step > CLOCK_STEP_TOLERANCE || response.clock_step < -CLOCK_STEP_TOLERANCE
}

/// Computes the life of the token in `response`: from `sources`, else `default_life` in seconds.
pub(super) fn settle(
    response: &TokenResponse,
    sources: &Sources,
    default_life: i64,
) -> Result<Life, UnusableToken> {
    let sent = response.sent.as_second();
    let now = response.received.as_second().max(sent);
    let latest = sent
        .min(response.received.as_second())
        .saturating_add(LONGEST_LIFE_SECONDS);
    let offset = clock_offset(response);
    let clock_is_off = offset.is_some_and(|offset| offset.abs() > CLOCK_TOLERANCE_SECONDS);
    let correction = if clock_is_off { offset.unwrap_or(0) } else { 0 };
    let to_local = |time: i64| epoch_seconds(time).saturating_sub(correction);

    let relative = sources.relative.map(|life| sent.saturating_add(life).min(latest));
    let absolute: Vec<i64> = sources
        .absolute
        .iter()
        .map(|time| to_local(*time))
        .filter(|time| *time <= latest)
        .collect();
    // A time in the past proves something only after the clocks were compared; else the local one may be wrong. A clock
    // that is off by more than a day proves nothing.
    let is_compared = offset.is_some_and(|offset| offset.abs() <= LARGEST_CREDIBLE_OFFSET_SECONDS);
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
        return Err(UnusableToken::Expired);
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
        return Err(UnusableToken::NeverValid);
    }
    let not_before = not_before.filter(|time| *time > now && !never_valid);
    Ok(Life {
        issued: at(sent),
        expires: at(expires),
        assumed: candidates.is_empty(),
        clock_skew_suspected: clock_is_off || ignored || never_valid || spread > SOURCE_TOLERANCE_SECONDS,
        not_before: not_before.map(at),
    })
}

/// Offset of the vendor's clock from the local one in seconds, positive where it is ahead, and zero for a `Date`
/// between request and response.
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

/// Converts an epoch time to seconds: Picus documents `expire_at` in both units.
pub(super) fn epoch_seconds(time: i64) -> i64 {
    if time >= SMALLEST_MILLISECONDS {
        time / 1000
    } else {
        time
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use http::header::DATE;
    use rstest::rstest;

    const SENT: i64 = 1_700_000_000;
    const DAY: i64 = 24 * 60 * 60;

    /// A response after two seconds. `offset` is that of the vendor's clock in seconds; without one there is no `Date`.
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
    #[case::no_source(None, None, &[], 1000, true, false)]
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
    fn an_expired_token_is_refused(
        #[case] offset: Option<i64>,
        #[case] relative: Option<i64>,
        #[case] absolute: &[i64],
    ) {
        assert_eq!(
            settle(&response(offset), &sources(relative, absolute), 1000),
            Err(UnusableToken::Expired)
        );
    }

    // edge case 18
    #[test]
    fn milliseconds_are_recognised_by_their_magnitude() {
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
    #[case::never(Some(0), &[3600], Err(UnusableToken::NeverValid))]
    #[case::by_our_clock_alone(None, &[7200], Ok(None))]
    fn a_token_may_become_valid_later(
        #[case] offset: Option<i64>,
        #[case] not_before: &[i64],
        #[case] expected: Result<Option<i64>, UnusableToken>,
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
    fn a_step_of_the_clock_by_up_to_five_seconds_is_tolerated(#[case] step: i64, #[case] expected: bool) {
        let mut response = response(None);
        response.clock_step = SignedDuration::from_secs(step);
        assert_eq!(clock_was_set(&response), expected);
    }

    #[test]
    fn a_clock_that_is_set_back_lengthens_no_life() {
        let mut response = response(None);
        response.received = Timestamp::from_second(SENT - 500).unwrap();
        let life = settle(&response, &sources(Some(i64::MAX), &[]), 1000).unwrap();
        assert_eq!(life.expires.as_second(), SENT - 500 + 400 * DAY);
    }
}
