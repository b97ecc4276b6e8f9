//! Why an attempt to get a token failed, in the classes that decide what happens next (design, section 3).
//!
//! May use: nothing of ours. Shared by `providers` (which makes it), `policy` (which decides on it) and `http`.

use std::fmt;

use jiff::Timestamp;

/// The longest message, in characters.
pub const MESSAGE_LIMIT: usize = 256;

/// What stands in a message where a quoted word repeated a credential.
const WITHHELD: &str = "[withheld]";

/// What kind of failure it was: decides latch, back-off and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The vendor judged the credential: never retried by itself but for an hourly probe (Checkmarx: never).
    Rejected,
    /// The request was refused for a cause that is not the credential (redirect, 404, TLS, 402, …).
    Refused,
    /// The vendor asks to wait.
    Throttled,
    /// May pass by itself: DNS, connect, timeout, 5xx, a proxy's or CDN's page.
    Transient,
    /// The answer is not what the vendor documents.
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
    /// One sentence that says what is wrong and what to do; stable over attempts (no correlation ids, no times);
    /// at most 256 characters, no control characters. What the vendor's answer contributed stands in double quotes,
    /// and nothing else does.
    pub message: String,
    /// For `Throttled` (and a `Transient` 503 with a deadline): not before this time, clamped to 1 s … 1 h from now.
    pub not_before: Option<Timestamp>,
    /// A volatile id for the log only (`request_id`, correlation id), at most 64 characters of `[A-Za-z0-9._-]`.
    pub request_id: Option<String>,
}

impl Failure {
    /// A failure of this class. The message is cut to [`MESSAGE_LIMIT`] characters and control characters become
    /// spaces.
    pub fn new(class: FailureClass, message: &str) -> Self {
        let message = message
            .chars()
            .take(MESSAGE_LIMIT)
            .map(|character| if character.is_control() { ' ' } else { character })
            .collect();
        Self {
            class,
            message,
            not_before: None,
            request_id: None,
        }
    }

    /// The same, not to be tried again before `not_before`.
    #[must_use]
    pub fn with_deadline(mut self, not_before: Option<Timestamp>) -> Self {
        self.not_before = not_before;
        self
    }

    /// The same, with an id for the log. An id of another shape than documented on the field is left out.
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

    /// The same without the parts of the vendor's answer for which `repeats_a_secret` says true: quoted words of
    /// the message become `[withheld]`, and the request id goes.
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
        self.message = message.chars().take(MESSAGE_LIMIT).collect();
        self.request_id = self.request_id.filter(|id| !repeats_a_secret(id));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_on_a_character_and_freed_of_control_characters() {
        let failure = Failure::new(FailureClass::Malformed, &"é\n".repeat(200));
        assert_eq!(failure.message.chars().count(), MESSAGE_LIMIT);
        assert!(failure.message.starts_with("é é "));
    }

    #[test]
    fn a_request_id_of_another_shape_is_left_out() {
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
