//! Prints how many requests a second the simulator answers: simulator and clients on two threads, Checkmarx'
//! request with wildcard credentials. `cargo run --release -p vendor-simulator --example throughput`
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::error::Error;
use std::time::{Duration, Instant};

use vendor_simulator::{Detail, Options, Simulator, Vendor};

const CLIENTS: usize = 32;
const SECONDS: u64 = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let (ready, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || -> Result<(), Box<dyn Error + Send + Sync>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let options = Options {
                wildcard_credentials: true,
                detail: Detail::Counts,
                ..Options::default()
            };
            ready.send(Simulator::start(options).await?)?;
            std::future::pending().await
        })
    });
    let simulator = started.recv()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(&simulator))
}

async fn measure(simulator: &Simulator) -> Result<(), Box<dyn Error>> {
    let ca = reqwest::Certificate::from_pem(simulator.ca_pem().as_bytes())?;
    let client = reqwest::Client::builder()
        .tls_certs_only([ca])
        .no_proxy()
        .build()?;
    let begin = Instant::now();
    let end = begin + Duration::from_secs(SECONDS);
    let mut tasks = Vec::new();
    for number in 0..CLIENTS {
        let (client, url) = (client.clone(), simulator.url(Vendor::CheckmarxSca));
        tasks.push(tokio::spawn(async move {
            let mut sent = 0_usize;
            while Instant::now() < end {
                let user = format!("user-{number}-{}", sent % 320);
                let form = [
                    ("username", user.as_str()),
                    ("password", "password"),
                    ("acr_values", "Tenant:acme"),
                    ("scope", "sca_api"),
                    ("client_id", "sca_resource_owner"),
                    ("grant_type", "password"),
                ];
                client
                    .post(&url)
                    .form(&form)
                    .send()
                    .await?
                    .error_for_status()?
                    .bytes()
                    .await?;
                sent += 1;
            }
            Ok::<_, reqwest::Error>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    let counts = simulator.counts(Vendor::CheckmarxSca);
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{:.0} requests/s: {} tokens for {} credentials over {} connections in {seconds:.1} s, {} violations",
        counts.total.issued as f64 / seconds,
        counts.total.issued,
        counts.credentials.len(),
        counts.connections,
        counts.total.violations,
    );
    Ok(())
}
