//! A workload that reads its tokens all the time, and random numbers for when something happens to it.

#![allow(clippy::print_stdout, reason = "what was measured is told")]

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use kube::api::ListParams;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vendor_token_operator::api::names::MANAGED_BY_LABEL;

use crate::world::{Account, OPERATOR, World};

/// A workload that reads its tokens all the time.
pub(crate) struct Workload {
    stop: oneshot::Sender<()>,
    /// By object and token, when it was last read.
    task: JoinHandle<BTreeMap<(String, String), Timestamp>>,
}

impl Workload {
    /// Reads every 250 ms all targets of this world.
    pub(crate) fn start(world: &World) -> Self {
        let secrets = world.secrets();
        let targets = ListParams::default().labels(&format!("{MANAGED_BY_LABEL}={OPERATOR}"));
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut read = BTreeMap::new();
            let mut turn = tokio::time::interval(Duration::from_millis(250));
            loop {
                tokio::select! {
                    _ = turn.tick() => {}
                    _ = &mut stopped => return read,
                }
                let asked = Timestamp::now();
                for secret in secrets.list(&targets).await.unwrap() {
                    let name = secret.metadata.name.unwrap();
                    let token = secret.data.unwrap().remove("token").unwrap();
                    read.insert((name, String::from_utf8(token.0).unwrap()), asked);
                }
            }
        });
        Self { stop, task }
    }

    /// Ends it; fails where it ever read a token that the vendor took no more. Gives the tokens' names in the ledger.
    pub(crate) async fn was_served(self, world: &World, accounts: &[Account]) -> HashSet<String> {
        self.stop.send(()).unwrap();
        let read = self.task.await.unwrap();
        let mut closest = i64::MAX;
        for account in accounts {
            let tokens: Vec<_> = read.iter().filter(|((name, _), _)| *name == account.id).collect();
            assert!(tokens.len() > 1, "{} was not refreshed", account.id);
            for ((name, token), last) in tokens {
                let validation = world.simulator.validate(account.vendor, token);
                let expires = i64::try_from(validation.expires_ms).unwrap();
                let left = expires - last.as_millisecond();
                assert!(
                    validation.known && left > 0,
                    "{name}, last read at {last}: {validation:?}"
                );
                closest = closest.min(left);
            }
        }
        println!(
            "{} tokens were read; the oldest had {:.1} s left",
            read.len(),
            closest as f64 / 1000.0
        );
        read.keys()
            .map(|(_, token)| vendor_simulator::fingerprint(token.as_bytes()))
            .collect()
    }
}

/// Numbers for random moments; the seed is printed.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new() -> Self {
        let seed = u64::try_from(Timestamp::now().as_microsecond()).unwrap();
        println!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }

    pub(crate) async fn pause(&mut self, limit: Duration) {
        let milliseconds = u64::try_from(limit.as_millis()).unwrap();
        tokio::time::sleep(Duration::from_millis(self.below(milliseconds))).await;
    }
}
