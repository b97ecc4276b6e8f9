//! A hundred VendorTokens on Mapiq's own limit, which the vendor enforces, with the program killed and stopped meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, stream};
use vendor_simulator::{Budget, Effect, Fault, Options, Vendor};

use crate::world::installation::everywhere;
use crate::world::{Account, Program, Running as _, World};

const COUNT: usize = 100;
/// These VendorTokens' tokens live so many seconds: each is refreshed while others wait for their first one.
const SHORT: usize = 4;
const SHORT_LIFE: u64 = 120;
/// A hundred on 20 a minute take five minutes, and each start leaves a part of a minute out.
const PATIENCE: Duration = Duration::from_secs(600);
const MAPIQS_LIMIT: [&str; 1] = ["--rate-limit=Mapiq=20"];

fn object(number: usize) -> String {
    format!("mapiq-{number:03}")
}

/// The metrics tell the limit, and what all these VendorTokens need of it: a token that lives an hour is due after 75 to
/// 80 % of it, one that lives two minutes after half of it.
async fn the_need_is_told(program: &Program) {
    let samples = program.samples().await;
    let of_mapiq = |metric: &str| samples.one(&format!(r#"{metric}{{vendor="Mapiq"}}"#));
    assert_eq!(of_mapiq("vendortoken_vendor_budget_per_minute"), 20.0);
    let required = of_mapiq("vendortoken_vendor_budget_required_per_minute");
    let long = (COUNT - SHORT) as f64 * 60.0;
    let short = SHORT as f64 * 60.0 / (SHORT_LIFE / 2) as f64;
    assert!(
        (short + long / 2880.0..=short + long / 2700.0).contains(&required),
        "{required}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_on_mapiqs_limit_are_never_answered_429_over_two_restarts() {
    let options = Options::default().budget(Vendor::Mapiq, Budget::MAPIQ);
    let world = World::on(everywhere().await, "mapiqs-limit", options).await;
    let world = &world;
    for number in 0..SHORT {
        let seconds = i64::try_from(SHORT_LIFE).unwrap();
        let short = Fault::new(Vendor::Mapiq, Effect::Lifetime { seconds });
        world.simulator.add_fault(short.credential(object(number)));
    }
    stream::iter(0..COUNT)
        .for_each_concurrent(8, |number| async move {
            let name = object(number);
            let account = Account::new(Vendor::Mapiq, &name, &format!("secret-of-{name}"));
            world.create_with(&name, &account).await;
        })
        .await;

    let program = world.program_with(&MAPIQS_LIMIT).await;
    world.until_published(30, PATIENCE).await;
    program.kill().await;
    let program = world.program_with(&MAPIQS_LIMIT).await;
    world.until_published(60, PATIENCE).await;
    program.stop().await;
    let program = world.program_with(&MAPIQS_LIMIT).await;
    world.until_published(COUNT, PATIENCE).await;
    the_need_is_told(&program).await;

    let calls = world.simulator.calls();
    let mut times: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for call in &calls {
        assert_eq!(call.status, Some(200), "{call:?}");
        let credential = call.credential.clone().unwrap();
        times.entry(credential).or_default().push(call.time_ms);
    }
    assert_eq!(times.len(), COUNT);
    for number in 0..SHORT {
        let gaps: Vec<u64> = times[&object(number)]
            .windows(2)
            .map(|two| two[1] - two[0])
            .collect();
        assert!(
            gaps.iter().all(|gap| *gap < SHORT_LIFE * 1000),
            "{number}: a token ended before the next one came: {gaps:?}"
        );
    }
    let all = calls.iter().map(|call| call.time_ms);
    let seconds = (all.clone().max().unwrap() - all.min().unwrap()) / 1000;
    println!("{} requests in {seconds} s at 20 a minute", calls.len());
}
