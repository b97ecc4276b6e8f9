//! One request to a vendor's listener: read, decided, answered, with the changes that faults make to the answer.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::sleep;

use crate::body::{Body, Step};
use crate::core::Core;
use crate::decide::Plan;
use crate::dialect::{Answer, envelope};
use crate::fault::Effect;
use crate::gzip::gzip;
use crate::rules::MOST_BODY_BYTES;
use crate::vendor::Vendor;

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed without an answer")]
pub(crate) struct Closed;

/// Answers one request.
pub(crate) async fn serve(
    core: Arc<Core>,
    vendor: Vendor,
    certificate: Option<Arc<str>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Closed> {
    let (head, incoming) = request.into_parts();
    let body = if head.headers.contains_key(header::EXPECT) {
        None
    } else {
        match Limited::new(incoming, MOST_BODY_BYTES).collect().await {
            Ok(body) => Some(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => None,
            Err(_) => return Err(Closed),
        }
    };
    let plan = core.decide(vendor, &head, body.as_deref(), certificate.as_ref());
    let mut delay = Duration::ZERO;
    for effect in &plan.effects.changes {
        if let Effect::DelayHead { milliseconds } = effect {
            delay += Duration::from_millis(*milliseconds);
        }
    }
    if !delay.is_zero() {
        sleep(delay).await;
    }
    match plan.effects.replacement {
        Some(Effect::Hang) => pending().await,
        _ => respond(plan),
    }
}

fn respond(plan: Plan) -> Result<Response<Body>, Closed> {
    let mut answer = plan.answer.ok_or(Closed)?;
    let changes = &plan.effects.changes;
    if plan.success && !changes.is_empty() {
        answer.body = change_members(&answer.body, changes);
    }
    let mut response = Response::new(Body::Whole(None));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if let Some(content_type) = answer.content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    for (name, value) in std::mem::take(&mut answer.headers) {
        headers.append(name, value);
    }
    for effect in changes {
        match effect {
            Effect::ClockSkew { seconds, .. } => {
                headers.insert(header::DATE, date(*seconds));
            }
            Effect::ByteOrderMark => answer.body = [b"\xef\xbb\xbf", &answer.body[..]].concat().into(),
            Effect::Gzip => {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                answer.body = gzip(&answer.body).into();
            }
            _ => {}
        }
    }
    let verbatim_length = headers.contains_key(header::CONTENT_LENGTH);
    let (body, length) = script(&answer, changes, verbatim_length);
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    *response.body_mut() = body;
    Ok(response)
}

/// The body as it is sent, and the `Content-Length` to announce where the body does not know it.
fn script(answer: &Answer, changes: &[Effect], verbatim_length: bool) -> (Body, Option<usize>) {
    let body = &answer.body;
    let (mut truncate, mut wait_within, mut drip, mut padding) = (false, None, None, None);
    for effect in changes {
        match effect {
            Effect::Truncate => truncate = true,
            Effect::DelayBody { milliseconds } => wait_within = Some(Duration::from_millis(*milliseconds)),
            Effect::DripBody { milliseconds } => drip = Some(Duration::from_millis(*milliseconds)),
            Effect::HugeBody { bytes } => padding = Some(*bytes),
            _ => {}
        }
    }
    if let Some(bytes) = padding {
        return (Body::scripted(padded(body, bytes)), None);
    }
    if !truncate && !verbatim_length && wait_within.is_none() && drip.is_none() {
        return (Body::Whole(Some(body.clone())), None);
    }
    let mut steps = Vec::new();
    if let Some(wait) = drip {
        for at in 0..body.len() {
            steps.push(Step::Wait(wait));
            steps.push(Step::Send(body.slice(at..=at)));
        }
    } else {
        let half = body.len() / 2;
        steps.push(Step::Send(body.slice(..half)));
        if let Some(wait) = wait_within {
            steps.push(Step::Wait(wait));
        }
        steps.push(Step::Send(body.slice(half..)));
    }
    // hyper drops what is still in its buffer when a body ends early: let it write first.
    if truncate || verbatim_length {
        steps.push(Step::Wait(Duration::from_millis(20)));
    }
    let length = (!verbatim_length).then_some(if truncate { body.len() + 64 } else { body.len() });
    (Body::scripted(steps), length)
}

fn padded(body: &Bytes, bytes: u64) -> Vec<Step> {
    const PIECE: u64 = 16 * 1024;
    let piece = Bytes::from(vec![b'x'; PIECE as usize]);
    let blank = Bytes::from(vec![b' '; PIECE as usize]);
    let repeat = bytes.div_ceil(PIECE);
    match body.strip_suffix(b"}") {
        Some(start) if start.len() > 1 => vec![
            Step::Send(body.slice(..start.len())),
            Step::Send(Bytes::from_static(b",\"padding\":\"")),
            Step::Repeat(piece, repeat),
            Step::Send(Bytes::from_static(b"\"}")),
        ],
        _ => vec![Step::Send(body.clone()), Step::Repeat(blank, repeat)],
    }
}

fn change_members(body: &Bytes, changes: &[Effect]) -> Bytes {
    // Ordered only by name: members' order means nothing in JSON.
    let Ok(mut members) = serde_json::from_slice::<BTreeMap<String, Value>>(body) else {
        return body.clone();
    };
    let mut wrap = false;
    for effect in changes {
        match effect {
            Effect::Members { set, remove } => {
                members.retain(|name, _| !remove.contains(name));
                members.extend(set.clone());
            }
            Effect::ExpireAtInSeconds => {
                if let Some(value) = members.get_mut("expire_at")
                    && let Some(milliseconds) = value.as_i64()
                {
                    *value = Value::from(milliseconds.div_euclid(1000));
                }
            }
            Effect::Envelope => wrap = true,
            _ => {}
        }
    }
    if changes
        .iter()
        .any(|effect| matches!(effect, Effect::NumbersAsText))
    {
        for value in members.values_mut().filter(|value| value.is_number()) {
            *value = Value::String(value.to_string());
        }
    }
    let value = members.into_iter().collect::<Value>();
    let value = if wrap { envelope(value) } else { value };
    Bytes::from(value.to_string())
}

fn date(skew_seconds: i64) -> HeaderValue {
    let now = Timestamp::now().as_second().saturating_add(skew_seconds);
    let time = Timestamp::from_second(now).unwrap_or_default();
    let text = time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}
