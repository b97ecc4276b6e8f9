//! HTTP dates (RFC 9110 section 5.6.7): the present form and the two obsolete ones that a recipient must accept.

use http::HeaderMap;
use http::header::DATE;
use jiff::Timestamp;
use jiff::fmt::rfc2822;

use crate::times::parse_utc;

/// Reads a date, as in `Sun, 06 Nov 1994 08:49:37 GMT`; `None` for any other text.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()
        .or_else(|| parse_utc("%A, %d-%b-%y %H:%M:%S GMT", text))
        .or_else(|| parse_utc("%a %b %e %H:%M:%S %Y", text))
}

/// Reads the `Date` header.
pub(super) fn of(headers: &HeaderMap) -> Option<Timestamp> {
    parse(headers.get(DATE)?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::in_use("Sun, 06 Nov 1994 08:49:37 GMT")]
    #[case::rfc_850("Sunday, 06-Nov-94 08:49:37 GMT")]
    #[case::asctime("Sun Nov  6 08:49:37 1994")]
    #[case::with_an_offset("Sun, 06 Nov 1994 09:49:37 +0100")]
    fn each_form_of_a_date_is_read(#[case] text: &str) {
        assert_eq!(parse(text), Some(Timestamp::from_second(784_111_777).unwrap()));
    }

    #[rstest]
    #[case("")]
    #[case("120")]
    #[case("Sun, 06 Nov 1994")]
    #[case("Mon, 06 Nov 1994 08:49:37 GMT")]
    #[case("Sun, 06 Nov 1994 25:49:37 GMT")]
    #[case("1994-11-06T08:49:37Z")]
    fn anything_else_is_no_date(#[case] text: &str) {
        assert_eq!(parse(text), None);
    }
}
