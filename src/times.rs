//! Arithmetic with wall-clock times, saturating at the ends of time.
//!
//! May use: nothing of ours.

use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// `time` plus `seconds`, at most the end of time.
pub fn later(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}

/// `time` without its fraction of a second: the API keeps whole seconds.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// `time` in whole seconds, rounded up: a deadline that was rounded down would be too soon.
pub fn whole_seconds_up(time: Timestamp) -> Timestamp {
    let second = whole_seconds(time);
    // Before 1970 a fraction is negative, and cutting it off rounds up.
    let rest = i64::from(time.subsec_nanosecond() > 0);
    second
        .checked_add(SignedDuration::from_secs(rest))
        .unwrap_or(second)
}

/// The earliest time that a cluster object can record, 2020-01-01T00:00:00Z: the program is younger.
const EARLIEST: Timestamp = Timestamp::constant(1_577_836_800, 0);

/// The credible form of a time that a cluster object records: in whole seconds, 2020 at the earliest. Anybody may have
/// written another time, and the API server takes none before the year 0 into a status.
pub fn recorded(time: Timestamp) -> Timestamp {
    whole_seconds(time).max(EARLIEST)
}

/// The time that `text` gives in UTC, in a format of `strftime`; `None` for any other text.
pub fn parse_utc(format: &str, text: &str) -> Option<Timestamp> {
    let time = strtime::parse(format, text).ok()?.to_datetime().ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn no_time_is_later_than_the_end_of_time() {
        assert_eq!(
            later(time("2026-01-01T00:00:00Z"), 61),
            time("2026-01-01T00:01:01Z")
        );
        assert_eq!(later(time("2026-01-01T00:00:00Z"), i64::MAX), Timestamp::MAX);
    }

    #[test]
    fn a_fraction_of_a_second_is_cut_or_rounded_up() {
        let fraction = time("2026-01-01T00:00:00.5Z");
        assert_eq!(whole_seconds(fraction), time("2026-01-01T00:00:00Z"));
        assert_eq!(whole_seconds_up(fraction), time("2026-01-01T00:00:01Z"));
        let before_1970 = time("1969-12-31T23:59:58.5Z");
        assert_eq!(whole_seconds_up(before_1970), time("1969-12-31T23:59:59Z"));
        let whole = time("2026-01-01T00:00:00Z");
        assert_eq!((whole_seconds(whole), whole_seconds_up(whole)), (whole, whole));
    }

    #[test]
    fn a_recorded_time_has_whole_seconds_and_lies_in_2020_at_the_earliest() {
        for (written, believed) in [
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("2026-01-01T00:00:00.999Z", "2026-01-01T00:00:00Z"),
            ("2019-12-31T23:59:59.5Z", "2020-01-01T00:00:00Z"),
            ("-009999-01-02T01:59:59Z", "2020-01-01T00:00:00Z"),
        ] {
            assert_eq!(recorded(time(written)), time(believed), "{written}");
        }
        assert_eq!(recorded(Timestamp::MAX), whole_seconds(Timestamp::MAX));
    }

    #[test]
    fn rounding_up_stops_at_the_end_of_time() {
        assert!(whole_seconds_up(Timestamp::MAX) <= Timestamp::MAX);
    }

    #[test]
    fn only_a_text_of_the_format_is_a_time() {
        let format = "%Y%m%d%H%M%SZ";
        assert_eq!(
            parse_utc(format, "20260102030405Z"),
            Some(time("2026-01-02T03:04:05Z"))
        );
        for text in ["", "20260102030405", "20261302030405Z", "2026-01-02T03:04:05Z"] {
            assert_eq!(parse_utc(format, text), None, "{text}");
        }
    }
}
