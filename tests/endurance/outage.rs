//! The API server is away for longer than a refresh period.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use test_support::{ApiProxy, Breakage, Calls, ControlPlane, wait_for};
use vendor_simulator::Vendor;

use crate::ledger::{begun_after, milliseconds, now, shorter_than, times};
use crate::pace::{Kind, PAUSES, PAUSES_OF_WATCHES, count, most};
use crate::witness::{all_right, create, object};
use crate::world::installation::{everywhere, plane_of_its_own};
use crate::world::process::get;
use crate::world::{Account, OPERATOR, PATIENCE, Program, Running as _, World, lives};

const LIFE: u64 = 60;
/// A token that lives a minute is due after half of it.
const PERIOD: Duration = Duration::from_secs(LIFE / 2);
/// How long before tokens are due the API server goes: less than the 10 s for which a leader may act without it.
const BEFORE_DUE: Duration = Duration::from_secs(8);
const AWAY_FOR: Duration = Duration::from_secs(LIFE / 2 + 15);

struct Site {
    name: &'static str,
    world: Arc<World>,
    program: Program,
}

impl Site {
    async fn new(plane: &'static ControlPlane, name: &'static str, flag: &str) -> Self {
        let world = Arc::new(World::on(plane, name, lives(LIFE)).await);
        let program = world.program_with(&[flag]).await;
        create(&world, &Vendor::ALL).await;
        Self { name, world, program }
    }

    /// When each vendor was asked.
    fn times(&self) -> Vec<Vec<u64>> {
        Vendor::ALL.map(|vendor| times(&self.world, vendor)).into()
    }

    async fn is_live(&self, when: &str) {
        let (status, text) = get(self.program.probes, "/livez").await.unwrap();
        assert_eq!(status, 200, "{} {when}: {text}", self.name);
    }

    /// When the process started, by its own metric.
    async fn started(&self) -> f64 {
        self.program.samples().await.one("process_start_time_seconds")
    }

    /// Fails where a vendor was asked for a token that was not due yet when the API server went.
    fn asks_nobody_since(&self, gone: u64, how: &str) {
        for (vendor, times) in Vendor::ALL.iter().zip(self.times()) {
            let begun = begun_after(gone, PERIOD, &times);
            assert!(
                begun.is_empty(),
                "{} asks {vendor:?}, {how} at {gone}: {times:?}",
                self.name
            );
        }
    }

    /// Fails where a vendor was asked for a token again before it was due.
    fn asked_once_a_period(&self, gone: u64, how: &str) {
        for (vendor, times) in Vendor::ALL.iter().zip(self.times()) {
            let since: Vec<_> = times.into_iter().filter(|time| *time > gone).collect();
            println!(
                "{}, {how} at {gone}: {vendor:?} was asked at {since:?}",
                self.name
            );
            assert!(
                shorter_than(PERIOD, &since).is_empty(),
                "{}, {how}: {vendor:?}",
                self.name
            );
        }
    }
}

/// Waits until each vendor of each site has been asked since `before`, and what came is published. Gives when the first of
/// these tokens is due, in Unix milliseconds.
async fn refreshed(sites: &[Site], before: u64) -> u64 {
    for site in sites {
        wait_for("a refresh of all", PATIENCE, || async {
            let times = site.times();
            let all = times.iter().all(|times| times.last() > Some(&before));
            if all { Ok(()) } else { Err(format!("{times:?}")) }
        })
        .await
        .unwrap();
        for vendor in Vendor::ALL {
            wait_for("the token to be published", PATIENCE, || async {
                let held = site.world.data(&object(vendor), "token").await.unwrap();
                let issued = site.world.simulator.validate(vendor, &held).issued_ms;
                if issued > before { Ok(()) } else { Err(issued) }
            })
            .await
            .unwrap();
        }
    }
    let last = sites
        .iter()
        .flat_map(Site::times)
        .filter_map(|times| times.last().copied());
    last.min().unwrap() + milliseconds(PERIOD)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_vendor_is_asked_while_the_api_server_is_away() {
    let plane = plane_of_its_own().await;
    let sites = [
        Site::new(plane, "with-election", "--leader-elect=true").await,
        Site::new(plane, "without-election", "--leader-elect=false").await,
    ];
    let mut started = Vec::new();
    for site in &sites {
        all_right(&site.world, &Vendor::ALL).await;
        started.push(site.started().await);
    }

    for how in ["stopped", "frozen", "killed"] {
        let due = refreshed(&sites, now()).await;
        let wait = due.saturating_sub(now() + milliseconds(BEFORE_DUE));
        tokio::time::sleep(Duration::from_millis(wait)).await;
        match how {
            "stopped" => plane.stop_api_server().await,
            "killed" => plane.kill_api_server().await,
            _ => plane.freeze_api_server().unwrap(),
        }
        let (gone, since) = (now(), Instant::now());
        while since.elapsed() < AWAY_FOR {
            for site in &sites {
                site.asks_nobody_since(gone, how);
                site.is_live(how).await;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let back = Instant::now();
        match how {
            "frozen" => plane.thaw_api_server().unwrap(),
            _ => plane.start_api_server().await.unwrap(),
        }
        for site in &sites {
            all_right(&site.world, &Vendor::ALL).await;
            println!(
                "{}, {how}: all targets are right {:?} after",
                site.name,
                back.elapsed()
            );
        }
        for site in &sites {
            site.asked_once_a_period(gone, how);
            site.is_live("afterwards").await;
        }
    }
    for (site, started) in sites.iter().zip(started) {
        assert_eq!(site.started().await, started, "{} was restarted", site.name);
        assert_eq!(site.world.simulator.violations(), []);
    }
}

/// The most calls of a kind in so many seconds of silence, where `objects` are reconciled. One call of each of them may
/// be under way at the first failure of its kind.
fn allowed(kind: Kind, seconds: f64, objects: usize) -> usize {
    match kind {
        Kind::Question => most(seconds, &PAUSES),
        Kind::WatchOfSecrets | Kind::WatchOfVendorTokens => most(seconds, &PAUSES_OF_WATCHES),
        Kind::ReadSecret | Kind::WriteSecret | Kind::WriteStatus => objects + most(seconds, &PAUSES),
        // One tells of a status that was written just before.
        Kind::Event => objects,
    }
}

/// A token of one of many VendorTokens that wait for a budget of six requests a minute.
async fn waits_for_the_api_server(breakage: Breakage) {
    /// One in flight is left out of the first minute, so these are asked for at once.
    const FIRST: u64 = 5;
    const WAITING: usize = 8;
    /// The slots of the first ones come free within this time.
    const AWAY: Duration = Duration::from_secs(75);
    let what = format!("{breakage:?}");
    let world = World::on(everywhere().await, "queue", lives(3600)).await;
    let proxy = ApiProxy::start(world.plane).await.unwrap();
    let kubeconfig = world.plane.kubeconfig_through(&proxy, OPERATOR, OPERATOR);
    // Nothing but the silence of the API server holds them: there is no Lease to lose.
    let flags = ["--rate-limit=SixMap=6", "--leader-elect=false"];
    let program = world.start_as(&kubeconfig.await.unwrap(), OPERATOR, &flags).await;
    program.wait_until_ready().await;
    let names: Vec<String> = (0..WAITING).map(|number| format!("waits-{number}")).collect();
    for name in &names {
        let account = Account::new(Vendor::SixMap, name, &format!("{name} secret"));
        world.create_with(name, &account).await;
    }
    let first = world.simulator.wait_for_calls(Vendor::SixMap, FIRST, PATIENCE);
    assert!(first.await, "{what}: no call");

    // The others have been asked for: their credentials are read, and they wait for nothing but their slots.
    let broken = proxy.break_calls(Calls::all(), breakage);
    let (gone, since) = (now(), Instant::now());
    while since.elapsed() < AWAY {
        let begun = begun_after(gone, AWAY, &times(&world, Vendor::SixMap));
        assert!(begun.is_empty(), "{what}: {begun:?}, gone at {gone}");
        let (status, text) = get(program.probes, "/livez").await.unwrap();
        assert_eq!(status, 200, "{what}: {text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let waiting = WAITING - times(&world, Vendor::SixMap).len();
    assert!(waiting > 0, "{what}: nobody waited");
    let calls = broken.calls();
    // The clock of this test was read a moment after the API server went.
    let seconds = since.elapsed().as_secs_f64() + 1.0;
    count(&what, &calls, |kind| allowed(kind, seconds, WAITING));

    proxy.mend();
    let back = Instant::now();
    for name in &names {
        wait_for(&format!("{what}: {name}"), PATIENCE * 2, || async {
            world.data(name, "token").await.ok_or("no token")
        })
        .await
        .unwrap();
    }
    println!("{what}: all are served {:?} after", back.elapsed());
    assert_eq!(world.all_calls(), WAITING as u64, "{what}");
    assert_eq!(world.simulator.violations(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_slot_is_not_sent_while_the_api_server_is_away() {
    join_all([Breakage::Reset, Breakage::Hang].map(waits_for_the_api_server)).await;
}
