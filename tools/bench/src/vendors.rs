//! The simulated vendors in a process of their own, so that their processor time is not the measured program's.
//!
//! The child prints one line of JSON, [`Started`], when all vendors listen. Then it answers each line of its standard
//! input with one line, [`Counted`]: `counts` asks for the counts, `clear` sets them to 0 before. It ends with its
//! input, so also when this program is killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::{fs, io};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use test_support::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use vendor_simulator::{Detail, Options, Simulator, Vendor};

const CLEAR: &str = "clear";
const COUNTS: &str = "counts";

/// The child's first line.
#[derive(Serialize, Deserialize)]
struct Started {
    /// The origin of each endpoint by the name in `spec.vendor`.
    endpoints: BTreeMap<String, String>,
    /// The certificate authority, PEM.
    authority: String,
}

/// The calls of all vendors.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) calls: u64,
    /// Calls that were against the vendors' rules.
    pub(crate) violations: u64,
}

/// Is the child: simulates the vendors until standard input ends. One thread is enough for several thousand requests a
/// second, so the runtime should have one.
pub(crate) async fn simulate() -> Result<(), Error> {
    let simulator = Simulator::start(Options {
        wildcard_credentials: true,
        detail: Detail::Counts,
        ..Options::default()
    })
    .await
    .map_err(Error::step("start the vendor simulator"))?;
    let endpoints = simulator.origins().vendors.iter();
    print(&Started {
        endpoints: endpoints
            .map(|(vendor, origin)| (vendor.name().to_owned(), origin.clone()))
            .collect(),
        authority: simulator.ca_pem().to_owned(),
    })
    .await?;
    let mut requests = BufReader::new(tokio::io::stdin()).lines();
    while let Some(request) = requests
        .next_line()
        .await
        .map_err(Error::step("read standard input"))?
    {
        if request == CLEAR {
            simulator.clear_ledger();
        }
        print(&count(&simulator)).await?;
    }
    simulator.stop().await;
    Ok(())
}

fn count(simulator: &Simulator) -> Counted {
    let totals = Vendor::ALL.map(|vendor| simulator.total(vendor));
    Counted {
        calls: totals.iter().map(|counts| counts.calls).sum(),
        violations: totals.iter().map(|counts| counts.violations).sum(),
    }
}

async fn print(value: &impl Serialize) -> Result<(), Error> {
    let failed = || Error::step("write to standard output");
    let mut line = serde_json::to_vec(value).map_err(failed())?;
    line.push(b'\n');
    let mut out = tokio::io::stdout();
    let written = async {
        out.write_all(&line).await?;
        out.flush().await
    };
    written
        .await
        .map_err(Error::step::<io::Error>("write to standard output"))
}

/// The child, which ends when this is dropped.
pub(crate) struct Vendors {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// The origin of each endpoint by the name in `spec.vendor`.
    pub(crate) endpoints: BTreeMap<String, String>,
    /// The file with the certificate authority of the endpoints.
    pub(crate) authority: PathBuf,
}

impl Vendors {
    /// Starts this program again as the child, and writes the authority into `folder`.
    pub(crate) async fn start(folder: &Path) -> Result<Self, Error> {
        let program = std::env::current_exe().map_err(Error::step("find this program"))?;
        let mut child = Command::new(program)
            .arg("simulator")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // An interrupt at the terminal is for this program, which stops the child after its clients.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::step("start the vendor simulator"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Other("the vendor simulator has no pipes".to_owned()));
        };
        let mut output = BufReader::new(output).lines();
        let started: Started = read(&mut output).await?;
        let authority = folder.join("vendors-ca.pem");
        fs::write(&authority, started.authority).map_err(Error::step("write the vendors' authority"))?;
        Ok(Self {
            child,
            input,
            output,
            endpoints: started.endpoints,
            authority,
        })
    }

    /// The child's process id while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sets the counts to 0.
    pub(crate) async fn clear(&mut self) -> Result<(), Error> {
        self.ask(CLEAR).await.map(|_| ())
    }

    /// The counts since they were 0.
    pub(crate) async fn counts(&mut self) -> Result<Counted, Error> {
        self.ask(COUNTS).await
    }

    async fn ask(&mut self, request: &str) -> Result<Counted, Error> {
        self.input
            .write_all(format!("{request}\n").as_bytes())
            .await
            .map_err(Error::step("ask the vendor simulator"))?;
        read(&mut self.output).await
    }

    /// Ends the child.
    pub(crate) async fn stop(mut self) {
        drop(self.input);
        // It fails only when the child has ended already.
        let _ = self.child.wait().await;
    }
}

async fn read<T: DeserializeOwned>(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<T, Error> {
    let line = lines
        .next_line()
        .await
        .map_err(Error::step("read the vendor simulator's answer"))?
        .ok_or_else(|| Error::Other("the vendor simulator has ended".to_owned()))?;
    serde_json::from_str(&line).map_err(Error::step("read the vendor simulator's answer"))
}
