//! `vendor-token-operator`: puts arguments, telemetry, the client of the API server, servers and the controller
//! together.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use kube::Api;
use tokio::signal::unix::{Signal, SignalKind, signal};
use vendor_token_operator::arguments::{self, Invocation, RunArguments};
use vendor_token_operator::clock::{SystemClock, Timeline};
use vendor_token_operator::connection::{Acceptance, Cluster, ClusterError, time_to_end};
use vendor_token_operator::controller::{self, Parameters, Settings};
use vendor_token_operator::election::{
    ApiServerReachability, ElectionOptions, Elector, LastAnswer, Leadership, writes_need_leadership,
};
use vendor_token_operator::error_text::with_causes;
use vendor_token_operator::grants::GrantsOptions;
use vendor_token_operator::http::{
    AuthorityFile, HttpTransport, HttpTransportOptions, ProxySetting, TransportError,
};
use vendor_token_operator::metrics::Metrics;
use vendor_token_operator::metrics::api::{CallDeadline, CountApiRequests};
use vendor_token_operator::providers::Vendor;
use vendor_token_operator::proxy::{InvalidProxy, Proxy};
use vendor_token_operator::server::{Health, Server, ServerError};
use vendor_token_operator::{api, telemetry};

/// Number of concurrent reconciles: 32 of one namespace, and 10 that are left for others. Each makes a few calls to the
/// API server, and none waits for a vendor.
const CONCURRENCY: u16 = 42;

/// Interval at which `--vendor-ca-file` is looked at.
const AUTHORITIES_INTERVAL: Duration = Duration::from_secs(30);
/// The process ends after this long with nothing but 401 from the API server.
const LONGEST_REFUSAL: Duration = Duration::from_secs(300);
/// Exit code of wrong usage, as clap's.
const WRONG_USAGE: u8 = 2;

/// Error that ends the operator.
#[derive(Debug, thiserror::Error)]
enum OperatorError {
    #[error("failed to start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Proxy(#[from] InvalidProxy),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("failed to read --vendor-ca-file '{path}' (VENDOR_TOKEN_OPERATOR_VENDOR_CA_FILE)")]
    ReadVendorCa {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to use --vendor-ca-file '{path}' (VENDOR_TOKEN_OPERATOR_VENDOR_CA_FILE)")]
    UseVendorCa {
        path: String,
        #[source]
        source: TransportError,
    },
    #[error("failed to set up HTTPS to the vendors")]
    Transport(#[source] TransportError),
    #[error("failed to serve")]
    Server(#[source] ServerError),
    #[error("failed to listen for signals")]
    Signals(#[source] std::io::Error),
    #[error(
        "the API server has refused the operator's own credentials (401) for {} s: it ends, so that it reads them anew when it \
         is started again; check its kubeconfig or ServiceAccount", LONGEST_REFUSAL.as_secs()
    )]
    CredentialsRefused,
    #[error(
        "the operator's own credentials for the API server are about to end: it ends, so that the exec plugin of its \
         kubeconfig makes new ones when it is started again"
    )]
    CredentialsEnd,
}

impl OperatorError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Proxy(_) | Self::Cluster(ClusterError::Proxy(_)) => ExitCode::from(WRONG_USAGE),
            _ => ExitCode::FAILURE,
        }
    }
}

fn main() -> ExitCode {
    match arguments::parse_or_exit() {
        Invocation::Crd => print_crd(),
        Invocation::Run(arguments) => {
            if let Err(error) = telemetry::init(arguments.log_format, &arguments.log_level) {
                complain(&error);
                return ExitCode::FAILURE;
            }
            match run(&arguments) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    complain(&error);
                    error.exit_code()
                }
            }
        }
    }
}

fn print_crd() -> ExitCode {
    let yaml = match api::custom_resource_definition_yaml() {
        Ok(yaml) => yaml,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    match std::io::stdout().write_all(yaml.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Writes an error with its causes to standard error, for a person or a pod's log.
fn complain(error: &(dyn std::error::Error + 'static)) {
    let text = format!("error: {}", with_causes(error));
    // A closed standard error can be reported nowhere.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn run(arguments: &RunArguments) -> Result<(), OperatorError> {
    // One provider for all TLS of the process. Only a second call of this line could fail.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(OperatorError::Runtime)?
        .block_on(operate(arguments))
}

async fn operate(arguments: &RunArguments) -> Result<(), OperatorError> {
    let metrics = Metrics::new();
    let health = Health::new(&["fingerprint-key", "watches"]);
    let timeline = Arc::new(Timeline::new(Arc::new(SystemClock)));
    let proxy = Proxy::from_environment()?;
    let transport = transport(arguments, proxy.as_ref(), &timeline)?;
    let (kubeconfig, context) = (arguments.kubeconfig.as_deref(), arguments.context.as_deref());
    let cluster = Cluster::find(kubeconfig, context, proxy.as_ref()).await?;
    let (last_answer, acceptance) = (LastAnswer::default(), Acceptance::default());
    let (leadership, elector) = election(arguments, &cluster, &acceptance, Arc::clone(&timeline))?;
    let client = cluster
        .client_builder()?
        .with_layer(&CallDeadline::default())
        .with_layer(&CountApiRequests::new(metrics.clone()))
        .with_layer(&acceptance.layer())
        .with_layer(&last_answer.layer())
        .with_layer(&writes_need_leadership(leadership.clone()))
        .build();
    let credentials_end = client
        .valid_until()
        .map(|until| time_to_end(until, Timestamp::now()));
    let reachability = ApiServerReachability::new(last_answer, client.clone());
    let leadership = leadership.with_reachability(reachability);

    let (stop, stopped) = tokio::sync::watch::channel(false);
    let serve = |server: Server, paths: &str| {
        // With port 0 only this line shows the port in use.
        tracing::info!(address = %server.local_address(), paths, "serving");
        let mut stopped = stopped.clone();
        tokio::spawn(server.serve(async move {
            // The sender is dropped when the process ends.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }))
    };
    let address = arguments.metrics_bind_address;
    serve(
        Server::metrics(address, metrics.clone()).map_err(OperatorError::Server)?,
        "/metrics",
    );
    let address = arguments.health_probe_bind_address;
    serve(
        Server::health(address, health.clone()).map_err(OperatorError::Server)?,
        "/livez /readyz",
    );

    let terminate = signal(SignalKind::terminate()).map_err(OperatorError::Signals)?;
    let interrupt = signal(SignalKind::interrupt()).map_err(OperatorError::Signals)?;
    let settings = settings(arguments);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        namespaces = ?settings.watch_namespaces,
        secret_watch = settings.secret_watch,
        "vendor-token-operator starts"
    );
    let parameters = Parameters {
        client,
        grants: grants_options(arguments),
        settings,
        transport: Arc::new(transport),
        timeline,
        metrics,
        health,
        leadership,
    };
    let (resign, resigned) = tokio::sync::oneshot::channel::<()>();
    let electing = elector.map(|elector| {
        tokio::spawn(elector.run(async move {
            let _ = resigned.await;
        }))
    });
    let ending = Arc::new(OnceLock::new());
    let told = Arc::clone(&ending);
    controller::run(parameters, async move {
        let ending = ending_of(terminate, interrupt, acceptance, credentials_end).await;
        // Cannot fail: this future runs once.
        let _ = told.set(ending);
    })
    .await;
    // The Lease is given back last, after this process' last write.
    let _ = resign.send(());
    if let Some(electing) = electing {
        // A panic there has its own log line, and the Lease expires.
        let _ = electing.await;
    }
    // Without receivers the servers have failed, which does not matter at the end.
    let _ = stop.send(true);
    match ending.get() {
        None | Some(Ending::Signal) => Ok(()),
        Some(Ending::CredentialsRefused) => Err(OperatorError::CredentialsRefused),
        Some(Ending::CredentialsEnd) => Err(OperatorError::CredentialsEnd),
    }
}

/// The reason for the end of the process.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Signal,
    CredentialsRefused,
    CredentialsEnd,
}

/// Waits for a reason to end.
async fn ending_of(
    mut terminate: Signal,
    mut interrupt: Signal,
    acceptance: Acceptance,
    credentials_end: Option<Duration>,
) -> Ending {
    let credentials_end = async {
        match credentials_end {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => Ending::Signal,
        _ = interrupt.recv() => Ending::Signal,
        () = acceptance.refused_for(LONGEST_REFUSAL) => Ending::CredentialsRefused,
        () = credentials_end => Ending::CredentialsEnd,
    }
}

fn settings(arguments: &RunArguments) -> Settings {
    let endpoints: BTreeMap<_, _> = Vendor::ALL
        .into_iter()
        .filter_map(|vendor| Some((vendor, arguments.endpoint(vendor)?.clone())))
        .collect();
    Settings {
        operator_namespace: arguments.operator_namespace(),
        watch_namespaces: arguments.watch_namespaces.clone(),
        secret_watch: arguments.secret_watch,
        endpoints,
        concurrency: CONCURRENCY,
        longest_wait: controller::LONGEST_WAIT,
    }
}

fn grants_options(arguments: &RunArguments) -> GrantsOptions {
    GrantsOptions {
        per_minute: Vendor::ALL
            .into_iter()
            .filter_map(|vendor| Some((vendor, arguments.rate_limit(vendor)?)))
            .collect(),
        max_concurrent: arguments.max_concurrent_requests as usize,
    }
}

/// The transport to the vendors. A task has it trust the present content of `--vendor-ca-file`.
fn transport(
    arguments: &RunArguments,
    proxy: Option<&Proxy>,
    timeline: &Arc<Timeline>,
) -> Result<HttpTransport, OperatorError> {
    if let Some(proxy) = proxy {
        tracing::info!(%proxy, "vendors are asked through a proxy");
    }
    let file = match &arguments.vendor_ca_file {
        None => None,
        Some(path) => Some(
            AuthorityFile::read(path).map_err(|source| OperatorError::ReadVendorCa {
                path: path.display().to_string(),
                source,
            })?,
        ),
    };
    let options = HttpTransportOptions {
        additional_authorities: file.as_ref().map(|file| file.content().to_vec()),
        proxy: proxy.map_or(ProxySetting::Off, |proxy| ProxySetting::Through(proxy.clone())),
        ..HttpTransportOptions::default()
    };
    let transport = HttpTransport::new(options, Arc::clone(timeline)).map_err(|source| {
        match (&source, &arguments.vendor_ca_file) {
            (TransportError::Bundle(_), Some(path)) => OperatorError::UseVendorCa {
                path: path.display().to_string(),
                source,
            },
            _ => OperatorError::Transport(source),
        }
    })?;
    if let Some(file) = file {
        tokio::spawn(file.follow(transport.clone(), AUTHORITIES_INTERVAL));
    }
    Ok(transport)
}

/// The leadership, and the elector that contends for it unless `--leader-elect=false`.
fn election(
    arguments: &RunArguments,
    cluster: &Cluster,
    acceptance: &Acceptance,
    timeline: Arc<Timeline>,
) -> Result<(Leadership, Option<Elector>), OperatorError> {
    if !arguments.leader_elect {
        return Ok((Leadership::always(), None));
    }
    // A client of its own: calls for the Lease wait for no other call, and need no leadership.
    let client = cluster.client_builder()?.with_layer(&acceptance.layer()).build();
    let leases = Api::namespaced(client, &arguments.operator_namespace());
    let (elector, leadership) = Elector::new(leases, ElectionOptions::new(identity()), timeline);
    Ok((leadership, Some(elector)))
}

/// Identity of this process among the contenders: the pod's name, and a part that no restart repeats.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "local".to_owned());
    let started = jiff::Timestamp::now().as_nanosecond();
    format!("{host}_{:x}-{:x}", std::process::id(), started)
}
