//! One cold start, measured.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, Client};
use test_support::Error;
use vendor_token_operator::api::names;

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
    check_targets(&world.client, objects).await?;
    Ok(Measurement {
        program,
        objects,
        took,
        requests: counted,
        vendor_calls: vendors.calls,
        peak_memory,
        processor: processor_seconds,
        idle,
    })
}

/// Fails where a VendorToken has no token in its Secret.
async fn check_targets(client: &Client, objects: usize) -> Result<(), Error> {
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
        Ok(())
    } else {
        Err(Error::Other(format!(
            "{full} target Secrets with a token were found, and {objects} expected"
        )))
    }
}

fn processor_of_servers(world: &World) -> BTreeMap<&'static str, f64> {
    world
        .pids()
        .into_iter()
        .filter_map(|(name, pid)| Some((name, processor::seconds_of(pid)?)))
        .collect()
}
