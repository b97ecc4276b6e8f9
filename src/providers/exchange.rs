//! One request to a token endpoint and its response, as data.

use std::fmt;

use http::{HeaderMap, HeaderName, Method};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use url::form_urlencoded::byte_serialize;
use zeroize::Zeroizing;

use crate::token::{ClientCertificate, SecretString};

/// One request to a token endpoint. `Debug` shows neither the values of headers nor the body.
pub struct TokenRequest {
    /// The full URL. Holds no secret.
    pub url: String,
    /// Header names and values. A value may be a secret; each is a valid header value.
    pub headers: Vec<(HeaderName, SecretString)>,
    /// The body; empty for 6clicks, which needs `Content-Length: 0`.
    pub body: SecretString,
    /// The client certificate for mutual TLS.
    pub client_certificate: Option<ClientCertificate>,
}

impl TokenRequest {
    /// The method of every token request.
    pub const METHOD: Method = Method::POST;
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        formatter
            .debug_struct("TokenRequest")
            .field("url", &self.url)
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

/// The response to a request. `Debug` shows the status only.
pub struct TokenResponse {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, at most 1 MiB.
    pub body: Zeroizing<Vec<u8>>,
    /// Time of the request by the local clock.
    pub sent: Timestamp,
    /// Arrival of the response's head by the local clock.
    pub received: Timestamp,
    /// Step of the local clock between the request and the end of the response: ahead, or back where negative. Sleep of
    /// the machine counts as a step ahead.
    pub clock_step: SignedDuration,
}

impl fmt::Debug for TokenResponse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TokenResponse")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// Makes an `application/x-www-form-urlencoded` body, in memory of exactly its size: a buffer that grows leaves copies
/// of secrets behind.
pub(super) fn form(pairs: &[(&str, &str)]) -> SecretString {
    let pieces = || {
        pairs.iter().enumerate().flat_map(|(index, (name, value))| {
            let separator = if index == 0 { "" } else { "&" };
            [separator]
                .into_iter()
                .chain(byte_serialize(name.as_bytes()))
                .chain(["="])
                .chain(byte_serialize(value.as_bytes()))
        })
    };
    let mut body = String::with_capacity(pieces().map(str::len).sum());
    body.extend(pieces());
    SecretString::from(body)
}

/// Makes a JSON body, in memory of exactly its size as well. `None` where `value` has no JSON form.
pub(super) fn json(value: &impl Serialize) -> Option<SecretString> {
    let mut size = Size(0);
    serde_json::to_writer(&mut size, value).ok()?;
    let mut body = Zeroizing::new(Vec::with_capacity(size.0));
    serde_json::to_writer(&mut *body, value).ok()?;
    String::from_utf8(std::mem::take(&mut *body))
        .ok()
        .map(SecretString::from)
}

/// A writer that counts bytes.
struct Size(usize);

impl std::io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::ExposeSecret;

    // edge case 7
    #[test]
    fn every_character_survives_a_form() {
        let pairs = [
            ("username", "a b&c=d+e%f~g\"\\ü€😀"),
            ("password", "=&"),
            ("empty", ""),
        ];
        let body = form(&pairs);
        assert_eq!(
            body.expose_secret(),
            "username=a+b%26c%3Dd%2Be%25f%7Eg%22%5C%C3%BC%E2%82%AC%F0%9F%98%80&password=%3D%26&empty="
        );
        let back: Vec<_> = url::form_urlencoded::parse(body.expose_secret().as_bytes())
            .into_owned()
            .collect();
        assert_eq!(
            back,
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    // edge case 7
    #[test]
    fn every_character_survives_json() {
        let body = json(&serde_json::json!({ "client_secret": "\"\\/ü\u{2028}" })).unwrap();
        assert_eq!(body.expose_secret(), "{\"client_secret\":\"\\\"\\\\/ü\u{2028}\"}");
    }

    // edge case 34
    #[test]
    fn debug_shows_no_header_value_and_no_body() {
        let request = TokenRequest {
            url: "https://api.example.com/token".to_owned(),
            headers: vec![(HeaderName::from_static("6clicks-api-key"), "hush-key".into())],
            body: "hush-body".into(),
            client_certificate: None,
        };
        let response = TokenResponse {
            status: 200,
            headers: [(http::header::SET_COOKIE, http::HeaderValue::from_static("hush"))]
                .into_iter()
                .collect(),
            body: b"hush".to_vec().into(),
            sent: Timestamp::UNIX_EPOCH,
            received: Timestamp::UNIX_EPOCH,
            clock_step: SignedDuration::ZERO,
        };
        let text = format!("{request:?} {response:?}");
        assert!(
            text.contains("6clicks-api-key") && text.contains("200") && !text.contains("hush"),
            "{text}"
        );
    }
}
