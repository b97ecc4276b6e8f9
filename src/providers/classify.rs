//! Classification of an answer that holds no token: the failure's class and one sentence. An error code in the body
//! (RFC 6749 section 5.2) counts more than the status, which proxies and some vendors set otherwise, except that a
//! server's error (5xx) is no verdict and a 401 is one. At a vendor that locks accounts, a code that rejects the
//! credential counts at any status: not to ask again harms less than to ask once too often.

use http::HeaderMap;
use http::header::{CONTENT_TYPE, LOCATION};
use zeroize::Zeroizing;

use super::body::{Body, Members};
use super::exchange::TokenResponse;
use super::oauth::{self, Code, Verdict};
use super::provider::Profile;
use super::throttle::{self, Texts};
use crate::failure::{Failure, FailureClass, LOCKED_UNTIL};

/// Cures of a malformed answer.
pub(super) const CHECK_ENDPOINT: &str = "check --endpoint and any proxy in between; it is tried again";
pub(super) const CHECK_CLOCK: &str = "check the clock of the operator's nodes; it is tried again";
pub(super) const ASK_SUPPORT: &str = "it is tried again; if this lasts, ask the vendor's support";

/// Headers with a request id that the vendor's support asks for.
const REQUEST_ID_HEADERS: [&str; 4] = [
    "x-request-id",
    "request-id",
    "x-correlation-id",
    "x-ms-request-id",
];
/// The part of a body that is searched for API Management's words about its quota, in bytes.
const QUOTA_SEARCH_LIMIT: usize = 4 * 1024;
/// Limits of a vendor's sentence that is shown, and of each word in it, in characters.
const LONGEST_SENTENCE: usize = 80;
const LONGEST_WORD: usize = 20;
/// Limit of a redirect's host that is shown, in characters.
const LONGEST_HOST: usize = 80;

/// The failure in an answer with a status other than 2xx.
pub(super) fn failure(profile: &Profile, response: &TokenResponse, body: &Body) -> Failure {
    Answer::new(profile, response, body).failure()
}

/// The failure inside an answer with a 2xx status: an OAuth `error`, `success: false`, or a status of the body's own
/// and no token.
pub(super) fn failure_inside(
    profile: &Profile,
    response: &TokenResponse,
    body: &Body,
    has_token: bool,
) -> Option<Failure> {
    let members = body.members()?;
    let error = match members.get("error") {
        None | Some(super::body::Node::Bool(false)) => false,
        Some(super::body::Node::Text(text)) => !text.trim().is_empty(),
        Some(_) => true,
    };
    let inner = inner_status(members);
    let unauthorised = members.is("unAuthorizedRequest", true);
    let is_error =
        error || unauthorised || members.is("success", false) || members.get("error_type").is_some();
    if !is_error && (has_token || inner.is_none()) {
        return None;
    }
    let answer = Answer::new(profile, response, body);
    let code = oauth::code(members);
    Some(match (code, inner) {
        (_, Some(status)) => Answer { status, ..answer }.failure(),
        (Some(code), None) => answer.by_code(&code),
        (None, None) if unauthorised => answer.rejected(None),
        (None, None) => answer.malformed("an error that is not explained instead of a token", ASK_SUPPORT),
    })
}

/// The failure of an answer that the vendor does not document. `found` names the answer, `advice` the cure.
pub(super) fn malformed(
    profile: &Profile,
    response: &TokenResponse,
    body: &Body,
    found: &str,
    advice: &str,
) -> Failure {
    Answer::new(profile, response, body).malformed(found, advice)
}

/// The failure of an answer whose token has no known end.
pub(super) fn clock_stepped(profile: &Profile) -> Failure {
    let message = format!(
        "{} answered while the clock of the operator's node was set, or the node slept, so that the end of its token is \
         not known: it is asked again by itself",
        profile.display_name
    );
    Failure::new(FailureClass::Transient, &message)
}

/// The media type of an answer; `None` for an unusual one, which is not shown.
pub(super) fn media_type(headers: &HeaderMap) -> Option<&'static str> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next()?.trim();
    [
        "text/html",
        "text/plain",
        "text/xml",
        "application/xml",
        "application/json",
        "application/octet-stream",
    ]
    .into_iter()
    .find(|known| known.eq_ignore_ascii_case(essence))
}

/// An HTTP error status in the body: Stytch's `status_code`, API Management's `statusCode`, Picus' and
/// ASP.NET Boilerplate's `code`.
fn inner_status(members: &Members) -> Option<u16> {
    let nested = members.object("error").and_then(|error| error.positive("code"));
    ["status_code", "statusCode", "code"]
        .into_iter()
        .filter_map(|name| members.positive(name))
        .chain(nested)
        .filter_map(|status| u16::try_from(status).ok())
        .find(|status| (400..600).contains(status))
}

struct Answer<'a> {
    profile: &'a Profile,
    response: &'a TokenResponse,
    body: &'a Body,
    members: Option<&'a Members>,
    status: u16,
}

impl<'a> Answer<'a> {
    fn new(profile: &'a Profile, response: &'a TokenResponse, body: &'a Body) -> Self {
        Self {
            profile,
            response,
            body,
            members: body.members(),
            status: response.status,
        }
    }

    fn failure(&self) -> Failure {
        let code = self.members.and_then(oauth::code);
        let locks_accounts = self.profile.account.is_some();
        match (self.status, code) {
            (423, code) if !matches!(self.body, Body::Markup) => self.locked(code.as_ref()),
            (_, Some(code)) if locks_accounts && code.verdict == Verdict::Credential => {
                self.rejected(Some(&code))
            }
            (300..=399, _) => self.redirected(),
            (429, code) => self.throttled(code.as_ref()),
            (403, code) if self.is_out_of_quota() => self.throttled(code.as_ref()),
            // A vendor that limits the rate of failed logins may say so beside its verdict on this one.
            (401 | 403, code) if throttle::is_told_by_headers(self.response, self.status) => {
                self.throttled(code.as_ref()).doubting_the_credential()
            }
            (401 | 403 | 422 | 423, _) if matches!(self.body, Body::Markup) => self.blocked("a web page"),
            (403, _) if !self.is_verdict_of_a_403() => self.blocked("plain text"),
            (401, Some(code)) if code.verdict == Verdict::Trouble => self.rejected(Some(&code)),
            (500..=599, code) => self.by_status(code.as_ref()),
            (_, Some(code)) if code.verdict != Verdict::Unknown => self.by_code(&code),
            (400 | 401 | 403 | 422, Some(code)) => self.by_code(&code),
            (_, code) => self.by_status(code.as_ref()),
        }
    }

    /// True where the body of a 403 may be the vendor's: JSON, or empty. Firewalls and CDNs answer 403 in words, and
    /// those of a number alone are JSON by chance.
    fn is_verdict_of_a_403(&self) -> bool {
        match self.body {
            Body::Empty | Body::Object(_) => true,
            Body::OtherJson => media_type(&self.response.headers) == Some("application/json"),
            Body::Markup | Body::Other | Body::TooLong => false,
        }
    }

    /// An unknown code counts as a rejected credential: extensions add codes (RFC 6749 section 8.5), and asking again
    /// with a rejected password locks accounts.
    fn by_code(&self, code: &Code) -> Failure {
        let advice = &self.profile.advice;
        match code.verdict {
            Verdict::Credential | Verdict::Denied | Verdict::Unknown => self.rejected(Some(code)),
            Verdict::Scope => self.fail(
                FailureClass::Rejected,
                "rejected the scopes",
                Some(code),
                advice.scope,
            ),
            Verdict::Client => self.fail(
                FailureClass::Rejected,
                "rejected the request",
                Some(code),
                advice.client,
            ),
            Verdict::Trouble => self.trouble(Some(code)),
            Verdict::Throttle => self.throttled(Some(code)),
        }
    }

    fn by_status(&self, code: Option<&Code>) -> Failure {
        let advice = &self.profile.advice;
        let refused = |words, advice| self.fail(FailureClass::Refused, words, code, advice);
        match self.status {
            401 | 403 | 422 => self.rejected(code),
            402 => refused("asks for payment", advice.payment),
            404 => refused("does not know the path", advice.not_found),
            400 => refused("refused the request", advice.client),
            407 => {
                let advice = "set its user and password in the proxy settings of the operator";
                let message = format!(
                    "a proxy before {} asks for authentication (HTTP 407): {advice}",
                    self.vendor()
                );
                self.finish(FailureClass::Transient, &message)
            }
            408 | 425 => self.fail(
                FailureClass::Transient,
                "was not ready",
                code,
                "it is tried again",
            ),
            status if (400..500).contains(&status) => refused(
                "refused the form of the request",
                "check --endpoint and any proxy in between",
            ),
            500..=599 if self.has_error_envelope() => self.trouble_with_its_cause(),
            500..=599 => self.trouble(code),
            _ => self.malformed("a status that is none of HTTP's final ones", CHECK_ENDPOINT),
        }
    }

    fn rejected(&self, code: Option<&Code>) -> Failure {
        self.fail(
            FailureClass::Rejected,
            "rejected the credential",
            code,
            self.profile.advice.credential,
        )
    }

    /// The account is locked, which is no verdict on the credential. It is not to be sent before the lock ends.
    fn locked(&self, code: Option<&Code>) -> Failure {
        let lock_end = throttle::lock_end(self.response, self.texts());
        let advice = match lock_end {
            Some(_) => format!("{LOCKED_UNTIL}; if it lasts, have the account unlocked at the vendor"),
            None => "have the account unlocked at the vendor, then request a refresh".to_owned(),
        };
        self.fail(FailureClass::Rejected, "keeps the account locked", code, &advice)
            .with_deadline(lock_end)
    }

    fn trouble(&self, code: Option<&Code>) -> Failure {
        self.fail(
            FailureClass::Transient,
            "is in trouble",
            code,
            self.profile.advice.trouble,
        )
    }

    /// ASP.NET Boilerplate answers 500 to all errors but those of authorization, validation and missing entities; a
    /// wrong credential may be among them. So its sentence is shown.
    fn trouble_with_its_cause(&self) -> Failure {
        let cause = self
            .members
            .and_then(|members| members.object("error")?.text("message"))
            .and_then(shown_sentence)
            .map(|sentence| format!(", \"{sentence}\""))
            .unwrap_or_default();
        let message = format!(
            "{} is in trouble (HTTP {}{cause}): {}",
            self.vendor(),
            self.status,
            self.profile.advice.trouble
        );
        self.finish(FailureClass::Transient, &message)
    }

    /// True for ASP.NET Boilerplate's envelope of an error.
    fn has_error_envelope(&self) -> bool {
        self.members
            .is_some_and(|members| members.is("success", false) && members.object("error").is_some())
    }

    fn throttled(&self, code: Option<&Code>) -> Failure {
        let words = if self.is_out_of_quota() {
            "has no calls left in the quota"
        } else {
            "limits the rate"
        };
        let advice = "it is asked again after the wait";
        self.fail(FailureClass::Throttled, words, code, advice)
            .with_deadline(Some(throttle::deadline(self.response, self.texts())))
    }

    /// The texts in which this answer may tell a wait. A page is made for a person, and the words of most other answers
    /// are about something else.
    fn texts(&self) -> Texts {
        let tells_in_words = match self.status {
            423 | 429 | 503 => true,
            403 => self.is_out_of_quota(),
            _ => false,
        };
        if tells_in_words && !matches!(self.body, Body::Markup) {
            Texts::HeadersAndWords
        } else {
            Texts::Headers
        }
    }

    fn redirected(&self) -> Failure {
        let target = match redirect_host(&self.response.headers) {
            Some(host) => format!("to \"{host}\""),
            None => "elsewhere".to_owned(),
        };
        let message = format!(
            "{} redirects {target} (HTTP {}), which is not followed: {}",
            self.vendor(),
            self.status,
            self.profile.advice.not_found
        );
        self.finish(FailureClass::Refused, &message)
    }

    fn blocked(&self, found: &str) -> Failure {
        let message = format!(
            "{found} came instead of an answer of {} (HTTP {}): a proxy, firewall or CDN in between blocks it, which \
             says nothing about the credential; it is tried again",
            self.vendor(),
            self.status
        );
        self.finish(FailureClass::Transient, &message)
    }

    fn malformed(&self, found: &str, advice: &str) -> Failure {
        let message = format!(
            "{} answered with {found} (HTTP {}): {advice}",
            self.vendor(),
            self.status
        );
        self.finish(FailureClass::Malformed, &message)
    }

    fn fail(&self, class: FailureClass, words: &str, code: Option<&Code>, advice: &str) -> Failure {
        let mut details = format!("HTTP {}", self.status);
        for text in code
            .into_iter()
            .flat_map(|code| [Some(&code.text), code.detail.as_ref()])
            .flatten()
        {
            details.push_str(&format!(", \"{text}\""));
        }
        self.finish(class, &format!("{} {words} ({details}): {advice}", self.vendor()))
    }

    fn finish(&self, class: FailureClass, message: &str) -> Failure {
        let deadline = (class == FailureClass::Transient)
            .then(|| throttle::stated_deadline(self.response, self.texts()))
            .flatten();
        Failure::new(class, message)
            .with_deadline(deadline)
            .with_request_id(self.request_id())
            .withholding(|text| self.repeats_token(text))
    }

    /// True when `text` contains the token of this answer: a failed one may hold a token all the same.
    fn repeats_token(&self, text: &str) -> bool {
        let envelope = self.profile.envelope.and_then(|name| self.members?.object(name));
        let text = text.to_ascii_lowercase();
        [self.members, envelope]
            .into_iter()
            .flatten()
            .filter_map(|members| members.text(self.profile.token))
            .any(|token| !token.is_empty() && text.contains(&token.to_ascii_lowercase()))
    }

    fn vendor(&self) -> &'static str {
        self.profile.display_name
    }

    /// API Management answers 403 to a used-up quota, which is no verdict on the credential. Its sentence may come
    /// alone.
    fn is_out_of_quota(&self) -> bool {
        if matches!(self.body, Body::Markup) {
            return false;
        }
        let start = self
            .response
            .body
            .get(..QUOTA_SEARCH_LIMIT)
            .unwrap_or(&self.response.body);
        let text = Zeroizing::new(String::from_utf8_lossy(start).to_ascii_lowercase());
        text.contains("quota") && (text.contains("replenished") || text.contains("out of call volume"))
    }

    fn request_id(&self) -> Option<&str> {
        let in_body = self.members.and_then(|members| {
            members.text("request_id").or_else(|| {
                let (_, rest) = members
                    .text("error_description")?
                    .split_once("Correlation ID: ")?;
                rest.split_ascii_whitespace().next()
            })
        });
        let in_headers = || {
            REQUEST_ID_HEADERS
                .iter()
                .find_map(|name| self.response.headers.get(*name)?.to_str().ok())
        };
        in_body.or_else(in_headers)
    }
}

/// A sentence of the vendor, where it may be shown: plain words alone can neither hold a token nor differ at every
/// attempt.
fn shown_sentence(text: &str) -> Option<&str> {
    let text = text.trim();
    let plain = |word: &str| {
        word.len() <= LONGEST_WORD
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphabetic() || b".,:;!?'()-".contains(&byte))
    };
    let shown = text.len() <= LONGEST_SENTENCE && text.contains(' ') && text.split(' ').all(plain);
    shown.then_some(text)
}

/// The host of a redirect; `None` where it has other characters than a name or an address.
fn redirect_host(headers: &HeaderMap) -> Option<String> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    let host = url::Url::parse(location).ok()?.host_str()?.to_owned();
    let formed = host.len() <= LONGEST_HOST
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    formed.then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::MESSAGE_LIMIT;
    use crate::providers::Vendor;
    use jiff::Timestamp;

    #[test]
    fn only_a_sentence_of_plain_words_is_shown() {
        let shown = "An internal error occurred during your request!";
        assert_eq!(shown_sentence(&format!(" {shown} ")), Some(shown));
        for text in [
            "",
            "word",
            "Trace 4711 was written",
            "see \"this\" there",
            "two\nlines here",
            "the abcdefghijklmnopqrstu is wrong",
            "the schlüssel is wrong",
            &"so ".repeat(30),
        ] {
            assert_eq!(shown_sentence(text), None, "{text:?}");
        }
    }

    /// The longest codes must not push the advice out of the message.
    #[test]
    fn every_advice_fits_into_the_message() {
        let response = TokenResponse {
            status: 422,
            headers: HeaderMap::new(),
            body: Vec::new().into(),
            sent: Timestamp::UNIX_EPOCH,
            received: Timestamp::UNIX_EPOCH,
            clock_step: jiff::SignedDuration::ZERO,
        };
        let verdicts = [
            Verdict::Credential,
            Verdict::Denied,
            Verdict::Scope,
            Verdict::Client,
            Verdict::Trouble,
            Verdict::Throttle,
            Verdict::Unknown,
        ];
        for vendor in Vendor::ALL {
            let profile = vendor.profile();
            let answer = Answer::new(profile, &response, &Body::Empty);
            for verdict in verdicts {
                let code = Code {
                    verdict,
                    text: "a_code_of_the_longest_kind_that_is_shown".into(),
                    detail: Some("invalid_username_or_password".into()),
                };
                let message = answer.by_code(&code).message;
                assert!(message.chars().count() < MESSAGE_LIMIT, "{vendor}: {message}");
            }
            for status in [100, 300, 400, 402, 403, 404, 405, 407, 408, 423, 500] {
                let message = Answer { status, ..answer }.failure().message;
                assert!(message.chars().count() < MESSAGE_LIMIT, "{vendor}: {message}");
            }
            let envelope = serde_json::json!({
                "success": false,
                "error": { "message": "so long that it just fits ".repeat(3).trim() },
            });
            let body = Body::parse(envelope.to_string().as_bytes(), None);
            let answer = Answer {
                status: 500,
                members: body.members(),
                ..answer
            };
            let message = answer.failure().message;
            assert!(message.contains("just fits"), "{vendor}: {message}");
            assert!(message.chars().count() < MESSAGE_LIMIT, "{vendor}: {message}");
        }
    }
}
