//! Scripted misbehaviour.

use serde_json::{Map, Value};

use crate::vendor::Vendor;

/// A fault: vendor, credential, number of requests, effect.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The vendor whose answers are changed.
    pub vendor: Vendor,
    /// Only requests with this credential (its ledger id); `None` is all requests.
    pub credential: Option<String>,
    /// Number of requests that it acts on; `None`: all until it is cleared.
    pub times: Option<u32>,
    /// Its effect.
    pub effect: Effect,
}

impl Fault {
    /// A fault on all requests to a vendor until it is cleared.
    pub fn new(vendor: Vendor, effect: Effect) -> Self {
        Self {
            vendor,
            credential: None,
            times: None,
            effect,
        }
    }

    /// Acts on the next `times` requests only.
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Acts on requests with this credential only.
    pub fn credential(mut self, ledger_id: impl Into<String>) -> Self {
        self.credential = Some(ledger_id.into());
        self
    }
}

/// The effect of a fault. The first that *replaces* the answer wins; those that *change* the answer add up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Replaces: this status, these headers and this body, verbatim.
    Answer {
        /// The status.
        status: u16,
        /// Header names and values, in this order.
        headers: Vec<(String, String)>,
        /// The body.
        body: String,
    },
    /// Replaces: the vendor's 429, with this text as `Retry-After` (any text; `None` for no such header) and
    /// this many seconds in the body's text and in `X-Ratelimit-Reset`.
    Throttle {
        /// The value of `Retry-After`.
        retry_after: Option<String>,
        /// The seconds that the body names, where the vendor's body names any.
        seconds: u64,
    },
    /// Replaces: a redirect to the trap, or to `location`.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// The value of `Location` instead of the trap's.
        location: Option<String>,
    },
    /// Replaces: the request is accepted and never answered.
    Hang,
    /// Replaces: the connection is closed without an answer.
    Close,
    /// Changes: waits before the head of the answer.
    DelayHead {
        /// The wait.
        milliseconds: u64,
    },
    /// Changes: sends the head and half of the body, waits, sends the rest.
    DelayBody {
        /// The wait.
        milliseconds: u64,
    },
    /// Changes: sends the body byte by byte.
    DripBody {
        /// The wait before each byte.
        milliseconds: u64,
    },
    /// Changes: `Content-Length` announces more than is sent, then the connection is closed.
    Truncate,
    /// Changes: a well-formed answer with a padding member (JSON) or white space of this many bytes, chunked,
    /// so that its length is not announced.
    HugeBody {
        /// Bytes of padding.
        bytes: u64,
    },
    /// Changes: `Content-Encoding: gzip`, asked for or not.
    Gzip,
    /// Changes: a byte order mark before the body.
    ByteOrderMark,
    /// Changes: tokens issued live this long.
    Lifetime {
        /// Seconds; 0 and below make a token that has expired.
        seconds: i64,
    },
    /// Changes: the vendor's clock is off: the `Date` header, and unless `header_only` the times in the body
    /// and in the token.
    ClockSkew {
        /// Seconds; positive is ahead.
        seconds: i64,
        /// Only the `Date` header is off.
        header_only: bool,
    },
    /// Changes: the members of a success are set or removed.
    Members {
        /// Members to set.
        set: Map<String, Value>,
        /// Members to remove.
        remove: Vec<String>,
    },
    /// Changes: numbers in a success are written as text, as Azure AD v1 does.
    NumbersAsText,
    /// Changes: Picus' `expire_at` in seconds, as its Swagger shows.
    ExpireAtInSeconds,
    /// Changes: the success is wrapped in the envelope of ASP.NET Boilerplate.
    Envelope,
    /// Changes: the token is opaque instead of a JWT.
    OpaqueToken,
    /// Changes: the token that this registered credential got last is given again.
    SameToken,
}

impl Effect {
    pub(crate) fn replaces(&self) -> bool {
        matches!(
            self,
            Effect::Answer { .. }
                | Effect::Throttle { .. }
                | Effect::Redirect { .. }
                | Effect::Hang
                | Effect::Close
        )
    }
}

/// A fault that is in force.
#[derive(Debug)]
pub(crate) struct ScriptedFault {
    /// The number that clears it.
    pub(crate) id: u64,
    /// The fault; `times` counts down.
    pub(crate) fault: Fault,
}

/// The effects that apply to one request.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) replacement: Option<Effect>,
    pub(crate) changes: Vec<Effect>,
}

impl Effects {
    pub(crate) fn any(&self) -> bool {
        self.replacement.is_some() || !self.changes.is_empty()
    }
}

/// Takes the effects that apply to a request out of the script of one vendor.
pub(crate) fn take(script: &mut Vec<ScriptedFault>, credential: Option<&str>) -> Effects {
    let mut effects = Effects::default();
    if script.is_empty() {
        return effects;
    }
    script.retain_mut(|scripted| {
        let fault = &mut scripted.fault;
        if fault.credential.is_some() && fault.credential.as_deref() != credential {
            return true;
        }
        if fault.times == Some(0) {
            return false;
        }
        if fault.effect.replaces() {
            if effects.replacement.is_some() {
                return true;
            }
            effects.replacement = Some(fault.effect.clone());
        } else {
            effects.changes.push(fault.effect.clone());
        }
        match &mut fault.times {
            Some(left) => {
                *left -= 1;
                *left > 0
            }
            None => true,
        }
    });
    effects
}
