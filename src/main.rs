//! `vendor-token-operator`: puts arguments, telemetry, the client of the API server, servers and the controller
//! together.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use kube::client::ClientBuilder;
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use vendor_token_operator::arguments::{self, Invocation, RunArguments};
use vendor_token_operator::clock::{SystemClock, Timeline};
use vendor_token_operator::controller::{self, Parameters, Settings};
use vendor_token_operator::election::{
    ApiServerReachability, ElectionOptions, Elector, LastAnswer, Leadership, writes_need_leadership,
};
use vendor_token_operator::error_text::with_causes;
use vendor_token_operator::grants::GrantsOptions;
use vendor_token_operator::http::{HttpTransport, HttpTransportOptions, TransportError};
use vendor_token_operator::metrics::Metrics;
use vendor_token_operator::metrics::api::{CallDeadline, CountApiRequests};
use vendor_token_operator::providers::Vendor;
use vendor_token_operator::server::{Health, Server, ServerError};
use vendor_token_operator::{api, telemetry};

/// Number of concurrent reconciles. Each makes a few calls to the API server, and none waits for a vendor.
const CONCURRENCY: u16 = 32;

/// Error in starting the operator.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("failed to start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error("failed to read kubeconfig '{path}': check --kubeconfig")]
    ReadKubeconfig {
        path: String,
        #[source]
        source: KubeconfigError,
    },
    // The source is dropped: it quotes the lines around the fault, which may hold tokens and keys.
    #[error(
        "failed to read kubeconfig{place}: it is not the YAML of a kubeconfig; `kubectl config view` shows more"
    )]
    ParseKubeconfig { place: String },
    #[error("failed to use the kubeconfig: check --kubeconfig and --context")]
    UseKubeconfig(#[source] KubeconfigError),
    #[error("failed to find a cluster: give --kubeconfig, or run in a pod with a ServiceAccount")]
    FindCluster(#[source] InferConfigError),
    #[error("failed to make a client for the API server")]
    Client(#[source] kube::Error),
    #[error("failed to read --vendor-ca-file '{path}'")]
    ReadVendorCa {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to use --vendor-ca-file '{path}'")]
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
                    ExitCode::FAILURE
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

fn run(arguments: &RunArguments) -> Result<(), StartError> {
    // One provider for all TLS of the process. Only a second call of this line could fail.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(StartError::Runtime)?
        .block_on(operate(arguments))
}

async fn operate(arguments: &RunArguments) -> Result<(), StartError> {
    let metrics = Metrics::new();
    let health = Health::new(&["fingerprint-key", "watches"]);
    let timeline = Arc::new(Timeline::new(Arc::new(SystemClock)));
    let config = cluster(arguments).await?;
    let (leadership, elector) = election(arguments, &config, Arc::clone(&timeline))?;
    let last_answer = LastAnswer::default();
    let client = ClientBuilder::try_from(config)
        .map_err(StartError::Client)?
        .with_layer(&CallDeadline::default())
        .with_layer(&CountApiRequests::new(metrics.clone()))
        .with_layer(&last_answer.layer())
        .with_layer(&writes_need_leadership(leadership.clone()))
        .build();
    let reachability = ApiServerReachability::new(last_answer, client.clone());
    let leadership = leadership.with_reachability(reachability);
    let transport = HttpTransport::new(
        HttpTransportOptions {
            additional_authorities: vendor_authorities(arguments)?,
            ..HttpTransportOptions::default()
        },
        Arc::clone(&timeline),
    )
    .map_err(|source| match (&source, &arguments.vendor_ca_file) {
        (TransportError::Bundle(_), Some(path)) => StartError::UseVendorCa {
            path: path.display().to_string(),
            source,
        },
        _ => StartError::Transport(source),
    })?;

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
        Server::metrics(address, metrics.clone())
            .map_err(StartError::Server)?,
        "/metrics",
    );
    let address = arguments.health_probe_bind_address;
    serve(
        Server::health(address, health.clone())
            .map_err(StartError::Server)?,
        "/livez /readyz",
    );

    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
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
    controller::run(parameters, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
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
    Ok(())
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

fn vendor_authorities(arguments: &RunArguments) -> Result<Option<Vec<u8>>, StartError> {
    let Some(path) = &arguments.vendor_ca_file else {
        return Ok(None);
    };
    let pem = std::fs::read(path).map_err(|source| StartError::ReadVendorCa {
        path: path.display().to_string(),
        source,
    })?;
    Ok(Some(pem))
}

/// The leadership, and the elector that contends for it unless `--leader-elect=false`.
fn election(
    arguments: &RunArguments,
    config: &Config,
    timeline: Arc<Timeline>,
) -> Result<(Leadership, Option<Elector>), StartError> {
    if !arguments.leader_elect {
        return Ok((Leadership::always(), None));
    }
    // A client of its own: calls for the Lease wait for no other call, and need no leadership.
    let client = Client::try_from(config.clone()).map_err(StartError::Client)?;
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

/// Configuration of the client of the API server.
async fn cluster(arguments: &RunArguments) -> Result<Config, StartError> {
    let options = KubeConfigOptions {
        context: arguments.context.clone(),
        ..KubeConfigOptions::default()
    };
    let mut config = match &arguments.kubeconfig {
        Some(path) => {
            let path = path.display().to_string();
            let kubeconfig = Kubeconfig::read_from(&path).map_err(|source| match source {
                KubeconfigError::Parse(error) => StartError::ParseKubeconfig {
                    place: match error.location() {
                        Some(location) => format!(" '{path}', line {}", location.line()),
                        None => format!(" '{path}'"),
                    },
                },
                source => StartError::ReadKubeconfig { path, source },
            })?;
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(use_kubeconfig)?
        }
        None if arguments.context.is_some() => {
            Config::from_kubeconfig(&options).await.map_err(use_kubeconfig)?
        }
        None => Config::infer().await.map_err(find_cluster)?,
    };
    // kube's 15 retries honour a `Retry-After` of any length; `CallDeadline` limits each call instead.
    config.default_retry = false;
    Ok(config)
}

fn use_kubeconfig(source: KubeconfigError) -> StartError {
    match source {
        KubeconfigError::Parse(_) => StartError::ParseKubeconfig { place: String::new() },
        source => StartError::UseKubeconfig(source),
    }
}

fn find_cluster(source: InferConfigError) -> StartError {
    let kubeconfig = std::error::Error::source(&source).and_then(<dyn std::error::Error>::downcast_ref);
    match kubeconfig {
        Some(KubeconfigError::Parse(_)) => StartError::ParseKubeconfig { place: String::new() },
        _ => StartError::FindCluster(source),
    }
}
