//! Secret values and the access token, in types that cannot be printed or serialised by accident.
//!
//! May use: nothing of ours.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
pub use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// Limit of a credential value, in bytes: far above any vendor's, far below the limits of HTTP headers.
pub const CREDENTIAL_LIMIT: usize = 16 * 1024;
/// Limit of `tls.crt`, in bytes: a certificate with its intermediates has 4 to 20 KiB.
pub const CERTIFICATE_LIMIT: usize = 64 * 1024;
/// Limit of `tls.key`, in bytes: RSA of 16384 bits, the longest kind in use, has 12.5 KiB.
pub const PRIVATE_KEY_LIMIT: usize = 16 * 1024;

/// The checked credential values of one grant by canonical key (`client-id`, `api-key`, …), each without its trailing
/// line end. Wiped on drop; `Debug` shows the keys only.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Canonical key to value.
    pub values: BTreeMap<&'static str, SecretString>,
    /// The client certificate for mutual TLS (6clicks only).
    pub client_certificate: Option<ClientCertificate>,
}

/// A client certificate with its private key, from a `kubernetes.io/tls` Secret (PEM).
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// `tls.crt`: the certificate, then its chain.
    pub certificate_chain: SecretString,
    /// `tls.key`: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub private_key: SecretString,
}

/// Error in a key of the credentials Secret. Shows the key and the cure, never the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {key} of the credentials Secret {problem}")]
pub struct CredentialError {
    /// The key in the Secret.
    pub key: String,
    /// The fault.
    pub problem: CredentialProblem,
}

/// Fault of a credential value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialProblem {
    #[error("is missing: add it, or name another key under credentialsSecretRef.keys")]
    Missing,
    #[error("is empty: put the value issued by the vendor there")]
    Empty,
    #[error("is not UTF-8 text: store the value itself; under data it is encoded with base64 exactly once")]
    NotText,
    #[error("has a control character inside (a line break, a tab): store the value as one line")]
    ControlCharacter,
    #[error("begins with a byte order mark: save the file without one and store the value again")]
    ByteOrderMark,
    #[error(
        "has the character U+{:04X}, which is invisible or a blank, and which no vendor issues: it was copied with the \
         value; store the value without it",
        u32::from(*.0)
    )]
    Invisible(char),
    #[error("is longer than 16 KiB: store one credential there")]
    TooLong,
}

/// Makes a credential of the bytes under `key` of a Secret. Removes one trailing LF or CRLF, which `echo` writes.
///
/// # Errors
/// For a value that can only be a mistake, since a wrong password counts towards a lock-out.
pub fn clean_credential(key: &str, value: &[u8]) -> Result<SecretString, CredentialError> {
    let refuse = |problem| CredentialError {
        key: key.to_owned(),
        problem,
    };
    let text = std::str::from_utf8(value).map_err(|_| refuse(CredentialProblem::NotText))?;
    let text = text
        .strip_suffix("\r\n")
        .or_else(|| text.strip_suffix('\n'))
        .unwrap_or(text);
    if text.trim().is_empty() {
        Err(refuse(CredentialProblem::Empty))
    } else if text.starts_with('\u{feff}') {
        Err(refuse(CredentialProblem::ByteOrderMark))
    } else if text.chars().any(char::is_control) {
        Err(refuse(CredentialProblem::ControlCharacter))
    } else if text.len() > CREDENTIAL_LIMIT {
        Err(refuse(CredentialProblem::TooLong))
    } else if let Some(character) = invisible(text) {
        Err(refuse(CredentialProblem::Invisible(character)))
    } else {
        Ok(SecretString::from(text))
    }
}

/// A character of `text` that a person does not see and that no vendor issues: of Unicode's formatting characters
/// (general category Cf), no-break spaces and line separators anywhere, other blanks than the ASCII one at the ends.
fn invisible(text: &str) -> Option<char> {
    let anywhere = |character: &char| {
        matches!(
            character,
            '\u{a0}' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{2007}' | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202f}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}' | '\u{e0001}'..='\u{e007f}'
        )
    };
    let at_an_end = |character: &char| *character != ' ' && character.is_whitespace();
    let ends = [text.chars().next(), text.chars().next_back()];
    let end = ends.into_iter().flatten().find(at_an_end);
    text.chars().find(anywhere).or(end)
}

impl Credentials {
    /// Reads the credentials of a grant from a Secret's data.
    ///
    /// `keys` are the canonical keys (`Grant::credential_keys`), `names` maps a canonical key to another key in the
    /// Secret (`credentialsSecretRef.keys`), `data` looks up a key of the Secret.
    pub fn from_data<'a>(
        keys: &[&'static str],
        names: &BTreeMap<String, String>,
        data: impl Fn(&str) -> Option<&'a [u8]>,
    ) -> Result<Self, CredentialError> {
        let mut values = BTreeMap::new();
        for canonical in keys {
            let key = names.get(*canonical).map_or(*canonical, String::as_str);
            let value = data(key).ok_or_else(|| CredentialError {
                key: key.to_owned(),
                problem: CredentialProblem::Missing,
            })?;
            values.insert(*canonical, clean_credential(key, value)?);
        }
        Ok(Self {
            values,
            client_certificate: None,
        })
    }

    /// True when `text` contains one of the values: plain in any case, URL-encoded, or within base64 (`Basic`
    /// credentials).
    pub fn repeated_in(&self, text: &str) -> bool {
        let plain = lower_case(text.as_bytes());
        let decoded = lower_case(&percent_decoded(text));
        self.values
            .values()
            .map(|value| value.expose_secret().as_bytes())
            .any(|value| {
                let needle = lower_case(value);
                contains(&plain, &needle) || contains(&decoded, &needle) || contains_base64(text, value)
            })
    }
}

fn lower_case(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(bytes.to_ascii_lowercase())
}

fn contains(text: &[u8], value: &[u8]) -> bool {
    !value.is_empty() && text.windows(value.len()).any(|window| window == value)
}

fn percent_decoded(text: &str) -> Zeroizing<Vec<u8>> {
    let bytes = text.as_bytes();
    let digit = |index: usize| bytes.get(index).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Zeroizing::new(Vec::with_capacity(bytes.len()));
    let mut index = 0;
    while let Some(byte) = bytes.get(index) {
        match (byte, digit(index + 1), digit(index + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
                index += 3;
            }
            (b'+', _, _) => {
                decoded.push(b' ');
                index += 1;
            }
            _ => {
                decoded.push(*byte);
                index += 1;
            }
        }
    }
    decoded
}

/// Searches for the base64 characters that depend on `value` alone, at each of its three alignments. Values of less
/// than four bytes have too few such characters.
fn contains_base64(text: &str, value: &[u8]) -> bool {
    if value.len() < 4 {
        return false;
    }
    [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD].into_iter().any(|alphabet| {
        (0..3_usize).any(|before| {
            let mut padded = Zeroizing::new(vec![0; before]);
            padded.extend_from_slice(value);
            let encoded = Zeroizing::new(alphabet.encode(padded.as_slice()));
            let first = (before * 8).div_ceil(6);
            let last = (before + value.len()) * 8 / 6;
            encoded
                .get(first..last)
                .is_some_and(|middle| contains(text.as_bytes(), middle.as_bytes()))
        })
    })
}

/// An access token with its expiry. All times are whole seconds.
#[derive(Clone, Debug)]
pub struct AccessToken {
    /// The token, unchanged.
    pub value: SecretString,
    /// `Bearer` in the vendor's own spelling, or `Bearer` where the vendor sends none.
    pub token_type: String,
    /// True when the vendor wrote that type in another form, which was read as `Bearer`.
    pub type_is_unusual: bool,
    /// Time of the request by the local clock.
    pub issued: Timestamp,
    /// The earliest credible expiry by the local clock.
    pub expires: Timestamp,
    /// True when the vendor stated no expiry and its documented default is assumed.
    pub expiry_assumed: bool,
    /// True when two sources of the expiry disagree by more than 120 s, or the `Date` header is off by more than 60 s.
    pub clock_skew_suspected: bool,
    /// True when the token lives more than ten times as long as the vendor documents.
    pub unusually_long: bool,
    /// Start of the token's validity, where it lies in the future.
    pub not_before: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;
    use rstest::rstest;

    // edge case 5
    #[rstest]
    #[case::as_it_is(b"pass word~&=+%", "pass word~&=+%")]
    #[case::a_line_feed(b"password\n", "password")]
    #[case::a_carriage_return_and_line_feed(b"password\r\n", "password")]
    #[case::not_ascii("pässwörd\n".as_bytes(), "pässwörd")]
    #[case::blanks_belong_to_it(b" password ", " password ")]
    fn one_trailing_line_end_is_removed(#[case] raw: &[u8], #[case] clean: &str) {
        assert_eq!(clean_credential("password", raw).unwrap().expose_secret(), clean);
    }

    // edge cases 5 and 6
    #[rstest]
    #[case(b"", CredentialProblem::Empty)]
    #[case(b"\n", CredentialProblem::Empty)]
    #[case(b" ", CredentialProblem::Empty)]
    #[case(b"\xff\xfe", CredentialProblem::NotText)]
    #[case(b"password\n\n", CredentialProblem::ControlCharacter)]
    #[case(b"password\r", CredentialProblem::ControlCharacter)]
    #[case(b"pass\nword", CredentialProblem::ControlCharacter)]
    #[case(b"pass\0word", CredentialProblem::ControlCharacter)]
    #[case("pass\u{85}word".as_bytes(), CredentialProblem::ControlCharacter)]
    #[case("\u{feff}password".as_bytes(), CredentialProblem::ByteOrderMark)]
    #[case(&[b'a'; CREDENTIAL_LIMIT + 1], CredentialProblem::TooLong)]
    fn a_value_that_can_only_be_a_mistake_is_refused(#[case] raw: &[u8], #[case] problem: CredentialProblem) {
        let error = clean_credential("PASSWORD", raw).unwrap_err();
        assert_eq!(
            error,
            CredentialError {
                key: "PASSWORD".to_owned(),
                problem
            }
        );
        assert!(
            error
                .to_string()
                .starts_with("key PASSWORD of the credentials Secret "),
            "{error}"
        );
    }

    // edge case 5
    #[rstest]
    #[case::zero_width_space_before("\u{200b}password", '\u{200b}')]
    #[case::no_break_space_behind("password\u{a0}", '\u{a0}')]
    #[case::no_break_space_and_line_end("password\u{a0}\r\n", '\u{a0}')]
    #[case::no_break_space_inside("pass\u{202f}word", '\u{202f}')]
    #[case::zero_width_joiner_inside("pass\u{200d}word", '\u{200d}')]
    #[case::word_joiner("password\u{2060}", '\u{2060}')]
    #[case::soft_hyphen("pass\u{ad}word", '\u{ad}')]
    #[case::direction_mark("\u{200e}password", '\u{200e}')]
    #[case::direction_override("\u{202e}password", '\u{202e}')]
    #[case::direction_isolate("\u{2066}password\u{2069}", '\u{2066}')]
    #[case::arabic_letter_mark("password\u{61c}", '\u{61c}')]
    #[case::byte_order_mark_behind("password\u{feff}", '\u{feff}')]
    #[case::tag("password\u{e0061}", '\u{e0061}')]
    #[case::line_separator("pass\u{2028}word", '\u{2028}')]
    #[case::ideographic_space_before("\u{3000}password", '\u{3000}')]
    #[case::em_space_behind("password\u{2003}", '\u{2003}')]
    fn a_character_that_nobody_sees_is_named(#[case] raw: &str, #[case] character: char) {
        let error = clean_credential("password", raw.as_bytes()).unwrap_err();
        assert_eq!(error.problem, CredentialProblem::Invisible(character));
        let code_point = format!("U+{:04X}", u32::from(character));
        let text = error.to_string();
        assert!(text.contains(&code_point) && !text.contains(character), "{text}");
    }

    // edge case 5
    #[rstest]
    #[case("pass\u{3000}word")]
    #[case(" password ")]
    #[case("\u{00e9}\u{0301}пароль密码😀")]
    fn characters_that_a_person_chose_are_kept(#[case] value: &str) {
        let clean = clean_credential("password", value.as_bytes()).unwrap();
        assert_eq!(clean.expose_secret(), value);
    }

    #[test]
    fn credentials_are_read_from_their_keys_in_the_secret() {
        let names = BTreeMap::from([("password".to_owned(), "PASSWORD".to_owned())]);
        let data = |key: &str| match key {
            "username" => Some(b"robot\n".as_slice()),
            "PASSWORD" => Some(b"s3cret".as_slice()),
            _ => None,
        };
        let credentials = Credentials::from_data(&["username", "password"], &names, data).unwrap();
        let values: Vec<_> = credentials
            .values
            .iter()
            .map(|(key, value)| (*key, value.expose_secret()))
            .collect();
        assert_eq!(values, [("password", "s3cret"), ("username", "robot")]);
    }

    #[test]
    fn the_error_of_a_missing_credential_names_the_key() {
        let error = Credentials::from_data(&["password"], &BTreeMap::new(), |_| None).unwrap_err();
        assert_eq!(
            error,
            CredentialError {
                key: "password".to_owned(),
                problem: CredentialProblem::Missing
            }
        );
    }

    // edge case 34
    #[test]
    fn a_value_is_recognised_in_every_encoding() {
        let value = "p4ss wörd/+~Z";
        let credentials = Credentials {
            values: BTreeMap::from([("password", value.into())]),
            client_certificate: None,
        };
        let form: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
        let encoded = [
            value.to_owned(),
            value.to_uppercase().replace('Ö', "ö"),
            format!("<{value}>"),
            form.clone(),
            form.to_lowercase(),
            form.replace('+', "%20"),
            STANDARD.encode(value),
            STANDARD.encode(format!("user:{value}")),
            STANDARD.encode(format!("user1:{value}-and-more")),
            URL_SAFE_NO_PAD.encode(format!("user12:{value}!")),
        ];
        for text in encoded {
            assert!(credentials.repeated_in(&text), "{text}");
        }
        for text in [
            "",
            "p4ss",
            "invalid_grant",
            "%",
            "%4",
            "%zz",
            &STANDARD.encode("another password"),
        ] {
            assert!(!credentials.repeated_in(text), "{text}");
        }
    }

    // edge case 34
    #[test]
    fn debug_shows_no_value() {
        let credentials = Credentials {
            values: BTreeMap::from([("api-key", "hush-value".into())]),
            client_certificate: Some(ClientCertificate {
                certificate_chain: "hush-chain".into(),
                private_key: "hush-key".into(),
            }),
        };
        let text = format!("{credentials:?}");
        assert!(text.contains("api-key") && !text.contains("hush"), "{text}");
    }
}
