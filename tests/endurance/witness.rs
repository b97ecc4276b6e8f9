//! Looks at targets from beside the operator, all the time, and judges them by the vendors' own ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::ListParams;
use test_support::wait_for;
use tokio::task::JoinHandle;
use vendor_simulator::{Simulator, Vendor};
use vendor_token_operator::api::VendorToken;

pub(crate) use crate::world::vendors::object;
use crate::world::{Account, PATIENCE, World, summary};

const SAMPLE_EVERY: Duration = Duration::from_millis(250);

/// Makes a VendorToken for each of these vendors.
pub(crate) async fn create(world: &World, vendors: &[Vendor]) {
    for &vendor in vendors {
        let name = object(vendor);
        world
            .create_with(&name, &Account::new(vendor, &name, &format!("{name} secret")))
            .await;
    }
}

/// Waits until the targets of these vendors' VendorTokens hold valid tokens and are called so.
pub(crate) async fn all_right(world: &World, vendors: &[Vendor]) {
    for &vendor in vendors {
        let name = object(vendor);
        wait_for(&format!("{name} to be right"), PATIENCE, || async {
            let token = world
                .tokens()
                .get(&name)
                .await
                .map_err(|error| error.to_string())?;
            let ready = summary(&token);
            let held = world.data(&name, "token").await.unwrap_or_default();
            let is_valid = world.simulator.validate(vendor, &held).valid;
            if ready == "True Published" && is_valid {
                Ok(())
            } else {
                Err(format!("{ready}, valid: {is_valid}"))
            }
        })
        .await
        .unwrap();
    }
}

/// What a target held at one time.
#[derive(Clone, Debug)]
struct Held {
    token: String,
    expires_ms: i64,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    held: BTreeMap<String, Held>,
    /// Times at which a target was looked at.
    pub(crate) samples: u64,
    /// Different tokens that targets held.
    pub(crate) tokens: BTreeMap<String, u64>,
    /// The least that any token had left when it was seen or replaced, in milliseconds.
    pub(crate) least_left_ms: Option<i64>,
    /// Targets with an expired token, and since when.
    pub(crate) expired: BTreeSet<String>,
    /// VendorTokens that were not Ready.
    pub(crate) not_ready: BTreeSet<String>,
}

impl Seen {
    fn left(&mut self, name: &str, milliseconds: i64, when: &str) {
        let least = self.least_left_ms.get_or_insert(milliseconds);
        *least = (*least).min(milliseconds);
        if milliseconds <= 0 {
            self.expired
                .insert(format!("{name} {when}, {} ms too late", -milliseconds));
        }
    }

    fn take(&mut self, secret: &Secret, simulator: &Simulator, now_ms: i64) {
        let name = secret.metadata.name.clone().unwrap_or_default();
        let Some(vendor) = Vendor::ALL.into_iter().find(|vendor| object(*vendor) == name) else {
            return;
        };
        let data = secret.data.as_ref().and_then(|data| data.get("token")).unwrap();
        let token = String::from_utf8(data.0.clone()).unwrap();
        let truth = simulator.validate(vendor, &token);
        assert!(truth.known, "{name} holds what no vendor issued");
        let expires_ms = i64::try_from(truth.expires_ms).unwrap();
        self.samples += 1;
        // Judged at the time before it was asked for: what was read was there then, or came later.
        self.left(&name, expires_ms - now_ms, "seen");
        if let Some(before) = self.held.get(&name)
            && before.token != token
        {
            // Also what could not be seen while the API server was away. Whole seconds, rounded down.
            let written = secret
                .metadata
                .managed_fields
                .iter()
                .flatten()
                .filter_map(|entry| entry.time.as_ref())
                .map(|time| time.0.as_millisecond())
                .max();
            let expired = before.expires_ms;
            self.left(&name, expired - written.unwrap(), "replaced");
        }
        if self.held.get(&name).is_none_or(|before| before.token != token) {
            *self.tokens.entry(name.clone()).or_default() += 1;
        }
        self.held.insert(name, Held { token, expires_ms });
    }
}

/// Samples the targets of a world until it is dropped.
pub(crate) struct Witness {
    seen: Arc<Mutex<Seen>>,
    stopped: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Witness {
    pub(crate) fn of(world: Arc<World>) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let stopped = Arc::<AtomicBool>::default();
        let task = tokio::spawn(sample(world, Arc::clone(&seen), Arc::clone(&stopped)));
        Self { seen, stopped, task }
    }

    /// Ends it, and gives what it saw.
    pub(crate) async fn ends(self) -> Seen {
        self.stopped.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    /// A message of what is wrong so far.
    pub(crate) fn complaint(&self) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        (!seen.expired.is_empty()).then(|| format!("{:?}", seen.expired))
    }
}

async fn sample(world: Arc<World>, seen: Arc<Mutex<Seen>>, stopped: Arc<AtomicBool>) {
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=vendor-token-operator");
    let tokens: Api<VendorToken> = world.tokens();
    while !stopped.load(Ordering::SeqCst) {
        let now_ms = Timestamp::now().as_millisecond();
        let limit = Duration::from_secs(2);
        let secrets = world.secrets();
        // While the API server is away, nobody can read or write a target either.
        if let Ok(Ok(list)) = tokio::time::timeout(limit, secrets.list(&ours)).await {
            let mut seen = seen.lock().unwrap();
            for secret in &list.items {
                seen.take(secret, &world.simulator, now_ms);
            }
        }
        if let Ok(Ok(list)) = tokio::time::timeout(limit, tokens.list(&Default::default())).await {
            let mut seen = seen.lock().unwrap();
            for token in &list.items {
                let ready = summary(token);
                if !ready.starts_with("True") {
                    let name = token.metadata.name.clone().unwrap_or_default();
                    seen.not_ready.insert(format!("{name}: {ready}"));
                }
            }
        }
        tokio::time::sleep(SAMPLE_EVERY).await;
    }
}
