//! A hundred VendorTokens on one budget that the vendor enforces, also over restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, stream};
use kube::api::ListParams;
use test_support::wait_for;
use vendor_simulator::{Budget, Credential, Effect, Fault, Options, Vendor};

use crate::support::{Operator, World, summary};
use crate::vendors::{self, credentials_of};

const COUNT: usize = 100;
/// Three times Mapiq's, so that a hundred take about two minutes.
const A_MINUTE: u32 = 60;
/// These VendorTokens' tokens live so many seconds: each is refreshed while others wait for their first one.
const SHORT: usize = 8;
const SHORT_LIFE: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(240);

fn object(number: usize) -> String {
    format!("mapiq-{number:03}")
}

impl World {
    async fn create_distinct(&self, number: usize) {
        let name = object(number);
        let secret = format!("secret-of-{name}");
        self.simulator
            .put_credential(Vendor::Mapiq, Credential::new(&name, &secret));
        self.credentials(
            &credentials_of(&name),
            &vendors::data(Vendor::Mapiq, &name, &secret),
        )
        .await;
        self.apply(&name, vendors::spec(Vendor::Mapiq, &name)).await;
    }

    async fn until_published(&self, count: usize) {
        wait_for(&format!("{count} published"), PATIENCE, || async {
            let tokens = self.tokens().list(&ListParams::default()).await;
            let tokens = tokens.map_err(|error| error.to_string())?.items;
            let published = tokens
                .iter()
                .filter(|token| summary(token) == "True Published")
                .count();
            if published >= count {
                Ok(())
            } else {
                Err(format!("{published}"))
            }
        })
        .await
        .unwrap();
    }

    fn assert_never_throttled(&self) {
        let total = self.simulator.total(Vendor::Mapiq);
        assert_eq!(total.by_status.get(&429), None, "{total:?}");
    }
}

fn series(operator: &Operator, name: &str) -> f64 {
    let text = operator.metrics.encode().unwrap();
    let line = format!(r#"{name}{{vendor="Mapiq"}} "#);
    let value = text.lines().find_map(|found| found.strip_prefix(&line));
    value
        .unwrap_or_else(|| panic!("{name} in {text}"))
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_on_one_budget_are_never_answered_429_also_when_the_operator_is_killed_and_stopped() {
    let budget = Budget {
        requests: A_MINUTE,
        ..Budget::MAPIQ
    };
    let mut world = World::with("budget", Options::default().budget(Vendor::Mapiq, budget)).await;
    world
        .rate_limits
        .insert(vendor_token_operator::providers::Vendor::Mapiq, A_MINUTE);
    let world = &world;
    for number in 0..SHORT {
        let seconds = i64::try_from(SHORT_LIFE).unwrap();
        let short = Fault::new(Vendor::Mapiq, Effect::Lifetime { seconds });
        world.simulator.add_fault(short.credential(object(number)));
    }
    stream::iter(0..COUNT)
        .for_each_concurrent(16, |number| world.create_distinct(number))
        .await;

    // Killed as far as a task can be: it decides and writes no more, and what it had in flight is lost.
    let operator = world.operator().await;
    world.until_published(25).await;
    drop(operator);
    let operator = world.operator().await;
    world.until_published(50).await;
    operator.stop().await;
    world.assert_never_throttled();
    let operator = world.operator().await;
    world.until_published(COUNT).await;
    operator.quiet().await;
    world.assert_never_throttled();

    // No token ended before the next one came.
    let mut times: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for call in world.simulator.calls() {
        assert_eq!(call.status, Some(200), "{call:?}");
        times
            .entry(call.credential.unwrap())
            .or_default()
            .push(call.time_ms);
    }
    assert_eq!(times.len(), COUNT);
    let calls: usize = times.values().map(Vec::len).sum();
    for number in 0..SHORT {
        let gaps: Vec<u64> = times[&object(number)]
            .windows(2)
            .map(|two| two[1] - two[0])
            .collect();
        assert!(
            gaps.iter().all(|gap| *gap < SHORT_LIFE * 1000),
            "{number}: {gaps:?}"
        );
    }
    let times: Vec<u64> = world.simulator.calls().iter().map(|call| call.time_ms).collect();
    let seconds = (times.iter().max().unwrap() - times.iter().min().unwrap()) / 1000;
    println!("{calls} requests in {seconds} s at {A_MINUTE} a minute");

    // A token that lives an hour is due after 75 to 80 % of it, one that lives 100 s after 50 s.
    assert_eq!(
        series(&operator, "vendortoken_vendor_budget_per_minute"),
        f64::from(A_MINUTE)
    );
    let required = series(&operator, "vendortoken_vendor_budget_required_per_minute");
    let long = (COUNT - SHORT) as f64 * 60.0;
    let short = SHORT as f64 * 60.0 / 50.0;
    assert!(
        (short + long / 2880.0..=short + long / 2700.0).contains(&required),
        "{required}"
    );
    operator.stop().await;
}
