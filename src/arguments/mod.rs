//! The command line of `vendor-token-operator`: flags with environment variables and defaults.
//!
//! May use: `telemetry` and `providers` (names and endpoints).

mod environment;
mod values;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use values::{RateLimit, RateLimitError};
use values::{endpoint, namespace, rate_limit};

use crate::providers::{Endpoint, Vendor};
use crate::telemetry::{LogFilter, LogFormat};

/// Path of the namespace of a pod's service account.
const SERVICE_ACCOUNT_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// Default of the operator's namespace outside of a pod.
const DEFAULT_OPERATOR_NAMESPACE: &str = "vendor-token-operator";

/// Task of the process.
#[derive(Clone, Debug)]
pub enum Invocation {
    /// Run the operator.
    Run(Box<RunArguments>),
    /// Print the CRD as YAML.
    Crd,
}

/// Keeps short-lived vendor access tokens fresh in Kubernetes Secrets.
#[derive(Debug, Parser)]
#[command(
    name = "vendor-token-operator",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Each flag can be set by the environment variable shown with it; a flag wins, and an empty variable counts \
                  as unset. Where a flag may be repeated, the variable takes values separated by commas."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator (the default)
    Run(Box<RunArguments>),
    /// Print the CustomResourceDefinition as YAML
    Crd,
}

/// Flags of the operator.
#[derive(Args, Clone, Debug)]
pub struct RunArguments {
    /// Kubeconfig file [default: KUBECONFIG or ~/.kube/config, else the service account of the pod]
    #[arg(
        long,
        value_name = "FILE",
        env = "VENDOR_TOKEN_OPERATOR_KUBECONFIG",
        hide_env_values = true
    )]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig [default: its current context]
    #[arg(
        long,
        value_name = "NAME",
        env = "VENDOR_TOKEN_OPERATOR_CONTEXT",
        hide_env_values = true
    )]
    pub context: Option<String>,

    /// Watch only this namespace, with rights in it alone; may be repeated [default: all namespaces]
    #[arg(
        long = "watch-namespace",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        value_parser = namespace,
        env = "VENDOR_TOKEN_OPERATOR_WATCH_NAMESPACE",
        hide_env_values = true
    )]
    pub watch_namespaces: Vec<String>,

    /// Watch Secrets (their metadata); with false, rights to named Secrets are enough, and changes of Secrets are seen
    /// within 5 minutes
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        action = clap::ArgAction::Set,
        env = "VENDOR_TOKEN_OPERATOR_SECRET_WATCH",
        hide_env_values = true
    )]
    pub secret_watch: bool,

    /// Act only while holding the Lease, so that several replicas can run
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        action = clap::ArgAction::Set,
        env = "VENDOR_TOKEN_OPERATOR_LEADER_ELECT",
        hide_env_values = true
    )]
    pub leader_elect: bool,

    /// Namespace of the operator's own Lease and key [default: that of its service account, else vendor-token-operator]
    #[arg(
        long,
        value_name = "NAMESPACE",
        value_parser = namespace,
        env = "VENDOR_TOKEN_OPERATOR_OPERATOR_NAMESPACE",
        hide_env_values = true
    )]
    operator_namespace: Option<String>,

    /// Replace scheme, host and port of a vendor's token endpoint (https only); may be repeated
    #[arg(
        long = "endpoint",
        value_name = "VENDOR=URL",
        value_delimiter = ',',
        value_parser = endpoint,
        env = "VENDOR_TOKEN_OPERATOR_ENDPOINT",
        hide_env_values = true
    )]
    endpoints: Vec<(Vendor, Endpoint)>,

    /// PEM file of certificate authorities to trust for vendors, besides the system's
    #[arg(
        long,
        value_name = "PEM",
        env = "VENDOR_TOKEN_OPERATOR_VENDOR_CA_FILE",
        hide_env_values = true
    )]
    pub vendor_ca_file: Option<PathBuf>,

    /// Requests a minute to each endpoint of a vendor, 0 for no limit; may be repeated [default: Mapiq=20, others 600]
    #[arg(
        long = "rate-limit",
        value_name = "VENDOR=N[/min]",
        value_delimiter = ',',
        value_parser = rate_limit,
        env = "VENDOR_TOKEN_OPERATOR_RATE_LIMIT",
        hide_env_values = true
    )]
    rate_limits: Vec<(Vendor, RateLimit)>,

    /// Requests in flight to one endpoint; four times as many in all
    #[arg(
        long,
        value_name = "N",
        default_value_t = 32,
        value_parser = clap::value_parser!(u32).range(1..=1024),
        env = "VENDOR_TOKEN_OPERATOR_MAX_CONCURRENT_REQUESTS",
        hide_env_values = true
    )]
    pub max_concurrent_requests: u32,

    /// Address of /metrics; [::] is every address of both families
    #[arg(
        long,
        value_name = "IP:PORT",
        default_value = "[::]:8080",
        env = "VENDOR_TOKEN_OPERATOR_METRICS_BIND_ADDRESS",
        hide_env_values = true
    )]
    pub metrics_bind_address: SocketAddr,

    /// Address of /livez and /readyz; [::] is every address of both families
    #[arg(
        long,
        value_name = "IP:PORT",
        default_value = "[::]:8081",
        env = "VENDOR_TOKEN_OPERATOR_HEALTH_PROBE_BIND_ADDRESS",
        hide_env_values = true
    )]
    pub health_probe_bind_address: SocketAddr,

    /// Format of log lines, on standard error
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value_t = LogFormat::Json,
        hide_possible_values = false,
        env = "VENDOR_TOKEN_OPERATOR_LOG_FORMAT",
        hide_env_values = true
    )]
    pub log_format: LogFormat,

    /// Level (error, warn, info, debug, trace, off), or directives such as info,kube_runtime=debug
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        env = "VENDOR_TOKEN_OPERATOR_LOG_LEVEL",
        hide_env_values = true
    )]
    pub log_level: LogFilter,
}

impl RunArguments {
    /// The replacement of the endpoint of this vendor, if one is set.
    pub fn endpoint(&self, vendor: Vendor) -> Option<&Endpoint> {
        self.endpoints
            .iter()
            .find(|(named, _)| *named == vendor)
            .map(|(_, endpoint)| endpoint)
    }

    /// Requests a minute to one endpoint of this vendor; `None` for no limit.
    pub fn rate_limit(&self, vendor: Vendor) -> Option<u32> {
        let given = self.rate_limits.iter().find(|(named, _)| *named == vendor);
        match given {
            Some((_, limit)) => limit.per_minute(),
            None => Some(vendor.requests_per_minute()),
        }
    }

    /// The namespace of the operator's own Lease and key.
    pub fn operator_namespace(&self) -> String {
        self.operator_namespace_or(Path::new(SERVICE_ACCOUNT_NAMESPACE))
    }

    fn operator_namespace_or(&self, service_account: &Path) -> String {
        let of_service_account = || {
            let text = std::fs::read_to_string(service_account).ok()?;
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let given = self.operator_namespace.clone();
        given
            .or_else(of_service_account)
            .unwrap_or_else(|| DEFAULT_OPERATOR_NAMESPACE.to_owned())
    }
}

/// Refuses a vendor that is named twice, since either value may be meant.
fn once<T>(values: &[(Vendor, T)]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    match values.iter().find(|(vendor, _)| !seen.insert(*vendor)) {
        Some((vendor, _)) => Err(format!("names {vendor} twice: give it once")),
        None => Ok(()),
    }
}

/// Reads a command line, which begins with the program's name, and the environment.
///
/// # Errors
/// For `--help` and `--version` the error is their text; `clap::Error::exit` prints it and ends with 0, or with 2 for wrong
/// usage.
pub fn parse<I, T>(arguments: I) -> Result<Invocation, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let arguments = arguments.into_iter().map(Into::into).collect();
    let line = environment::parse(arguments, |name| std::env::var_os(name))?;
    Ok(match line.command {
        Some(Command::Crd) => Invocation::Crd,
        Some(Command::Run(run)) => Invocation::Run(run),
        None => Invocation::Run(Box::new(line.run)),
    })
}

impl CommandLine {
    /// Reads a command line alone, without the environment.
    fn read(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let command = environment::ignored(Self::command());
        Self::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }

    /// Checks that no flag names a vendor twice. The error is the flag, and what is wrong with it.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let run = match &self.command {
            Some(Command::Crd) => return Ok(()),
            Some(Command::Run(run)) => run,
            None => &self.run,
        };
        once(&run.endpoints).map_err(|problem| ("--endpoint", problem))?;
        once(&run.rate_limits).map_err(|problem| ("--rate-limit", problem))
    }
}

/// An error of wrong usage: `place` is a flag or a variable.
fn wrong_value(place: &str, problem: &str) -> clap::Error {
    CommandLine::command().error(ErrorKind::ValueValidation, format!("{place} {problem}"))
}

/// Reads the command line and environment of this process. Help ends the process with 0, wrong usage with 2.
pub fn parse_or_exit() -> Invocation {
    parse(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

#[cfg(test)]
mod tests;
