//! `make bench-cold`: how fast a cold start goes, beside the least possible program on the same control plane.
//!
//! N credentials Secrets and VendorTokens are there before the program starts; the clock runs from its start until all N
//! are Ready. etcd, kube-apiserver, the simulated vendors, this program and the measured one share the same cores.

mod floor;
mod measure;
mod report;
mod world;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use demo::{Error, vendor_name, with_causes};
use vendor_simulator::Vendor;

use crate::measure::{Measurement, Program};
use crate::world::World;

/// Measures a cold start of the operator, and of the least possible program ("floor").
#[derive(Debug, Parser)]
#[command(name = "bench-cold")]
pub(crate) struct Arguments {
    /// VendorTokens, each with credentials of its own.
    #[arg(long, default_value_t = 1000)]
    objects: usize,
    /// How often each program is measured, in turns; medians are compared.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Vendors of the VendorTokens, in turns.
    #[arg(long, value_delimiter = ',', default_values_t = Vendor::ALL)]
    vendors: Vec<Vendor>,
    /// What is measured, in turns.
    #[arg(long, value_delimiter = ',', default_values_t = [Program::Floor, Program::Operator])]
    programs: Vec<Program>,
    /// Requests to the vendors and to the API server at a time that the floor makes.
    #[arg(long, default_value_t = 32)]
    in_flight: usize,
    /// One more argument for the operator; may be repeated.
    #[arg(
        long = "operator-argument",
        value_name = "ARGUMENT",
        allow_hyphen_values = true
    )]
    operator_arguments: Vec<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Be the least possible program: what this program starts.
    #[command(hide = true)]
    Floor {
        #[arg(long)]
        kubeconfig: PathBuf,
        /// `origins.json` of the simulator.
        #[arg(long)]
        origins: PathBuf,
        #[arg(long)]
        in_flight: usize,
        /// Write as much as the operator does.
        #[arg(long)]
        same_writes: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(source) => Err(Error::io("start the runtime")(source)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere else to say that standard error is closed.
            let _ = writeln!(std::io::stderr(), "bench-cold: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Error> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Some(Command::Floor {
        kubeconfig,
        origins,
        in_flight,
        same_writes,
    }) = &arguments.command
    {
        return floor::run(kubeconfig, origins, *in_flight, *same_writes).await;
    }
    tokio::select! {
        result = bench(&arguments) => result,
        // What was started stops when it is dropped.
        _ = tokio::signal::ctrl_c() => Err(Error::Other("interrupted".to_owned())),
    }
}

async fn bench(arguments: &Arguments) -> Result<(), Error> {
    let vendors: Vec<&str> = arguments.vendors.iter().copied().map(vendor_name).collect();
    say(&format!(
        "cold start of {} VendorTokens with distinct credentials ({}), each program {} times",
        arguments.objects,
        vendors.join(", "),
        arguments.repeat
    ));
    let world = World::start().await?;
    let mut measurements: Vec<Measurement> = Vec::new();
    let mut programs = arguments.programs.clone();
    for _ in 0..arguments.repeat.max(1) {
        for program in &programs {
            world.fill(arguments.objects, &arguments.vendors).await?;
            let measurement = measure::run(&world, *program, arguments).await?;
            say(&report::line(&measurement));
            measurements.push(measurement);
            world.empty().await?;
        }
        // etcd's data grows: neither program should always come later.
        programs.reverse();
    }
    say(&report::table(&measurements));
    world.stop().await;
    Ok(())
}

/// Prints to standard output; that nobody reads it changes nothing.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
