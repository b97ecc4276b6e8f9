//! `make bench-cold`: how fast a cold start goes, beside the least possible program on the same control plane.
//!
//! N credentials Secrets and VendorTokens are there before the program starts; the clock runs from its start until all N
//! are Ready. etcd, kube-apiserver, the simulated vendors, this program and the measured one share the same cores.

mod floor;
mod measure;
mod processor;
mod program;
mod report;
mod requests;
mod unready;
mod vendors;
mod world;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use test_support::{Error, with_causes};
use vendor_simulator::Vendor;

use crate::measure::Measurement;
use crate::program::Program;
use crate::world::World;

/// Measures a cold start of the operator, and of the least possible program ("floor").
#[derive(Debug, Parser)]
#[command(name = "bench-cold")]
struct Arguments {
    /// VendorTokens, each with credentials of its own.
    #[arg(long, default_value_t = 1000)]
    objects: usize,
    /// Measurements of each program, in turns; medians are compared.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Vendors of the VendorTokens, in turns.
    #[arg(long, value_delimiter = ',', default_values_t = Vendor::ALL)]
    vendors: Vec<Vendor>,
    /// The programs to measure, in turns.
    #[arg(long, value_delimiter = ',', default_values_t = [Program::Floor, Program::Operator])]
    programs: Vec<Program>,
    #[command(flatten)]
    settings: program::Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

/// The children of this program.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Be the least possible program.
    #[command(hide = true)]
    Floor(floor::Settings),
    /// Be the vendors.
    #[command(hide = true)]
    Simulator,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match arguments.command {
        Some(Command::Simulator) => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
    };
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(source) => Err(Error::step("start the runtime")(source)),
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
    match &arguments.command {
        Some(Command::Floor(settings)) => floor::run(settings).await,
        Some(Command::Simulator) => vendors::simulate().await,
        None => tokio::select! {
            result = bench(&arguments) => result,
            // The processes end when they are dropped.
            _ = tokio::signal::ctrl_c() => Err(Error::Other("interrupted".to_owned())),
        },
    }
}

async fn bench(arguments: &Arguments) -> Result<(), Error> {
    let vendors: Vec<&str> = arguments.vendors.iter().map(|vendor| vendor.name()).collect();
    say(&format!(
        "cold start of {} VendorTokens with distinct credentials ({}), each program {} times",
        arguments.objects,
        vendors.join(", "),
        arguments.repeat
    ));
    let mut world = World::start().await?;
    let mut measurements: Vec<Measurement> = Vec::new();
    let mut programs = arguments.programs.clone();
    for _ in 0..arguments.repeat.max(1) {
        for program in &programs {
            world.fill(arguments.objects, &arguments.vendors).await?;
            let measurement =
                measure::run(&mut world, *program, arguments.objects, &arguments.settings).await?;
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
