//! Client certificates for mutual TLS: reading and checking the content of a `kubernetes.io/tls` Secret.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest;
use jiff::Timestamp;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::times::parse_utc;
use crate::token::{ClientCertificate, ExposeSecret};

/// Error in a client certificate, with its cure. Shows no content but the validity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientCertificateError {
    /// `tls.crt` holds no PEM certificate.
    #[error(
        "tls.crt holds no PEM certificate; from a PFX file: openssl pkcs12 -in FILE.pfx -nokeys -out tls.crt"
    )]
    NoCertificate,
    /// `tls.key` holds no PEM key.
    #[error(
        "tls.key holds no PEM private key; from a PFX file: openssl pkcs12 -in FILE.pfx -nocerts -nodes -out tls.key"
    )]
    NoPrivateKey,
    /// The key is encrypted.
    #[error("tls.key is encrypted; store it decrypted: openssl pkey -in tls.key -out decrypted.key")]
    EncryptedPrivateKey,
    /// The key is damaged or of an unknown kind.
    #[error(
        "tls.key is of no supported kind: use RSA of 2048 bits or more, ECDSA P-256, P-384 or P-521, or Ed25519"
    )]
    UnsupportedPrivateKey,
    /// The key belongs to another certificate.
    #[error(
        "tls.key does not belong to the first certificate in tls.crt: the client certificate must come first"
    )]
    Mismatch,
    /// The certificate has not the form of RFC 5280.
    #[error("the first certificate in tls.crt is damaged")]
    Damaged,
    /// The validity has ended.
    #[error(
        "the client certificate in tls.crt expired at {0}: renew it, and register the new one with the vendor"
    )]
    Expired(Timestamp),
    /// The validity has not begun.
    #[error("the client certificate in tls.crt is not valid before {0}: check the node's clock")]
    NotYetValid(Timestamp),
}

/// Checks that a client certificate can be used at `now`: PEM, a decrypted key of the same pair, and validity. The
/// vendor is not asked.
pub fn check_client_certificate(
    certificate: &ClientCertificate,
    now: Timestamp,
) -> Result<(), ClientCertificateError> {
    Identity::read(certificate, &rustls::crypto::aws_lc_rs::default_provider(), now).map(drop)
}

/// A checked client certificate with its key.
pub(super) struct Identity {
    key: CertifiedKey,
    pub(super) not_after: Timestamp,
}

impl Identity {
    pub(super) fn read(
        certificate: &ClientCertificate,
        provider: &CryptoProvider,
        now: Timestamp,
    ) -> Result<Self, ClientCertificateError> {
        let chain = CertificateDer::pem_slice_iter(certificate.certificate_chain.expose_secret().as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| ClientCertificateError::NoCertificate)?;
        let first = chain.first().ok_or(ClientCertificateError::NoCertificate)?;
        let (not_before, not_after) = validity(first).ok_or(ClientCertificateError::Damaged)?;
        if now >= not_after {
            return Err(ClientCertificateError::Expired(not_after));
        }
        if now < not_before {
            return Err(ClientCertificateError::NotYetValid(not_before));
        }
        let text = certificate.private_key.expose_secret();
        // PKCS#8 marks encryption in the label, the older formats in a header (RFC 1421, section 4.6.1.1).
        if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(ClientCertificateError::EncryptedPrivateKey);
        }
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|_| ClientCertificateError::NoPrivateKey)?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => ClientCertificateError::Mismatch,
            rustls::Error::InvalidCertificate(_) => ClientCertificateError::Damaged,
            _ => ClientCertificateError::UnsupportedPrivateKey,
        })?;
        Ok(Self { key, not_after })
    }

    /// Presents the certificate to each server that asks for it in a handshake, and notes that in `seen`.
    pub(super) fn resolver(self, seen: Arc<Seen>) -> Arc<dyn ResolvesClientCert> {
        Arc::new(Presenter {
            certificate: SingleCertAndKey::from(self.key),
            seen,
        })
    }
}

/// Record of the servers to which one client certificate may be presented: whether any has asked for it in a handshake,
/// and whether any has answered. A server may ask only after the request, by a renegotiation (RFC 5246 section 7.4.1.1)
/// or by post-handshake authentication (RFC 8446 section 4.6.2). rustls supports neither, so such a server closes the
/// connection and has neither asked nor answered.
#[derive(Debug, Default)]
pub(super) struct Seen {
    asked: AtomicBool,
    answered: AtomicBool,
}

impl Seen {
    /// Notes a complete head of an answer.
    pub(super) fn note_answer(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// True when no server has asked for the certificate, or answered.
    pub(super) fn nothing(&self) -> bool {
        !self.asked.load(Ordering::Relaxed) && !self.answered.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Presenter {
    certificate: SingleCertAndKey,
    seen: Arc<Seen>,
}

impl ResolvesClientCert for Presenter {
    fn resolve(&self, issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.seen.asked.store(true, Ordering::Relaxed);
        ResolvesClientCert::resolve(&self.certificate, issuers, schemes)
    }

    fn has_certs(&self) -> bool {
        ResolvesClientCert::has_certs(&self.certificate)
    }
}

/// SHA-256 over certificate and key: equal for equal pairs.
pub(super) fn fingerprint(certificate: &ClientCertificate) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let chain = certificate.certificate_chain.expose_secret();
    context.update(&(chain.len() as u64).to_be_bytes());
    context.update(chain.as_bytes());
    context.update(certificate.private_key.expose_secret().as_bytes());
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

/// `notBefore` and the first second after `notAfter`, which is inclusive (RFC 5280, section 4.1.2.5). Reads no further
/// than these two fields; `None` for another structure than that of section 4.1.
fn validity(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    const SEQUENCE: u8 = 0x30;
    const EXPLICIT_VERSION: u8 = 0xa0;
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if let Some((_, after_version)) = element(rest, EXPLICIT_VERSION) {
        rest = after_version;
    }
    for skipped in [0x02, SEQUENCE, SEQUENCE] {
        // serialNumber, signature, issuer
        rest = element(rest, skipped)?.1;
    }
    let (validity, _) = element(rest, SEQUENCE)?;
    let (not_before, validity) = time(validity)?;
    let (not_after, _) = time(validity)?;
    Some((
        not_before,
        not_after.checked_add(jiff::SignedDuration::from_secs(1)).ok()?,
    ))
}

/// Splits the first DER element, which must have this tag, off `input`: its content, and the rest.
fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (
                bytes
                    .iter()
                    .fold(0, |length, byte| length << 8 | usize::from(*byte)),
                rest,
            )
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

fn time(input: &[u8]) -> Option<(Timestamp, &[u8])> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let (text, rest) = match element(input, UTC_TIME) {
        Some((content, rest)) => {
            let text = std::str::from_utf8(content).ok()?;
            // Of the two digits of a year, 50 to 99 mean 1950 to 1999 (RFC 5280, section 4.1.2.5.1).
            let century = if text.get(..1)? >= "5" { "19" } else { "20" };
            (format!("{century}{text}"), rest)
        }
        None => {
            let (content, rest) = element(input, GENERALIZED_TIME)?;
            (std::str::from_utf8(content).ok()?.to_owned(), rest)
        }
    };
    Some((parse_utc("%Y%m%d%H%M%SZ", &text)?, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;
    use crate::token::SecretString;

    fn made(years: (i32, i32)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        parameters.not_before = date_time_ymd(years.0, 1, 2);
        parameters.not_after = date_time_ymd(years.1, 3, 4);
        (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn check(certificate: &str, key: &str) -> Result<(), ClientCertificateError> {
        let certificate = ClientCertificate {
            certificate_chain: SecretString::from(certificate),
            private_key: SecretString::from(key),
        };
        check_client_certificate(&certificate, "2030-06-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_good_pair_is_accepted() {
        let (certificate, key) = made((2024, 2040));
        assert_eq!(check(&certificate, &key), Ok(()));
        let (certificate, key) = made((1999, 2060));
        assert_eq!(
            check(&certificate, &key),
            Ok(()),
            "times before 2000 and after 2049"
        );
    }

    #[test]
    fn validity_is_checked_to_the_second() {
        let (certificate, key) = made((2024, 2029));
        let expired = "2029-03-04T00:00:01Z".parse().unwrap();
        assert_eq!(
            check(&certificate, &key),
            Err(ClientCertificateError::Expired(expired))
        );
        let (certificate, key) = made((2031, 2040));
        let from = "2031-01-02T00:00:00Z".parse().unwrap();
        assert_eq!(
            check(&certificate, &key),
            Err(ClientCertificateError::NotYetValid(from))
        );
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let ((certificate, _), (_, key)) = (made((2024, 2040)), made((2024, 2040)));
        assert_eq!(check(&certificate, &key), Err(ClientCertificateError::Mismatch));
    }

    #[test]
    fn each_unusable_key_has_its_own_error() {
        let (certificate, _) = made((2024, 2040));
        let block = |label: &str, inner: &str| {
            format!("-----BEGIN {label}-----\n{inner}AAAA\n-----END {label}-----\n")
        };
        let encrypted = block("ENCRYPTED PRIVATE KEY", "");
        assert_eq!(
            check(&certificate, &encrypted),
            Err(ClientCertificateError::EncryptedPrivateKey)
        );
        let encrypted = block(
            "RSA PRIVATE KEY",
            "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n",
        );
        assert_eq!(
            check(&certificate, &encrypted),
            Err(ClientCertificateError::EncryptedPrivateKey)
        );
        assert_eq!(
            check(&certificate, "MIIJqQIBAz"),
            Err(ClientCertificateError::NoPrivateKey)
        );
        assert_eq!(
            check(&certificate, &block("PRIVATE KEY", "")),
            Err(ClientCertificateError::UnsupportedPrivateKey)
        );
        assert!(
            ClientCertificateError::NoPrivateKey
                .to_string()
                .contains("openssl pkcs12")
        );
    }

    #[test]
    fn another_text_than_a_certificate_is_refused() {
        let (_, key) = made((2024, 2040));
        assert_eq!(check("", &key), Err(ClientCertificateError::NoCertificate));
        assert_eq!(
            check("MIIJqQIBAz", &key),
            Err(ClientCertificateError::NoCertificate)
        );
    }

    #[test]
    fn a_cut_certificate_has_no_validity() {
        let (certificate, _) = made((2024, 2040));
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        assert!(validity(&der).is_some());
        for length in 0..200.min(der.len()) {
            assert_eq!(validity(&der[..length]), None);
        }
    }

    #[test]
    fn a_fingerprint_covers_both_parts_and_their_border() {
        let of = |chain: &str, key: &str| {
            fingerprint(&ClientCertificate {
                certificate_chain: SecretString::from(chain),
                private_key: SecretString::from(key),
            })
        };
        assert_eq!(of("ab", "c"), of("ab", "c"));
        assert_ne!(of("ab", "c"), of("a", "bc"));
        assert_ne!(of("ab", "c"), of("ab", "d"));
    }

    #[test]
    fn every_message_fits_a_failure() {
        use ClientCertificateError as E;
        let time = Timestamp::UNIX_EPOCH;
        for error in [
            E::NoCertificate,
            E::NoPrivateKey,
            E::EncryptedPrivateKey,
            E::UnsupportedPrivateKey,
            E::Mismatch,
            E::Damaged,
            E::Expired(time),
            E::NotYetValid(time),
        ] {
            assert!(error.to_string().chars().count() <= 256, "{error}");
        }
    }
}
