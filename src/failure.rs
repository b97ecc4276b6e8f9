//! Failures of attempts to get a token, in classes that decide about the next attempt.
//!
//! May use: `text`. `providers` and `http` make failures, `policy` decides on them.

use std::fmt;

use jiff::Timestamp;

use crate::text::{first_characters, without_control_characters};

/// Limit of a message, in characters.
pub const MESSAGE_LIMIT: usize = 256;

/// Words in the message of a [`FailureClass::Rejected`] with a deadline: the vendor has locked the account until then,
/// and no attempt is made before, not even a requested one.
pub const LOCKED_UNTIL: &str = "nothing is sent before the lock ends";

/// Replacement of a quoted word that repeats a secret.
const WITHHELD: &str = "[withheld]";

/// Class of a failure: decides on latch, back-off and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The vendor rejected the credential, or has locked its account: without a change there are a few early attempts at
    /// most, then an hourly probe, and none for Checkmarx.
    Rejected,
    /// The request was refused for another cause than the credential (redirect, 404, TLS, 402, …).
    Refused,
    /// The vendor limits the rate.
    Throttled,
    /// The cause may pass: DNS, connection, timeout, 5xx, a page of a proxy or CDN.
    Transient,
    /// The vendor does not document such an answer.
    Malformed,
}

impl FailureClass {
    /// The class as one lower-case word, for log fields and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Refused => "refused",
            Self::Throttled => "throttled",
            Self::Transient => "transient",
            Self::Malformed => "malformed",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A failed attempt. Carries no credential, no token and no response body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The class.
    pub class: FailureClass,
    /// One sentence with the fault and its cure, the same at each attempt (no correlation ids, no times), of at most
    /// 256 characters, without control characters. Double quotes enclose words of the vendor's answer, and nothing
    /// else.
    pub message: String,
    /// Earliest time of the next attempt, 1 s to 1 h ahead: of `Throttled`, and of a `Transient` answer that states
    /// one. Of `Rejected`: the end of the account's lock, where the vendor tells it, up to a day ahead.
    pub not_before: Option<Timestamp>,
    /// True when an answer of another class may be a rejection of the credential all the same.
    may_be_rejection: bool,
    /// The vendor's request id for the log only, since it differs at each attempt: at most 64 characters of
    /// `[A-Za-z0-9._-]`.
    pub request_id: Option<String>,
}

impl Failure {
    /// Makes a failure of this class. The message is cut to [`MESSAGE_LIMIT`] characters; control characters become
    /// blanks.
    pub fn new(class: FailureClass, message: &str) -> Self {
        Self {
            class,
            message: without_control_characters(first_characters(message, MESSAGE_LIMIT)),
            not_before: None,
            may_be_rejection: false,
            request_id: None,
        }
    }

    /// Adds the earliest time of the next attempt.
    #[must_use]
    pub fn with_deadline(mut self, not_before: Option<Timestamp>) -> Self {
        self.not_before = not_before;
        self
    }

    /// Adds the note that the answer may be a rejection of the credential, though its class is another one.
    #[must_use]
    pub fn doubting_the_credential(mut self) -> Self {
        self.may_be_rejection = true;
        self
    }

    /// True when the vendor has rejected the credential, or may have.
    pub fn may_be_rejection(&self) -> bool {
        self.may_be_rejection || self.class == FailureClass::Rejected
    }

    /// True for a rejection that names the end of the account's lock.
    pub fn is_lock(&self) -> bool {
        self.class == FailureClass::Rejected && self.not_before.is_some()
    }

    /// Adds a request id. An id in another form than [`Failure::request_id`] documents is left out.
    #[must_use]
    pub fn with_request_id(mut self, id: Option<&str>) -> Self {
        let shaped = |id: &&str| {
            (1..=64).contains(&id.len())
                && id
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        self.request_id = id.filter(shaped).map(str::to_owned);
        self
    }

    /// Removes the parts of the vendor's answer for which `repeats_a_secret` is true: quoted words of the message
    /// become `[withheld]`, and the request id is dropped.
    #[must_use]
    pub fn withholding(mut self, repeats_a_secret: impl Fn(&str) -> bool) -> Self {
        let mut message = String::with_capacity(self.message.len());
        for (index, part) in self.message.split('"').enumerate() {
            let quoted = index % 2 == 1;
            if !quoted {
                message.push_str(part);
            } else if repeats_a_secret(part) {
                message.push_str(WITHHELD);
            } else {
                message.push('"');
                message.push_str(part);
                message.push('"');
            }
        }
        self.message = first_characters(&message, MESSAGE_LIMIT).to_owned();
        self.request_id = self.request_id.filter(|id| !repeats_a_secret(id));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_to_its_limit() {
        let failure = Failure::new(FailureClass::Malformed, &"é".repeat(400));
        assert_eq!(failure.message, "é".repeat(MESSAGE_LIMIT));
    }

    #[test]
    fn a_message_has_no_control_characters() {
        let failure = Failure::new(FailureClass::Malformed, "é\né");
        assert_eq!(failure.message, "é é");
    }

    #[test]
    fn a_request_id_in_another_form_is_left_out() {
        let failure = Failure::new(FailureClass::Transient, "x");
        let with = |id: &str| failure.clone().with_request_id(Some(id)).request_id;
        assert_eq!(with("request-id_1.a"), Some("request-id_1.a".to_owned()));
        assert_eq!(with(&"a".repeat(64)), Some("a".repeat(64)));
        for id in ["", "a b", "a\n", "ä", &"a".repeat(65)] {
            assert_eq!(with(id), None, "{id:?}");
        }
    }

    #[test]
    fn only_quoted_words_that_repeat_a_secret_are_withheld() {
        let failure = Failure::new(
            FailureClass::Rejected,
            r#"hush said "hush_hush", then "fine": be hush"#,
        )
        .with_request_id(Some("hush-1"))
        .withholding(|text| text.contains("hush"));
        assert_eq!(failure.message, r#"hush said [withheld], then "fine": be hush"#);
        assert_eq!(failure.request_id, None);
    }
}
