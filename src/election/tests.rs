//! Elections by a paused clock, on an API server that answers as slowly as a test says.

use std::sync::Mutex;

use http::{Method, Request, Response};
use jiff::Timestamp;
use kube::client::{Body, ClientBuilder};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tower::{BoxError, service_fn};

use super::*;
use crate::clock::TokioClock;
use crate::sync::lock;

/// The answers of the API server.
#[derive(Clone, Copy, Debug)]
enum Answers {
    After(Duration),
    /// After so many seconds, sometimes the one and sometimes the other.
    Either(u64, u64),
    Never,
    /// Every second call has no answer, as on a dead connection.
    EverySecond,
}

/// An API server with one Lease.
struct ApiServer {
    state: Mutex<State>,
}

struct State {
    lease: Option<Value>,
    writes: u64,
    calls: u64,
    answers: Answers,
}

impl ApiServer {
    fn new(answers: Answers) -> Arc<Self> {
        let state = Mutex::new(State {
            lease: None,
            writes: 0,
            calls: 0,
            answers,
        });
        Arc::new(Self { state })
    }

    fn set(&self, answers: Answers) {
        lock(&self.state).answers = answers;
    }

    fn lease(&self) -> Value {
        lock(&self.state).lease.clone().unwrap()
    }

    fn leases(self: &Arc<Self>) -> Api<Lease> {
        let server = Arc::clone(self);
        let service = service_fn(move |request: Request<Body>| {
            let server = Arc::clone(&server);
            async move { server.answer(request).await }
        });
        Api::namespaced(ClientBuilder::new(service, "default").build(), "operator")
    }

    /// A call takes effect in the middle of its time.
    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (method, body) = (request.method().clone(), request.into_body());
        let body = body.collect_bytes().await?;
        let answers = {
            let mut state = lock(&self.state);
            state.calls += 1;
            match state.answers {
                Answers::EverySecond if state.calls % 2 == 1 => Answers::Never,
                Answers::EverySecond => Answers::After(Duration::ZERO),
                Answers::Either(one, other) => {
                    let takes_one = state.calls * 7919 % 13 < 9;
                    Answers::After(Duration::from_secs(if takes_one { one } else { other }))
                }
                answers => answers,
            }
        };
        let Answers::After(time) = answers else {
            return std::future::pending().await;
        };
        tokio::time::sleep(time / 2).await;
        let (status, text) = lock(&self.state).carry_out(&method, &body);
        tokio::time::sleep(time / 2).await;
        Ok(Response::builder()
            .status(status)
            .body(Body::from(text.to_string().into_bytes()))?)
    }
}

impl State {
    fn carry_out(&mut self, method: &Method, body: &[u8]) -> (u16, Value) {
        let failure = |code: u16, reason: &str| {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": reason, "reason": reason, "code": code });
            (code, status)
        };
        if *method == Method::GET {
            return match &self.lease {
                Some(lease) => (200, lease.clone()),
                None => failure(404, "NotFound"),
            };
        }
        let mut written: Value = serde_json::from_slice(body).unwrap();
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        match &self.lease {
            Some(_) if *method == Method::POST => return failure(409, "AlreadyExists"),
            Some(present) if version(present) != version(&written) => return failure(409, "Conflict"),
            _ => {}
        }
        self.writes += 1;
        written["metadata"]["resourceVersion"] = json!(self.writes.to_string());
        written["metadata"]["uid"] = json!("one");
        self.lease = Some(written.clone());
        (200, written)
    }
}

/// A contender, which resigns when it is dropped.
struct Contender {
    leadership: Leadership,
    resign: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Contender {
    fn on(server: &Arc<ApiServer>, identity: &str) -> Self {
        let timeline = Arc::new(Timeline::new(Arc::new(TokioClock::new(Timestamp::UNIX_EPOCH))));
        let options = ElectionOptions::new(identity);
        let (elector, leadership) = Elector::new(server.leases(), options, timeline);
        let (resign, resigned) = oneshot::channel::<()>();
        let task = tokio::spawn(elector.run(async move {
            let _ = resigned.await;
        }));
        Self {
            leadership,
            resign,
            task,
        }
    }

    /// Resigns, and gives the time until the end of its work.
    async fn resign(self) -> Duration {
        let started = Instant::now();
        drop(self.resign);
        self.task.await.unwrap();
        started.elapsed()
    }

    /// The time until this contender leads.
    async fn leads(&self) -> Duration {
        let started = Instant::now();
        while !self.leadership.holds() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(started.elapsed() < Duration::from_secs(600), "it never leads");
        }
        started.elapsed()
    }

    /// The longest time without the lead during the next `time`.
    async fn longest_gap(&self, time: Duration) -> Duration {
        let started = Instant::now();
        let (mut held, mut longest) = (started, Duration::ZERO);
        while started.elapsed() < time {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if self.leadership.holds() {
                held = Instant::now();
            }
            longest = longest.max(held.elapsed());
        }
        longest
    }
}

const LONG: Duration = Duration::from_secs(900);

fn after(milliseconds: u64) -> Answers {
    Answers::After(Duration::from_millis(milliseconds))
}

#[rstest]
#[case(5)]
#[case(4_500)]
#[case(6_000)]
#[case(9_500)]
#[case(12_000)]
#[tokio::test(start_paused = true)]
async fn a_leader_leads_on_for_as_long_as_the_api_server_answers_at_all(#[case] milliseconds: u64) {
    let server = ApiServer::new(after(milliseconds));
    let leader = Contender::on(&server, "leader");
    leader.leads().await;
    assert_eq!(leader.longest_gap(LONG).await, Duration::ZERO);
}

#[rstest]
#[case(6, 12)]
#[case(1, 12)]
#[tokio::test(start_paused = true)]
async fn a_leader_leads_on_for_as_long_as_some_answers_take_long(#[case] one: u64, #[case] other: u64) {
    let server = ApiServer::new(Answers::Either(one, other));
    let leader = Contender::on(&server, "leader");
    leader.leads().await;
    // Until the first long answers have come.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(leader.longest_gap(LONG).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_leader_of_an_api_server_that_becomes_slow_leads_again_within_a_minute() {
    let server = ApiServer::new(after(5));
    let leader = Contender::on(&server, "leader");
    leader.leads().await;
    server.set(after(12_000));
    let gap = leader.longest_gap(LONG).await;
    assert!(gap < Duration::from_secs(60), "{gap:?}");
    assert_eq!(leader.longest_gap(LONG).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_long_only_while_the_api_server_is_slow() {
    let server = ApiServer::new(after(5));
    let leader = Contender::on(&server, "leader");
    leader.leads().await;
    let duration = || server.lease()["spec"]["leaseDurationSeconds"].clone();
    assert_eq!(duration(), json!(15));
    server.set(after(6_000));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(duration(), json!(24));
    server.set(after(5));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(duration(), json!(15));
}

#[tokio::test(start_paused = true)]
async fn a_frozen_api_server_ends_the_lead_within_ten_seconds() {
    let server = ApiServer::new(after(5));
    let leader = Contender::on(&server, "leader");
    leader.leads().await;
    server.set(Answers::Never);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!leader.leadership.holds());
    server.set(after(5));
    assert!(leader.leads().await < Duration::from_secs(25));
}

#[tokio::test(start_paused = true)]
async fn calls_on_dead_connections_cost_no_leadership() {
    let server = ApiServer::new(after(5));
    let leader = Contender::on(&server, "leader");
    leader.leads().await;
    server.set(Answers::EverySecond);
    assert_eq!(leader.longest_gap(LONG).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn no_two_lead_however_slow_the_api_server_becomes() {
    let server = ApiServer::new(after(5));
    let contenders = [Contender::on(&server, "one"), Contender::on(&server, "two")];
    let mut changes = 0;
    let mut last = None;
    for round in 0_u64..200 {
        // Freezes between answers of all speeds.
        server.set(match round % 6 {
            0 | 4 => after(5),
            1 => after(3_000 + round % 100 * 80),
            2 => after(12_000),
            3 => Answers::EverySecond,
            _ => Answers::Never,
        });
        for _ in 0..40 + round * 37 % 200 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let leading = contenders
                .each_ref()
                .map(|contender| contender.leadership.holds());
            assert_ne!(leading, [true, true], "both lead in round {round}");
            if leading != [false, false] && last != Some(leading) {
                (changes, last) = (changes + 1, Some(leading));
            }
        }
    }
    assert!(
        changes >= 5,
        "the lead changed {changes} times only, so that little was shown"
    );
}

/// A pod has 30 s to end, of which a leader takes 6 before it resigns.
const LONGEST_RELEASE: Duration = Duration::from_secs(24);

#[rstest]
#[case(5)]
#[case(6_000)]
#[case(10_900)]
#[case(12_000)]
#[tokio::test(start_paused = true)]
async fn a_leader_gives_the_lease_back_however_slowly_the_api_server_answers(#[case] milliseconds: u64) {
    // At all times of a renewal, and between two.
    for moment in 0..15 {
        let server = ApiServer::new(after(milliseconds));
        let leader = Contender::on(&server, "leader");
        leader.leads().await;
        tokio::time::sleep(Duration::from_millis(120_000 + moment * 1000)).await;
        let took = leader.resign().await;
        let holder = server.lease()["spec"]["holderIdentity"].clone();
        assert_eq!(holder, json!(""), "{moment} s later");
        assert!(took < LONGEST_RELEASE, "{moment} s later: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_stopped_while_it_takes_the_lease_gives_it_back() {
    for moment in 0..12 {
        let server = ApiServer::new(after(5_000));
        let contender = Contender::on(&server, "contender");
        tokio::time::sleep(Duration::from_secs(moment)).await;
        contender.resign().await;
        let lease = lock(&server.state).lease.clone();
        let holder = lease.map(|lease| lease["spec"]["holderIdentity"].clone());
        assert!(
            holder.is_none_or(|holder| holder == json!("")),
            "{moment} s later"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_stops_beside_a_frozen_api_server_ends_in_time() {
    let server = ApiServer::new(after(5));
    let leader = Contender::on(&server, "leader");
    leader.leads().await;
    server.set(Answers::Never);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(leader.resign().await < LONGEST_RELEASE);
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_successor_is_not_given_back() {
    let server = ApiServer::new(after(5));
    let leader = Contender::on(&server, "leader");
    leader.leads().await;
    {
        let mut state = lock(&server.state);
        let lease = state.lease.as_mut().unwrap();
        lease["spec"]["holderIdentity"] = json!("successor");
        lease["metadata"]["resourceVersion"] = json!("900");
    }
    leader.resign().await;
    assert_eq!(server.lease()["spec"]["holderIdentity"], json!("successor"));
}
