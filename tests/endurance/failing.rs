//! An API server that fails is asked as rarely for a thousand VendorTokens as for ten, and all of them are right soon
//! after its return.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use kube::api::ListParams;
use test_support::{ApiProxy, Breakage, Broken, BrokenCall, Calls, Mark, wait_for};
use vendor_simulator::Vendor;
use vendor_token_operator::api::names::MANAGED_BY_LABEL;

use crate::pace::{Counts, Kind, PAUSES, count, most};
use crate::world::installation::everywhere;
use crate::world::{OPERATOR, PATIENCE, Program, Running as _, World, lives, vendors};

const VENDOR: Vendor = Vendor::SixMap;
/// The credential that all of them share, so that one request to the vendor makes all of them due.
const SHARED: &str = "shared";
const CREATES_AT_A_TIME: usize = 8;
/// After it the pauses of a kind of calls grow no more, and those that were under way at its first failure are over.
const AT_FIRST: Duration = Duration::from_secs(10);
/// The reconciles of one namespace that are under way, where no other has any.
const AT_A_TIME: usize = 32;
const MINUTE: Duration = Duration::from_secs(60);
/// The longest pause between calls that are answered 500.
const LONGEST_PAUSE: f64 = 5.0;
/// The pause that the API server asks for when it throttles.
const RETRY_AFTER: u32 = 20;
/// The first is right, and a few are, within this time of the API server's return.
const SOON: Duration = Duration::from_secs(10);
/// A thousand are published on a machine that is busy with other tests.
const LONG_PATIENCE: Duration = Duration::from_secs(600);

/// An operator behind a proxy, and VendorTokens whose targets are right.
struct Site {
    objects: usize,
    world: World,
    proxy: ApiProxy,
    program: Program,
    /// The times from the first write of a target to the last one at its start.
    cold_start: Duration,
}

/// The calls at first and in a minute of each failure, and the times of the targets after the return.
struct Measured {
    at_first: Counts,
    failing: Counts,
    throttling: Counts,
    first: Duration,
    all: Duration,
    cold_start: Duration,
}

impl Site {
    async fn new(objects: usize) -> Self {
        let world = World::on(everywhere().await, &format!("failing-{objects}"), lives(3600)).await;
        let proxy = ApiProxy::start(world.plane).await.unwrap();
        let kubeconfig = world.plane.kubeconfig_through(&proxy, OPERATOR, OPERATOR);
        world.register(VENDOR, SHARED).await;
        stream::iter(0..objects)
            .for_each_concurrent(CREATES_AT_A_TIME, |number| {
                let world = &world;
                async move {
                    world
                        .apply(&format!("t{number}"), vendors::spec(VENDOR, SHARED))
                        .await;
                }
            })
            .await;
        let mark = world.mark().await;
        let program = world.start_as(&kubeconfig.await.unwrap(), OPERATOR, &[]).await;
        let mut site = Self {
            objects,
            world,
            proxy,
            program,
            cold_start: Duration::ZERO,
        };
        site.written(0).await;
        let writes = site.writes_since(mark).await;
        site.cold_start = between(writes[0], *writes.last().unwrap());
        site.program.quiet().await;
        site
    }

    /// The number of writes of targets that were answered well.
    async fn writes(&self) -> u64 {
        let samples = self.program.samples().await;
        let of = |code: &str| {
            let labels = format!(r#"{{verb="PATCH",resource="secrets",code="{code}"}}"#);
            samples.sum(&format!("vendortoken_api_requests_total{labels}")) as u64
        };
        of("200") + of("201")
    }

    /// Waits until each target was written once more than `before`.
    async fn written(&self, before: u64) {
        let expected = before + self.objects as u64;
        wait_for(&format!("{expected} writes"), LONG_PATIENCE, || async {
            // Each look costs the operator a text about all of its objects.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let writes = self.writes().await;
            if writes >= expected { Ok(()) } else { Err(writes) }
        })
        .await
        .unwrap();
    }

    /// The times at which the API server got writes of targets, in order.
    async fn writes_since(&self, mark: Mark) -> Vec<Timestamp> {
        let requests = self.world.requests_since(mark).await;
        let writes = requests.iter().filter(|entry| {
            entry.verb == "patch" && entry.resource == "secrets" && (200..300).contains(&entry.code)
        });
        let mut times: Vec<_> = writes.map(|entry| entry.received).collect();
        times.sort_unstable();
        times
    }

    /// Breaks the calls about single objects: what the watches tell is all that is known.
    fn break_calls(&self, breakage: Breakage) -> Broken {
        self.proxy.break_calls(Calls::of_single_objects(), breakage)
    }

    /// Makes all VendorTokens due.
    async fn rotate(&self) {
        let credential = vendors::credential(VENDOR, SHARED, "rotated");
        self.world.simulator.put_credential(VENDOR, credential);
        self.world.store(VENDOR, SHARED, "rotated").await;
    }

    /// The token in all targets; fails where they hold different ones, or one that the vendor takes no more.
    async fn token(&self) -> String {
        let ours = ListParams::default().labels(&format!("{MANAGED_BY_LABEL}={OPERATOR}"));
        let targets = self.world.secrets().list(&ours).await.unwrap().items;
        assert_eq!(targets.len(), self.objects);
        let mut tokens: Vec<_> = targets
            .into_iter()
            .map(|target| target.data.unwrap().remove("token").unwrap().0)
            .collect();
        tokens.dedup();
        assert_eq!(tokens.len(), 1, "{} tokens", tokens.len());
        let token = String::from_utf8(tokens.remove(0)).unwrap();
        assert!(self.world.simulator.validate(VENDOR, &token).valid);
        token
    }

    async fn goes_through_an_outage(self) -> Measured {
        let what = format!("{} objects", self.objects);
        let token = self.token().await;
        let broken = self.break_calls(Breakage::Status(500));
        self.rotate().await;
        let began = wait_for("a call to fail", PATIENCE, || async {
            let first = broken.calls().first().map(|call| call.at);
            first.ok_or("none")
        })
        .await
        .unwrap();
        wait_for("the failure to be told", MINUTE, || async {
            let log = self.program.log();
            let is_told = |line: &str| {
                line.contains("WARN") && line.contains("reads of Secrets") && line.contains("500")
            };
            if log.lines().any(is_told) {
                Ok(())
            } else {
                Err(log)
            }
        })
        .await
        .unwrap();
        println!(
            "{what}: told in the log {:?} after the first failure",
            began.elapsed()
        );
        tokio::time::sleep((AT_FIRST + MINUTE).saturating_sub(began.elapsed())).await;
        let failed = broken.calls();
        let throttled = self.break_calls(Breakage::RetryAfter(RETRY_AFTER));
        let throttles_from = Instant::now();
        tokio::time::sleep(MINUTE).await;
        let throttled = throttled.calls();
        let mut reads = throttled.iter().filter(|call| Kind::of(call) == Kind::ReadSecret);
        let last_read = reads.next_back().expect("it is tried again");

        let mut first = BTreeMap::new();
        for call in failed.iter().chain(&throttled) {
            first.entry(Kind::of(call)).or_insert(call.at);
        }
        let is_at_first = |call: &&BrokenCall| call.at < first[&Kind::of(call)] + AT_FIRST;
        let all = failed.iter().chain(&throttled);
        let at_first = count(&format!("{what}, at first"), all.filter(is_at_first), |kind| {
            self.objects.min(AT_A_TIME) + allowed(kind, AT_FIRST, &PAUSES)
        });
        let end = began + AT_FIRST + MINUTE;
        let calls = failed.iter().filter(|call| call.at < end && !is_at_first(call));
        let failing = count(&format!("{what}, a minute of 500"), calls, |kind| {
            allowed(kind, MINUTE, &[LONGEST_PAUSE])
        });
        let calls = throttled.iter().filter(|call| !is_at_first(call));
        let throttling = count(&format!("{what}, a minute of 429"), calls, |kind| {
            allowed(kind, throttles_from.elapsed(), &[f64::from(RETRY_AFTER)])
        });
        assert!(failing[&Kind::ReadSecret] >= 3, "{what}: it is not tried again");

        let (mark, before) = (self.world.mark().await, self.writes().await);
        let calls_before = self.world.all_calls();
        // It may be asked again at that time, and not before.
        let may_be_asked = last_read.at + Duration::from_secs(u64::from(RETRY_AFTER));
        self.proxy.mend();
        let wait = may_be_asked.saturating_duration_since(Instant::now());
        let back = Timestamp::now() + wait;
        println!("{what}: back; it has asked for a pause of {wait:?} more");
        self.written(before).await;
        let writes = self.writes_since(mark).await;
        let measured = Measured {
            at_first,
            failing,
            throttling,
            first: between(back, writes[0]),
            all: between(back, writes[self.objects - 1]),
            cold_start: self.cold_start,
        };
        self.world.until_published(self.objects, LONG_PATIENCE).await;
        assert_ne!(self.token().await, token, "{what}: the new credential was used");
        assert_eq!(self.world.all_calls(), calls_before + 1, "{what}");
        assert_eq!(self.world.simulator.violations(), [], "{what}");
        measured
    }
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// The most calls of a kind in this time that keep to these pauses.
fn allowed(kind: Kind, time: Duration, pauses: &[f64]) -> usize {
    match kind {
        Kind::ReadSecret | Kind::WriteSecret | Kind::WriteStatus => most(time.as_secs_f64(), pauses),
        // No vendor is to be asked, watches go on, and no status changes.
        Kind::Question | Kind::WatchOfSecrets | Kind::WatchOfVendorTokens | Kind::Event => 0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_due_at_a_failing_api_server_cost_what_ten_do_and_are_soon_right() {
    let (few, many) = tokio::join!(Site::new(10), Site::new(1000));
    let (few, many) = tokio::join!(few.goes_through_an_outage(), many.goes_through_an_outage());
    for (objects, found) in [(10, &few), (1000, &many)] {
        let sum = |counts: &Counts| counts.values().sum::<usize>();
        println!(
            "{objects} due objects: {} calls at first, then {} in a minute of 500 and {} in a minute of 429; the first is right {:?} after the \
             return, all {:?}; from the first to the last at a cold start: {:?}",
            sum(&found.at_first),
            sum(&found.failing),
            sum(&found.throttling),
            found.first,
            found.all,
            found.cold_start,
        );
        assert!(found.first < SOON, "{objects}: {:?}", found.first);
    }
    assert!(few.all < SOON, "{:?}", few.all);
    // As fast as this machine writes them. Each is looked at twice, since writes of statuses have a pause of their own that
    // may end later, and the machine may have become as busy again since the cold start.
    assert!(
        many.all < SOON + 3 * many.cold_start,
        "{:?} beside {:?}",
        many.all,
        many.cold_start
    );
}
