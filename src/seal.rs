//! The seal of a target: it proves that this operator wrote the token in it, and the facts about that token.
//!
//! May use: `api`, `fingerprint`, `inputs`, `times`, `token`. Clients choose the name of their field manager and may
//! patch `managedFields`, so neither proves who wrote.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use jiff::Timestamp;

use crate::api::names;
use crate::fingerprint::{FingerprintKey, hex};
use crate::inputs::Inputs;
use crate::times::recorded;
use crate::token::{ExposeSecret, SecretString};

/// The longest text of a fact that is read, in bytes. No text that we write is as long.
const LONGEST_TEXT: usize = 256;

/// The place of a target. A seal holds for one place only.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub namespace: &'a str,
    /// Name of the target Secret.
    pub secret: &'a str,
    /// Name of the VendorToken.
    pub vendor_token: &'a str,
}

/// The facts about the token in a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFacts {
    pub issued: Timestamp,
    pub expires: Timestamp,
    pub inputs: Inputs,
    /// The annotation `vendortoken.io/content`.
    pub content: Box<str>,
    /// `uid/resourceVersion` of the credentials Secret that brought the token; `None` where it is not known.
    pub credentials_version: Option<Box<str>>,
    /// The refresh request that was handled when the token was published.
    pub refresh_handled: Option<Box<str>>,
}

impl TokenFacts {
    /// The annotations that hold the facts. The seal covers exactly these.
    pub fn annotations(&self) -> impl Iterator<Item = (&'static str, String)> {
        let version = self.credentials_version.as_deref().unwrap_or_default();
        [
            Some((names::ISSUED_TIME, self.issued.to_string())),
            Some((names::EXPIRATION_TIME, self.expires.to_string())),
            Some((names::INPUTS, self.inputs.to_string())),
            Some((names::CONTENT, self.content.to_string())),
            Some((names::CREDENTIALS_VERSION, version.to_owned())),
            self.refresh_handled
                .as_deref()
                .map(|handled| (names::REFRESH_HANDLED, handled.to_owned())),
        ]
        .into_iter()
        .flatten()
    }

    /// Reads the facts from annotations. `None` where one is missing, or has another form than the one that we write.
    fn read<'a>(annotation: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let time = |key: &str| {
            let text = annotation(key)?;
            let time: Timestamp = text.parse().ok()?;
            (time == recorded(time) && time.to_string() == text).then_some(time)
        };
        let short = |key: &str| annotation(key).filter(|text| text.len() <= LONGEST_TEXT);
        let refresh_handled = match annotation(names::REFRESH_HANDLED) {
            Some(_) => Some(short(names::REFRESH_HANDLED)?.into()),
            None => None,
        };
        Some(Self {
            issued: time(names::ISSUED_TIME)?,
            expires: time(names::EXPIRATION_TIME)?,
            inputs: annotation(names::INPUTS).and_then(Inputs::parse)?,
            content: short(names::CONTENT)?.into(),
            credentials_version: Some(short(names::CREDENTIALS_VERSION)?)
                .filter(|version| !version.is_empty())
                .map(Into::into),
            refresh_handled,
        })
    }
}

/// A seal: the id of the key, an HMAC of the token, and an HMAC of place, facts and the token's HMAC.
///
/// Text form `<key id>.<token>.<facts>`, all lower-case hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    key_id: [u8; 4],
    token: [u8; 16],
    facts: [u8; 16],
}

impl Seal {
    /// Makes the seal of a token and its facts at a place.
    pub fn new(key: &FingerprintKey, place: Place<'_>, facts: &TokenFacts, token: &SecretString) -> Self {
        let token = token_code(key, place, token);
        Self {
            key_id: key.id_bytes(),
            token,
            facts: facts_code(key, place, facts, token),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let seal = Self {
            key_id: bytes(parts.next()?)?,
            token: bytes(parts.next()?)?,
            facts: bytes(parts.next()?)?,
        };
        // Only the text form that we write is read: other spellings of the same bytes are refused.
        (seal.to_string() == text).then_some(seal)
    }
}

impl fmt::Display for Seal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key_id, token, facts) = (hex(&self.key_id), hex(&self.token), hex(&self.facts));
        write!(formatter, "{key_id}.{token}.{facts}")
    }
}

/// TokenFacts with the seal beside them, as found on a Secret. Anybody may have written them: they give nothing before
/// they are [verified](Self::verify).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedFacts {
    facts: TokenFacts,
    seal: Seal,
}

/// The worth of facts that were found on a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified<'a> {
    /// The operator's present key has sealed them.
    Sealed(&'a TokenFacts),
    /// A key has sealed them that this operator may have had and lost: they cannot be verified. The inputs in them carry
    /// the id of that key.
    LostKey(&'a TokenFacts, Seal),
}

impl SealedFacts {
    /// Reads facts and seal from annotations. `None` where one is missing, or has another form than the one that we
    /// write: facts without a seal do not exist.
    pub fn read<'a>(annotation: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let seal = annotation(names::SEAL).and_then(Seal::parse)?;
        Some(Self {
            facts: TokenFacts::read(annotation)?,
            seal,
        })
    }

    /// Verifies the facts for a place. `None` for facts that `key` has not sealed for it, and for those under another key
    /// that are younger than `key`: the operator had `key` by then. The token itself is verified where it is read: see
    /// [`Self::is_of`].
    pub fn verify(&self, key: &FingerprintKey, place: Place<'_>) -> Option<Verified<'_>> {
        if self.facts.inputs.key_id != hex(&self.seal.key_id) {
            return None;
        }
        if self.seal.key_id != key.id_bytes() {
            return (self.facts.issued < key.since()).then_some(Verified::LostKey(&self.facts, self.seal));
        }
        let expected = facts_code(key, place, &self.facts, self.seal.token);
        verify_slices_are_equal(&expected, &self.seal.facts)
            .is_ok()
            .then_some(Verified::Sealed(&self.facts))
    }

    /// True where the facts were sealed with this token. Under another key that cannot be verified, and the answer is
    /// true.
    pub fn is_of(&self, key: &FingerprintKey, place: Place<'_>, token: &SecretString) -> bool {
        self.seal.key_id != key.id_bytes()
            || verify_slices_are_equal(&token_code(key, place, token), &self.seal.token).is_ok()
    }
}

fn token_code(key: &FingerprintKey, place: Place<'_>, token: &SecretString) -> [u8; 16] {
    let mut code = key.for_seals("token");
    code.field(place.namespace)
        .field(place.secret)
        .field(place.vendor_token)
        .field(token.expose_secret());
    code.finish()
}

fn facts_code(key: &FingerprintKey, place: Place<'_>, facts: &TokenFacts, token: [u8; 16]) -> [u8; 16] {
    let mut code = key.for_seals("facts");
    code.field(place.namespace)
        .field(place.secret)
        .field(place.vendor_token)
        .bytes(&token);
    for (name, value) in facts.annotations() {
        code.field(name).field(&value);
    }
    code.finish()
}

/// The bytes of a hexadecimal text; `None` for a text of another length.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rstest::rstest;

    use super::*;

    const PLACE: Place<'_> = Place {
        namespace: "appsec",
        secret: "sca-token",
        vendor_token: "sca",
    };

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn key(seed: u8) -> FingerprintKey {
        FingerprintKey::new(&[seed; 32]).unwrap()
    }

    fn facts(key: &FingerprintKey) -> TokenFacts {
        TokenFacts {
            issued: time("2026-05-04T10:00:00Z"),
            expires: time("2026-05-04T11:00:00Z"),
            inputs: Inputs {
                key_id: key.id().to_owned(),
                parameters: "1".repeat(32),
                sources: "2".repeat(8),
                fingerprint: "3".repeat(32),
                jitter: 7,
            },
            content: "created.0123456789abcdef".into(),
            credentials_version: Some("uid/7".into()),
            refresh_handled: Some("monday".into()),
        }
    }

    /// The annotations of a target that `key` has sealed.
    fn annotations(key: &FingerprintKey) -> BTreeMap<String, String> {
        let facts = facts(key);
        let seal = Seal::new(key, PLACE, &facts, &SecretString::from("token"));
        let mut all: BTreeMap<_, _> = facts
            .annotations()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        all.insert(names::SEAL.to_owned(), seal.to_string());
        all
    }

    fn read(annotations: &BTreeMap<String, String>) -> Option<SealedFacts> {
        SealedFacts::read(|name| annotations.get(name).map(String::as_str))
    }

    fn is_believed(annotations: &BTreeMap<String, String>, place: Place<'_>) -> bool {
        read(annotations).is_some_and(|found| found.verify(&key(1), place).is_some())
    }

    #[test]
    fn facts_under_the_operators_seal_are_read_back() {
        let found = read(&annotations(&key(1))).unwrap();
        assert_eq!(
            found.verify(&key(1), PLACE),
            Some(Verified::Sealed(&facts(&key(1))))
        );
        assert!(found.is_of(&key(1), PLACE, &SecretString::from("token")));
        assert!(!found.is_of(&key(1), PLACE, &SecretString::from("another")));
    }

    #[test]
    fn facts_without_optional_ones_are_read_back() {
        let facts = TokenFacts {
            credentials_version: None,
            refresh_handled: None,
            ..facts(&key(1))
        };
        let seal = Seal::new(&key(1), PLACE, &facts, &SecretString::from("token")).to_string();
        let all: BTreeMap<_, _> = facts.annotations().chain([(names::SEAL, seal)]).collect();
        let found = SealedFacts::read(|name| all.get(name).map(String::as_str)).unwrap();
        assert_eq!(found.verify(&key(1), PLACE), Some(Verified::Sealed(&facts)));
    }

    /// Each forgery keeps the form of its fact, so that only the seal can show it.
    #[rstest]
    #[case::issue(names::ISSUED_TIME, "2026-05-04T10:00:01Z")]
    #[case::expiry(names::EXPIRATION_TIME, "2027-05-04T11:00:00Z")]
    #[case::content(names::CONTENT, "adopted.0123456789abcdef")]
    #[case::credentials(names::CREDENTIALS_VERSION, "uid/8")]
    #[case::no_credentials(names::CREDENTIALS_VERSION, "")]
    #[case::refresh_request(names::REFRESH_HANDLED, "tuesday")]
    #[case::issue_before_this_era(names::ISSUED_TIME, "-009999-01-02T01:59:59Z")]
    #[case::issue_before_2020(names::ISSUED_TIME, "2019-12-31T23:59:59Z")]
    #[case::issue_with_a_fraction(names::ISSUED_TIME, "2026-05-04T10:00:00.000000001Z")]
    #[case::the_same_issue_in_another_form(names::ISSUED_TIME, "2026-05-04T10:00:00+00:00")]
    #[case::no_issue(names::ISSUED_TIME, "soon")]
    fn a_fact_with_another_value_is_not_believed(#[case] name: &str, #[case] value: &str) {
        let mut all = annotations(&key(1));
        assert!(is_believed(&all, PLACE));
        all.insert(name.to_owned(), value.to_owned());
        assert!(!is_believed(&all, PLACE));
    }

    #[test]
    fn each_part_of_the_inputs_is_sealed() {
        for part in 0..5 {
            let mut all = annotations(&key(1));
            let mut parts: Vec<_> = all[names::INPUTS].split('.').map(str::to_owned).collect();
            let forged = if parts[part].starts_with('f') { "e" } else { "f" };
            parts[part].replace_range(..1, forged);
            all.insert(names::INPUTS.to_owned(), parts.join("."));
            assert!(!is_believed(&all, PLACE), "part {part}");
        }
    }

    #[test]
    fn a_target_without_one_of_its_annotations_has_no_facts() {
        let whole = annotations(&key(1));
        for name in whole.keys() {
            let mut all = whole.clone();
            all.remove(name);
            assert!(!is_believed(&all, PLACE), "{name}");
        }
    }

    #[test]
    fn a_seal_holds_for_one_place() {
        let all = annotations(&key(1));
        for elsewhere in [
            Place {
                namespace: "other",
                ..PLACE
            },
            Place {
                secret: "other",
                ..PLACE
            },
            Place {
                vendor_token: "other",
                ..PLACE
            },
            // The same letters, split differently between the names.
            Place {
                secret: "sca-toke",
                vendor_token: "nsca",
                ..PLACE
            },
        ] {
            assert!(!is_believed(&all, elsewhere), "{elsewhere:?}");
        }
    }

    #[test]
    fn another_seal_is_no_seal_of_these_facts() {
        let whole = annotations(&key(1));
        let seal = whole[names::SEAL].clone();
        let with_first = |place: usize| {
            let digit = if seal[place..].starts_with('0') { "1" } else { "0" };
            format!("{}{digit}{}", &seal[..place], &seal[place + 1..])
        };
        for forged in [
            with_first(0),
            with_first(9),
            with_first(seal.len() - 1),
            seal.to_uppercase(),
            format!("{seal}.00"),
            seal[..seal.len() - 2].to_owned(),
            seal.replace('.', ""),
            "é".repeat(37),
            String::new(),
        ] {
            let mut all = whole.clone();
            all.insert(names::SEAL.to_owned(), forged.clone());
            assert!(!is_believed(&all, PLACE), "{forged}");
        }
    }

    #[test]
    fn facts_under_a_lost_key_are_older_than_the_present_one() {
        let all = annotations(&key(2));
        let found = read(&all).unwrap();
        let lost = facts(&key(2));
        let lost = Some(Verified::LostKey(&lost, found.seal));
        for (made, expected) in [
            ("2026-05-04T10:00:00Z", None),
            ("2026-05-04T10:00:01Z", lost),
            ("2026-05-04T10:30:00Z", lost),
        ] {
            let present = key(1).made_at(time(made));
            assert_eq!(found.verify(&present, PLACE), expected, "{made}");
        }
    }

    #[test]
    fn a_seal_of_another_key_cannot_bear_inputs_of_the_present_one() {
        let present = key(1).made_at(Timestamp::MAX);
        let mut all = annotations(&key(2));
        assert!(read(&all).unwrap().verify(&present, PLACE).is_some());
        all.insert(names::INPUTS.to_owned(), facts(&key(1)).inputs.to_string());
        assert_eq!(read(&all).unwrap().verify(&present, PLACE), None);
    }

    #[test]
    fn equal_tokens_have_other_seals_elsewhere() {
        let facts = facts(&key(1));
        let of_token = |place| Seal::new(&key(1), place, &facts, &SecretString::from("token")).token;
        let other = Place {
            vendor_token: "other",
            ..PLACE
        };
        assert_ne!(of_token(PLACE), of_token(other));
    }

    #[test]
    fn a_text_longer_than_any_that_we_write_is_no_fact() {
        for name in [names::CONTENT, names::CREDENTIALS_VERSION, names::REFRESH_HANDLED] {
            let mut all = annotations(&key(1));
            all.insert(name.to_owned(), "x".repeat(LONGEST_TEXT + 1));
            assert_eq!(read(&all), None, "{name}");
        }
    }
}
