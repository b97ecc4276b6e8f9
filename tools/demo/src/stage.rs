//! The processes of the demo, and the state of the five VendorTokens as last seen.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tempfile::TempDir;
use test_support::{Error, Operator, OperatorSettings, with_causes, workspace};
use vendor_simulator::{Simulator, Vendor};
use vendor_token_operator::api::{VendorToken, names};

use crate::cluster::{Cluster, NAMESPACE};
use crate::examples::{self, Example};
use crate::screen::Screen;
use crate::table::{Row, render};

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For a step that takes seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Below the condition, in lines about a VendorToken.
const MESSAGE_COLUMN: usize = 25;
/// Looks at the cluster that may fail in a row.
const FAILURES_BORNE: u32 = 20;

/// The simulator, the operator, and the five VendorTokens as last seen.
pub(crate) struct Stage {
    // First, so that it is dropped first: a client before its servers.
    operator: Operator,
    pub(crate) simulator: Simulator,
    client: Client,
    pub(crate) examples: Vec<Example>,
    pub(crate) rows: Vec<Row>,
    seen: Vec<Option<crate::table::Key>>,
    /// Number of looks at target Secrets.
    pub(crate) looks: u64,
    /// Target Secrets, with the time, that a workload could not have used.
    pub(crate) unusable: Vec<String>,
    /// The target Secrets by name, with their UID.
    targets: BTreeMap<String, String>,
    failures: u32,
    folder: TempDir,
}

impl Stage {
    /// Starts the simulator, with the credentials of the examples, and the operator.
    pub(crate) async fn set(
        cluster: &Cluster,
        options: vendor_simulator::Options,
        screen: &Screen,
    ) -> Result<Self, Error> {
        let folder = tempfile::Builder::new()
            .prefix("vendortoken-demo-")
            .tempdir()
            .map_err(Error::step("make a temporary folder"))?;
        let examples = examples::read(&workspace().join("deploy").join("examples"))?;
        let simulator = Simulator::start(options)
            .await
            .map_err(Error::step("start the vendor simulator"))?;
        for example in &examples {
            simulator.put_credential(example.vendor, example.credential.clone());
        }
        let authority = folder.path().join("vendors-ca.pem");
        fs::write(&authority, simulator.ca_pem()).map_err(Error::step("write the vendors' authority"))?;
        screen.say(&format!(
            "The five vendors' token endpoints are simulated on https://localhost, {}.",
            simulator
                .origins()
                .vendors
                .values()
                .filter_map(|origin| origin.rsplit(':').next())
                .map(|port| format!(":{port}"))
                .collect::<Vec<_>>()
                .join(" ")
        ));
        let (kubeconfig, mut arguments) = cluster.for_operator().await?;
        arguments.extend([
            "--metrics-bind-address=127.0.0.1:0".to_owned(),
            "--health-probe-bind-address=127.0.0.1:0".to_owned(),
            "--log-format=text".to_owned(),
        ]);
        let operator = Operator::start(&OperatorSettings {
            kubeconfig,
            endpoints: simulator
                .origins()
                .vendors
                .iter()
                .map(|(vendor, origin)| (vendor.name().to_owned(), origin.clone()))
                .collect(),
            authority,
            arguments,
            log: folder.path().join("operator.log"),
        })?;
        let rows: Vec<Row> = examples
            .iter()
            .map(|example| Row::new(&example.name, example.vendor, &example.target))
            .collect();
        Ok(Self {
            operator,
            simulator,
            client: cluster.client()?,
            seen: vec![None; rows.len()],
            rows,
            examples,
            looks: 0,
            unusable: Vec::new(),
            targets: BTreeMap::new(),
            failures: 0,
            folder,
        })
    }

    pub(crate) fn operator_pid(&self) -> u32 {
        self.operator.pid()
    }

    pub(crate) fn operator_log(&self) -> PathBuf {
        self.folder.path().join("operator.log")
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(crate) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client(), NAMESPACE)
    }

    pub(crate) fn row(&self, vendor: Vendor) -> Option<&Row> {
        self.rows.iter().find(|row| row.vendor == vendor)
    }

    /// Requests that a vendor has seen.
    pub(crate) fn calls(&self, vendor: Vendor) -> u64 {
        self.simulator.total(vendor).calls
    }

    /// The UID of a target Secret, as last seen.
    pub(crate) fn target(&self, name: &str) -> Option<&String> {
        self.targets.get(name)
    }

    /// Looks until `condition` holds, and shows each change.
    pub(crate) async fn until(
        &mut self,
        screen: &mut Screen,
        what: &str,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            self.look(screen).await?;
            if condition(self) {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                let now = Timestamp::now();
                let lines: Vec<String> = self
                    .rows
                    .iter()
                    .map(|row| format!("{}: {}", row.line(now), row.message))
                    .collect();
                return Err(Error::Other(format!(
                    "{what} was not seen within {} s; this was:\n{}\nthe end of the operator's log:\n{}",
                    PATIENCE.as_secs(),
                    lines.join("\n"),
                    self.log_tail()
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Looks and shows for ever.
    pub(crate) async fn watch(&mut self, screen: &mut Screen) -> Result<(), Error> {
        loop {
            self.look(screen).await?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&mut self, screen: &mut Screen) -> Result<(), Error> {
        self.operator.check()?;
        match self.read().await {
            Ok((tokens, secrets)) => {
                self.failures = 0;
                self.judge(&secrets);
                self.targets = secrets
                    .iter()
                    .map(|secret| (secret.name_any(), secret.uid().unwrap_or_default()))
                    .collect();
                for row in &mut self.rows {
                    if let Some(token) = tokens.iter().find(|token| token.name_any() == row.name) {
                        row.see(token);
                    }
                }
            }
            Err(error) => {
                self.failures += 1;
                if self.failures > FAILURES_BORNE {
                    return Err(error);
                }
            }
        }
        for (row, seen) in self.rows.iter_mut().zip(&mut self.seen) {
            row.calls = self.simulator.total(row.vendor).calls;
            let key = row.key();
            if !row.ready.is_empty() && seen.as_ref() != Some(&key) {
                screen.event(&row.line(Timestamp::now()));
                if !row.is_well() {
                    screen.detail(&row.message, MESSAGE_COLUMN);
                }
                *seen = Some(key);
            }
        }
        screen.draw(render(&self.rows, Timestamp::now(), screen.width()));
        Ok(())
    }

    async fn read(&self) -> Result<(Vec<VendorToken>, Vec<Secret>), Error> {
        // Secrets first: a token that is in a status is in its Secret before.
        let targets =
            ListParams::default().labels(&format!("{}={}", names::MANAGED_BY_LABEL, names::FIELD_MANAGER));
        let secrets = self
            .secrets()
            .list(&targets)
            .await
            .map_err(Error::step("list the target Secrets"))?;
        let tokens = Api::<VendorToken>::namespaced(self.client(), NAMESPACE)
            .list(&ListParams::default())
            .await
            .map_err(Error::step("list the VendorTokens"))?;
        Ok((tokens.items, secrets.items))
    }

    /// Asks the simulator about each token as a workload would find it.
    fn judge(&mut self, secrets: &[Secret]) {
        for row in &self.rows {
            let Some(secret) = secrets.iter().find(|secret| secret.name_any() == row.target) else {
                continue;
            };
            self.looks += 1;
            let token = secret.data.as_ref().and_then(|data| data.get("token"));
            let token = token.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
            let valid = token.is_some_and(|token| self.simulator.validate(row.vendor, &token).valid);
            if !valid {
                self.unusable
                    .push(format!("Secret {} at {}", row.target, Timestamp::now()));
            }
        }
    }

    /// The VendorTokens whose Secret holds a token that its vendor takes.
    pub(crate) async fn usable(&self) -> Result<usize, Error> {
        let (_, secrets) = self.read().await?;
        let secrets: BTreeMap<String, Secret> = secrets
            .into_iter()
            .map(|secret| (secret.name_any(), secret))
            .collect();
        let good = |row: &&Row| {
            let token = secrets.get(&row.target)?.data.as_ref()?.get("token")?;
            let token = std::str::from_utf8(&token.0).ok()?;
            Some(self.simulator.validate(row.vendor, token).valid)
        };
        Ok(self.rows.iter().filter(|row| good(row) == Some(true)).count())
    }

    pub(crate) fn log_tail(&self) -> String {
        let text = match fs::read(self.operator_log()) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => return with_causes(&error),
        };
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(20);
        lines.get(first..).unwrap_or_default().join("\n")
    }

    /// Stops the operator, then the simulator.
    pub(crate) async fn strike(self) {
        self.operator.stop().await;
        self.simulator.stop().await;
    }
}
