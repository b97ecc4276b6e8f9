//! The simulator as a program: see the README.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use vendor_simulator::{Budget, Detail, Options, Simulator, Vendor};

/// The token endpoints of SixMap, 6clicks, Checkmarx SCA, Mapiq and Picus on 127.0.0.1, over TLS with an own
/// certificate authority. Prints one line of JSON with all origins when ready, and stops at SIGTERM or SIGINT.
#[derive(Debug, Parser)]
#[command(name = "vendor-simulator", version)]
struct Arguments {
    /// Port of a vendor's listener, as in `mapiq=40004`; 0 and default: a free one.
    #[arg(long, value_name = "VENDOR=PORT", value_parser = assignment::<u16>)]
    port: Vec<(Vendor, u16)>,
    /// Port of the trap, the second host of redirects.
    #[arg(long, default_value_t = 0)]
    trap_port: u16,
    /// Port of the admin API.
    #[arg(long, default_value_t = 0)]
    admin_port: u16,
    /// Lifetime of a vendor's tokens, as in `picus=90`; default: the vendor's own.
    #[arg(long, value_name = "VENDOR=SECONDS", value_parser = assignment::<u64>)]
    lifetime: Vec<(Vendor, u64)>,
    /// Requests a minute that a vendor answers, as in `mapiq=20`; default: no limit.
    #[arg(long, value_name = "VENDOR=REQUESTS", value_parser = assignment::<u32>)]
    budget: Vec<(Vendor, u32)>,
    /// Accept any well-formed credential that is not registered.
    #[arg(long)]
    wildcard_credentials: bool,
    /// Wait before each answer.
    #[arg(long, default_value_t = 0, value_name = "MILLISECONDS")]
    latency_ms: u64,
    /// Keep counts and violations only, not each call: for benchmarks.
    #[arg(long)]
    counts_only: bool,
    /// Seconds of Checkmarx' lockout after five failures.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    lockout_seconds: u64,
    /// Folder for ca.pem, client-ca.pem and origins.json (the line that is printed).
    #[arg(long, default_value = "vendor-simulator-state", value_name = "FOLDER")]
    state_dir: PathBuf,
}

fn assignment<T: std::str::FromStr>(text: &str) -> Result<(Vendor, T), String> {
    let (vendor, value) = text.split_once('=').ok_or("VENDOR=VALUE is expected")?;
    let value = value.parse().map_err(|_| "the value is not a number in range")?;
    Ok((
        vendor
            .parse()
            .map_err(|error: vendor_simulator::UnknownVendor| error.to_string())?,
        value,
    ))
}

fn position(vendor: Vendor) -> usize {
    Vendor::ALL
        .iter()
        .position(|other| *other == vendor)
        .unwrap_or_default()
}

impl Arguments {
    fn options(&self) -> Options {
        let mut options = Options {
            trap_port: self.trap_port,
            admin_port: Some(self.admin_port),
            wildcard_credentials: self.wildcard_credentials,
            latency: Duration::from_millis(self.latency_ms),
            detail: if self.counts_only {
                Detail::Counts
            } else {
                Detail::Calls
            },
            lockout: Some(Duration::from_secs(self.lockout_seconds)),
            ..Options::default()
        };
        for (vendor, port) in &self.port {
            options.ports[position(*vendor)] = *port;
        }
        for (vendor, seconds) in &self.lifetime {
            options = options.lifetime(*vendor, *seconds);
        }
        for (vendor, requests) in &self.budget {
            options = options.budget(
                *vendor,
                Budget {
                    requests: *requests,
                    ..Budget::MAPIQ
                },
            );
        }
        options
    }
}

// One thread is enough for several thousand requests a second, and leaves the other cores to what is measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    // Before the line is printed: who reads it may send a signal at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let simulator = Simulator::start(arguments.options()).await?;
    std::fs::create_dir_all(&arguments.state_dir)?;
    let folder = arguments.state_dir.canonicalize()?;
    let (ca, client_ca) = (folder.join("ca.pem"), folder.join("client-ca.pem"));
    std::fs::write(&ca, simulator.ca_pem())?;
    std::fs::write(&client_ca, simulator.client_ca_pem())?;
    let mut line = json!(simulator.origins());
    line["caFile"] = json!(ca);
    line["clientCaFile"] = json!(client_ca);
    line["pid"] = json!(std::process::id());
    std::fs::write(folder.join("origins.json"), format!("{line}\n"))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    drop(out);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    simulator.stop().await;
    Ok(())
}
