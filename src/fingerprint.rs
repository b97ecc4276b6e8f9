//! Keyed hashes of a token's inputs: the fingerprint of a grant, and its publishable form.
//!
//! May use: `token`, `providers`, `inputs`. The key stays in the operator's namespace, so readers of an annotation can
//! neither test guesses of a credential nor see who shares one.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::hmac;
use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizerBorrowed;
use jiff::Timestamp;

use crate::inputs::Inputs;
use crate::providers::{Endpoint, Grant};
use crate::token::{ClientCertificate, Credentials, ExposeSecret};

/// Identity of a grant: hash of vendor, endpoint, parameters and credential values. Published only through
/// [`FingerprintKey::inputs`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// A number from 0 to 255 that spreads refreshes, equal after restarts and among those who share a grant.
    pub fn jitter(&self) -> u8 {
        self.0[15]
    }

    /// A stand-in for an unknown fingerprint, equal for VendorTokens of one namespace that have the same parameters and
    /// name the same keys of the same Secrets.
    pub fn stand_in(inputs: &Inputs) -> Self {
        let mut bytes = [0; 16];
        for text in [&inputs.parameters, &inputs.sources] {
            for (byte, text) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
                let text = std::str::from_utf8(text).unwrap_or_default();
                *byte ^= u8::from_str_radix(text, 16).unwrap_or_default();
            }
        }
        Self(bytes)
    }

    /// A number that identifies the grant in counts. It is never shown.
    pub fn number(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    #[cfg(test)]
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Four bytes identify a grant in a log, and are no published value.
        write!(formatter, "Fingerprint({})", hex(&self.0[..4]))
    }
}

/// Identity of an account at a vendor that counts failed attempts: the password is not part of it. Never published.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Account([u8; 16]);

#[cfg(test)]
impl Account {
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Account({})", hex(&self.0[..4]))
    }
}

/// Keyed hash of the password of an account. Never published.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PasswordDigest([u8; 16]);

#[cfg(test)]
impl PasswordDigest {
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for PasswordDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PasswordDigest({})", hex(&self.0[..4]))
    }
}

/// An account and a password of it: equal for grants that differ in their scopes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Login {
    pub account: Account,
    pub password: PasswordDigest,
}

/// Keyed hash of a client certificate and its key. Never published.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CertificateDigest([u8; 16]);

impl fmt::Debug for CertificateDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CertificateDigest({})", hex(&self.0[..4]))
    }
}

/// The part of [`Inputs`] that needs no Secret to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownInputs {
    /// See [`Inputs::parameters`].
    pub parameters: String,
    /// See [`Inputs::sources`].
    pub sources: String,
}

/// Names of the Secrets and keys that hold the credentials of a grant.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Name of the credentials Secret.
    pub credentials_secret: &'a str,
    /// Canonical key to key in that Secret, from the spec.
    pub keys: &'a BTreeMap<String, String>,
    /// Name of the client certificate's Secret.
    pub client_certificate_secret: Option<&'a str>,
}

/// The operator's key for fingerprints and seals, from a Secret of its own namespace.
pub struct FingerprintKey {
    key: hmac::Key,
    /// Derived from `key`: no hash that is published of a fingerprint can be a part of a seal.
    for_seals: hmac::Key,
    id: [u8; 4],
    id_text: String,
    since: Timestamp,
}

impl fmt::Debug for FingerprintKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FingerprintKey({})", self.id_text)
    }
}

impl FingerprintKey {
    /// Length of the key in bytes.
    pub const LENGTH: usize = 32;

    /// Makes a key of its bytes, which has been in use for ever; `None` unless there are [`Self::LENGTH`].
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::LENGTH {
            return None;
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let id = *hmac::sign(&key, b"vendortoken.io key id")
            .as_ref()
            .first_chunk()?;
        let for_seals = hmac::sign(&key, b"vendortoken.io key for seals");
        Some(Self {
            for_seals: hmac::Key::new(hmac::HMAC_SHA256, for_seals.as_ref()),
            key,
            id,
            id_text: hex(&id),
            since: Timestamp::MIN,
        })
    }

    /// Sets the time since which the key is in use.
    pub fn made_at(self, time: Timestamp) -> Self {
        Self { since: time, ..self }
    }

    /// The time since which the operator has this key.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// The id of this key, a hash.
    pub fn id(&self) -> &str {
        &self.id_text
    }

    /// The id of this key, as bytes.
    pub fn id_bytes(&self) -> [u8; 4] {
        self.id
    }

    /// An HMAC for a part of a seal, by a key of its own.
    pub(crate) fn for_seals(&self, purpose: &str) -> Fields {
        Fields::new(&self.for_seals, purpose)
    }

    /// The fingerprint of `grant` at `endpoint` with `credentials`.
    pub fn fingerprint(&self, endpoint: &Endpoint, grant: &Grant, credentials: &Credentials) -> Fingerprint {
        let certificate = credentials.client_certificate.as_ref();
        let certificate = certificate.map(|certificate| self.certificate(certificate));
        self.fingerprint_with(endpoint, grant, credentials, certificate.as_ref())
    }

    /// The digest of a client certificate and its key.
    pub fn certificate(&self, certificate: &ClientCertificate) -> CertificateDigest {
        let mut context = Fields::new(&self.key, "client certificate");
        context
            .field(certificate.certificate_chain.expose_secret())
            .field(certificate.private_key.expose_secret());
        CertificateDigest(context.finish())
    }

    /// The fingerprint of `grant` at `endpoint` with the values of `credentials` and the certificate of this digest.
    pub fn fingerprint_with(
        &self,
        endpoint: &Endpoint,
        grant: &Grant,
        credentials: &Credentials,
        certificate: Option<&CertificateDigest>,
    ) -> Fingerprint {
        let mut context = Fields::new(&self.key, "fingerprint");
        context
            .field(grant.vendor().as_str())
            .field(&endpoint.origin)
            .field(&grant.canonical());
        for (name, value) in &credentials.values {
            context.field(name).field(value.expose_secret());
        }
        if let Some(certificate) = certificate {
            context.field("client-certificate").bytes(&certificate.0);
        }
        Fingerprint(context.finish())
    }

    /// The account that failed attempts with these credentials could lock, and the password for it. `None` at a vendor
    /// that locks no accounts.
    pub fn login(&self, endpoint: &Endpoint, grant: &Grant, credentials: &Credentials) -> Option<Login> {
        let account = self.account(endpoint, grant, credentials)?;
        let [_, user] = grant.account(credentials)?;
        let mut context = Fields::new(&self.key, "password");
        context.bytes(&account.0);
        // The user is part of the account, which is one in each spelling of it.
        let values = credentials.values.values().map(ExposeSecret::expose_secret);
        for value in values.filter(|value| **value != *user) {
            context.field(value);
        }
        Some(Login {
            account,
            password: PasswordDigest(context.finish()),
        })
    }

    /// The account that failed attempts could lock: endpoint, tenant and user of a password grant (Checkmarx SCA).
    /// `None` at a vendor that locks no accounts.
    fn account(&self, endpoint: &Endpoint, grant: &Grant, credentials: &Credentials) -> Option<Account> {
        let [tenant, user] = grant.account(credentials)?.map(|name| same_name(&name));
        let mut context = Fields::new(&self.key, "account");
        context.field(&endpoint.origin).field(&tenant).field(&user);
        Some(Account(context.finish()))
    }

    /// The part of [`Inputs`] that needs no Secret to be read.
    pub fn known_inputs(
        &self,
        namespace: &str,
        endpoint: &Endpoint,
        grant: &Grant,
        sources: Sources<'_>,
    ) -> KnownInputs {
        let mut parameters = Fields::new(&self.key, "parameters");
        parameters
            .field(namespace)
            .field(grant.vendor().as_str())
            .field(&endpoint.origin)
            .field(&grant.canonical());
        let mut names = Fields::new(&self.key, "sources");
        names.field(namespace).field(sources.credentials_secret);
        for (name, key) in sources.keys {
            names.field(name).field(key);
        }
        if let Some(name) = sources.client_certificate_secret {
            names.field("client-certificate").field(name);
        }
        KnownInputs {
            parameters: hex(&parameters.finish()),
            sources: hex(&names.finish()[..4]),
        }
    }

    /// The publishable form of `fingerprint` for one VendorToken. No two have the same, so that nobody can see who shares
    /// a credential.
    pub fn inputs(
        &self,
        namespace: &str,
        vendor_token: &str,
        known: &KnownInputs,
        fingerprint: Fingerprint,
    ) -> Inputs {
        let mut context = Fields::new(&self.key, "published");
        context.field(namespace).field(vendor_token).bytes(&fingerprint.0);
        Inputs {
            key_id: self.id_text.clone(),
            parameters: known.parameters.clone(),
            sources: known.sources.clone(),
            fingerprint: hex(&context.finish()),
            jitter: fingerprint.jitter(),
        }
    }
}

/// An HMAC over fields, each after its length, so that no two lists of fields have the same input.
pub(crate) struct Fields(hmac::Context);

impl Fields {
    fn new(key: &hmac::Key, purpose: &str) -> Self {
        let mut fields = Self(hmac::Context::with_key(key));
        fields.field(purpose);
        fields
    }

    pub(crate) fn field(&mut self, value: &str) -> &mut Self {
        self.bytes(value.as_bytes())
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0.update(&(value.len() as u64).to_be_bytes());
        self.0.update(value);
        self
    }

    pub(crate) fn finish(self) -> [u8; 16] {
        let tag = self.0.sign();
        let mut short = [0; 16];
        short.copy_from_slice(&tag.as_ref()[..16]);
        short
    }
}

/// The one spelling of all that a directory takes for the same name: without white space around it, in one
/// normalisation form and without case (Unicode 16, section 3.13, compatibility caseless matching). It is compared only;
/// what is sent to a vendor stays as it is.
fn same_name(name: &str) -> String {
    let compatible = ComposingNormalizerBorrowed::new_nfkc();
    let folded = CaseMapper::new()
        .fold_string(&compatible.normalize(name))
        .into_owned();
    // Folding may undo the form, and a letter may fold to one that has another compatible form.
    let folded = CaseMapper::new()
        .fold_string(&compatible.normalize(&folded))
        .into_owned();
    compatible.normalize(&folded).trim().to_owned()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::providers::CheckmarxRegion;
    use crate::token::SecretString;

    fn key(seed: u8) -> FingerprintKey {
        FingerprintKey::new(&[seed; 32]).unwrap()
    }

    fn credentials(secret: &str) -> Credentials {
        Credentials {
            values: BTreeMap::from([
                ("client-id", SecretString::from("id")),
                ("client-secret", SecretString::from(secret)),
            ]),
            client_certificate: None,
        }
    }

    fn endpoint() -> Endpoint {
        Endpoint {
            origin: "https://account.mapiq.com".to_owned(),
        }
    }

    fn fingerprint(seed: u8, secret: &str) -> Fingerprint {
        key(seed).fingerprint(&endpoint(), &Grant::Mapiq, &credentials(secret))
    }

    #[test]
    fn equal_inputs_have_equal_fingerprints() {
        assert_eq!(fingerprint(1, "a"), fingerprint(1, "a"));
    }

    #[test]
    fn a_changed_credential_changes_the_fingerprint() {
        assert_ne!(fingerprint(1, "a"), fingerprint(1, "b"));
    }

    #[test]
    fn another_key_changes_the_fingerprint() {
        assert_ne!(fingerprint(1, "a"), fingerprint(2, "a"));
    }

    #[rstest]
    #[case::a_blank_after_it("robot", "robot ")]
    #[case::white_space_around_it("robot", "\t\u{a0}robot\u{3000}")]
    #[case::another_case("robot", "ROBOT")]
    #[case::a_letter_that_folds_to_two("stra\u{df}e", "STRASSE")]
    #[case::a_letter_and_its_accent_apart("andr\u{e9}", "ANDRE\u{301}")]
    #[case::letters_of_full_width("robot", "\u{ff32}\u{ff2f}\u{ff22}\u{ff2f}\u{ff34}")]
    #[case::a_ligature("office", "o\u{fb03}ce")]
    #[case::a_sign_for_a_letter("\u{3c9}", "\u{2126}")]
    #[case::a_final_sigma("\u{3c3}\u{3bf}\u{3c3}", "\u{3a3}\u{39f}\u{3c2}")]
    fn an_account_is_one_in_each_spelling_of_its_user(#[case] one: &str, #[case] other: &str) {
        let account = |user: &str| {
            let credentials = Credentials {
                values: BTreeMap::from([("username", SecretString::from(user))]),
                client_certificate: None,
            };
            let grant =
                Grant::checkmarx_sca(CheckmarxRegion::Eu, "acme", vec!["sca_api".to_owned()]).unwrap();
            key(1).account(&endpoint(), &grant, &credentials)
        };
        assert!(account(one).is_some());
        assert_eq!(account(one), account(other));
        assert_ne!(account(one), account(&format!("{one}2")));
    }

    proptest! {
        #[test]
        fn a_spelling_that_stands_for_a_name_stands_for_itself(name in "\\PC{0,12}") {
            let same = same_name(&name);
            prop_assert_eq!(same_name(&same), same.clone());
            prop_assert_eq!(same_name(&format!(" {name} ")), same.clone());
            let decomposed = icu_normalizer::DecomposingNormalizerBorrowed::new_nfkd().normalize(&name).into_owned();
            prop_assert_eq!(same_name(&decomposed), same);
        }
    }

    #[test]
    fn text_that_moves_between_two_fields_changes_the_hash() {
        let mut left = Fields::new(&key(1).key, "t");
        left.field("ab").field("c");
        let mut right = Fields::new(&key(1).key, "t");
        right.field("a").field("bc");
        assert_ne!(left.finish(), right.finish());
    }

    fn published(namespace: &str, keys: &BTreeMap<String, String>) -> Inputs {
        let sources = Sources {
            credentials_secret: "s",
            keys,
            client_certificate_secret: None,
        };
        let known = key(1).known_inputs(namespace, &endpoint(), &Grant::Mapiq, sources);
        key(1).inputs(namespace, "sca", &known, fingerprint(1, "a"))
    }

    #[test]
    fn two_vendor_tokens_of_one_namespace_publish_a_shared_credential_differently() {
        let known = KnownInputs {
            parameters: "1".repeat(32),
            sources: "2".repeat(8),
        };
        let published = |name: &str| key(1).inputs("one", name, &known, fingerprint(1, "a"));
        assert_ne!(published("sca").fingerprint, published("other").fingerprint);
        // Those that name the same Secret are known to share it by their specs.
        assert_eq!(
            Fingerprint::stand_in(&published("sca")),
            Fingerprint::stand_in(&published("other"))
        );
    }

    #[test]
    fn published_inputs_differ_between_namespaces() {
        let (one, two) = (
            published("one", &BTreeMap::new()),
            published("two", &BTreeMap::new()),
        );
        assert_ne!(one.fingerprint, two.fingerprint);
        assert_ne!(one.parameters, two.parameters);
        assert_ne!(one.sources, two.sources);
    }

    #[test]
    fn a_renamed_key_changes_the_sources_alone() {
        let renamed = BTreeMap::from([("client-id".to_owned(), "ID".to_owned())]);
        let (one, two) = (published("one", &BTreeMap::new()), published("one", &renamed));
        assert_ne!(one.sources, two.sources);
        assert_eq!(
            (one.parameters, one.fingerprint),
            (two.parameters, two.fingerprint)
        );
    }

    #[test]
    fn inputs_survive_their_text_form() {
        let inputs = published("one", &BTreeMap::new());
        assert_eq!(Inputs::parse(&inputs.to_string()), Some(inputs));
    }

    #[test]
    fn another_text_is_no_inputs() {
        let inputs = published("one", &BTreeMap::new());
        for bad in [
            "",
            "a.b.c.d.e",
            "....",
            &format!("{inputs}.00"),
            &inputs.to_string().to_uppercase(),
        ] {
            assert_eq!(Inputs::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_account_is_an_endpoint_a_tenant_and_a_user_in_any_case() {
        let account = |origin: &str, tenant: &str, user: &str, password: &str, scope: &str| {
            let endpoint = Endpoint {
                origin: origin.to_owned(),
            };
            let scopes = vec![scope.to_owned()];
            let grant = Grant::checkmarx_sca(crate::providers::CheckmarxRegion::Eu, tenant, scopes).unwrap();
            let credentials = Credentials {
                values: BTreeMap::from([
                    ("username", SecretString::from(user)),
                    ("password", SecretString::from(password)),
                ]),
                client_certificate: None,
            };
            key(1).account(&endpoint, &grant, &credentials).unwrap()
        };
        let one = account("https://eu", "acme", "robot", "a", "sca_api");
        for same in [
            account("https://eu", "acme", "robot", "b", "sca_api"),
            account("https://eu", "acme", "robot", "a", "access_control_api"),
            account("https://eu", "ACME", "Robot", "a", "sca_api"),
        ] {
            assert!(same == one);
        }
        for other in [
            account("https://us", "acme", "robot", "a", "sca_api"),
            account("https://eu", "other", "robot", "a", "sca_api"),
            account("https://eu", "acme", "person", "a", "sca_api"),
        ] {
            assert!(other != one);
        }
        assert!(
            key(1)
                .account(&endpoint(), &Grant::Mapiq, &credentials("a"))
                .is_none()
        );
    }

    #[test]
    fn a_login_is_an_account_and_a_password_whatever_the_scopes() {
        let login = |user: &str, password: &str, scope: &str| {
            let scopes = vec![scope.to_owned()];
            let grant = Grant::checkmarx_sca(CheckmarxRegion::Eu, "acme", scopes).unwrap();
            let credentials = Credentials {
                values: BTreeMap::from([
                    ("username", SecretString::from(user)),
                    ("password", SecretString::from(password)),
                ]),
                client_certificate: None,
            };
            key(1).login(&endpoint(), &grant, &credentials)
        };
        let one = login("robot", "a", "sca_api");
        assert!(one.is_some());
        assert_eq!(one, login("Robot ", "a", "access_control_api"));
        assert_ne!(one, login("robot", "A", "sca_api"));
        assert_ne!(one, login("person", "a", "sca_api"));
    }

    #[test]
    fn seals_are_made_with_a_key_of_their_own() {
        let mut published = Fields::new(&key(1).key, "facts");
        let mut seal = key(1).for_seals("facts");
        published.field("a");
        seal.field("a");
        assert_ne!(published.finish(), seal.finish());
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        assert!(FingerprintKey::new(&[0; 31]).is_none());
    }
}
