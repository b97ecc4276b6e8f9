//! Fingerprints, random bytes and encodings.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const HEX: &[u8; 16] = b"0123456789abcdef";

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(HEX[usize::from(byte >> 4)]));
        text.push(char::from(HEX[usize::from(byte & 15)]));
    }
    text
}

/// The first 128 bits of SHA-256 as 32 hexadecimal digits: how the ledger names a token.
pub fn fingerprint(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref().get(..16).unwrap_or_default())
}

/// The same as a number, for keys of large tables.
pub(crate) fn fingerprint_number(bytes: &[u8]) -> u128 {
    let digest = digest(&SHA256, bytes);
    let mut first = [0; 16];
    first.copy_from_slice(digest.as_ref().get(..16).unwrap_or(&[0; 16]));
    u128::from_be_bytes(first)
}

/// SHA-256 as 64 hexadecimal digits: how a certificate is named.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The generator of aws-lc fails only when the system has no entropy source at all; tokens would then
    // repeat, which every test notices.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
