//! One cold start, measured.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Serialize;
use test_support::Error;
use vendor_token_operator::api::{VendorToken, names};

use crate::program::{Program, Running, Settings};
use crate::unready::Unready;
use crate::world::World;
use crate::{processor, requests};

/// For one cold start; also on a busy machine, 10 000 objects at 10 a second.
const PATIENCE: Duration = Duration::from_secs(1200);
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// The figures of one cold start.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    pub(crate) program: Program,
    pub(crate) objects: usize,
    /// From the program's start until the last object is Ready.
    pub(crate) took: Duration,
    /// Requests to the API server by verb and resource.
    pub(crate) requests: BTreeMap<String, u64>,
    pub(crate) vendor_calls: u64,
    /// The mean length of a target Secret in JSON.
    pub(crate) target_bytes: f64,
    /// The mean length of a VendorToken in JSON.
    pub(crate) object_bytes: f64,
    /// Peak resident memory in KiB.
    pub(crate) peak_memory: Option<u64>,
    /// Processor seconds by program.
    pub(crate) processor: BTreeMap<&'static str, f64>,
    /// Seconds that the machine's processors had nothing to do, all together.
    pub(crate) idle: Option<f64>,
}

impl Measurement {
    pub(crate) fn rate(&self) -> f64 {
        self.objects as f64 / self.took.as_secs_f64()
    }

    /// Requests to the API server that write.
    pub(crate) fn writes(&self) -> u64 {
        let reads = ["GET", "LIST", "WATCH"];
        let writes = self.requests.iter().filter(|(request, _)| {
            let verb = request.split(' ').next().unwrap_or_default();
            !reads.contains(&verb)
        });
        writes.map(|(_, count)| count).sum()
    }

    /// Processor seconds of the measured program and of all that served it.
    pub(crate) fn all_processor(&self) -> f64 {
        self.processor.values().sum()
    }

    /// Processor seconds of the measured program itself.
    pub(crate) fn own_processor(&self) -> Option<f64> {
        self.processor.get(MEASURED).copied()
    }
}

/// In [`Measurement::processor`].
const MEASURED: &str = "measured";

/// Starts the program and waits until all objects are Ready.
pub(crate) async fn run(
    world: &mut World,
    program: Program,
    objects: usize,
    settings: &Settings,
) -> Result<Measurement, Error> {
    let mut unready = Unready::watch(&world.client, objects).await?;
    let requests_before = requests::counted(&world.client).await?;
    let servers_before = processor_of_servers(world);
    let idle_before = processor::idle_seconds();

    let started = Instant::now();
    let mut running = Running::start(program, world, settings).await?;
    loop {
        match tokio::time::timeout(CHECK_EVERY, unready.next()).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => {
                running.check()?;
                if started.elapsed() > PATIENCE {
                    return Err(Error::Other(format!(
                        "{} of {objects} objects were not Ready within {} s",
                        unready.count(),
                        PATIENCE.as_secs()
                    )));
                }
            }
        }
    }
    let took = started.elapsed();
    let idle = idle_before
        .zip(processor::idle_seconds())
        .map(|(before, after)| after - before);

    let pid = running.pid();
    let peak_memory = processor::peak_memory(pid);
    let mut processor_seconds: BTreeMap<_, _> = processor_of_servers(world)
        .into_iter()
        .filter_map(|(name, after)| Some((name, after - servers_before.get(name)?)))
        .collect();
    if let Some(seconds) = processor::seconds_of(pid) {
        processor_seconds.insert(MEASURED, seconds);
    }
    running.stop().await;
    let mut counted = requests::counted(&world.client).await?;
    for (request, before) in requests_before {
        if let Some(count) = counted.get_mut(&request) {
            *count -= before;
        }
    }
    counted.retain(|_, count| *count > 0);
    let vendors = world.vendors.counts().await?;
    if vendors.violations > 0 {
        return Err(Error::Other(format!(
            "{} vendor calls were against the vendors' rules",
            vendors.violations
        )));
    }
    let target_bytes = check_targets(&world.client, objects).await?;
    let tokens = Api::<VendorToken>::all(world.client.clone())
        .list(&ListParams::default())
        .await
        .map_err(Error::step("list the VendorTokens"))?;
    Ok(Measurement {
        program,
        objects,
        took,
        requests: counted,
        vendor_calls: vendors.calls,
        target_bytes,
        object_bytes: mean_bytes(&tokens.items)?,
        peak_memory,
        processor: processor_seconds,
        idle,
    })
}

/// Fails where a VendorToken has no token in its Secret. Gives the mean length of these.
async fn check_targets(client: &Client, objects: usize) -> Result<f64, Error> {
    let ours = ListParams::default().labels(&format!("{}={}", names::MANAGED_BY_LABEL, names::FIELD_MANAGER));
    let targets = Api::<Secret>::all(client.clone())
        .list(&ours)
        .await
        .map_err(Error::step("list the target Secrets"))?;
    let full = targets
        .items
        .iter()
        .filter_map(|secret| secret.data.as_ref()?.get("token"))
        .filter(|token| !token.0.is_empty())
        .count();
    if full == objects {
        mean_bytes(&targets.items)
    } else {
        Err(Error::Other(format!(
            "{full} target Secrets with a token were found, and {objects} expected"
        )))
    }
}

/// The mean length of objects in JSON, with their `managedFields`.
fn mean_bytes<K: Serialize>(objects: &[K]) -> Result<f64, Error> {
    let mut bytes = 0;
    for object in objects {
        bytes += serde_json::to_vec(object)
            .map_err(Error::step("write an object"))?
            .len();
    }
    Ok(bytes as f64 / objects.len().max(1) as f64)
}

fn processor_of_servers(world: &World) -> BTreeMap<&'static str, f64> {
    world
        .pids()
        .into_iter()
        .filter_map(|(name, pid)| Some((name, processor::seconds_of(pid)?)))
        .collect()
}
