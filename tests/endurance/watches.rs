//! Each watch broken on its own, in every way that it can be. There are two: of VendorTokens, and of Secrets, which tells
//! of targets and of credentials.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use jiff::Timestamp;
use test_support::{ApiProxy, Breakage, Calls, wait_for};
use vendor_simulator::Vendor;

use crate::ledger::{now, shorter_than, times};
use crate::witness::{Witness, all_right, create, object};
use crate::world::installation::everywhere;
use crate::world::process::get;
use crate::world::{Account, OPERATOR, PATIENCE, Program, Running as _, World, lives};

const LIFE: u64 = 40;
/// A token that lives 40 s is due after half of it.
const PERIOD: Duration = Duration::from_secs(LIFE / 2);
const VENDORS: [Vendor; 2] = [Vendor::SixMap, Vendor::Picus];
/// What a watch was told before it broke has been heard by then.
const ON_ITS_WAY: Duration = Duration::from_secs(10);
/// A task of a watch counts as stuck when it has not tried again for this long.
const WATCH_LIMIT: Duration = Duration::from_secs(330);

/// An operator whose calls go through a proxy.
struct Site {
    world: Arc<World>,
    proxy: ApiProxy,
    program: Program,
}

impl Site {
    async fn new(prefix: &str, seconds: u64) -> Self {
        let world = World::on(everywhere().await, prefix, lives(seconds)).await;
        let world = Arc::new(world);
        let proxy = ApiProxy::start(world.plane).await.unwrap();
        let kubeconfig = world.plane.kubeconfig_through(&proxy, OPERATOR, OPERATOR);
        let program = world.start_as(&kubeconfig.await.unwrap(), OPERATOR, &[]).await;
        program.wait_until_ready().await;
        Self {
            world,
            proxy,
            program,
        }
    }

    /// A sample of the operator's metrics, 0 where there is none.
    async fn sample(&self, metric: &str, watch: &str) -> f64 {
        let series = format!("{metric}{{watch=\"{watch}\"}}");
        self.program.samples().await.sum(&series)
    }

    async fn failures(&self, watch: &str) -> f64 {
        self.sample("vendortoken_watch_failures_total", watch).await
    }

    /// When the watch last heard something, in Unix seconds.
    async fn heard(&self, watch: &str) -> f64 {
        self.sample("vendortoken_watch_last_event_timestamp_seconds", watch)
            .await
    }

    /// Waits until a watch has heard something since a time, in Unix seconds.
    async fn back_of(&self, watch: &str, since: f64) {
        wait_for(&format!("the watch of {watch} to be back"), PATIENCE, || async {
            let heard = self.heard(watch).await;
            if heard > since { Ok(()) } else { Err(heard) }
        })
        .await
        .unwrap();
    }
}

#[derive(Clone, Copy)]
struct Case {
    watch: &'static str,
    name: &'static str,
    breakage: Breakage,
    /// Lists are broken too.
    lists: bool,
    lasts: Duration,
}

impl Case {
    async fn hold(self) {
        let Self {
            watch,
            name,
            breakage,
            lists,
            lasts,
        } = self;
        let what = format!("{watch}, {name}");
        let other = if watch == "secrets" {
            "vendortokens"
        } else {
            "secrets"
        };
        let site = Site::new(&format!("{watch}-{name}"), LIFE).await;
        create(&site.world, &VENDORS).await;
        all_right(&site.world, &VENDORS).await;
        let witness = Witness::of(Arc::clone(&site.world));
        let (failures, other_failures) = (site.failures(watch).await, site.failures(other).await);

        let which = if lists {
            Calls::lists_and_watches_of(watch)
        } else {
            Calls::watches_of(watch)
        };
        let broken = site.proxy.break_calls(which, breakage);
        let broken_at = Timestamp::now().as_second() as f64;
        let since = Instant::now();
        let mut heard_at_first = 0.0;
        while since.elapsed() < lasts {
            if since.elapsed() < ON_ITS_WAY {
                heard_at_first = site.heard(watch).await;
            }
            let (status, text) = get(site.program.probes, "/livez").await.unwrap();
            assert_eq!(status, 200, "{what}, after {:?}: {text}", since.elapsed());
            assert_eq!(witness.complaint(), None, "{what}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }

        // Refreshes went on, each when it was due.
        for vendor in VENDORS {
            let mut times = times(&site.world, vendor);
            println!("{what}: {vendor:?} was asked at {times:?}");
            assert!(shorter_than(PERIOD, &times).is_empty(), "{what}: {vendor:?}");
            times.push(now());
            let longest = times.windows(2).map(|two| two[1] - two[0]).max();
            assert!(longest < Some(LIFE * 1_000), "{what}: {vendor:?}: {times:?}");
        }
        // The metric tells which watch it is.
        let (failed, heard) = (site.failures(watch).await - failures, site.heard(watch).await);
        let other_heard = site.heard(other).await;
        println!(
            "{what}: {failed} failures, {} calls broken, heard {} s after the break, the other {} s",
            broken.count(),
            heard - broken_at,
            other_heard - broken_at,
        );
        if breakage == Breakage::Silence {
            // It has heard nothing since; a silence that is found out ends with a new list.
            assert!(lasts > WATCH_LIMIT || heard == heard_at_first, "{what}");
        } else {
            assert!(failed >= 3.0, "{what}: {failed} failures are told");
        }
        if [Breakage::Told(410), Breakage::Status(410)].contains(&breakage) {
            assert!(heard > broken_at + 10.0, "{what}: it is not listed anew");
        }
        assert_eq!(site.failures(other).await, other_failures, "{what}");
        assert!(other_heard > heard || !lists, "{what}: {other_heard}, {heard}");
        // It is tried again, with pauses that grow.
        let tries = broken.count();
        let most = 8 + 2 * since.elapsed().as_secs() / 15;
        let least = if breakage == Breakage::Silence { 0 } else { 3 };
        assert!((least..=most).contains(&tries), "{what}: tried {tries} times");

        // When it is whole again, changes are seen again.
        site.proxy.mend();
        let mended_at = Timestamp::now().as_second() as f64;
        // It is not refreshed, so that nothing but the watch tells of its target.
        site.world.simulator.set_lifetime(Vendor::Mapiq, 3_600);
        create(&site.world, &[Vendor::Mapiq]).await;
        all_right(&site.world, &[Vendor::Mapiq]).await;
        site.back_of(watch, mended_at).await;
        let repaired = object(Vendor::Mapiq);
        site.world.delete_secret(&repaired).await;
        wait_for(&format!("{what}: a repair"), PATIENCE, || async {
            site.world.data(&repaired, "token").await.ok_or("absent")
        })
        .await
        .unwrap();
        assert_eq!(site.world.calls(Vendor::Mapiq), 1, "{what}");
        let seen = witness.ends().await;
        assert_eq!(seen.expired, Default::default(), "{what}");
        assert_eq!(site.world.simulator.violations(), [], "{what}");
    }
}

fn cases(watch: &'static str) -> Vec<Case> {
    let three_periods = PERIOD * 3 + Duration::from_secs(5);
    let case = |name, breakage, lists| Case {
        watch,
        name,
        breakage,
        lists,
        lasts: three_periods,
    };
    vec![
        case("refused", Breakage::Status(403), true),
        case("watch-refused", Breakage::Status(403), false),
        case("failing", Breakage::Status(500), true),
        case("reset", Breakage::Reset, true),
        case("silent", Breakage::Silence, false),
        case("gone", Breakage::Told(410), false),
        case("gone-at-once", Breakage::Status(410), false),
        case("ended", Breakage::End, false),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshes_go_on_while_the_watch_of_vendor_tokens_is_broken() {
    join_all(cases("vendortokens").into_iter().map(Case::hold)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshes_go_on_while_the_watch_of_secrets_is_broken() {
    join_all(cases("secrets").into_iter().map(Case::hold)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_broken_for_long_does_not_make_the_process_look_dead() {
    let lasts = WATCH_LIMIT + Duration::from_secs(15);
    let case = |watch, name, breakage, lists| Case {
        watch,
        name,
        breakage,
        lists,
        lasts,
    };
    let cases = [
        case("secrets", "long-refused", Breakage::Status(403), true),
        case("vendortokens", "long-refused", Breakage::Status(403), true),
        case("secrets", "long-silent", Breakage::Silence, false),
    ];
    join_all(cases.map(Case::hold)).await;
}

/// A token that is good for long, so that nothing but a look at its Secrets tells that anything is wrong.
async fn published_for_long(prefix: &str) -> Site {
    let site = Site::new(prefix, 3600).await;
    create(&site.world, &VENDORS).await;
    all_right(&site.world, &VENDORS).await;
    site
}

async fn refuse_secrets(site: &Site) {
    let broken = site
        .proxy
        .break_calls(Calls::lists_and_watches_of("secrets"), Breakage::Status(403));
    wait_for("the refusal to be met", PATIENCE, || async {
        if broken.count() > 0 {
            Ok(())
        } else {
            Err("not met")
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_watch_told_before_it_was_refused_is_not_believed() {
    let site = published_for_long("stale").await;
    refuse_secrets(&site).await;
    // Nobody tells; it shows when the object is looked at, which happens every 5 minutes at least.
    let deleted = object(Vendor::Picus);
    site.world
        .secrets()
        .delete(&deleted, &Default::default())
        .await
        .unwrap();
    let rotated = object(Vendor::SixMap);
    let account = Account::new(Vendor::SixMap, &rotated, "rotated");
    site.world
        .simulator
        .put_credential(Vendor::SixMap, account.credential());
    site.world
        .credentials(&format!("{rotated}-credentials"), &account.data())
        .await;
    for name in [&deleted, &rotated] {
        site.world.poke(name).await;
    }

    wait_for("the target to be made again", PATIENCE, || async {
        site.world.data(&deleted, "token").await.ok_or("absent")
    })
    .await
    .unwrap();
    assert_eq!(site.world.simulator.total(Vendor::Picus).calls, 1, "from memory");
    wait_for("the new credentials to be used", PATIENCE, || async {
        let calls = site.world.simulator.total(Vendor::SixMap).calls;
        if calls == 2 { Ok(()) } else { Err(calls) }
    })
    .await
    .unwrap();
    all_right(&site.world, &VENDORS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_watch_told_is_not_believed_after_a_minute_of_failures() {
    let site = published_for_long("failing").await;
    let secrets = Calls::lists_and_watches_of("secrets");
    site.proxy.break_calls(secrets, Breakage::Status(500));
    let deleted = object(Vendor::Picus);
    site.world
        .secrets()
        .delete(&deleted, &Default::default())
        .await
        .unwrap();
    let since = Instant::now();
    let limit = Duration::from_secs(150);
    wait_for("the target to be made again", limit, || async {
        site.world.poke(&deleted).await;
        // Looks that come faster than they end would only queue up.
        tokio::time::sleep(Duration::from_secs(2)).await;
        site.world.data(&deleted, "token").await.ok_or("absent")
    })
    .await
    .unwrap();
    println!("made again after {:?}", since.elapsed());
    assert_eq!(site.world.simulator.total(Vendor::Picus).calls, 1, "from memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_a_watch_was_refused_is_seen_when_it_is_back() {
    let site = published_for_long("back").await;
    refuse_secrets(&site).await;
    let deleted = object(Vendor::Picus);
    site.world
        .secrets()
        .delete(&deleted, &Default::default())
        .await
        .unwrap();
    let mended_at = Timestamp::now().as_second() as f64;
    site.proxy.mend();
    wait_for("the target to be made again", PATIENCE, || async {
        site.world.data(&deleted, "token").await.ok_or("absent")
    })
    .await
    .unwrap();
    assert_eq!(site.world.simulator.total(Vendor::Picus).calls, 1, "from memory");

    // It is believed again: nothing is read by name any more.
    site.back_of("secrets", mended_at).await;
    let mark = site.world.plane.audit().mark().await.unwrap();
    let looked = site.program.count("vendortoken_reconcile_total").await;
    site.world.poke(&deleted).await;
    wait_for("a look at it", PATIENCE, || async {
        let now = site.program.count("vendortoken_reconcile_total").await;
        if now > looked { Ok(()) } else { Err(now) }
    })
    .await
    .unwrap();
    let asked = site.world.requests_since(mark).await;
    assert_eq!(asked.by_verb_and_resource(), Default::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_on_which_nothing_happens_shows_that_it_is_there() {
    let site = Site::new("quiet", 3600).await;
    for watch in ["vendortokens", "secrets"] {
        let before = site.heard(watch).await;
        // The API server's sign, once a minute or so.
        wait_for(
            &format!("a sign of {watch}"),
            Duration::from_secs(150),
            || async {
                let heard = site.heard(watch).await;
                if heard > before { Ok(()) } else { Err(heard) }
            },
        )
        .await
        .unwrap();
        println!("{watch}: {} s after its list", site.heard(watch).await - before);
        assert_eq!(site.failures(watch).await, 0.0);
    }
}
