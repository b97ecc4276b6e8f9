//! `make demo`: the operator at work on a real API server, with the five vendors simulated on loopback.

mod cluster;
mod examples;
mod kubectl;
mod screen;
mod stage;
mod table;
mod tour;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use test_support::{Error, with_causes};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cluster::{Cluster, NAMESPACE};
use crate::screen::Screen;
use crate::stage::Stage;

/// The exit code that a shell gives for a program that SIGINT has ended.
const INTERRUPTED: u8 = 130;

/// Shows vendor-token-operator at work: first tokens, a 429 that is waited out, a rejected password and its repair, a
/// refresh before expiry, a Secret that is restored. Takes about half a minute. The vendors are simulated on this machine.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Leave everything running after the tour, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Use the cluster of this kubeconfig instead of a control plane of our own.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// The end of the demo.
enum End {
    Done,
    Interrupted,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(source) => Err(Error::step("start the runtime")(source)),
    };
    match result {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            // There is nowhere else to say that standard error is closed.
            let _ = writeln!(std::io::stderr(), "demo: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<End, Error> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut signals = Signals::new()?;
    let mut screen = Screen::new();
    let cluster = tokio::select! {
        cluster = open(arguments, &screen) => cluster?,
        () = signals.stop() => {
            screen.say("\nInterrupted.");
            return Ok(End::Interrupted);
        }
    };
    let mut stage = None;
    let mut toured = false;
    let result = tokio::select! {
        result = play(arguments, &cluster, &mut stage, &mut screen, &mut toured) => result.map(|()| End::Done),
        () = signals.stop() => Ok(End::Interrupted),
    };
    screen.leave_table();
    let result = match result {
        Ok(End::Interrupted) => {
            screen.say("\nInterrupted: stopping.");
            // With --keep that is how it ends.
            Ok(if toured { End::Done } else { End::Interrupted })
        }
        result => result,
    };
    // From here on another Ctrl-C ends at once; the started processes end with this one in any case.
    let closed = tokio::select! {
        closed = close(cluster, stage, &screen) => closed,
        () = signals.stop() => return Ok(End::Interrupted),
    };
    let end = result?;
    closed?;
    Ok(end)
}

async fn open(arguments: &Arguments, screen: &Screen) -> Result<Cluster, Error> {
    screen.say(
        "vendor-token-operator: the demo. Five VendorTokens, five vendors, about half a minute.\n\
         No vendor is called: their token endpoints are simulated on this machine.\n",
    );
    if let Some(path) = &arguments.kubeconfig {
        return Cluster::existing(path, screen).await;
    }
    screen.say("Starting etcd and kube-apiserver on 127.0.0.1, with data in a temporary folder …");
    let started = Instant::now();
    let cluster = Cluster::local().await?;
    screen.say(&format!(
        "They are ready after {:.1} s. CRD, ServiceAccount and RBAC of deploy/ are applied.",
        started.elapsed().as_secs_f64()
    ));
    Ok(cluster)
}

async fn play(
    arguments: &Arguments,
    cluster: &Cluster,
    place: &mut Option<Stage>,
    screen: &mut Screen,
    toured: &mut bool,
) -> Result<(), Error> {
    cluster.prepare().await?;
    let stage = place.insert(Stage::set(cluster, tour::options(), screen).await?);
    screen.say(&format!(
        "The operator runs as process {}, with {}.",
        stage.operator_pid(),
        if cluster.is_local() {
            "the rights of its ServiceAccount and no others"
        } else {
            "the rights of the kubeconfig"
        }
    ));
    screen.restart_clock();
    tour::run(stage, screen).await?;
    tour::summarise(stage, screen).await?;
    *toured = true;
    if arguments.keep {
        look_around(cluster, stage, screen);
        stage.watch(screen).await?;
    }
    Ok(())
}

fn look_around(cluster: &Cluster, stage: &Stage, screen: &Screen) {
    let kubectl = kubectl::as_typed().unwrap_or_else(|| {
        screen.say(&format!(
            "\nkubectl is missing; get it with: {}",
            kubectl::how_to_get()
        ));
        "kubectl".to_owned()
    });
    screen.say(&format!(
        "\nEverything runs on, until Ctrl-C. To look around, in another terminal:\n\
         \x20 export KUBECONFIG={}\n\
         \x20 {kubectl} -n {NAMESPACE} get vtok -o wide\n\
         \x20 {kubectl} -n {NAMESPACE} describe vtok checkmarx-sca\n\
         \x20 {kubectl} -n {NAMESPACE} get secret sixmap-token -o yaml\n\
         \x20 {kubectl} -n {NAMESPACE} annotate vtok mapiq --overwrite vendortoken.io/refresh-requested-at=\"$(date)\"\n\
         \x20 {kubectl} explain vendortoken.spec --recursive\n\
         The operator's log: {}\n",
        cluster.kubeconfig().display(),
        stage.operator_log().display(),
    ));
    if cluster.is_local() {
        screen.say(
            "There is no kube-controller-manager here, so no garbage collection: the Secret of a VendorToken that you\n\
             delete stays. In a cluster of yours (DEMO_KUBECONFIG) it goes with the VendorToken.\n",
        );
    }
}

async fn close(cluster: Cluster, stage: Option<Stage>, screen: &Screen) -> Result<(), Error> {
    if !cluster.is_local() {
        screen.say(&format!(
            "Removing the namespace {NAMESPACE} and what else was made …"
        ));
    }
    if let Some(stage) = stage {
        stage.strike().await;
    }
    let local = cluster.is_local();
    cluster.close().await?;
    screen.say(if local {
        "Stopped: operator, simulator, kube-apiserver, etcd. The temporary folder is removed."
    } else {
        "Stopped: operator and simulator. The cluster is as it was."
    });
    Ok(())
}

/// The signals that end the demo.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(Error::step("listen for signals"));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
