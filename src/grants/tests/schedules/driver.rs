//! The operator without Kubernetes, at a vendor that enforces its limit.

use super::super::offline::{Need, Token};
use super::super::*;
use super::limited_vendor::LimitedVendor;
use crate::grants::limiter::EndpointState;
use crate::grants::requests_before;
use crate::policy::schedule::RefreshPolicy;
use crate::policy::{Decision, Observed, Stored, Target, decide};

/// The namespace that sends junk.
const HOSTILE: &str = "hostile";

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Requests in flight end, and their tokens are published.
    Stopped,
    /// Requests in flight are lost.
    Killed,
}

/// An operator without Kubernetes: it decides with `policy`, asks the book of grants, and publishes into memory.
pub(super) struct Driver {
    needs: Vec<Need>,
    pub(super) vendor: Arc<LimitedVendor>,
    pub(super) clock: Arc<TokioClock>,
    grants: Arc<Grants>,
    secrets: Arc<Secrets>,
    wakes: mpsc::UnboundedReceiver<ObjectKey>,
    running: tokio::task::JoinHandle<()>,
    pub(super) stored: Vec<Option<Stored>>,
    /// The time of the next look at each object.
    next: Vec<Option<Timestamp>>,
    pub(super) lost: std::collections::BTreeSet<usize>,
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
    pub(super) fn new(needs: &[Need], latency: u64) -> Self {
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
    pub(super) async fn work_until(&mut self, second: u64) {
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
                        is_in_place: true,
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
    pub(super) async fn work_until_the_pause_ends(&mut self) {
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
    pub(super) fn tokens_left(&self) -> Vec<Option<Token>> {
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
    pub(super) fn send_junk(&self, count: u16, round: u8, forged: bool) {
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
    pub(super) async fn restart(&mut self, end: End, away: u64) {
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
