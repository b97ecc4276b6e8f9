//! One cold start, measured.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use clap::ValueEnum;
use demo::{Error, Operator, Settings, binary, vendor_name};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};
use test_support::Process;
use vendor_simulator::Vendor;
use vendor_token_operator::api::{VendorToken, names};

use crate::Arguments;
use crate::world::World;

/// For one cold start; also on a busy machine, 10 000 objects at 10 a second.
const PATIENCE: Duration = Duration::from_secs(1200);
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// Linux counts processor time in this unit, on all architectures.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Program {
    /// The least possible program.
    Floor,
    /// The same, writing the fields that the operator writes: what those cost the API server.
    FloorSameWrites,
    /// vendor-token-operator.
    Operator,
}

impl Program {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::FloorSameWrites => "floor-same-writes",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What one cold start took.
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

enum Running {
    Floor(Process),
    Operator(Operator),
}

impl Running {
    async fn start(program: Program, world: &World, options: &Arguments) -> Result<Self, Error> {
        let kubeconfig = world
            .plane
            .kubeconfig_for_service_account(demo::NAMESPACE, demo::SERVICE_ACCOUNT)
            .await?;
        let folder = world.plane.folder();
        match program {
            Program::Floor | Program::FloorSameWrites => {
                let mut arguments = vec![
                    "floor".to_owned(),
                    format!("--kubeconfig={}", kubeconfig.display()),
                    format!("--origins={}", folder.join("simulator/origins.json").display()),
                    format!("--in-flight={}", options.in_flight),
                ];
                if program == Program::FloorSameWrites {
                    arguments.push("--same-writes".to_owned());
                }
                let log = folder.join("floor.log");
                Ok(Self::Floor(Process::start(
                    "floor",
                    &binary("bench-cold")?,
                    arguments,
                    &log,
                )?))
            }
            Program::Operator => {
                let mut arguments: Vec<String> = Vendor::ALL
                    .into_iter()
                    .map(|vendor| format!("--rate-limit={}=0", vendor_name(vendor)))
                    .collect();
                arguments.extend([
                    "--metrics-bind-address=127.0.0.1:0".to_owned(),
                    "--health-probe-bind-address=127.0.0.1:0".to_owned(),
                ]);
                arguments.extend(options.operator_arguments.iter().cloned());
                Ok(Self::Operator(Operator::start(&Settings {
                    kubeconfig,
                    endpoints: world.origins.vendors.clone(),
                    authority: world.origins.authority.clone(),
                    arguments,
                    log: folder.join("operator.log"),
                })?))
            }
        }
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Floor(process) => process.pid(),
            Self::Operator(operator) => operator.pid(),
        }
    }

    fn check(&mut self) -> Result<(), Error> {
        match self {
            Self::Floor(process) => match process.exit_status() {
                None => Ok(()),
                Some(status) => Err(process.not_started(format!("it ended with {status}")).into()),
            },
            Self::Operator(operator) => operator.check(),
        }
    }

    async fn stop(self) {
        match self {
            Self::Floor(process) => drop(process),
            Self::Operator(operator) => operator.stop().await,
        }
    }
}

/// Starts the program and waits until all objects are Ready.
pub(crate) async fn run(world: &World, program: Program, options: &Arguments) -> Result<Measurement, Error> {
    let objects = options.objects;
    let mut unready = Unready::watch(world, objects).await?;
    let requests_before = requests(world).await?;
    let servers_before = processor_of_servers(world);
    let idle_before = idle_seconds();

    let started = Instant::now();
    let mut running = Running::start(program, world, options).await?;
    loop {
        match tokio::time::timeout(CHECK_EVERY, unready.next()).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => {
                running.check()?;
                if started.elapsed() > PATIENCE {
                    return Err(Error::Other(format!(
                        "{} of {objects} objects were not Ready within {} s",
                        unready.waiting.len(),
                        PATIENCE.as_secs()
                    )));
                }
            }
        }
    }
    let took = started.elapsed();
    let idle = idle_before
        .zip(idle_seconds())
        .map(|(before, after)| after - before);

    let pid = running.pid();
    let peak_memory = peak_memory(pid);
    let mut processor: BTreeMap<_, _> = processor_of_servers(world)
        .into_iter()
        .filter_map(|(name, after)| Some((name, after - servers_before.get(name)?)))
        .collect();
    if let Some(seconds) = processor_seconds(pid) {
        processor.insert(MEASURED, seconds);
    }
    running.stop().await;
    let mut counted = requests(world).await?;
    for (request, before) in requests_before {
        if let Some(count) = counted.get_mut(&request) {
            *count -= before;
        }
    }
    counted.retain(|_, count| *count > 0);
    let (vendor_calls, violations) = world.vendor_calls().await?;
    if violations > 0 {
        return Err(Error::Other(format!(
            "{violations} vendor calls were against the vendors' rules"
        )));
    }
    check_targets(world, objects).await?;
    Ok(Measurement {
        program,
        objects,
        took,
        requests: counted,
        vendor_calls,
        peak_memory,
        processor,
        idle,
    })
}

/// The objects that are not Ready yet, by a watch that was started before the measured program.
struct Unready {
    events: futures::stream::BoxStream<'static, Result<Event<VendorToken>, watcher::Error>>,
    waiting: HashSet<String>,
}

impl Unready {
    async fn watch(world: &World, objects: usize) -> Result<Self, Error> {
        let tokens = Api::<VendorToken>::all(world.client.clone());
        let mut unready = Self {
            events: kube::runtime::watcher(tokens, watcher::Config::default()).boxed(),
            waiting: HashSet::new(),
        };
        // Until the list is complete.
        loop {
            match unready.events.next().await {
                Some(Ok(Event::InitApply(token))) => {
                    unready.waiting.insert(token.uid().unwrap_or_default());
                }
                Some(Ok(Event::InitDone)) => break,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Error::Other(format!("failed to watch: {error}"))),
                None => return Err(Error::Other("the watch ended".to_owned())),
            }
        }
        if unready.waiting.len() == objects {
            Ok(unready)
        } else {
            Err(Error::Other(format!(
                "{} VendorTokens are there, and {objects} were expected",
                unready.waiting.len()
            )))
        }
    }

    /// Waits for a change, and gives how many are not Ready.
    async fn next(&mut self) -> usize {
        if let Some(Ok(Event::Apply(token) | Event::InitApply(token))) = self.events.next().await
            && is_ready(&token)
        {
            self.waiting.remove(&token.uid().unwrap_or_default());
        }
        self.waiting.len()
    }
}

fn is_ready(token: &VendorToken) -> bool {
    let conditions = token.status.iter().flat_map(|status| &status.conditions);
    conditions
        .into_iter()
        .any(|condition| condition.type_ == names::condition::READY && condition.status == "True")
}

async fn check_targets(world: &World, objects: usize) -> Result<(), Error> {
    let ours = ListParams::default().labels(&format!("{}={}", names::MANAGED_BY_LABEL, names::FIELD_MANAGER));
    let targets = Api::<Secret>::all(world.client.clone())
        .list(&ours)
        .await
        .map_err(Error::kube("list the target Secrets"))?;
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

/// What the API server has counted: requests for Secrets and VendorTokens by verb and resource. Watches are counted when
/// they end.
async fn requests(world: &World) -> Result<BTreeMap<String, u64>, Error> {
    let request = http::Request::get("/metrics")
        .body(Vec::new())
        .map_err(|error| Error::Other(format!("failed to make a request: {error}")))?;
    let text = world
        .client
        .request_text(request)
        .await
        .map_err(Error::kube("read the API server's metrics"))?;
    Ok(count(&text))
}

fn count(metrics: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in metrics.lines() {
        let Some((labels, value)) = line
            .strip_prefix("apiserver_request_total{")
            .and_then(|rest| rest.rsplit_once("} "))
        else {
            continue;
        };
        let label = |name: &str| {
            let (_, rest) = labels.split_once(&format!("{name}=\""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        let (Some(verb), Some(resource)) = (label("verb"), label(",resource").or(label("resource"))) else {
            continue;
        };
        if !["secrets", "vendortokens"].contains(&resource) {
            continue;
        }
        let mut name = format!("{verb} {resource}");
        if let Some(subresource) = label("subresource").filter(|name| !name.is_empty()) {
            name = format!("{name}/{subresource}");
        }
        let value: f64 = value.parse().unwrap_or_default();
        *counts.entry(name).or_default() += value as u64;
    }
    counts
}

fn processor_of_servers(world: &World) -> BTreeMap<&'static str, f64> {
    world
        .pids()
        .into_iter()
        .filter_map(|(name, pid)| Some((name, processor_seconds(pid)?)))
        .collect()
}

/// User and system time, on Linux.
fn processor_seconds(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may hold blanks.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

/// Time without work of all processors since the machine's start, waiting for disks included, on Linux.
fn idle_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let mut fields = text.lines().next()?.split_whitespace().skip(4);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

/// `VmHWM` in KiB, on Linux.
fn peak_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_summed_by_verb_and_resource() {
        let metrics = "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"secrets\",scope=\"resource\",subresource=\"\",verb=\"APPLY\",version=\"v1\"} 7\n\
            apiserver_request_total{code=\"201\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"secrets\",scope=\"resource\",subresource=\"\",verb=\"APPLY\",version=\"v1\"} 3\n\
            apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\",version=\"v1\"} 3\n\
            apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"vendortoken.io\",resource=\"vendortokens\",scope=\"resource\",subresource=\"status\",verb=\"APPLY\",version=\"v1alpha1\"} 2\n";
        let counts: Vec<_> = count(metrics).into_iter().collect();
        assert_eq!(
            counts,
            [
                ("APPLY secrets".to_owned(), 10),
                ("APPLY vendortokens/status".to_owned(), 2)
            ]
        );
    }
}
