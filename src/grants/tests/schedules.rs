//! Many grants on one budget: the vendor never answers 429, and no token expires that an offline schedule saves, also
//! after an outage and beside a namespace full of junk.

use std::collections::VecDeque;

use rstest::rstest;

use super::offline::{Limit, Need, Token, WAYS, Way, lost, lost_of};
use super::*;
use crate::grants::limiter::EndpointState;
use crate::grants::requests_before;
use crate::policy::schedule::RefreshPolicy;
use crate::policy::{Decision, Observed, Stored, Target, decide};

/// The namespace that sends junk.
const HOSTILE: &str = "hostile";

const MAPIQ: Limit = Limit {
    requests: 20,
    window: 60,
};

/// A vendor that enforces its limit: it answers 429 to more requests than that in its window.
struct LimitedVendor {
    clock: Arc<TokioClock>,
    timeline: Arc<Timeline>,
    lives: Vec<i64>,
    /// The longest time for an answer, in milliseconds.
    latency: u64,
    state: Mutex<LimitedState>,
}

#[derive(Default)]
struct LimitedState {
    counted: VecDeque<Instant>,
    calls: usize,
    refused: usize,
    /// The vendor gives no token before this time, and says so.
    away_until: Option<Instant>,
    random: u64,
}

impl LimitedState {
    /// A number below `bound`, the same in every run.
    fn random(&mut self, bound: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        if bound == 0 {
            0
        } else {
            (self.random >> 33) % bound
        }
    }
}

impl Transport for Arc<LimitedVendor> {
    fn send(&self, request: TokenRequest) -> BoxFuture<'static, Result<TokenResponse, Failure>> {
        let vendor = Arc::clone(self);
        async move {
            let (sent, began) = (vendor.clock.now(), vendor.timeline.now().moment);
            let number = usize::from(grant_number(&request));
            let delay = |vendor: &LimitedVendor| {
                Duration::from_millis(vendor.state.lock().unwrap().random(vendor.latency / 2 + 1))
            };
            tokio::time::sleep(delay(&vendor)).await;
            let (allowed, index) = {
                let mut state = vendor.state.lock().unwrap();
                let now = Instant::now();
                if let Some(until) = state.away_until.filter(|until| now < *until) {
                    let mut headers = http::HeaderMap::new();
                    headers.insert("retry-after", (until - now).as_secs().into());
                    return Ok(TokenResponse {
                        status: 429,
                        headers,
                        body: Vec::new().into(),
                        sent,
                        received: vendor.clock.now(),
                        clock_step: SignedDuration::ZERO,
                    });
                }
                let window = Duration::from_secs(MAPIQ.window.unsigned_abs());
                while state.counted.front().is_some_and(|first| now - *first >= window) {
                    state.counted.pop_front();
                }
                state.calls += 1;
                let allowed = state.counted.len() < MAPIQ.requests;
                if allowed {
                    state.counted.push_back(now);
                } else {
                    state.refused += 1;
                }
                (allowed, state.calls)
            };
            tokio::time::sleep(delay(&vendor)).await;
            let mut headers = http::HeaderMap::new();
            headers.insert("content-type", "application/json".parse().unwrap());
            let (status, body) = match vendor.lives.get(number) {
                _ if !allowed => (429, String::new()),
                Some(life) => (200, token_body(&format!("t{index}"), sent, *life)),
                None => (401, r#"{"error":"invalid_client"}"#.to_owned()),
            };
            Ok(TokenResponse {
                status,
                headers,
                body: body.into_bytes().into(),
                sent,
                received: vendor.clock.now(),
                clock_step: vendor.timeline.stepped_since(began),
            })
        }
        .boxed()
    }
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Requests in flight end, and their tokens are published.
    Stopped,
    /// Requests in flight are lost.
    Killed,
}

/// The cause of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    /// Nobody asks.
    OfTheProcess,
    /// The vendor throttles, and requests wait in the queue.
    OfTheVendor,
}

/// The second of a restart, the end of the process, and the seconds until the next one begins.
type Restart = (u64, End, u64);

/// The operator without Kubernetes: decides with `policy`, asks the book of grants, and publishes into memory.
struct Driver {
    needs: Vec<Need>,
    vendor: Arc<LimitedVendor>,
    clock: Arc<TokioClock>,
    grants: Arc<Grants>,
    secrets: Arc<Secrets>,
    wakes: mpsc::UnboundedReceiver<ObjectKey>,
    running: tokio::task::JoinHandle<()>,
    stored: Vec<Option<Stored>>,
    /// The time of the next look at each object.
    next: Vec<Option<Timestamp>>,
    lost: std::collections::BTreeSet<usize>,
}

fn inputs_of(number: usize, need: Need) -> Inputs {
    Inputs {
        fingerprint: format!("{number:032x}"),
        jitter: need.jitter,
        ..inputs()
    }
}

fn grants(
    vendor: &Arc<LimitedVendor>,
    secrets: &Arc<Secrets>,
) -> (
    Arc<Grants>,
    mpsc::UnboundedReceiver<ObjectKey>,
    tokio::task::JoinHandle<()>,
) {
    let (wake, wakes) = mpsc::unbounded_channel();
    let grants = Grants::new(
        GrantsOptions {
            per_minute: BTreeMap::from([(Vendor::Mapiq, 20)]),
            max_concurrent: 32,
        },
        Arc::new(Arc::clone(vendor)),
        Arc::clone(&vendor.timeline),
        Arc::new(Heard::default()),
        wake,
        Leadership::always(),
    );
    let running = tokio::spawn(Arc::clone(&grants).run(Arc::new(Arc::clone(secrets))));
    (grants, wakes, running)
}

impl Driver {
    fn new(needs: &[Need], latency: u64) -> Self {
        let clock = Arc::new(TokioClock::new(start()));
        let vendor = Arc::new(LimitedVendor {
            clock: Arc::clone(&clock),
            timeline: Arc::new(Timeline::new(Arc::clone(&clock) as Arc<dyn Clock>)),
            lives: needs.iter().map(|need| need.life).collect(),
            latency,
            state: Mutex::default(),
        });
        let secrets = Arc::new(Secrets::default());
        let (grants, wakes, running) = grants(&vendor, &secrets);
        let first = |need: &Need| Some(start() + SignedDuration::from_secs(need.from));
        Self {
            needs: needs.to_vec(),
            vendor,
            clock,
            grants,
            secrets,
            wakes,
            running,
            stored: vec![None; needs.len()],
            next: needs.iter().map(first).collect(),
            lost: std::collections::BTreeSet::default(),
        }
    }

    /// Runs until this second since the start.
    async fn work_until(&mut self, second: u64) {
        let end = start() + SignedDuration::from_secs(second as i64);
        loop {
            let now = self.clock.now();
            if now >= end {
                return;
            }
            for number in 0..self.needs.len() {
                if self.next[number].is_some_and(|next| next <= now) {
                    self.reconcile(number);
                }
            }
            let soonest = self.next.iter().flatten().min().copied().unwrap_or(end).min(end);
            let wait = Duration::try_from(soonest.duration_since(self.clock.now())).unwrap_or_default();
            tokio::select! {
                biased;
                woken = self.wakes.recv() => {
                    let woken = woken.unwrap();
                    if woken.namespace != HOSTILE {
                        let number: usize = woken.name.parse().unwrap();
                        self.next[number] = Some(self.clock.now());
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn reconcile(&mut self, number: usize) {
        let (name, need) = (number.to_string(), self.needs[number]);
        let object = object(&name);
        self.next[number] = None;
        for _ in 0..6 {
            let now = self.clock.now();
            let inputs = inputs_of(number, need);
            let stored = self.stored[number].clone();
            let live_until = stored
                .as_ref()
                .map(|stored| stored.expires)
                .filter(|end| now < *end);
            if stored.is_some() && live_until.is_none() {
                self.lost.insert(number);
            }
            let status = crate::api::VendorTokenStatus::default();
            let evidence = Evidence::new(&status, stored.as_ref(), &inputs, now);
            let asks = |evidence: Evidence| {
                let mut bytes = [0; 16];
                (bytes[0], bytes[15]) = (number as u8, need.jitter);
                Ask {
                    fingerprint: Fingerprint::from_bytes(bytes),
                    evidence,
                    ..ask(&name, number as u8, Grant::Mapiq)
                }
            };
            let observed = Observed {
                now,
                deleting: false,
                suspended: false,
                spec_problem: None,
                refresh: RefreshPolicy::AtLifetimePercent(80),
                refresh_request: None,
                status: &status,
                target: stored.clone().map_or(Target::Free, |stored| Target::Ours {
                    stored: Some(stored),
                    as_desired: true,
                }),
                key_id: &inputs.key_id,
                parameters: &inputs.parameters,
                sources: &inputs.sources,
                credentials: crate::policy::Credentials::Known {
                    inputs: inputs.clone(),
                },
                standing: observe(&self.grants, &asks(evidence.clone()), &inputs),
                publish_block: None,
                owners_stay: false,
                contest: None,
                api_trouble: None,
                set_back: SignedDuration::ZERO,
            };
            match decide(&observed) {
                Decision::Wait { until } => {
                    self.next[number] = until;
                    return;
                }
                Decision::Publish => {
                    let token = self.grants.token(&object).unwrap();
                    self.stored[number] = Some(Stored {
                        issued: token.issued,
                        expires: token.expires,
                        inputs,
                        credentials_version: None,
                        refresh_handled: None,
                        is_readable: false,
                    });
                }
                Decision::Issue => {
                    let asked = reserve_and_send(&self.grants, &self.secrets, asks(evidence), &inputs);
                    if asked.is_some() {
                        // Its end wakes the object.
                        self.next[number] = live_until;
                        return;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("no end of it");
    }

    /// Runs until the second in which the endpoint's pause ends.
    async fn work_until_the_pause_ends(&mut self) {
        let now = self.grants.timeline.now();
        let pause = {
            let table = self.grants.lock();
            let paused = |state: &EndpointState| state.paused_until(now.moment);
            table.endpoints.values().find_map(paused)
        };
        let end = now.wall_at(pause.unwrap()).duration_since(start());
        self.work_until(u64::try_from(end.as_secs()).unwrap()).await;
    }

    /// The tokens that are valid now, by seconds from now; `None` for grants without one.
    fn tokens_left(&self) -> Vec<Option<Token>> {
        let now = self.clock.now();
        let left = |end: Timestamp| end.duration_since(now).as_secs();
        let policy = RefreshPolicy::AtLifetimePercent(80);
        let valid = |stored: &&Stored| now < stored.expires;
        self.stored
            .iter()
            .map(|stored| {
                let stored = stored.as_ref().filter(valid)?;
                Some(Token {
                    due: left(stored.due(policy)),
                    ends: left(stored.expires),
                })
            })
            .collect()
    }

    /// Asks for as many grants of credentials that the vendor knows nothing of, in one namespace. Where `forged`, their
    /// targets say that a token of each ends within a minute.
    fn send_junk(&self, count: u16, round: u8, forged: bool) {
        for number in 0..count {
            let [low, high] = number.to_le_bytes();
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&[u8::MAX, low, high, round]);
            let left = i64::from(number % 60) + 1;
            let live_until = forged.then(|| self.clock.now() + SignedDuration::from_secs(left));
            let junk = Ask {
                fingerprint: Fingerprint::from_bytes(bytes),
                evidence: Evidence {
                    live_until,
                    ..Evidence::default()
                },
                ..ask(&format!("{HOSTILE}/{round}-{number}"), u8::MAX, Grant::Mapiq)
            };
            reserve_and_send(&self.grants, &self.secrets, junk, &inputs());
        }
    }

    /// Ends the process, and begins another one, which reads the targets back.
    async fn restart(&mut self, end: End, away: u64) {
        if end == End::Stopped {
            self.grants.drain(Duration::from_secs(3)).await;
            while let Ok(woken) = self.wakes.try_recv() {
                self.reconcile(woken.name.parse().unwrap());
            }
        }
        self.running.abort();
        tokio::time::sleep(Duration::from_secs(away)).await;
        (self.grants, self.wakes, self.running) = grants(&self.vendor, &self.secrets);
        self.grants.start_leading();
        let now = self.clock.now();
        let counts = |sent: &Timestamp| now.duration_since(*sent) < crate::grants::COUNTED_FOR;
        let policy = RefreshPolicy::AtLifetimePercent(80);
        let sent: Vec<_> = self
            .stored
            .iter()
            .zip(&self.needs)
            .filter_map(|(stored, need)| Some((stored.as_ref()?, need)))
            .flat_map(|(stored, need)| {
                let between = stored.refresh_interval(policy);
                let created = start() + SignedDuration::from_secs(need.from);
                requests_before(
                    stored.issued,
                    between,
                    created.max(now - crate::grants::COUNTED_FOR),
                )
            })
            .filter(counts)
            .collect();
        self.grants
            .count_earlier_requests(&Grant::Mapiq.endpoint(), Vendor::Mapiq, &sent);
        let begins = |need: &Need| Some(now.max(start() + SignedDuration::from_secs(need.from)));
        self.next = self.needs.iter().map(begins).collect();
    }
}

/// Groups of grants: the second of their first request, their number, and the seconds that their tokens live.
fn needs(groups: &[(i64, usize, i64)]) -> Vec<Need> {
    let all = groups
        .iter()
        .flat_map(|(from, count, life)| std::iter::repeat_n((*from, *life), *count));
    all.enumerate()
        .map(|(number, (from, life))| Need {
            from,
            life,
            jitter: (number * 151 % 256) as u8,
        })
        .collect()
}

/// Runs a load, asserts that no request exceeded the limit, and gives the grants whose token expired.
async fn run(needs: &[Need], latency: u64, restarts: &[Restart], seconds: u64) -> Vec<usize> {
    let mut driver = Driver::new(needs, latency);
    for (at, end, away) in restarts {
        driver.work_until(*at).await;
        driver.restart(*end, *away).await;
    }
    driver.work_until(seconds).await;
    let state = driver.vendor.state.lock().unwrap();
    assert_eq!(state.refused, 0, "of {} requests", state.calls);
    assert!(state.calls >= needs.len());
    assert!(driver.stored.iter().all(Option::is_some), "all have a token");
    driver.lost.into_iter().collect()
}

const STOPPED: &[Restart] = &[(1500, End::Stopped, 2)];
const KILLED: &[Restart] = &[
    (100, End::Killed, 0),
    (1500, End::Killed, 1),
    (2222, End::Killed, 20),
];

#[rstest]
#[case::an_hour(&[(0, 100, 3600)], 9000)]
#[case::all_of_the_budget_when_each_is_asked_for_as_it_is_due(&[(0, 100, 420)], 3600)]
#[case::more_than_the_budget_unless_each_waits_nearly_to_the_last(&[(0, 100, 345)], 3600)]
#[case::lives_from_a_minute_to_an_hour(&[(0, 8, 60), (0, 20, 300), (0, 72, 3600)], 3600)]
#[case::short_lives_and_new_ones_by_the_dozen(&[(0, 3, 100), (0, 17, 3600), (900, 40, 3600), (1801, 40, 3600)], 3600)]
#[case::one_short_life_and_a_burst(&[(0, 1, 100), (607, 49, 3600), (1000, 50, 3600)], 3600)]
#[case::a_day(&[(0, 60, 86_400), (300, 40, 7200)], 10_000)]
#[tokio::test(start_paused = true)]
async fn no_token_expires_that_an_offline_schedule_saves(
    #[case] groups: &[(i64, usize, i64)],
    #[case] seconds: u64,
    #[values(0, 2000)] latency: u64,
    #[values(&[], STOPPED, KILLED)] restarts: &[Restart],
) {
    let needs = needs(groups);
    assert_eq!(needs.len(), 100);
    let known: Vec<_> = restarts
        .iter()
        .map(|(at, _, away)| (*at as i64, *away as i64))
        .collect();
    let saved = WAYS.map(|way| lost(&needs, MAPIQ, way, &known, seconds as i64));
    // Under a load beyond the limit, the schedule would save tokens by never serving a grant without one.
    let can_be_carried = saved.iter().any(Vec::is_empty);
    assert!(can_be_carried, "{saved:?}");
    let expired = run(&needs, latency, restarts, seconds).await;
    assert_eq!(expired, Vec::<usize>::new());
}

#[rstest]
#[case::all_end_just_after_it(&[(0, 100, 3600)], 2300)]
#[case::refreshed_while_it_begins(&[(0, 100, 3600)], 2800)]
#[case::half_an_hour(&[(0, 100, 1800)], 1500)]
#[case::lives_from_half_an_hour_to_two_hours(&[(0, 30, 1800), (200, 40, 3600), (400, 30, 7200)], 2500)]
#[tokio::test(start_paused = true)]
async fn after_an_outage_of_20_minutes_each_token_that_can_be_saved_is_saved(
    #[case] groups: &[(i64, usize, i64)],
    #[case] begins: u64,
    #[values(0, 2000)] latency: u64,
    #[values(Outage::OfTheProcess, Outage::OfTheVendor)] outage: Outage,
) {
    let needs = needs(groups);
    let mut driver = Driver::new(&needs, latency);
    driver.work_until(begins).await;
    let restarts: &[(i64, i64)] = match outage {
        Outage::OfTheProcess => {
            driver.restart(End::Killed, 1200).await;
            &[(0, 0)]
        }
        Outage::OfTheVendor => {
            let until = Instant::now() + Duration::from_secs(1200);
            driver.vendor.state.lock().unwrap().away_until = Some(until);
            driver.work_until(begins + 1200).await;
            driver.work_until_the_pause_ends().await;
            &[]
        }
    };
    let ended = u64::try_from(driver.clock.now().duration_since(start()).as_secs()).unwrap();
    let left = driver.tokens_left();
    let live = left.iter().flatten().count();
    driver.lost.clear();
    driver.work_until(ended + 3600).await;
    let already: Vec<_> = (0..needs.len())
        .filter(|number| left[*number].is_none())
        .collect();
    let expired: Vec<_> = driver
        .lost
        .iter()
        .copied()
        .filter(|number| !already.contains(number))
        .collect();
    let beyond_saving = lost_of(left, &needs, MAPIQ, Way::EveryFifth, restarts, 3600);
    println!("{live} of {} live, {beyond_saving:?} beyond saving", needs.len());
    assert_eq!(expired, beyond_saving);
}

#[rstest]
#[case::forged(true)]
#[case::plain(false)]
#[tokio::test(start_paused = true)]
async fn junk_of_one_namespace_ends_no_token_of_another(
    #[case] forged: bool,
    #[values(0, 2000)] latency: u64,
) {
    let needs = needs(&[(0, 15, 300), (100, 15, 3600)]);
    let mut driver = Driver::new(&needs, latency);
    for round in 0..60 {
        driver.send_junk(250, round, forged);
        driver.work_until(60 * (u64::from(round) + 1)).await;
    }
    assert!(driver.stored.iter().all(Option::is_some), "all have a token");
    assert_eq!(driver.lost, std::collections::BTreeSet::new());
    let state = driver.vendor.state.lock().unwrap();
    assert_eq!(state.refused, 0);
    assert!(state.calls > 1100, "all of the budget is used: {}", state.calls);
}

#[rstest]
#[case::all_of_the_budget(&[(0, 100, 420)])]
#[case::two_in_a_minute(&[(0, 9, 60), (0, 3, 100), (700, 12, 3600), (1500, 12, 3600)])]
#[case::bursts(&[(0, 40, 40)])]
#[tokio::test(start_paused = true)]
async fn a_killed_process_never_exceeds_the_limit(
    #[case] groups: &[(i64, usize, i64)],
    #[values(100, 2000, 8000)] latency: u64,
    #[values(61, 97, 150)] between: u64,
) {
    let restarts: Vec<Restart> = (1..30)
        .map(|number| (number * between + number * 7 % 10, End::Killed, number % 3))
        .collect();
    let mut driver = Driver::new(&needs(groups), latency);
    for (at, end, away) in restarts {
        driver.work_until(at).await;
        driver.restart(end, away).await;
    }
    let state = driver.vendor.state.lock().unwrap();
    assert!(state.calls > 100);
    assert_eq!(state.refused, 0, "of {} requests", state.calls);
}
