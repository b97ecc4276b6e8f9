//! Waits that a vendor asks for.

use http::HeaderMap;
use http::header::RETRY_AFTER;
use jiff::{SignedDuration, Timestamp};

use super::date;
use super::exchange::TokenResponse;
use super::expiry::{clock_offset, clock_was_set, epoch_seconds};
use crate::times::{later, whole_seconds, whole_seconds_up};

/// Bounds of a wait.
const SHORTEST_WAIT_SECONDS: i64 = 1;
const LONGEST_WAIT_SECONDS: i64 = 60 * 60;
/// Wait after a 429 that states none.
const DEFAULT_WAIT_SECONDS: i64 = 60;
/// Largest reset that is a wait, as in the IETF's draft of RateLimit headers; a larger one is a time since the epoch.
const LARGEST_RELATIVE_RESET_SECONDS: i64 = 24 * 60 * 60;
/// The part of a body that is searched for a wait, in bytes.
const SEARCH_LIMIT: usize = 16 * 1024;

/// End of the wait after a 429: by `Retry-After`, the text of the body or `X-Ratelimit-Reset`, else after 60 s.
pub(super) fn deadline(response: &TokenResponse) -> Timestamp {
    let wait = retry_after(response)
        .or_else(|| text_wait(&response.body))
        .or_else(|| rate_limit_reset(response))
        .unwrap_or(DEFAULT_WAIT_SECONDS);
    end(response, wait)
}

/// End of the wait that another answer than a 429 states (a 503, say).
pub(super) fn stated_deadline(response: &TokenResponse) -> Option<Timestamp> {
    let wait = retry_after(response).or_else(|| text_wait(&response.body))?;
    Some(end(response, wait))
}

fn end(response: &TokenResponse, wait: i64) -> Timestamp {
    let time = later(
        response.received,
        wait.clamp(SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS),
    );
    let up = whole_seconds_up(time);
    if up.duration_since(response.received) > SignedDuration::from_secs(LONGEST_WAIT_SECONDS) {
        whole_seconds(time)
    } else {
        up
    }
}

/// Seconds to wait by `Retry-After` (RFC 9110 section 10.2.3). Of several values the longest counts; a past date means
/// now; any other value counts as absent.
fn retry_after(response: &TokenResponse) -> Option<i64> {
    values(&response.headers, RETRY_AFTER.as_str())
        .filter_map(|value| {
            let seconds = value.split(',').filter_map(delta_seconds).max();
            seconds.or_else(|| date::parse(value).map(|time| wait_until(response, time.as_second()).max(0)))
        })
        .max()
}

/// Seconds to wait by `X-Ratelimit-Reset`, which Picus documents in seconds since the epoch.
fn rate_limit_reset(response: &TokenResponse) -> Option<i64> {
    values(&response.headers, "x-ratelimit-reset")
        .filter_map(delta_seconds)
        .map(|reset| {
            if reset <= LARGEST_RELATIVE_RESET_SECONDS {
                reset
            } else {
                wait_until(response, epoch_seconds(reset))
            }
        })
        .filter(|wait| *wait > 0)
        .max()
}

/// Seconds from the response to `time`, by the vendor's clock where its `Date` shows that, else by the local one.
fn wait_until(response: &TokenResponse, time: i64) -> i64 {
    // After a step of the local clock any `Date` may lie between request and response.
    let date = clock_was_set(response)
        .then(|| date::of(&response.headers))
        .flatten();
    let answered = date.map_or_else(
        || {
            let received = response.received.as_second();
            received.saturating_add(clock_offset(response).unwrap_or(0))
        },
        |date| date.as_second(),
    );
    time.saturating_sub(answered)
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
}

/// RFC 9110's `delta-seconds`: digits only. A number beyond `i64` counts as its maximum.
fn delta_seconds(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(i64::MAX))
}

/// Seconds to wait by the texts of Azure API Management: "Try again in 289 seconds.", "Quota will be replenished in
/// 00:06:46.", "… in 2.12 days."
fn text_wait(body: &[u8]) -> Option<i64> {
    let body = body.get(..SEARCH_LIMIT).unwrap_or(body);
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    ["try again in ", "replenished in "].iter().find_map(|marker| {
        let (_, rest) = text.split_once(marker)?;
        // The next member of the JSON may follow without a blank.
        let end = rest.find(|character: char| !character.is_ascii_digit() && !matches!(character, '.' | ':'));
        let (amount, rest) = rest.split_at(end.unwrap_or(rest.len()));
        let amount = amount.trim_end_matches('.');
        time_span(amount).or_else(|| {
            let number: f64 = amount
                .parse()
                .ok()
                .filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
            let unit = match rest.split_ascii_whitespace().next() {
                Some(word) if word.starts_with("minute") => 60.0,
                Some(word) if word.starts_with("hour") => 3600.0,
                Some(word) if word.starts_with("day") => 86400.0,
                _ => 1.0,
            };
            Some((number * unit).ceil() as i64)
        })
    })
}

/// `[d.]hh:mm:ss[.fraction]` in seconds.
fn time_span(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (days, hours) = hours.split_once('.').unwrap_or(("0", hours));
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let up = i64::from(fraction.bytes().any(|byte| byte != b'0'));
    let [days, hours, minutes, seconds] = [days, hours, minutes, seconds].map(delta_seconds);
    let hours = days?.saturating_mul(24).saturating_add(hours?);
    let minutes = hours.saturating_mul(60).saturating_add(minutes?);
    Some(
        minutes
            .saturating_mul(60)
            .saturating_add(seconds?)
            .saturating_add(up),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use rstest::rstest;

    /// Sun, 06 Nov 1994 08:49:37 GMT
    const NOW: i64 = 784_111_777;

    fn response(headers: &[(&'static str, &'static str)], body: &str) -> TokenResponse {
        let now = Timestamp::from_second(NOW).unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        TokenResponse {
            status: 429,
            headers: map,
            body: body.as_bytes().to_vec().into(),
            sent: now,
            received: now,
            clock_step: SignedDuration::ZERO,
        }
    }

    fn wait(response: &TokenResponse) -> i64 {
        deadline(response).as_second() - NOW
    }

    // edge case 28
    #[rstest]
    #[case::seconds("120", 120)]
    #[case::blanks_around(" 120 ", 120)]
    #[case::zero("0", 1)]
    #[case::the_longest("3600", 3600)]
    #[case::more_than_an_hour("86400", 3600)]
    #[case::more_than_fits("99999999999999999999999", 3600)]
    #[case::several_in_one_line("5, 120, 60", 120)]
    #[case::one_sound_among_several("soon, 7", 7)]
    #[case::date("Sun, 06 Nov 1994 08:51:37 GMT", 120)]
    #[case::old_date("Sunday, 06-Nov-94 08:51:37 GMT", 120)]
    #[case::past_date("Sun, 06 Nov 1994 08:00:00 GMT", 1)]
    #[case::far_date("Mon, 07 Nov 2094 08:00:00 GMT", 60)]
    #[case::far_sound_date("Sun, 07 Nov 2094 08:00:00 GMT", 3600)]
    #[case::negative("-5", 60)]
    #[case::signed("+5", 60)]
    #[case::fraction("1.5", 60)]
    #[case::empty("", 60)]
    #[case::garbage("soon", 60)]
    fn each_retry_after_gives_a_wait_within_its_bounds(#[case] value: &'static str, #[case] expected: i64) {
        assert_eq!(wait(&response(&[("retry-after", value)], "")), expected);
    }

    // edge case 28
    #[test]
    fn the_longest_of_several_retry_after_headers_counts() {
        let headers = [
            ("retry-after", "10"),
            ("retry-after", "Sun, 06 Nov 1994 08:51:37 GMT"),
            ("retry-after", "x"),
        ];
        assert_eq!(wait(&response(&headers, "")), 120);
    }

    // edge case 28
    #[rstest]
    #[case::api_management(
        r#"{"statusCode":429,"message":"Rate limit is exceeded. Try again in 289 seconds."}"#,
        289
    )]
    #[case::bare("Rate limit is exceeded. Try again in 289 seconds.", 289)]
    #[case::one_second("try again in 1 second", 1)]
    #[case::minutes("Try again in 5 minutes.", 300)]
    #[case::quota_time(r#"{"message":"Quota will be replenished in 00:06:46."}"#, 406)]
    #[case::another_member_behind(r#"{"message":"replenished in 00:06:46.","statusCode":403}"#, 406)]
    #[case::quota_fraction("replenished in 00:06:46.5", 407)]
    #[case::quota_days_and_time("replenished in 1.00:06:46.", 3600)]
    #[case::quota_days("replenished in 2.12 days.", 3600)]
    #[case::part_of_a_day("replenished in 0.01 days", 864)]
    #[case::four_parts("replenished in 1:2:3:4", 60)]
    #[case::no_number("Try again in a while.", 60)]
    #[case::cut("Try again in ", 60)]
    #[case::huge("Try again in 99999999999999999999999 seconds", 3600)]
    #[case::huge_time("replenished in 99999999999999999999.99999999999999999999:00:00", 3600)]
    fn the_wait_is_read_from_the_text_of_the_body(#[case] body: &str, #[case] expected: i64) {
        assert_eq!(wait(&response(&[], body)), expected);
    }

    // edge case 28
    #[rstest]
    #[case::header_first(&[("retry-after", "10"), ("x-ratelimit-reset", "784111977")], "Try again in 20 seconds", 10)]
    #[case::then_the_text(&[("retry-after", "x"), ("x-ratelimit-reset", "784111977")], "Try again in 20 seconds", 20)]
    #[case::then_the_reset(&[("x-ratelimit-reset", "784111977")], "", 200)]
    #[case::reset_in_milliseconds(&[("x-ratelimit-reset", "784111977000")], "", 200)]
    #[case::reset_in_seconds_to_wait(&[("x-ratelimit-reset", "30")], "", 30)]
    #[case::reset_that_has_passed(&[("x-ratelimit-reset", "784111000")], "", 60)]
    #[case::nothing(&[], "", 60)]
    fn the_sources_of_a_deadline_have_an_order(
        #[case] headers: &[(&'static str, &'static str)],
        #[case] body: &str,
        #[case] expected: i64,
    ) {
        assert_eq!(wait(&response(headers, body)), expected);
    }

    // edge case 28: the vendor's clock is an hour behind ours
    #[rstest]
    #[case("retry-after", "Sun, 06 Nov 1994 07:51:37 GMT")]
    #[case("x-ratelimit-reset", "784108297")]
    fn absolute_times_are_compared_with_the_vendors_clock(
        #[case] name: &'static str,
        #[case] value: &'static str,
    ) {
        let headers = [("date", "Sun, 06 Nov 1994 07:49:37 GMT"), (name, value)];
        assert_eq!(wait(&response(&headers, "")), 120);
    }

    // edge case 21
    #[test]
    fn a_step_of_the_clock_shortens_no_wait_until_a_date() {
        let headers = [
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("retry-after", "Sun, 06 Nov 1994 08:59:37 GMT"),
        ];
        let mut response = response(&headers, "");
        response.clock_step = SignedDuration::from_hours(1);
        response.received = later(response.sent, 3601);
        assert_eq!(deadline(&response), later(response.received, 600));
    }

    #[test]
    fn a_deadline_is_rounded_up_to_a_whole_second() {
        let mut response = response(&[("retry-after", "10")], "");
        response.received = Timestamp::new(NOW, 500_000_000).unwrap();
        assert_eq!(deadline(&response), Timestamp::from_second(NOW + 11).unwrap());
    }

    #[test]
    fn no_rounded_deadline_is_more_than_an_hour_ahead() {
        let mut response = response(&[("retry-after", "3600")], "");
        response.received = Timestamp::new(NOW, 500_000_000).unwrap();
        assert_eq!(deadline(&response), Timestamp::from_second(NOW + 3600).unwrap());
    }

    #[test]
    fn a_503_has_a_deadline_only_where_it_states_a_wait() {
        assert_eq!(
            stated_deadline(&response(&[("x-ratelimit-reset", "784111977")], "down")),
            None
        );
        let stated = stated_deadline(&response(&[("retry-after", "30")], "down")).unwrap();
        assert_eq!(stated.as_second() - NOW, 30);
    }
}
