//! One term of leadership: it starts the watches and the reconciles, and ends both.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, stream};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::Resource as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::VendorToken;
use crate::controller::cluster::list_watch;
use crate::controller::cluster::sinks::{Guarded, ObjectSink, SecretSink};
use crate::controller::context::Context;
use crate::controller::leading::key::SECRET_NAME;
use crate::controller::leading::queue::{Cause, ReconcileQueue};
use crate::controller::leading::seed::seed;
use crate::controller::leading::stand_by::{HEARTBEAT, Next};
use crate::controller::reconcile::error::Error;
use crate::controller::reconcile::{self, Failed};
use crate::election::Leadership;
use crate::grants::ObjectKey;
use crate::metrics::Kind;

/// The time for requests in flight at SIGTERM, and then again for publishing what arrived.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);
/// The wait for a list that fails (RBAC, an outage). After it, Secrets are read one by one, and the namespaces that
/// could be listed are served.
const LIST_PATIENCE: Duration = Duration::from_secs(10);
/// The number of reconciles at a time while the last tokens are published.
const LAST_CONCURRENCY: usize = 32;
/// The wall clock went ahead of the timers by more: the machine slept, or the clock was set. Tokens may have ended
/// before a timer says so.
const SLEEP_DETECTION_THRESHOLD: SignedDuration = SignedDuration::from_secs(5);

/// The VendorTokens that are to be reconciled.
#[derive(Debug)]
pub(crate) struct Triggered {
    /// VendorTokens that a change in the cluster concerns.
    pub(crate) looks: mpsc::UnboundedReceiver<ObjectKey>,
    /// VendorTokens whose attempt at a vendor has ended.
    pub(crate) outcomes: mpsc::UnboundedReceiver<ObjectKey>,
}

/// Leads until the leadership is lost or `shutdown` completes.
pub(crate) async fn run(
    context: &Arc<Context>,
    triggered: &mut Triggered,
    leadership: &mut Leadership,
    shutdown: impl Future<Output = ()> + Send,
) -> Next {
    let mut watches = start_leading(context);
    let mut reconciling = Box::pin(reconcile_all(context, triggered));
    let stopping = tokio::select! {
        () = &mut reconciling => false,
        () = leadership.becomes(false) => false,
        () = shutdown => true,
    };
    if !stopping {
        // The reconciles that have begun end with it.
        drop(reconciling);
        watches.shutdown().await;
        step_down(context);
        return Next::StandBy;
    }
    tracing::info!("stopping: requests in flight may end, and what arrives is published");
    tokio::select! {
        () = context.grants.drain(DRAIN_PATIENCE) => {}
        () = &mut reconciling => {}
    }
    if tokio::time::timeout(DRAIN_PATIENCE, publish_what_is_left(context))
        .await
        .is_err()
    {
        tracing::warn!(
            "stopped before everything that arrived was published; it is asked for again at the next start"
        );
    }
    Next::Stop
}

/// Reconciles each object whose grant has ended once more, without the scheduler, which drops reconciles that have not
/// begun.
async fn publish_what_is_left(context: &Arc<Context>) {
    let tokens = context
        .grants
        .objects_with_outcome()
        .into_iter()
        .filter_map(|object| context.objects.get(&object));
    stream::iter(tokens)
        .for_each_concurrent(LAST_CONCURRENCY, |token| async move {
            if let Err(failed) = reconcile::reconcile(Arc::clone(&token), Arc::clone(context)).await {
                reconcile::after_error(&token, &failed, context);
            }
        })
        .await;
}

/// Starts the watches. All objects are listed anew: another process may have published since the last term.
fn start_leading(context: &Context) -> JoinSet<()> {
    context
        .health
        .set_ready("watches", Err("listing VendorTokens and Secrets".to_owned()));
    context.objects.clear();
    context.secrets.clear();
    context.remembered.forget_targets();
    let mut watches = JoinSet::new();
    for scope in context.settings.scopes() {
        let namespace = (!scope.is_empty()).then_some(scope.as_str());
        let (tokens, secrets) = (
            VendorToken::url_path(&(), namespace),
            Secret::url_path(&(), namespace),
        );
        let client = context.client.clone();
        let sink = ObjectSink {
            objects: Arc::clone(&context.objects),
            remembered: Arc::clone(&context.remembered),
            triggers: context.triggers.clone(),
        };
        let monitor = Arc::clone(&context.watches);
        watches.spawn(list_watch::run(
            client.clone(),
            tokens,
            scope.clone(),
            sink,
            monitor,
        ));
        if context.settings.secret_watch {
            let sink = SecretSink {
                secrets: Arc::clone(&context.secrets),
                triggers: context.triggers.clone(),
                guarded: Guarded {
                    namespace: context.settings.operator_namespace.clone(),
                    name: SECRET_NAME,
                    deleted: Arc::clone(&context.key_deleted),
                },
            };
            let monitor = Arc::clone(&context.watches);
            watches.spawn(list_watch::run(client, secrets, scope, sink, monitor));
        }
    }
    watches
}

/// Takes back what this process has said of the objects, after the end of its watches.
fn step_down(context: &Context) {
    context.grants.step_down();
    context.watches.ended();
    context.metrics.undecodable_objects(Kind::VendorToken, 0);
    context.metrics.undecodable_objects(Kind::Secret, 0);
    context.metrics.all_objects_removed();
}

/// Reconciles the objects that are triggered, and those whose next look is due, for ever.
async fn reconcile_all(context: &Arc<Context>, triggered: &mut Triggered) {
    initial_lists(context).await;
    context
        .remembered
        .forget_unless(|object| context.objects.has(object));
    fingerprint_key(context).await;
    seed(context).await;
    let mut queue = ReconcileQueue::default();
    let mut running = FuturesUnordered::new();
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let (mut wall, mut timer) = (context.timeline.now().wall(), Instant::now());
    loop {
        queue.pass_to(Instant::now());
        while let free = usize::from(context.settings.concurrency).saturating_sub(running.len())
            && free > 0
            && let Some(object) = queue.next(free)
        {
            match context.objects.get(&object) {
                Some(token) => running.push(reconcile_one(context, object, token)),
                None => queue.done(&object, None),
            }
        }
        let next_look = queue.next_look();
        tokio::select! {
            object = triggered.outcomes.recv() => match object {
                Some(object) => queue.trigger(object, Cause::Outcome),
                None => return,
            },
            object = triggered.looks.recv() => match object {
                Some(object) => queue.trigger(object, Cause::Look),
                None => return,
            },
            Some((object, wait)) = running.next() => {
                queue.done(&object, wait.map(|wait| Instant::now() + wait));
            }
            () = tokio::time::sleep_until(next_look.unwrap_or_else(Instant::now)), if next_look.is_some() => {}
            _ = heartbeat.tick() => {
                let went_on = context.timeline.now().wall().duration_since(wall);
                let waited = SignedDuration::try_from(timer.elapsed()).unwrap_or(SignedDuration::MAX);
                if went_on.saturating_sub(waited) > SLEEP_DETECTION_THRESHOLD {
                    tracing::warn!("the clock was set ahead, or this machine slept: every VendorToken is looked at");
                    for object in context.objects.keys() {
                        context.triggers.trigger(object);
                    }
                }
                (wall, timer) = (context.timeline.now().wall(), Instant::now());
            }
        }
        // All that have come take their turns, not only the first.
        while let Ok(object) = triggered.outcomes.try_recv() {
            queue.trigger(object, Cause::Outcome);
        }
        while let Ok(object) = triggered.looks.try_recv() {
            queue.trigger(object, Cause::Look);
        }
        context.health.tick();
    }
}

/// Reconciles one object, and gives the wait until its next look; `None` where only a change brings one. The reconcile ends
/// with this future.
async fn reconcile_one(
    context: &Arc<Context>,
    object: Arc<ObjectKey>,
    token: Arc<VendorToken>,
) -> (Arc<ObjectKey>, Option<Duration>) {
    let started = Instant::now();
    // On a task of its own: a panic ends one reconcile only.
    let mut task = JoinSet::new();
    task.spawn(reconcile::reconcile(Arc::clone(&token), Arc::clone(context)));
    let result = task.join_next().await.and_then(Result::ok);
    let result = result.unwrap_or(Err(Failed {
        error: Error::Task,
        look_within: context.settings.longest_wait,
    }));
    let told = if result.is_ok() { "ok" } else { "error" };
    context.metrics.reconciled(told, started.elapsed());
    let wait = result.unwrap_or_else(|failed| Some(reconcile::after_error(&token, &failed, context)));
    (object, wait)
}

/// Waits for the fingerprint key, without which nothing can be judged.
async fn fingerprint_key(context: &Context) {
    let mut key = context.key.clone();
    while key.borrow_and_update().is_none() {
        context.health.tick();
        tokio::select! {
            Ok(()) = key.changed() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Waits for the first lists: a decision on a part of the objects would ask vendors for tokens that exist.
async fn initial_lists(context: &Context) {
    let patience = tokio::time::sleep(LIST_PATIENCE);
    tokio::pin!(patience);
    let mut patient = true;
    loop {
        // A wait is a sign of life: an API server that is away must not have the process restarted.
        context.health.tick();
        let next_list = context.watches.next_list();
        let scopes = context.settings.scopes();
        let tokens = scopes
            .iter()
            .filter(|scope| context.objects.is_listed(scope))
            .count();
        let secrets = scopes.iter().all(|scope| context.secrets.is_listed(scope));
        let everything = tokens == scopes.len() && (secrets || !context.settings.secret_watch);
        // A namespace that cannot be listed does not hold up the others.
        if everything || (!patient && tokens > 0) {
            break;
        }
        tokio::select! {
            () = next_list => {}
            () = &mut patience, if patient => {
                patient = false;
                if tokens < scopes.len() {
                    tracing::warn!(
                        "VendorTokens cannot be listed everywhere: namespaces that can be are served, the others as soon \
                         as they can; grant list and watch on vendortokens, or take them out of --watch-namespace"
                    );
                }
                if context.settings.secret_watch && !secrets {
                    tracing::warn!(
                        "Secrets cannot be listed and watched; they are read one by one, and changes are seen within 5 \
                         minutes: grant list and watch on Secrets, or set --secret-watch=false to silence this"
                    );
                }
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
    context.health.set_ready("watches", Ok(()));
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use kube::Api;
    use serde_json::{Value, json};

    use super::*;
    use crate::clock::SystemClock;
    use crate::controller::cluster::list_watch::Sink as _;
    use crate::controller::cluster::objects::key_of;
    use crate::controller::fake;
    use crate::election::{ElectionOptions, Elector};

    /// A VendorToken whose spec cannot be used.
    fn broken(namespace: &str, name: &str) -> VendorToken {
        serde_json::from_value(json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": name, "namespace": namespace, "uid": name, "resourceVersion": "1", "generation": 1 },
            "spec": { "vendor": "SixClicks", "credentialsSecretRef": { "name": "c" } },
        }))
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_beside_hundreds_of_another_namespace_is_reconciled_next() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&written);
        let (context, _queue) = fake::context_at(Arc::new(SystemClock), move |_, path, sent| {
            let place = path.split('/').skip_while(|part| *part != "namespaces");
            if let [_, namespace, _, name, "status"] = place.collect::<Vec<_>>()[..] {
                taken.lock().unwrap().push(namespace.to_owned());
                let mut answer = serde_json::to_value(broken(namespace, name)).unwrap();
                let sent: Value = serde_json::from_slice(sent).unwrap();
                answer["metadata"]["resourceVersion"] = json!("2");
                answer["status"] = sent["status"].clone();
                return (200, answer);
            }
            (
                404,
                json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                "reason": "NotFound", "message": "none" }),
            )
        });
        let (triggers, looks) = mpsc::unbounded_channel();
        let (_wake, outcomes) = mpsc::unbounded_channel();
        let mut triggered = Triggered { looks, outcomes };
        context.objects.begin_list("");
        context.secrets.begin_list("");
        let hostile = (0..300).map(|number| ("hostile", format!("t{number}")));
        for (namespace, name) in hostile.chain([("other", "t".to_owned())]) {
            let token = broken(namespace, &name);
            triggers.send(key_of(&token)).unwrap();
            context.objects.put_listed("", token);
        }
        context.objects.end_list("");
        context.secrets.end_list("");
        let done = async {
            while written.lock().unwrap().len() < 301 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = reconcile_all(&context, &mut triggered) => {}
            () = done => {}
        }
        let place = written
            .lock()
            .unwrap()
            .iter()
            .position(|namespace| namespace == "other");
        assert!(place.unwrap() <= 2, "{place:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leads_no_more_waits_for_no_vendor() {
        let (context, _, _) = fake::context(|sent| sent);
        let leases = Api::namespaced(context.client.clone(), "operator");
        let (_elector, mut leadership) =
            Elector::new(leases, ElectionOptions::new("me"), Arc::clone(&context.timeline));
        let (_triggers, looks) = mpsc::unbounded_channel();
        let (_wake, outcomes) = mpsc::unbounded_channel();
        let mut triggered = Triggered { looks, outcomes };
        let object = fake::object();
        assert!(fake::ask(&context, &object).is_some());
        run(&context, &mut triggered, &mut leadership, std::future::pending()).await;
        assert_eq!(context.grants.waits_since(&object), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_led_is_alive_for_as_long_as_it_stands_by() {
        let (context, _, _) = fake::context(|sent| sent);
        let leases = Api::namespaced(context.client.clone(), "operator");
        let (_elector, mut leadership) =
            Elector::new(leases, ElectionOptions::new("me"), Arc::clone(&context.timeline));
        let (_triggers, looks) = mpsc::unbounded_channel();
        let (_wake, outcomes) = mpsc::unbounded_channel();
        let mut triggered = Triggered { looks, outcomes };
        let object = fake::object();
        assert!(fake::ask(&context, &object).is_some());
        context.health.watch_alive(ObjectSink::WATCH, "");
        context.health.watch_alive(SecretSink::WATCH, "");
        let next = run(&context, &mut triggered, &mut leadership, std::future::pending()).await;
        assert_eq!(next, Next::StandBy);
        assert_eq!(
            context.grants.waits_since(&object),
            None,
            "another process decides now"
        );
        tokio::time::advance(Duration::from_secs(3600)).await;
        context.health.tick();
        assert_eq!(
            context.health.live(),
            Ok("[+]scheduler ok\nlivez check passed\n".to_owned())
        );
    }
}
