//! The operator as a process: the program itself, with the rights of its manifests.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use test_support::{Process, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vendor_simulator::Vendor;

use crate::world::running::{Running, Samples};
use crate::world::{OPERATOR, PATIENCE, World, vendors};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_vendor-token-operator");

impl World {
    pub(crate) async fn program(&self) -> Program {
        self.program_with(&[]).await
    }

    /// Starts the program for this namespace with the rights of `deploy/`, and waits until it is ready.
    pub(crate) async fn program_with(&self, more: &[&str]) -> Program {
        let program = self.start(more).await;
        program.wait_until_ready().await;
        program
    }

    /// Starts the program without waiting for its being ready.
    pub(crate) async fn start(&self, more: &[&str]) -> Program {
        let kubeconfig = self
            .plane
            .kubeconfig_for_service_account(OPERATOR, OPERATOR)
            .await
            .unwrap();
        self.start_as(&kubeconfig, OPERATOR, more).await
    }

    /// Starts the program as the account of `kubeconfig`, with its own objects in `operator_namespace`.
    pub(crate) async fn start_as(
        &self,
        kubeconfig: &Path,
        operator_namespace: &str,
        more: &[&str],
    ) -> Program {
        let authority = self
            .plane
            .folder()
            .join(format!("{}-vendors.pem", self.namespace));
        std::fs::write(&authority, self.simulator.ca_pem()).unwrap();
        let given = |flag: &str| more.iter().any(|argument| argument.starts_with(flag));
        let mut arguments = vec![
            "run".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--operator-namespace={operator_namespace}"),
            format!("--watch-namespace={}", self.namespace),
            format!("--vendor-ca-file={}", authority.display()),
            "--metrics-bind-address=127.0.0.1:0".to_owned(),
            "--health-probe-bind-address=127.0.0.1:0".to_owned(),
        ];
        for vendor in Vendor::ALL {
            let name = vendors::name(vendor);
            arguments.push(format!("--endpoint={name}={}", self.simulator.origin(vendor)));
            if !given("--rate-limit") {
                arguments.push(format!("--rate-limit={name}=0"));
            }
        }
        if !given("--leader-elect") {
            // The operators of most tests share a namespace, and would share its Lease.
            arguments.push("--leader-elect=false".to_owned());
        }
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        Program::start(&arguments, &self.log_file()).await
    }

    fn log_file(&self) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        self.plane
            .folder()
            .join(format!("operator-{}-{count}.log", self.namespace))
    }
}

/// A running program; killed by its process id when this is dropped.
pub(crate) struct Program {
    process: Mutex<Process>,
    log: PathBuf,
    metrics: SocketAddr,
    pub(crate) probes: SocketAddr,
}

impl Program {
    async fn start(arguments: &[String], log: &Path) -> Self {
        // Nothing of the environment of who runs the tests: neither a proxy nor a flag.
        let mut line = vec!["-i".to_owned()];
        for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
            if let Ok(value) = std::env::var(name) {
                line.push(format!("{name}={value}"));
            }
        }
        line.push(PROGRAM.to_owned());
        line.extend_from_slice(arguments);
        let process = Process::start("vendor-token-operator", Path::new("env"), line, log).unwrap();
        let process = Mutex::new(process);
        let addresses = wait_for("the addresses in the log", PATIENCE, || async {
            if let Some(status) = process.lock().unwrap().exit_status() {
                panic!("the operator ended ({status}): {}", read(log));
            }
            let text = read(log);
            let address = |path: &str| -> Option<SocketAddr> {
                let line = text
                    .lines()
                    .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                    .find(|line| {
                        line["message"] == "serving" && line["paths"].as_str().unwrap_or("").contains(path)
                    })?;
                line["address"].as_str()?.parse().ok()
            };
            match (address("/metrics"), address("/readyz")) {
                (Some(metrics), Some(probes)) => Ok((metrics, probes)),
                _ => Err(text),
            }
        })
        .await
        .unwrap();
        Self {
            process,
            log: log.to_owned(),
            metrics: addresses.0,
            probes: addresses.1,
        }
    }

    pub(crate) async fn wait_until_ready(&self) {
        wait_for("the operator to be ready", PATIENCE, || async {
            match get(self.probes, "/readyz").await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}\n{}", self.log())),
            }
        })
        .await
        .unwrap();
    }

    /// What it has printed, on standard output and standard error.
    pub(crate) fn log(&self) -> String {
        read(&self.log)
    }

    /// The sum of the samples of a metric, as [`Samples::sum`].
    pub(crate) async fn count(&self, metric: &str) -> u64 {
        self.samples().await.sum(metric) as u64
    }

    /// The peak of the process's resident memory, in bytes (Linux).
    pub(crate) fn peak_memory(&self) -> u64 {
        let pid = self.process.lock().unwrap().pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes: u64 = peak.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes * 1024
    }

    pub(crate) fn signal(&self, signal: &str) {
        self.process.lock().unwrap().signal(signal).unwrap();
    }

    /// Waits for its end, and gives how it ended and how long that took.
    pub(crate) async fn ended(&self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        let status = wait_for("the operator's end", PATIENCE, || async {
            self.process.lock().unwrap().exit_status().ok_or("it runs")
        })
        .await
        .unwrap();
        (status, started.elapsed())
    }
}

impl Running for Program {
    async fn samples(&self) -> Samples {
        let (status, text) = get(self.metrics, "/metrics").await.unwrap();
        assert_eq!(status, 200, "{text}");
        Samples(text)
    }

    async fn stop(self) {
        self.signal("TERM");
        let (status, _) = self.ended().await;
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }

    async fn kill(self) {
        self.signal("KILL");
        let (status, _) = self.ended().await;
        assert_eq!(status.code(), Some(137), "128 + SIGKILL");
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// Status and body of a GET over plain HTTP.
pub(crate) async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.unwrap_or_default(), body.to_owned()))
}
