//! The measured programs and their processes.

use std::fmt;

use clap::ValueEnum;
use test_support::{
    Error, OPERATOR_NAMESPACE, OPERATOR_SERVICE_ACCOUNT, Operator, OperatorSettings, Process,
};
use vendor_simulator::Vendor;

use crate::world::World;

/// A program that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Program {
    /// The least possible program.
    Floor,
    /// The least possible program with the operator's writes, for their cost at the API server.
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

/// Settings of the measured programs.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Settings {
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
}

/// A measured program's process.
pub(crate) enum Running {
    Floor(Process),
    Operator(Operator),
}

impl Running {
    pub(crate) async fn start(program: Program, world: &World, settings: &Settings) -> Result<Self, Error> {
        let kubeconfig = world
            .plane
            .kubeconfig_for_service_account(OPERATOR_NAMESPACE, OPERATOR_SERVICE_ACCOUNT)
            .await?;
        let folder = world.plane.folder();
        match program {
            Program::Floor | Program::FloorSameWrites => {
                let mut arguments = vec![
                    "floor".to_owned(),
                    format!("--kubeconfig={}", kubeconfig.display()),
                    format!("--vendor-ca-file={}", world.vendors.authority.display()),
                    format!("--in-flight={}", settings.in_flight),
                ];
                for (vendor, origin) in &world.vendors.endpoints {
                    arguments.push(format!("--endpoint={vendor}={origin}"));
                }
                if program == Program::FloorSameWrites {
                    arguments.push("--same-writes".to_owned());
                }
                let log = folder.join("floor.log");
                let ours = std::env::current_exe().map_err(Error::step("find this program"))?;
                Ok(Self::Floor(Process::start("floor", &ours, arguments, &log)?))
            }
            Program::Operator => {
                let mut arguments: Vec<String> = Vendor::ALL
                    .into_iter()
                    .map(|vendor| format!("--rate-limit={}=0", vendor.name()))
                    .collect();
                arguments.extend([
                    "--metrics-bind-address=127.0.0.1:0".to_owned(),
                    "--health-probe-bind-address=127.0.0.1:0".to_owned(),
                ]);
                arguments.extend(settings.operator_arguments.iter().cloned());
                Ok(Self::Operator(Operator::start(&OperatorSettings {
                    kubeconfig,
                    endpoints: world.vendors.endpoints.clone(),
                    authority: world.vendors.authority.clone(),
                    arguments,
                    log: folder.join("operator.log"),
                })?))
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Floor(process) => process.pid(),
            Self::Operator(operator) => operator.pid(),
        }
    }

    pub(crate) fn check(&mut self) -> Result<(), Error> {
        match self {
            Self::Floor(process) => match process.exit_status() {
                None => Ok(()),
                Some(status) => Err(process.not_started(format!("it ended with {status}"))),
            },
            Self::Operator(operator) => operator.check(),
        }
    }

    pub(crate) async fn stop(self) {
        match self {
            Self::Floor(process) => drop(process),
            Self::Operator(operator) => operator.stop().await,
        }
    }
}
