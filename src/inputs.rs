//! The inputs of a token in their publishable form.
//!
//! May use: nothing of ours. `fingerprint` makes them, `policy` compares them.

use std::fmt;

/// The inputs of a grant as published on the target (`vendortoken.io/inputs`) and in `status.failure.inputs`.
///
/// Text form `<key id>.<parameters>.<sources>.<fingerprint>.<jitter>`, all lower-case hexadecimal. All but the key
/// id and the jitter are keyed hashes: readers can neither test guesses of a credential nor see who shares one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// Id of the key, which distinguishes a lost key from a changed credential.
    pub key_id: String,
    /// Hash of namespace, vendor, endpoint and the grant's parameters: the grant part of the spec.
    pub parameters: String,
    /// Hash of the names of the Secrets and keys that hold the credentials.
    pub sources: String,
    /// Hash of the grant's fingerprint, the namespace and the VendorToken's name.
    pub fingerprint: String,
    /// The fingerprint's jitter, from which a restart computes the same refresh time without reading the credentials.
    pub jitter: u8,
}

impl Inputs {
    /// True when both stand for the same credential values. Under different keys that cannot be known, and they count as
    /// different.
    pub fn is_same_credential(&self, other: &Self) -> bool {
        self.key_id == other.key_id && self.fingerprint == other.fingerprint
    }

    /// Reads the text form; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('.').collect();
        let [key_id, parameters, sources, fingerprint, jitter] = parts[..] else {
            return None;
        };
        let is_hex = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let well_formed = is_hex(key_id, 8)
            && is_hex(parameters, 32)
            && is_hex(sources, 8)
            && is_hex(fingerprint, 32)
            && is_hex(jitter, 2);
        if !well_formed {
            return None;
        }
        Some(Self {
            key_id: key_id.to_owned(),
            parameters: parameters.to_owned(),
            sources: sources.to_owned(),
            fingerprint: fingerprint.to_owned(),
            jitter: u8::from_str_radix(jitter, 16).ok()?,
        })
    }
}

impl fmt::Display for Inputs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}.{}.{}.{}.{:02x}",
            self.key_id, self.parameters, self.sources, self.fingerprint, self.jitter
        )
    }
}
