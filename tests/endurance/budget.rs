//! A hundred VendorTokens on Mapiq's own limit, which the vendor enforces, with the program killed and stopped meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, stream};
use kube::api::ListParams;
use test_support::wait_for;
use vendor_simulator::{Budget, Effect, Fault, Options, Vendor};

use crate::support::{Account, World, summary};

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

impl World {
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
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_on_mapiqs_limit_are_never_answered_429_though_the_program_is_killed_and_stopped() {
    let options = Options::default().budget(Vendor::Mapiq, Budget::MAPIQ);
    let world = World::on(crate::support::plane().await, "mapiqs-limit", options).await;
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
            world.create(&name, &account).await;
        })
        .await;

    let operator = world.operator_with(&MAPIQS_LIMIT).await;
    world.until_published(30).await;
    operator.signal("KILL");
    assert_eq!(operator.ended().await.0.code(), Some(137), "128 + SIGKILL");
    let operator = world.operator_with(&MAPIQS_LIMIT).await;
    world.until_published(60).await;
    operator.signal("TERM");
    assert!(operator.ended().await.0.success());
    let _operator = world.operator_with(&MAPIQS_LIMIT).await;
    world.until_published(COUNT).await;

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
