//! The API server is away for longer than a refresh period.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use test_support::{ApiProxy, Breakage, Calls, wait_for};
use vendor_simulator::Vendor;

use crate::support::{Account, OPERATOR, Operator, PATIENCE, World, get};
use crate::witness::{all_right, create, lives, object, plane_of_its_own, world};

const LIFE: u64 = 60;
/// A token that lives a minute is due after half of it.
const PERIOD: Duration = Duration::from_secs(LIFE / 2);
/// How long before tokens are due the API server goes: less than the 10 s for which a leader may act without it.
const BEFORE_DUE: Duration = Duration::from_secs(8);
const AWAY_FOR: Duration = Duration::from_secs(LIFE / 2 + 15);

struct Site {
    name: &'static str,
    world: Arc<World>,
    operator: Operator,
}

impl Site {
    async fn new(plane: &'static test_support::ControlPlane, name: &'static str, flag: &str) -> Self {
        let world = Arc::new(World::on(plane, name, lives(LIFE)).await);
        let operator = world.operator_with(&[flag]).await;
        create(&world, &Vendor::ALL).await;
        Self {
            name,
            world,
            operator,
        }
    }

    fn calls(&self) -> Vec<u64> {
        Vendor::ALL
            .into_iter()
            .map(|vendor| self.world.simulator.total(vendor).calls)
            .collect()
    }

    async fn is_live(&self, when: &str) {
        let (status, text) = get(self.operator.probes, "/livez").await.unwrap();
        assert_eq!(status, 200, "{} {when}: {text}", self.name);
    }

    /// When the process started, by its own metric.
    async fn started(&self) -> String {
        let text = self.operator.metrics().await;
        let line = text
            .lines()
            .find(|line| line.starts_with("process_start_time_seconds"));
        line.unwrap().to_owned()
    }
}

/// Waits until each vendor of each site has been asked since `before`, and what came is published.
async fn refreshed(sites: &[Site], before: &[Vec<u64>]) {
    for (site, before) in sites.iter().zip(before) {
        wait_for("a refresh of all", PATIENCE, || async {
            let now = site.calls();
            let all = now.iter().zip(before).all(|(now, before)| now > before);
            if all { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await
        .unwrap();
        for vendor in Vendor::ALL {
            wait_for("the newest token to be published", PATIENCE, || async {
                let held = site.world.data(&object(vendor), "token").await.unwrap();
                let truth = site.world.simulator.validate(vendor, &held);
                let age = jiff::Timestamp::now().as_millisecond() - i64::try_from(truth.issued_ms).unwrap();
                if age < 15_000 { Ok(()) } else { Err(age) }
            })
            .await
            .unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_vendor_is_asked_while_the_api_server_is_away_and_each_once_when_it_is_back() {
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
        let before: Vec<_> = sites.iter().map(Site::calls).collect();
        refreshed(&sites, &before).await;
        tokio::time::sleep(PERIOD - BEFORE_DUE).await;
        match how {
            "stopped" => plane.stop_api_server().await,
            "killed" => plane.kill_api_server().await,
            _ => plane.freeze_api_server().unwrap(),
        }
        let gone: Vec<_> = sites.iter().map(Site::calls).collect();
        let since = Instant::now();
        while since.elapsed() < AWAY_FOR {
            for (site, gone) in sites.iter().zip(&gone) {
                assert_eq!(&site.calls(), gone, "{} asks, {how}", site.name);
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
        for (site, gone) in sites.iter().zip(&gone) {
            let asked: Vec<_> = site
                .calls()
                .iter()
                .zip(gone)
                .map(|(now, gone)| now - gone)
                .collect();
            println!("{}, {how}: calls by vendor since: {asked:?}", site.name);
            assert!(
                asked.iter().all(|asked| *asked <= 1),
                "{}, {how}: {asked:?}",
                site.name
            );
            site.is_live("afterwards").await;
        }
    }
    for (site, started) in sites.iter().zip(started) {
        assert_eq!(site.started().await, started, "{} was restarted", site.name);
        assert_eq!(site.world.simulator.violations(), []);
    }
}

/// A token of one of many VendorTokens that wait for a budget of six requests a minute.
async fn waits_for_the_api_server(breakage: Breakage) {
    const WAITING: usize = 6;
    const SLOT: Duration = Duration::from_secs(10);
    let what = format!("{breakage:?}");
    let world = world("queue", 3600).await;
    let proxy = ApiProxy::start(world.plane).await.unwrap();
    let kubeconfig = world.plane.kubeconfig_through(&proxy, OPERATOR, OPERATOR);
    let flags = ["--rate-limit=SixMap=6"];
    let operator = world.start_as(&kubeconfig.await.unwrap(), OPERATOR, &flags).await;
    operator.wait_until_ready().await;
    let names: Vec<String> = (0..WAITING).map(|number| format!("waits-{number}")).collect();
    for name in &names {
        let account = Account::new(Vendor::SixMap, name, &format!("{name} secret"));
        world.create(name, &account).await;
    }
    let first = world.simulator.wait_for_calls(Vendor::SixMap, 2, PATIENCE);
    assert!(first.await, "{what}: no call");

    // The others have been asked for: their credentials are read, and they wait for nothing but their slots.
    let broken = proxy.break_calls(Calls::all(), breakage);
    let gone = world.calls();
    let since = Instant::now();
    while since.elapsed() < SLOT * 3 {
        assert_eq!(world.calls(), gone, "{what}, after {:?}", since.elapsed());
        let (status, text) = get(operator.probes, "/livez").await.unwrap();
        assert_eq!(status, 200, "{what}: {text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let asked = broken.count();
    println!("{what}: {asked} calls to the API server in {:?}", since.elapsed());
    assert!(asked < 100, "{what}: it is hammered with {asked} calls");

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
    assert_eq!(world.calls(), WAITING as u64, "{what}");
    assert_eq!(world.simulator.violations(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_slot_is_not_sent_while_the_api_server_is_away() {
    join_all([Breakage::Reset, Breakage::Hang].map(waits_for_the_api_server)).await;
}
