//! The book of grants with a paused clock and a scripted transport: no network, no Kubernetes, and a minute takes no
//! time.

mod account_schedules;
mod accounts;
mod failures;
mod flight;
mod lifecycle;
mod limits;
mod offline;
mod permits;
mod reachability;
mod rejections;
mod schedules;
mod slots;
mod standby;
mod terms;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{
    CallSource, GrantObserver, Grants, GrantsOptions, ObjectKey, Observation, Permit, Reservation, VendorCall,
};
use crate::api::names::Reason;
use crate::clock::{Clock, Moment, Timeline, TokioClock};
use crate::election::Leadership;
use crate::failure::{Failure, FailureClass};
use crate::fingerprint::{Account, Fingerprint, Login, PasswordDigest};
use crate::http::Transport;
use crate::inputs::Inputs;
use crate::policy::{Evidence, GrantFacts, PastFailure, Standing};
use crate::providers::{CheckmarxRegion, Endpoint, Grant, TokenRequest, TokenResponse, Vendor};
use crate::token::{Credentials, ExposeSecret, SecretString};

const START: &str = "2026-03-01T12:00:00Z";

fn start() -> Timestamp {
    START.parse().unwrap()
}

/// A request as the vendor sees it.
#[derive(Clone, Debug)]
struct Call {
    /// Time since the start.
    at: Duration,
    wall: Timestamp,
    /// The number of the grant, taken from its credential.
    grant: u8,
    /// The number of requests before it.
    index: usize,
}

/// The vendor's answer after some time, or a broken connection.
struct Answer {
    after: Duration,
    result: Result<Response, Failure>,
}

/// Status, headers and body.
type Response = (u16, Vec<(&'static str, String)>, String);

impl Answer {
    fn after(mut self, delay: Duration) -> Self {
        self.after = delay;
        self
    }
}

fn status(status: u16, body: &str) -> Answer {
    Answer {
        after: Duration::ZERO,
        result: Ok((status, Vec::new(), body.to_owned())),
    }
}

/// A token that lives `life` seconds, in the form of every vendor at once.
fn token(value: &str, life: i64) -> Answer {
    let mut answer = status(200, "");
    answer.result = Ok((200, vec![("x-life", life.to_string())], value.to_owned()));
    answer
}

fn throttled(seconds: u32) -> Answer {
    let mut answer = status(429, r#"{"message":"slow down"}"#);
    if let Ok((_, headers, _)) = &mut answer.result {
        headers.push(("retry-after", seconds.to_string()));
    }
    answer
}

fn rejected() -> Answer {
    status(400, r#"{"error":"invalid_grant"}"#)
}

fn unreachable() -> Answer {
    Answer {
        after: Duration::ZERO,
        result: Err(Failure::new(FailureClass::Transient, "no answer")),
    }
}

fn hanging() -> Answer {
    unreachable().after(Duration::from_secs(30))
}

type Script = Box<dyn FnMut(&Call) -> Answer + Send>;

struct ScriptedVendor {
    clock: Arc<TokioClock>,
    timeline: Arc<Timeline>,
    started: Instant,
    calls: Mutex<Vec<Call>>,
    in_flight: Mutex<(usize, usize)>,
    script: Mutex<Script>,
}

impl Transport for Arc<ScriptedVendor> {
    fn send(&self, request: TokenRequest) -> BoxFuture<'static, Result<TokenResponse, Failure>> {
        let vendor = Arc::clone(self);
        async move {
            let began = vendor.timeline.now().moment;
            let call = {
                let mut calls = vendor.calls.lock().unwrap();
                let call = Call {
                    at: vendor.started.elapsed(),
                    wall: vendor.clock.now(),
                    grant: grant_number(&request),
                    index: calls.len(),
                };
                calls.push(call.clone());
                call
            };
            {
                let mut in_flight = vendor.in_flight.lock().unwrap();
                in_flight.0 += 1;
                in_flight.1 = in_flight.1.max(in_flight.0);
            }
            let answer = (vendor.script.lock().unwrap())(&call);
            tokio::time::sleep(answer.after).await;
            vendor.in_flight.lock().unwrap().0 -= 1;
            let (status, headers, mut body) = answer.result?;
            let mut map = http::HeaderMap::new();
            map.insert("content-type", "application/json".parse().unwrap());
            for (name, value) in headers {
                if name == "x-life" {
                    body = token_body(&body, call.wall, value.parse().unwrap());
                } else {
                    map.insert(name, value.parse().unwrap());
                }
            }
            Ok(TokenResponse {
                status,
                headers: map,
                body: body.into_bytes().into(),
                sent: call.wall,
                received: vendor.clock.now(),
                clock_step: vendor.timeline.stepped_since(began),
            })
        }
        .boxed()
    }
}

/// A body that has the token and its end in the members of every vendor.
fn token_body(value: &str, sent: Timestamp, life: i64) -> String {
    json!({
        "access_token": value, "accessToken": value, "token": value, "token_type": "Bearer",
        "expires_in": life, "expire_at": sent.as_second() + life,
    })
    .to_string()
}

/// The number of the grant, from credentials that are made as `hush<number>-<key>`.
fn grant_number(request: &TokenRequest) -> u8 {
    let headers = request.headers.iter().map(|(_, value)| value.expose_secret());
    let text: String = headers.chain([request.body.expose_secret()]).collect();
    let after = text.split_once("hush").unwrap().1;
    after.split('-').next().unwrap().parse().unwrap()
}

#[derive(Default)]
struct Heard {
    ended: Mutex<Vec<Result<(), FailureClass>>>,
    throttled_until: Mutex<Vec<Timestamp>>,
}

impl GrantObserver for Heard {
    fn request_ended(&self, _: Vendor, outcome: Result<(), FailureClass>, _: Duration) {
        self.ended.lock().unwrap().push(outcome);
    }

    fn throttled_until(&self, _: Vendor, until: Timestamp) {
        self.throttled_until.lock().unwrap().push(until);
    }
}

struct Bench {
    grants: Arc<Grants>,
    secrets: Arc<Secrets>,
    vendor: Arc<ScriptedVendor>,
    clock: Arc<TokioClock>,
    heard: Arc<Heard>,
    wakes: mpsc::UnboundedReceiver<ObjectKey>,
    running: tokio::task::JoinHandle<()>,
}

fn bench(script: impl FnMut(&Call) -> Answer + Send + 'static) -> Bench {
    bench_with(&[], 32, script)
}

fn bench_with(
    per_minute: &[(Vendor, u32)],
    max_concurrent: usize,
    script: impl FnMut(&Call) -> Answer + Send + 'static,
) -> Bench {
    bench_led(per_minute, max_concurrent, script, |_| Leadership::always())
}

fn bench_led(
    per_minute: &[(Vendor, u32)],
    max_concurrent: usize,
    script: impl FnMut(&Call) -> Answer + Send + 'static,
    leadership: impl FnOnce(Arc<Timeline>) -> Leadership,
) -> Bench {
    let clock = Arc::new(TokioClock::new(start()));
    let timeline = Arc::new(Timeline::new(Arc::clone(&clock) as Arc<dyn Clock>));
    let vendor = Arc::new(ScriptedVendor {
        clock: Arc::clone(&clock),
        timeline: Arc::clone(&timeline),
        started: Instant::now(),
        calls: Mutex::default(),
        in_flight: Mutex::default(),
        script: Mutex::new(Box::new(script)),
    });
    let heard = Arc::new(Heard::default());
    let (wake, wakes) = mpsc::unbounded_channel();
    let own = Arc::clone(&timeline);
    let grants = Grants::new(
        GrantsOptions {
            per_minute: BTreeMap::from_iter(per_minute.iter().copied()),
            max_concurrent,
        },
        Arc::new(Arc::clone(&vendor)),
        timeline,
        Arc::clone(&heard) as Arc<dyn GrantObserver>,
        wake,
        leadership(own),
    );
    let secrets = Arc::new(Secrets::default());
    let running = tokio::spawn(Arc::clone(&grants).run(Arc::new(Arc::clone(&secrets))));
    Bench {
        grants,
        secrets,
        vendor,
        clock,
        heard,
        wakes,
        running,
    }
}

/// `namespace/name`, or a name in namespace `a`.
fn object(name: &str) -> ObjectKey {
    let (namespace, name) = name.split_once('/').unwrap_or(("a", name));
    ObjectKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn grant_of(vendor: Vendor) -> Grant {
    match vendor {
        Vendor::SixMap => Grant::six_map(Vec::new()).unwrap(),
        Vendor::SixClicks => Grant::six_clicks("au").unwrap(),
        Vendor::CheckmarxSca => {
            Grant::checkmarx_sca(CheckmarxRegion::Eu, "acme", vec!["sca_api".to_owned()]).unwrap()
        }
        Vendor::Mapiq => Grant::Mapiq,
        Vendor::Picus => Grant::Picus,
    }
}

/// An object that wants a token, with the evidence of its status and its target.
#[derive(Debug)]
struct Ask {
    object: ObjectKey,
    fingerprint: Fingerprint,
    account: Option<Account>,
    /// The number of the password: that of the grant, unless grants share it.
    password: u8,
    grant: Grant,
    endpoint: Endpoint,
    /// The number of the grant, which is in its credentials.
    number: u8,
    evidence: Evidence,
    refresh_request: Option<String>,
}

fn ask(name: &str, number: u8, grant: Grant) -> Ask {
    Ask {
        fingerprint: fingerprint(number),
        account: None,
        password: number,
        endpoint: grant.endpoint(),
        grant,
        number,
        object: object(name),
        evidence: Evidence::default(),
        refresh_request: None,
    }
}

impl Ask {
    fn call(&self) -> VendorCall {
        let values = self
            .grant
            .credential_keys()
            .iter()
            .map(|key| (*key, SecretString::from(format!("hush{}-{key}", self.number))))
            .collect();
        VendorCall {
            grant: self.grant.clone(),
            endpoint: self.endpoint.clone(),
            credentials: Credentials {
                values,
                client_certificate: None,
            },
        }
    }

    fn observation<'a>(&'a self, inputs: &'a Inputs) -> Observation<'a> {
        Observation {
            object: &self.object,
            fingerprint: self.fingerprint,
            login: self.account.map(|account| Login {
                account,
                password: PasswordDigest::from_bytes([self.password; 16]),
            }),
            endpoint: &self.endpoint,
            vendor: self.grant.vendor(),
            inputs,
            evidence: self.evidence.clone(),
        }
    }
}

fn observe(grants: &Grants, ask: &Ask, inputs: &Inputs) -> Standing {
    grants.observe(&ask.observation(inputs))
}

/// Gives the moment since which the object waits; `None` where the grant is held. Its credentials were read just before.
fn reserve_and_send(grants: &Arc<Grants>, secrets: &Secrets, ask: Ask, inputs: &Inputs) -> Option<Moment> {
    let reservation = grants.reserve(&ask.observation(inputs), ask.refresh_request.as_deref());
    match reservation {
        Reservation::UnderWay(since) => Some(since),
        Reservation::Held => None,
        Reservation::Permitted(permit) => {
            let call = ask.call();
            secrets.put(ask);
            permit.send(Some(call))
        }
    }
}

/// The credentials Secrets of the objects, and the objects for which they were read.
#[derive(Default)]
struct Secrets {
    by_object: Mutex<HashMap<ObjectKey, Ask>>,
    read: Mutex<Vec<String>>,
    /// The time that each read takes.
    delay: Mutex<Duration>,
}

impl Secrets {
    /// Stores the credentials that an object asks with.
    fn put(&self, ask: Ask) {
        self.by_object.lock().unwrap().insert(ask.object.clone(), ask);
    }

    fn remove(&self, name: &str) {
        self.by_object.lock().unwrap().remove(&object(name));
    }

    /// The objects for which credentials were read, in order.
    fn read(&self) -> Vec<String> {
        self.read.lock().unwrap().clone()
    }
}

impl CallSource for Arc<Secrets> {
    fn call(&self, object: ObjectKey) -> BoxFuture<'static, Option<(Fingerprint, VendorCall)>> {
        let secrets = Arc::clone(self);
        async move {
            secrets.read.lock().unwrap().push(object.to_string());
            let delay = *secrets.delay.lock().unwrap();
            tokio::time::sleep(delay).await;
            let known = secrets.by_object.lock().unwrap();
            let ask = known.get(&object)?;
            Some((ask.fingerprint, ask.call()))
        }
        .boxed()
    }
}

/// The evidence of a status with a failed attempt of the same credentials. Times are seconds since the start.
fn status_shows(reason: Reason, count: i32, last_attempt: i64, next_attempt: Option<i64>) -> Evidence {
    let time = |second| start() + SignedDuration::from_secs(second);
    Evidence {
        failure: Some(PastFailure {
            reason,
            message: String::new(),
            count,
            last_attempt: time(last_attempt),
            next_attempt: next_attempt.map(time),
            inputs: inputs(),
            only_from_other_status: false,
        }),
        is_same_credential: true,
        ..Evidence::default()
    }
}

/// For tests of single files: a fingerprint whose bytes, and whose jitter, are all this number.
pub(super) fn grant(number: u8) -> Fingerprint {
    Fingerprint::from_bytes([number; 16])
}

/// For tests of single files: the moment this many seconds after the start of the clock.
pub(super) fn at(second: i64) -> Moment {
    Moment::at_second(second)
}

fn fingerprint(number: u8) -> Fingerprint {
    let mut bytes = [0; 16];
    bytes[0] = number;
    Fingerprint::from_bytes(bytes)
}

fn inputs() -> Inputs {
    Inputs {
        key_id: "0".repeat(8),
        parameters: "1".repeat(32),
        sources: "2".repeat(8),
        fingerprint: "3".repeat(32),
        jitter: 0,
    }
}

impl Bench {
    /// Asks for a token with credentials that are known, and are not at hand.
    fn ask_by_reference(&self, ask: Ask) {
        match self.grants.reserve(&ask.observation(&inputs()), None) {
            Reservation::Permitted(permit) => {
                self.secrets.put(ask);
                permit.send(None);
            }
            Reservation::UnderWay(_) | Reservation::Held => {}
        }
    }

    /// Asks for a token, and gives the moment since which the object waits; `None` where the grant is held.
    fn ask_as(&self, ask: Ask) -> Option<Moment> {
        reserve_and_send(&self.grants, &self.secrets, ask, &inputs())
    }

    /// Takes in the observation of an object, and gives the standing of its grant.
    fn observe(&self, ask: Ask) -> Standing {
        observe(&self.grants, &ask, &inputs())
    }

    /// Makes the object a user of the grant of this number.
    fn uses(&self, name: &str, number: u8) {
        let now = self.grants.timeline.now();
        self.grants
            .lock()
            .use_grant(&object(name), fingerprint(number), None, &now);
    }

    /// Asks this vendor for the grant of this number.
    fn ask(&self, name: &str, number: u8, vendor: Vendor) {
        self.ask_as(ask(name, number, grant_of(vendor)));
    }

    fn ask_live(&self, name: &str, number: u8, vendor: Vendor, live_for: i64) {
        self.ask_as(Ask {
            evidence: Evidence {
                live_until: Some(start() + SignedDuration::from_secs(live_for)),
                ..Evidence::default()
            },
            ..ask(name, number, grant_of(vendor))
        });
    }

    fn ask_for_refresh(&self, name: &str, number: u8, vendor: Vendor, request: &str) {
        self.ask_as(Ask {
            refresh_request: Some(request.to_owned()),
            ..ask(name, number, grant_of(vendor))
        });
    }

    async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// Lets everything run that takes no time.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    fn calls(&self) -> Vec<Call> {
        self.vendor.calls.lock().unwrap().clone()
    }

    /// The numbers of the grants that were asked for, in order.
    fn order(&self) -> Vec<u8> {
        self.calls().iter().map(|call| call.grant).collect()
    }

    /// The time of each request, in whole seconds since the start.
    fn times(&self) -> Vec<u64> {
        self.calls().iter().map(|call| call.at.as_secs()).collect()
    }

    fn most_in_flight(&self) -> usize {
        self.vendor.in_flight.lock().unwrap().1
    }

    /// The facts of the grant that this object uses.
    fn facts(&self, name: &str) -> GrantFacts {
        let (object, now) = (object(name), self.grants.timeline.now());
        let table = self.grants.lock();
        let used = table.objects.get(&object).and_then(|record| record.fingerprint);
        let Some(fingerprint) = used else {
            return GrantFacts::default();
        };
        let server = table.grant_of(&object).and_then(|grant| grant.server.as_ref());
        table.facts(fingerprint, &object, &inputs(), server, &now)
    }

    fn token(&self, name: &str) -> Option<String> {
        let token = self.grants.token(&object(name))?;
        Some(token.value.expose_secret().to_owned())
    }

    fn woken(&mut self) -> Vec<String> {
        let mut woken: Vec<_> = std::iter::from_fn(|| self.wakes.try_recv().ok())
            .map(|object| object.to_string())
            .collect();
        woken.sort();
        woken
    }

    /// The seconds from now until a time.
    fn until(&self, time: Option<Timestamp>) -> Option<i64> {
        time.map(|time| (time.duration_since(self.clock.now()).as_millis() + 500).div_euclid(1000) as i64)
    }
}
