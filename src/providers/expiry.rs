//! The expiry of a token: the earliest credible time among its sources.
//!
//! A relative time (`expires_in`) needs the local clock alone. An absolute one (`expires_on`, `expire_at`, `exp`) is by
//! the vendor's clock; the `Date` header shows its offset from the local one, unless a proxy or a cache wrote it. So an
//! absolute time has two readings where that offset is large: as it is, and corrected. Those that lie ahead are
//! credible.

use http::header::AGE;
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
/// A life of more than this many documented ones is hardly meant: a vendor's milliseconds, say, in the place of seconds.
const CREDIBLE_LIVES: i64 = 10;
/// Smallest epoch time that counts as milliseconds: in seconds it is the year 5138.
const SMALLEST_MILLISECONDS: i64 = 100_000_000_000;

/// Times in an answer that bound the life of its token.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// The life, in seconds from the request; zero or less of a token that is dead.
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
    /// True for a life of more than ten times `default_life`.
    pub(super) unusually_long: bool,
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
    let correction = offset.filter(|offset| offset.abs() > CLOCK_TOLERANCE_SECONDS);
    // Both readings of a time by the vendor's clock.
    let readings = |time: i64| {
        let time = epoch_seconds(time);
        [correction.map(|offset| time.saturating_sub(offset)), Some(time)]
            .into_iter()
            .flatten()
            .filter(|time| *time <= latest)
    };

    let is_dead = sources.relative.is_some_and(|life| life <= 0);
    let relative = sources.relative.filter(|life| *life > 0);
    let relative = relative.map(|life| sent.saturating_add(life).min(latest));
    let absolute = sources.absolute.iter().copied().flat_map(readings);
    let stated: Vec<i64> = relative.into_iter().chain(absolute).collect();
    let is_assumed = stated.is_empty() && !is_dead;
    let default = is_assumed.then(|| sent.saturating_add(default_life));
    let credible = || stated.iter().copied().chain(default).filter(|time| *time > now);
    let expires = credible().min().ok_or(UnusableToken::Expired)?;
    let spread = credible().max().unwrap_or(expires).saturating_sub(expires);
    // A reading in the past, of a source that has no other, or beside a relative time.
    let is_contradicted = stated.iter().any(|time| *time <= now);

    // A token is not valid yet only where neither reading of its start says otherwise. One that would never be valid is
    // refused where the clocks were compared; else the local one may be wrong.
    let starts = sources.not_before.iter().copied();
    let not_before = starts.filter_map(|start| readings(start).min()).max();
    let never_valid = not_before.is_some_and(|start| start >= expires);
    let is_compared = offset.is_some_and(|offset| offset.abs() <= LARGEST_CREDIBLE_OFFSET_SECONDS);
    if never_valid && (is_compared || relative.is_none_or(|time| time <= now)) {
        return Err(UnusableToken::NeverValid);
    }
    let not_before = not_before.filter(|time| *time > now && !never_valid);
    Ok(Life {
        issued: at(sent),
        expires: at(expires),
        assumed: is_assumed,
        clock_skew_suspected: correction.is_some()
            || is_contradicted
            || never_valid
            || spread > SOURCE_TOLERANCE_SECONDS,
        unusually_long: expires.saturating_sub(sent) > default_life.saturating_mul(CREDIBLE_LIVES),
        not_before: not_before.map(at),
    })
}

/// Offset of the vendor's clock from the local one in seconds, positive where it is ahead, and zero for a `Date`
/// between request and response. `None` without a `Date`, and for an answer out of a cache (RFC 9111 section 5.1),
/// whose `Date` is as old as that answer.
pub(super) fn clock_offset(response: &TokenResponse) -> Option<i64> {
    if response.headers.get_all(AGE).iter().any(|age| age != "0") {
        return None;
    }
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
    #[case::past_by_both_clocks(Some(0), Some(3600), &[-3600], 3600, false, true)]
    #[case::a_wrong_date_behind_lengthens_no_life(Some(-7201), None, &[7200], 7200, false, true)]
    #[case::a_wrong_date_ahead_ends_no_life(Some(7201), Some(3600), &[3600], 3600, false, true)]
    #[case::a_wrong_date_far_ahead_ends_no_life(Some(30 * DAY), None, &[7200], 7200, false, true)]
    #[case::a_wrong_date_ahead_may_shorten_one(Some(3601), None, &[7200], 3600, false, true)]
    #[case::one_of_two_has_passed(None, None, &[7200, -1], 7200, false, true)]
    #[case::gone_while_it_was_on_its_way(None, Some(2), &[3600], 3600, false, true)]
    #[case::no_life_beside_another_source(None, Some(0), &[3600], 3600, false, false)]
    #[case::less_than_no_life_beside_another_source(Some(0), Some(-3600), &[3600], 3600, false, false)]
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
    #[case::absolute_by_a_compared_clock(Some(0), None, &[-3600])]
    #[case::by_both_readings(Some(-3601), None, &[-7200])]
    #[case::both_sources(Some(0), Some(1), &[1])]
    #[case::no_life(None, Some(0), &[])]
    #[case::less_than_no_life(Some(0), Some(-3600), &[])]
    #[case::no_life_by_both(None, Some(0), &[-3600])]
    #[case::no_life_beside_one_that_is_not_credible(None, Some(0), &[400 * DAY + 1])]
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

    // edge case 21
    #[rstest]
    #[case::behind(-7201, &[7200], Ok(7200))]
    #[case::behind_though_the_time_has_passed(-7201, &[-60], Err(UnusableToken::Expired))]
    #[case::ahead(7201, &[7200], Ok(7200))]
    fn a_date_out_of_a_cache_corrects_nothing(
        #[case] offset: i64,
        #[case] absolute: &[i64],
        #[case] expected: Result<i64, UnusableToken>,
    ) {
        for age in ["7200", "1", "007", "soon"] {
            let mut response = response(Some(offset));
            response.headers.insert(AGE, age.parse().unwrap());
            let life = settle(&response, &sources(None, absolute), 1000);
            assert!(
                !life.as_ref().is_ok_and(|life| life.clock_skew_suspected),
                "{age}"
            );
            assert_eq!(
                life.map(|life| life.expires.as_second() - SENT),
                expected,
                "{age}"
            );
        }
    }

    // edge case 21
    #[test]
    fn a_date_of_an_answer_that_a_cache_has_just_fetched_corrects() {
        let mut response = response(Some(-7201));
        response.headers.insert(AGE, "0".parse().unwrap());
        let life = settle(&response, &sources(None, &[0]), 1000).unwrap();
        assert_eq!(life.expires.as_second() - SENT, 7200);
    }

    // edge case 17
    #[rstest]
    #[case::documented(Some(1000), false)]
    #[case::ten_times(Some(10_000), false)]
    #[case::more(Some(10_001), true)]
    #[case::milliseconds(Some(3_600_000), true)]
    #[case::assumed(None, false)]
    fn a_life_of_more_than_ten_documented_ones_is_told(
        #[case] relative: Option<i64>,
        #[case] expected: bool,
    ) {
        let life = settle(&response(None), &sources(relative, &[]), 1000).unwrap();
        assert_eq!(
            (life.unusually_long, life.clock_skew_suspected),
            (expected, false)
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
    #[case::never_by_a_wrong_date_alone(Some(-7201), &[0], Ok(None))]
    #[case::never_by_both_readings(Some(-7201), &[3600], Err(UnusableToken::NeverValid))]
    #[case::later_by_both_readings(Some(-601), &[60], Ok(Some(60)))]
    #[case::later_by_a_wrong_date_alone(Some(-601), &[0], Ok(None))]
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
