//! Until when a vendor asks to wait.

use http::HeaderMap;
use http::header::RETRY_AFTER;
use jiff::{SignedDuration, Timestamp};

use super::date;
use super::exchange::TokenResponse;
use super::expiry::{after, clock_offset, epoch_seconds};

/// Bounds of a wait, and the wait where none is told, in seconds.
const SHORTEST: i64 = 1;
const LONGEST: i64 = 60 * 60;
const UNTOLD: i64 = 60;
/// A reset up to here is seconds to wait, as in the IETF draft, not a time since the epoch.
const LARGEST_DELTA: i64 = 24 * 60 * 60;
/// How much of a body is searched for a wait.
const SEARCHED: usize = 16 * 1024;

/// The end of the wait after a 429: `Retry-After`, the text of the body, `X-Ratelimit-Reset`, else 60 s.
pub(super) fn deadline(response: &TokenResponse) -> Timestamp {
    let wait = retry_after(response)
        .or_else(|| text_wait(&response.body))
        .or_else(|| rate_limit_reset(response))
        .unwrap_or(UNTOLD);
    end(response, wait)
}

/// The end of the wait where an answer that is not about throttling (a 503) tells one.
pub(super) fn told_deadline(response: &TokenResponse) -> Option<Timestamp> {
    let wait = retry_after(response).or_else(|| text_wait(&response.body))?;
    Some(end(response, wait))
}

fn end(response: &TokenResponse, wait: i64) -> Timestamp {
    let time = after(response.received, wait.clamp(SHORTEST, LONGEST));
    // Whole seconds, as the status keeps them; up, so that nobody is early.
    let whole = Timestamp::from_second(time.as_second()).unwrap_or(time);
    let up = if whole < time { after(whole, 1) } else { whole };
    if up.duration_since(response.received) > SignedDuration::from_secs(LONGEST) {
        whole
    } else {
        up
    }
}

/// Seconds to wait by `Retry-After` (RFC 9110 section 10.2.3). Of several values the longest counts; a date that
/// has passed means now; anything else counts as absent.
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
            if reset <= LARGEST_DELTA {
                reset
            } else {
                wait_until(response, epoch_seconds(reset))
            }
        })
        .filter(|wait| *wait > 0)
        .max()
}

/// From the vendor's own time of the answer where it tells that, else from ours.
fn wait_until(response: &TokenResponse, time: i64) -> i64 {
    time.saturating_sub(
        response
            .received
            .as_second()
            .saturating_add(clock_offset(response).unwrap_or(0)),
    )
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
}

/// RFC 9110's `delta-seconds`: digits only; more of them than fit are as good as for ever.
fn delta_seconds(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(i64::MAX))
}

/// Seconds to wait by the texts of Azure API Management: "Try again in 289 seconds.", "Quota will be replenished in
/// 00:06:46.", "… in 2.12 days."
fn text_wait(body: &[u8]) -> Option<i64> {
    let body = body.get(..SEARCHED).unwrap_or(body);
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    ["try again in ", "replenished in "].iter().find_map(|marker| {
        let (_, rest) = text.split_once(marker)?;
        let mut words = rest.split_ascii_whitespace();
        let amount = words
            .next()?
            .trim_end_matches(|character: char| !character.is_ascii_digit());
        time_span(amount).or_else(|| {
            let number: f64 = amount
                .parse()
                .ok()
                .filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
            let unit = match words.next() {
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
