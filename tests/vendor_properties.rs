//! Whatever a server answers, a reader ends with a token of a bounded life or with a failure that can be shown.

// Test code: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{AGE, CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;
use vendor_token_operator::failure::FailureClass;
use vendor_token_operator::providers::{CheckmarxRegion, Grant, TokenResponse, scrub};
use vendor_token_operator::token::{Credentials, ExposeSecret, clean_credential};

/// A credential that has the form of an error code, so that it could pass for one.
const PLANTED_CREDENTIAL: &str = "planted_hush_credential";
const PLANTED_TOKEN: &str = "planted-Hush-T0ken.with.parts";

fn grants() -> Vec<Grant> {
    vec![
        Grant::SixMap { scopes: Vec::new() },
        Grant::SixClicks {
            region: "au".to_owned(),
        },
        Grant::CheckmarxSca {
            region: CheckmarxRegion::Us,
            tenant: "acme".to_owned(),
            scopes: vec!["sca_api".to_owned()],
        },
        Grant::Mapiq,
        Grant::Picus,
    ]
}

fn credentials(grant: &Grant, value: &str) -> Credentials {
    let values = grant
        .credential_keys()
        .iter()
        .map(|key| (*key, value.into()))
        .collect();
    Credentials {
        values,
        client_certificate: None,
    }
}

/// Reads `response` with every vendor and checks what must hold of any outcome.
fn check(response: &TokenResponse) -> Result<(), TestCaseError> {
    for grant in grants() {
        match grant.read(response) {
            Ok(token) => {
                let life = token.expires.duration_since(response.received);
                prop_assert!(life > SignedDuration::ZERO, "{:?} expires in {}", grant, life);
                prop_assert!(
                    life <= SignedDuration::from_hours(400 * 24),
                    "{:?} expires in {}",
                    grant,
                    life
                );
                prop_assert!(token.expires.subsec_nanosecond() == 0 && token.issued.subsec_nanosecond() == 0);
                prop_assert!(
                    token
                        .not_before
                        .is_none_or(|time| time > response.received && time < token.expires)
                );
                prop_assert_eq!(&token.token_type, "Bearer");
                let value = token.value.expose_secret();
                prop_assert!((1..=64 * 1024).contains(&value.len()));
                prop_assert!(HeaderValue::from_str(value).is_ok());
            }
            Err(failure) => {
                let failure = scrub(failure, &credentials(&grant, PLANTED_CREDENTIAL));
                let text = format!("{failure:?}");
                prop_assert!(failure.message.chars().count() <= 256, "{}", failure.message);
                prop_assert!(!failure.message.is_empty() && !failure.message.chars().any(char::is_control));
                prop_assert!(!text.to_lowercase().contains(PLANTED_CREDENTIAL), "{}", text);
                prop_assert!(!failure.message.contains(PLANTED_TOKEN), "{}", text);
                prop_assert!(!text.contains(&STANDARD.encode(PLANTED_CREDENTIAL)), "{}", text);
                if let Some(deadline) = failure.not_before {
                    let wait = deadline.duration_since(response.received);
                    prop_assert!(wait >= SignedDuration::from_secs(1), "wait of {}", wait);
                    // The lock of an account alone may last longer than a wait.
                    let longest = if failure.class == FailureClass::Rejected {
                        24
                    } else {
                        1
                    };
                    prop_assert!(wait <= SignedDuration::from_hours(longest), "wait of {}", wait);
                }
            }
        }
    }
    Ok(())
}

/// Clocks from 1970 to 2200, a request of up to two hours, also one during which the clock was set back.
fn clocks() -> impl Strategy<Value = (Timestamp, Timestamp)> {
    (
        0..7_258_118_400_i64,
        0..1_000_000_000_i32,
        -10_000_000_000_i64..7_200_000_000_000,
    )
        .prop_map(|(second, nanosecond, took)| {
            let sent = Timestamp::new(second, nanosecond).unwrap();
            (
                sent,
                sent.saturating_add(SignedDuration::from_nanos(took)).unwrap(),
            )
        })
}

fn status() -> impl Strategy<Value = u16> {
    prop_oneof![
        4 => Just(200_u16),
        4 => proptest::sample::select(vec![201, 204, 301, 307, 400, 401, 402, 403, 404, 407, 408, 411, 415, 422, 423, 425, 429, 500, 502, 503]),
        1 => any::<u16>(),
    ]
}

fn header() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    let name = proptest::sample::select(vec![
        "date",
        "retry-after",
        "x-ratelimit-reset",
        "x-ratelimit-remaining",
        "age",
        "content-type",
        "content-encoding",
        "location",
        "x-request-id",
    ]);
    let value = prop_oneof![
        (0..7_258_118_400_i64).prop_map(|second| {
            let time = Timestamp::from_second(second).unwrap();
            jiff::fmt::rfc2822::DateTimePrinter::new()
                .timestamp_to_rfc9110_string(&time)
                .unwrap()
                .into_bytes()
        }),
        number().prop_map(|number| number.to_string().into_bytes()),
        text().prop_map(String::into_bytes),
        text().prop_map(|text| format!("https://{text}.example.com/{text}").into_bytes()),
        vec(any::<u8>(), 0..40),
    ];
    (name, value).prop_filter_map("not a header", |(name, value)| {
        Some((
            HeaderName::from_static(name),
            HeaderValue::from_bytes(&value).ok()?,
        ))
    })
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    vec(header(), 0..4).prop_map(|pairs| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    })
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(PLANTED_CREDENTIAL.to_owned()),
        Just(STANDARD.encode(PLANTED_CREDENTIAL)),
        Just(PLANTED_CREDENTIAL.to_uppercase()),
        Just(format!("xx_{PLANTED_CREDENTIAL}")),
        Just(PLANTED_TOKEN.to_owned()),
        proptest::sample::select(vec![
            "invalid_grant",
            "invalid_client",
            "temporarily_unavailable",
            "too_many_requests",
            "some_unknown_code",
            "AADB2C90081: x\r\nCorrelation ID: 1-2\r\n",
            "Try again in 289 seconds.",
            "Account locked. Try again in 3 days.",
            "access_denied",
            "0",
            "Bearer",
            "bearer",
            "null",
            "",
            "Out of call volume quota. Quota will be replenished in 9999999999.00:06:46.",
            "3600",
            "-1",
            "1e400",
            "NaN",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,20}",
        any::<String>(),
    ]
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        0..10_000_i64,
        0..7_258_118_400_i64,
        (0..7_258_118_400_i64).prop_map(|second| second * 1000),
        any::<i64>(),
    ]
}

fn token() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(PLANTED_TOKEN.into()),
        (number(), number()).prop_map(|(expires, not_before)| {
            let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{expires},"nbf":{not_before}}}"#));
            format!("eyJhbGciOiJSUzI1NiJ9.{claims}.c2ln").into()
        }),
        value(),
    ]
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        number().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        text().prop_map(Into::into),
        text().prop_map(|text| serde_json::json!({ "code": text, "message": text })),
        number().prop_map(|number| serde_json::json!({ "code": number })),
    ]
}

/// Bodies of the members that the readers know, with anything in them.
fn likely_body() -> impl Strategy<Value = Vec<u8>> {
    let names = proptest::sample::select(vec![
        "token_type",
        "expires_in",
        "expires_on",
        "not_before",
        "expire_at",
        "expireInSeconds",
        "error",
        "error_type",
        "error_description",
        "message",
        "success",
        "unAuthorizedRequest",
        "status_code",
        "statusCode",
        "code",
        "request_id",
    ]);
    (token(), vec((names, value()), 0..5), any::<bool>()).prop_map(|(token, members, enveloped)| {
        let mut object = serde_json::Map::new();
        for name in ["access_token", "accessToken", "token"] {
            object.insert(name.to_owned(), token.clone());
        }
        object.extend(members.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let object = serde_json::Value::Object(object);
        let body = if enveloped {
            serde_json::json!({ "result": object })
        } else {
            object
        };
        body.to_string().into_bytes()
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => likely_body(),
        1 => (likely_body(), any::<prop::sample::Index>()).prop_map(|(body, cut)| body[..cut.index(body.len())].to_vec()),
        1 => vec(any::<u8>(), 0..200),
        1 => text().prop_map(String::into_bytes),
    ]
}

/// An answer to a request of two seconds, by clocks that agree.
fn answer(status: u16, headers: HeaderMap, body: Vec<u8>) -> TokenResponse {
    let sent: Timestamp = "2026-01-15T12:00:00Z".parse().unwrap();
    TokenResponse {
        status,
        headers,
        body: body.into(),
        sent,
        received: sent + SignedDuration::from_secs(2),
        clock_step: SignedDuration::ZERO,
    }
}

fn with_type(media_type: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))])
}

fn error_code() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "invalid_grant",
        "invalid_client",
        "access_denied",
        "unauthorized_credentials",
        "invalid_scope",
        "invalid_request",
        "unauthorized_client",
        "server_error",
        "temporarily_unavailable",
        "too_many_requests",
        "some_unknown_code",
    ])
}

/// Bytes that may stand in a text of JSON, and some that may not: no quote and no backslash but those of escapes.
fn damaged_text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => any::<u8>().prop_filter("ends the text", |byte| !b"\"\\".contains(byte)).prop_map(|byte| vec![byte]),
        1 => (0xd800..0xe000_u16).prop_map(|half| format!("\\u{half:04x}").into_bytes()),
        1 => Just(b"\\\\".to_vec()),
        1 => Just("\u{fffd}ü😀".as_bytes().to_vec()),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// The end of a token, as an answer tells it: seconds from the request.
#[derive(Clone, Copy, Debug)]
struct Told {
    relative: i64,
    absolute: i64,
}

fn told() -> impl Strategy<Value = Told> {
    (-10_000..20_000_i64, -10_000..20_000_i64).prop_map(|(relative, absolute)| Told { relative, absolute })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    // edge cases 17, 18, 23, 28, 33, 34, 36 and 37
    #[test]
    fn no_answer_breaks_a_reader(
        status in status(),
        headers in headers(),
        body in body(),
        (sent, received) in clocks(),
        step in prop_oneof![9 => Just(0), 1 => -100_000..100_000_i64],
    ) {
        let clock_step = SignedDuration::from_secs(step);
        check(&TokenResponse { status, headers, body: body.into(), sent, received, clock_step })?;
    }

    // edge case 37
    #[test]
    fn no_damage_beside_an_error_code_changes_its_verdict(
        code in error_code(),
        status in proptest::sample::select(vec![200_u16, 400, 401, 403, 422, 500, 503]),
        before in damaged_text(),
        after in damaged_text(),
        padding in "[ \r\n\0]{0,20}",
    ) {
        let damaged = [
            b"{\"error_description\":\"".as_slice(), &before, b"\",\"error\":\"", code.as_bytes(), b"\",\"error_uri\":\"",
            &after, b"\"}", padding.as_bytes(),
        ];
        let sound = format!(r#"{{"error":"{code}"}}"#);
        for grant in grants() {
            let class = |body: Vec<u8>| {
                let read = grant.read(&answer(status, with_type("application/json"), body));
                read.map(|_| ()).map_err(|failure| failure.class)
            };
            prop_assert_eq!(class(damaged.concat()), class(sound.clone().into_bytes()), "{:?}", grant);
        }
    }

    // edge case 41
    #[test]
    fn no_server_error_rejects_a_credential_where_no_account_can_be_locked(
        status in 500_u16..600,
        headers in headers(),
        body in body(),
    ) {
        let answer = answer(status, headers, body);
        for grant in grants() {
            let failure = grant.read(&answer).map(|_| ()).unwrap_err();
            if !grant.vendor().locks_accounts() {
                prop_assert_eq!(failure.class, FailureClass::Transient, "{:?}", grant);
            }
        }
    }

    // edge cases 14 and 28
    #[test]
    fn a_page_is_no_verdict_and_tells_no_deadline_in_words(
        status in proptest::sample::select(vec![401_u16, 403, 422, 423, 429, 500, 502, 503, 504]),
        words in "[a-z .]{0,30}",
        amount in 0..100_000_u32,
        code in error_code(),
    ) {
        let page = format!(r#"<p>{words} {{"error":"{code}"}} Try again in {amount} minutes.</p>"#);
        for grant in grants() {
            let failure = grant.read(&answer(status, HeaderMap::new(), page.clone().into_bytes())).map(|_| ()).unwrap_err();
            prop_assert_ne!(failure.class, FailureClass::Rejected);
            let minute = failure.not_before.map(|time| time.to_string());
            prop_assert!(minute.is_none_or(|time| time == "2026-01-15T12:01:02Z"), "{:?}", failure.not_before);
        }
    }

    // edge cases 20, 21 and 23
    #[test]
    fn no_expiry_lies_behind_a_source_that_lies_ahead(
        told in told(),
        offset in prop_oneof![Just(0_i64), -200_000..200_000_i64],
        age in proptest::option::of(0..10_000_u32),
        has_date in any::<bool>(),
    ) {
        let sent: Timestamp = "2026-01-15T12:00:00Z".parse().unwrap();
        let (sent, now) = (sent.as_second(), sent.as_second() + 2);
        let mut headers = with_type("application/json");
        if has_date {
            let date = Timestamp::from_second(sent + 1 + offset).unwrap();
            let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date).unwrap();
            headers.insert(DATE, date.parse().unwrap());
        }
        if let Some(age) = age {
            headers.insert(AGE, age.into());
        }
        let (relative, absolute) = (sent + told.relative, sent + told.absolute);
        let body = serde_json::json!({
            "access_token": "opaque", "token": "opaque", "expires_in": told.relative, "expires_on": absolute,
            "expire_at": absolute,
        });
        let answer = answer(200, headers, body.to_string().into_bytes());
        // Mapiq tells both, SixMap the life alone, Picus the time alone.
        for (grant, ends) in [
            (Grant::Mapiq, vec![relative, absolute]),
            (Grant::SixMap { scopes: Vec::new() }, vec![relative]),
            (Grant::Picus, vec![absolute]),
        ] {
            let ahead: Vec<_> = ends.into_iter().filter(|end| *end > now).collect();
            let expires = grant.read(&answer).map(|token| token.expires.as_second());
            match ahead.iter().min() {
                Some(earliest) => {
                    let expires = expires.map_err(|failure| failure.message);
                    prop_assert!(expires.as_ref().is_ok_and(|expires| expires <= earliest), "{:?}: {:?}", grant, expires);
                }
                // Only a clock that is off may bring a time in the past to life.
                None => prop_assert!(
                    expires.is_err() || (has_date && offset.abs() > 60 && age.is_none_or(|age| age == 0)),
                    "{:?}: {:?}", grant, expires.ok()
                ),
            }
        }
    }

    // edge cases 5, 6 and 7
    #[test]
    fn a_credential_reaches_the_vendor_as_it_is_or_not_at_all(raw in vec(any::<u8>(), 0..40)) {
        let Ok(value) = clean_credential("key", &raw) else { return Ok(()) };
        let value = value.expose_secret();
        for grant in grants() {
            let Ok(request) = grant.request(&grant.endpoint(), &credentials(&grant, value)) else {
                prop_assert_eq!(grant.vendor().as_str(), "SixClicks");
                continue;
            };
            prop_assert!(!request.url.contains(value) || grants_url_holds(value));
            for (_, value) in &request.headers {
                prop_assert!(HeaderValue::from_str(value.expose_secret()).is_ok());
            }
            let body = request.body.expose_secret();
            let sent: Vec<String> = if let Ok(json) = serde_json::from_str::<serde_json::Value>(body) {
                json.as_object().unwrap().values().map(|value| value.as_str().unwrap().to_owned()).collect()
            } else if body.is_empty() {
                request.headers.iter().map(|(_, value)| value.expose_secret().to_owned()).collect()
            } else {
                url::form_urlencoded::parse(body.as_bytes()).map(|(_, value)| value.into_owned()).collect()
            };
            prop_assert!(sent.iter().any(|sent| sent == value), "{:?}", grant);
        }
    }

    #[test]
    fn a_credential_is_recognised_wherever_it_lies(
        value in "[ -~]{8,40}",
        before in "[ -~]{0,9}",
        after in "[ -~]{0,9}",
    ) {
        let credentials = credentials(&Grant::Picus, &value);
        let text = format!("{before}{value}{after}");
        let form: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
        for text in [text.clone(), form, STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
            prop_assert!(credentials.repeated_in(&text), "{:?}", text);
        }
    }
}

/// A value so short that the fixed URLs hold it by chance.
fn grants_url_holds(value: &str) -> bool {
    grants().iter().any(|grant| {
        let other = credentials(grant, "another-value");
        grant
            .request(&grant.endpoint(), &other)
            .is_ok_and(|request| request.url.contains(value))
    })
}
