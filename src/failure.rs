//! Why an attempt to get a token failed, in the classes that decide what happens next (design, section 3).
//!
//! May use: nothing of ours. Shared by `vendor` (which makes it), `policy` (which decides on it) and `http`.

use jiff::Timestamp;

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

/// A failed attempt. Carries no credential, no token and no response body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The class.
    pub class: FailureClass,
    /// One sentence that says what is wrong and what to do; stable over attempts (no correlation ids, no times);
    /// at most 256 characters, no control characters.
    pub message: String,
    /// For `Throttled` (and a `Transient` 503 with a deadline): not before this time, clamped to 1 s … 1 h from now.
    pub not_before: Option<Timestamp>,
    /// A volatile id for the log only (`request_id`, correlation id), at most 64 characters of `[A-Za-z0-9._-]`.
    pub request_id: Option<String>,
}
