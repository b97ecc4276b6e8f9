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
/// Upper bound of the time for which an account is locked: a longer one is told again at the next attempt.
const LONGEST_LOCK_SECONDS: i64 = 24 * 60 * 60;
/// Largest reset that is a wait, as in the IETF's draft of RateLimit headers; a larger one is a time since the epoch.
const LARGEST_RELATIVE_RESET_SECONDS: i64 = 24 * 60 * 60;
/// The part of a body that is searched for a wait, in bytes.
const SEARCH_LIMIT: usize = 16 * 1024;

/// Headers with the number of requests that are left, and with the end of the time for which they count. The first
/// spelling is Picus'; the second is the IETF's draft of RateLimit headers.
const REMAINING_HEADERS: [&str; 3] = [
    "x-ratelimit-remaining",
    "ratelimit-remaining",
    "x-rate-limit-remaining",
];
const RESET_HEADERS: [&str; 3] = ["x-ratelimit-reset", "ratelimit-reset", "x-rate-limit-reset"];

/// The texts of an answer in which a wait may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Texts {
    /// The headers alone: the body's words are of a page, or about something else.
    Headers,
    /// The words of the body, too.
    HeadersAndWords,
}

/// End of the wait after an answer that limits the rate: by `Retry-After`, the words of the body or a reset header,
/// else after 60 s.
pub(super) fn deadline(response: &TokenResponse, texts: Texts) -> Timestamp {
    let wait = retry_after(response)
        .or_else(|| words(response, texts))
        .or_else(|| reset(response))
        .unwrap_or(DEFAULT_WAIT_SECONDS);
    end(response, wait, LONGEST_WAIT_SECONDS)
}

/// End of the wait that another answer states (a 503, say); `None` where it states none.
pub(super) fn stated_deadline(response: &TokenResponse, texts: Texts) -> Option<Timestamp> {
    Some(end(response, stated_wait(response, texts)?, LONGEST_WAIT_SECONDS))
}

/// End of the time for which an account is locked, of up to a day; `None` where the answer does not tell it.
pub(super) fn lock_end(response: &TokenResponse, texts: Texts) -> Option<Timestamp> {
    Some(end(response, stated_wait(response, texts)?, LONGEST_LOCK_SECONDS))
}

/// True where the headers of a refusal tell that the rate is limited: by `Retry-After`, or by a count of requests left
/// that is zero. Vendors send that count with each answer, so a 401 needs the end of its time beside it.
pub(super) fn is_told_by_headers(response: &TokenResponse, status: u16) -> bool {
    retry_after(response).is_some() || has_none_left(response) && (status == 403 || reset(response).is_some())
}

fn stated_wait(response: &TokenResponse, texts: Texts) -> Option<i64> {
    let by_count = || reset(response).filter(|_| has_none_left(response));
    retry_after(response)
        .or_else(|| words(response, texts))
        .or_else(by_count)
}

/// The first whole second after `wait` seconds, within a second and `longest` seconds from the response.
fn end(response: &TokenResponse, wait: i64, longest: i64) -> Timestamp {
    let time = later(response.received, wait.clamp(SHORTEST_WAIT_SECONDS, longest));
    let up = whole_seconds_up(time);
    if up.duration_since(response.received) > SignedDuration::from_secs(longest) {
        whole_seconds(time)
    } else {
        up
    }
}

/// True where the answer says that no request is left.
fn has_none_left(response: &TokenResponse) -> bool {
    all_values(&response.headers, &REMAINING_HEADERS).any(|value| delta_seconds(value) == Some(0))
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

/// Seconds to wait by a reset header. Picus documents seconds since the epoch, the IETF's draft seconds to wait.
fn reset(response: &TokenResponse) -> Option<i64> {
    all_values(&response.headers, &RESET_HEADERS)
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

fn all_values<'a>(headers: &'a HeaderMap, names: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    names.iter().flat_map(|name| values(headers, name))
}

/// RFC 9110's `delta-seconds`: digits only. A number beyond `i64` counts as its maximum.
fn delta_seconds(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(i64::MAX))
}

/// Seconds to wait by the texts of Azure API Management: "Try again in 289 seconds.", "Quota will be replenished in
/// 00:06:46.", "… in 2.12 days."
fn words(response: &TokenResponse, texts: Texts) -> Option<i64> {
    if texts == Texts::Headers {
        return None;
    }
    let body = response.body.as_slice();
    let body = body.get(..SEARCH_LIMIT).unwrap_or(body);
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    ["try again in ", "try again after ", "replenished in "]
        .iter()
        .find_map(|marker| {
            let (_, rest) = text.split_once(marker)?;
            // The next member of the JSON may follow without a blank.
            let end =
                rest.find(|character: char| !character.is_ascii_digit() && !matches!(character, '.' | ':'));
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
        deadline(response, Texts::HeadersAndWords).as_second() - NOW
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
    #[case::after("Please try again after 15 minutes", 900)]
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
        assert_eq!(
            deadline(&response, Texts::HeadersAndWords),
            later(response.received, 600)
        );
    }

    #[test]
    fn a_deadline_is_rounded_up_to_a_whole_second() {
        let mut response = response(&[("retry-after", "10")], "");
        response.received = Timestamp::new(NOW, 500_000_000).unwrap();
        assert_eq!(
            deadline(&response, Texts::HeadersAndWords),
            Timestamp::from_second(NOW + 11).unwrap()
        );
    }

    #[test]
    fn no_rounded_deadline_is_more_than_an_hour_ahead() {
        let mut response = response(&[("retry-after", "3600")], "");
        response.received = Timestamp::new(NOW, 500_000_000).unwrap();
        assert_eq!(
            deadline(&response, Texts::HeadersAndWords),
            Timestamp::from_second(NOW + 3600).unwrap()
        );
    }

    // edge case 28
    #[rstest]
    #[case::retry_after(&[("retry-after", "30")], "down", Some(30))]
    #[case::words(&[], "Try again in 289 seconds.", Some(289))]
    #[case::none_left(&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "784111977")], "down", Some(200))]
    #[case::a_reset_alone(&[("x-ratelimit-reset", "784111977")], "down", None)]
    #[case::some_left(&[("x-ratelimit-remaining", "7"), ("x-ratelimit-reset", "784111977")], "down", None)]
    #[case::garbage(&[("retry-after", "soon")], "down", None)]
    fn a_503_has_a_deadline_only_where_it_states_a_wait(
        #[case] headers: &[(&'static str, &'static str)],
        #[case] body: &str,
        #[case] expected: Option<i64>,
    ) {
        let stated = stated_deadline(&response(headers, body), Texts::HeadersAndWords);
        assert_eq!(stated.map(|time| time.as_second() - NOW), expected);
    }

    // edge case 28
    #[test]
    fn words_are_passed_over_where_only_headers_count() {
        let mut response = response(&[], "Try again in 30 minutes.");
        assert_eq!(stated_deadline(&response, Texts::Headers), None);
        assert_eq!(deadline(&response, Texts::Headers).as_second() - NOW, 60);
        response
            .headers
            .insert("retry-after", HeaderValue::from_static("7"));
        assert_eq!(deadline(&response, Texts::Headers).as_second() - NOW, 7);
    }

    // edge case 28
    #[rstest]
    #[case::retry_after(401, &[("retry-after", "60")], true)]
    #[case::a_past_date(403, &[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")], true)]
    #[case::garbage(401, &[("retry-after", "-5")], false)]
    #[case::none_left_and_a_reset(401, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "30")], true)]
    #[case::by_the_draft(401, &[("ratelimit-remaining", "0"), ("ratelimit-reset", "30")], true)]
    #[case::in_another_spelling(403, &[("x-rate-limit-remaining", "0"), ("x-rate-limit-reset", "30")], true)]
    #[case::none_left_of_a_forbidden_one(403, &[("x-ratelimit-remaining", "0")], true)]
    #[case::none_left_of_an_unauthorised_one(401, &[("x-ratelimit-remaining", "0")], false)]
    #[case::some_left(403, &[("x-ratelimit-remaining", "10"), ("x-ratelimit-reset", "30")], false)]
    #[case::a_reset_alone(403, &[("x-ratelimit-reset", "30")], false)]
    #[case::nothing(403, &[], false)]
    fn headers_tell_a_limit_of_the_rate_from_a_verdict(
        #[case] status: u16,
        #[case] headers: &[(&'static str, &'static str)],
        #[case] expected: bool,
    ) {
        assert_eq!(is_told_by_headers(&response(headers, ""), status), expected);
    }

    // edge case 1
    #[rstest]
    #[case::words(&[], "Account locked. Try again in 30 minutes.", Some(1800))]
    #[case::hours(&[], "Try again in 2 hours", Some(7200))]
    #[case::header(&[("retry-after", "7201")], "", Some(7201))]
    #[case::more_than_a_day(&[], "Try again in 3 days.", Some(86_400))]
    #[case::not_told(&[], "Account locked.", None)]
    fn a_lock_of_an_account_is_kept_for_up_to_a_day(
        #[case] headers: &[(&'static str, &'static str)],
        #[case] body: &str,
        #[case] expected: Option<i64>,
    ) {
        let end = lock_end(&response(headers, body), Texts::HeadersAndWords);
        assert_eq!(end.map(|time| time.as_second() - NOW), expected);
    }

    // edge case 21
    #[test]
    fn a_date_out_of_a_cache_corrects_no_wait() {
        let headers = [
            ("date", "Sun, 06 Nov 1994 07:49:37 GMT"),
            ("age", "3600"),
            ("x-ratelimit-reset", "784111897"),
        ];
        assert_eq!(wait(&response(&headers, "")), 120);
    }
}
