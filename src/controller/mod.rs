//! Watches VendorTokens and Secrets, and reconciles: gather, decide, act, record.
//!
//! May use everything but `main`. The only module that talks to the API server.

mod checked;
mod context;
mod credentials;
mod error;
mod events;
mod key;
mod publish;
mod reconcile;
mod secrets;
mod tokens;
mod view;
mod watch;

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::Config;
use kube::runtime::{applier, controller::ReconcileRequest};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::context::{Context, Parts};
use self::error::{Error, with_causes};
use self::tokens::{key_of, object_ref};
use self::watch::{SecretSink, TokenSink};
use crate::api::VendorToken;
use crate::clock::Clock;
use crate::failure::FailureClass;
use crate::grants::{GrantObserver, Grants, GrantsOptions, ObjectKey};
use crate::http::Transport;
use crate::metrics::Metrics;
use crate::server::Health;
use crate::vendor::Vendor;

pub use self::context::Settings;
pub use self::key::SECRET_NAME as FINGERPRINT_KEY_SECRET;

/// At SIGTERM, requests in flight get this long.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);
/// A Secret list that does not come (RBAC, an outage) is waited for this long; then Secrets are read one by one.
const SECRET_LIST_PATIENCE: Duration = Duration::from_secs(10);

/// The scheduler shows that it comes round this often.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What the controller works with.
pub struct Parameters {
    pub client: Client,
    pub settings: Settings,
    pub grants: GrantsOptions,
    pub transport: Arc<dyn Transport>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Metrics,
    pub health: Health,
}

impl std::fmt::Debug for Parameters {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Parameters")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Runs until `shutdown` completes; then lets requests in flight end, publishes what arrived, and returns.
pub async fn run(parameters: Parameters, shutdown: impl Future<Output = ()> + Send + 'static) {
    let (triggers, queue) = mpsc::unbounded_channel::<ObjectKey>();
    let grants = Grants::new(
        parameters.grants,
        parameters.transport,
        Arc::clone(&parameters.clock),
        Arc::new(GrantMetrics(parameters.metrics.clone())),
        triggers.clone(),
    );
    let context = Arc::new(Context::new(Parts {
        client: parameters.client,
        settings: parameters.settings,
        clock: parameters.clock,
        grants: Arc::clone(&grants),
        metrics: parameters.metrics,
        health: parameters.health,
        triggers,
    }));
    let mut background = JoinSet::new();
    background.spawn(key::obtain(Arc::clone(&context)));
    start_watches(&mut background, &context);
    let dispatcher = tokio::spawn(Arc::clone(&grants).run());

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = stopped.map(|_| ()).shared();
    let reconciling = tokio::spawn(reconcile_all(Arc::clone(&context), queue, stopped));
    shutdown.await;
    tracing::info!("stopping: requests in flight may end, and what arrives is published");
    grants.drain(DRAIN_PATIENCE).await;
    let _ = stop.send(());
    if tokio::time::timeout(DRAIN_PATIENCE, reconciling).await.is_err() {
        tracing::warn!("stopped before every reconcile had ended");
    }
    dispatcher.abort();
    background.abort_all();
}

/// Counts what the Grants component tells.
struct GrantMetrics(Metrics);

impl GrantObserver for GrantMetrics {
    fn request_ended(&self, vendor: Vendor, outcome: Result<(), FailureClass>, took: Duration) {
        self.0.vendor_request(vendor, outcome, took);
    }

    fn throttled_until(&self, vendor: Vendor, until: Timestamp) {
        self.0.vendor_throttled_until(vendor, Some(until));
    }
}

fn start_watches(tasks: &mut JoinSet<()>, context: &Arc<Context>) {
    for scope in context.settings.scopes() {
        let client = context.client.clone();
        let tokens: Api<DeserializeGuard<VendorToken>> = api(client.clone(), &scope);
        tasks.spawn(watch::run(
            tokens,
            scope.clone(),
            TokenSink(Arc::clone(context)),
            Arc::clone(context),
        ));
        if context.settings.secret_watch {
            let secrets: Api<PartialObjectMeta<Secret>> = api(client, &scope);
            tasks.spawn(watch::run(
                secrets,
                scope,
                SecretSink(Arc::clone(context)),
                Arc::clone(context),
            ));
        }
    }
}

fn api<K>(client: Client, scope: &str) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    if scope.is_empty() {
        Api::all(client)
    } else {
        Api::namespaced(client, scope)
    }
}

/// Reconciles what `queue` names, until `stopped` completes.
async fn reconcile_all(
    context: Arc<Context>,
    queue: mpsc::UnboundedReceiver<ObjectKey>,
    stopped: impl Future<Output = ()> + Clone + Send + 'static,
) {
    tokio::select! {
        () = initial_lists(&context) => {}
        () = stopped.clone() => return,
    }
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    let pending = Arc::new(Pending::default());
    let requests = stream::unfold(Arc::clone(&queue), |queue| async move {
        let object = queue.lock().await.recv().await;
        object.map(|object| (object, queue))
    })
    .map(|object| {
        let request = ReconcileRequest::from(object_ref(&object));
        pending.add(object);
        Ok::<_, std::convert::Infallible>(request)
    })
    .take_until(stopped);
    let concurrency = context.settings.concurrency;
    let health = context.health.clone();
    let outcomes = applier(
        |token: Arc<VendorToken>, context: Arc<Context>| {
            pending.remove(&key_of(&token));
            // On a task of its own: the applier polls all reconciles on one, and a panic ends one reconcile only.
            let started = tokio::time::Instant::now();
            let metrics = context.metrics.clone();
            let task = tokio::spawn(reconcile::reconcile(token, context));
            Box::pin(async move {
                let result = task.await.map_err(Error::Task).flatten();
                metrics.reconciled(if result.is_ok() { "ok" } else { "error" }, started.elapsed());
                result
            })
        },
        |token, error, context| reconcile::after_error(&token, error, &context),
        Arc::clone(&context),
        context.tokens.store(),
        Box::pin(requests),
        Config::default().concurrency(concurrency),
    );
    {
        tokio::pin!(outcomes);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                outcome = outcomes.next() => if outcome.is_none() { break },
                _ = heartbeat.tick() => {}
            }
            health.tick();
        }
    }
    let mut queue = queue.lock().await;
    while let Ok(object) = queue.try_recv() {
        pending.add(object);
    }
    reconcile_last(&context, pending.take()).await;
}

/// What the applier was given and has not begun: it forgets that when it is stopped.
#[derive(Default)]
struct Pending(Mutex<HashSet<ObjectKey>>);

impl Pending {
    fn lock(&self) -> MutexGuard<'_, HashSet<ObjectKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, object: ObjectKey) {
        self.lock().insert(object);
    }

    fn remove(&self, object: &ObjectKey) {
        self.lock().remove(object);
    }

    fn take(&self) -> HashSet<ObjectKey> {
        std::mem::take(&mut self.lock())
    }
}

/// Reconciles each of `objects` once more at the end: tokens that arrived meanwhile are published.
async fn reconcile_last(context: &Arc<Context>, objects: HashSet<ObjectKey>) {
    let tokens = objects.iter().filter_map(|object| context.tokens.get(object));
    stream::iter(tokens)
        .for_each_concurrent(usize::from(context.settings.concurrency), |token| async move {
            let object = key_of(&token);
            if let Err(error) = reconcile::reconcile(token, Arc::clone(context)).await {
                tracing::warn!(%object, error = with_causes(&error), "the last reconcile before the end failed");
            }
        })
        .await;
}

/// Waits until what is there is known: deciding on half a view would ask vendors for tokens that exist.
async fn initial_lists(context: &Context) {
    let patience = tokio::time::sleep(SECRET_LIST_PATIENCE);
    tokio::pin!(patience);
    let mut patient = context.settings.secret_watch;
    loop {
        // Waiting is work: an API server that is away must not have the process restarted.
        context.health.tick();
        let told = context.initial_lists.notified();
        let scopes = context.settings.scopes();
        let tokens = scopes.iter().all(|scope| context.tokens.is_listed(scope));
        let secrets = scopes.iter().all(|scope| context.secrets.is_listed(scope));
        if tokens && (secrets || !patient) {
            break;
        }
        tokio::select! {
            () = told => {}
            () = &mut patience, if patient => {
                patient = false;
                tracing::warn!(
                    "Secrets cannot be listed and watched; they are read one by one, and changes are seen within 5 \
                     minutes: grant list and watch on Secrets, or set --secret-watch=false to silence this"
                );
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
    context.health.set_ready("watches", Ok(()));
}
