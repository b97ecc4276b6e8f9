//! Act: asks for a token, and records the attempt first where a failed one could lock an account.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::api::VendorToken;
use crate::clock::Moment;
use crate::controller::cluster::objects::lacks_templates;
use crate::controller::context::Context;
use crate::controller::reconcile::credentials;
use crate::controller::reconcile::error::Error;
use crate::controller::reconcile::record::status_context;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::controller::reconcile::status::write_status;
use crate::controller::reconcile::validated::ValidatedSpec;
use crate::error_text::with_causes;
use crate::fingerprint::Fingerprint;
use crate::grants::{CallSource, ObjectKey, Reservation, VendorCall};
use crate::policy::{self, Progress};

/// The result of asking.
pub(crate) enum Asked {
    /// The object waits since this moment.
    Waiting(Moment),
    /// The credentials must be read first.
    NeedsCredentials,
    /// The grant is held, or the object was changed or deleted in between: look again.
    Changed,
}

/// Reserves a request, records it if it must be, and queues it.
pub(crate) async fn ask(snapshot: &mut Snapshot, context: &Arc<Context>) -> Result<Asked, Error> {
    let observed = snapshot.observe(context);
    let refresh_request = observed.pending_request().map(str::to_owned);
    // An attempt that could lock an account is recorded before it is sent, so its credentials are read before that. To
    // join an attempt that is under way, no credentials are needed.
    let must_be_read = observed.standing.counts_for_account && !observed.standing.under_way;
    if snapshot.values.is_none() && must_be_read {
        return Ok(Asked::NeedsCredentials);
    }
    let Some(observation) = snapshot.observation(context.timeline.now().wall()) else {
        return Ok(Asked::NeedsCredentials);
    };
    let permit = match context.grants.reserve(&observation, refresh_request.as_deref()) {
        Reservation::UnderWay(since) => return Ok(Asked::Waiting(since)),
        Reservation::Held => return Ok(Asked::Changed),
        Reservation::Permitted(permit) => permit,
    };
    if let Some(attempt) = permit.attempt_to_record() {
        if snapshot.values.is_none() {
            // The attempt that was under way has just ended.
            return Ok(Asked::NeedsCredentials);
        }
        let status = policy::status_before_asking(
            &snapshot.observe(context),
            &status_context(snapshot, Progress::Asked),
            attempt.clone(),
        );
        if !write_status(snapshot, &status, context).await? {
            return Ok(Asked::Changed);
        }
        if let Some(written) = context.objects.get(&snapshot.object) {
            snapshot.token = if lacks_templates(&written) {
                Arc::new(VendorToken {
                    spec: snapshot.token.spec.clone(),
                    ..(*written).clone()
                })
            } else {
                written
            };
        }
    }
    let Ok(checked) = &snapshot.validated else {
        return Ok(Asked::Changed);
    };
    let call = snapshot
        .values
        .take()
        .map(|credentials| checked.call(credentials));
    let waits = permit.send(call);
    Ok(waits.map_or(Asked::Changed, Asked::Waiting))
}

/// Reads the credentials of requests whose turn has come. One read serves all who want the Secret at that time.
pub(crate) struct QueuedCalls(pub(crate) Arc<Context>);

impl CallSource for QueuedCalls {
    fn call(&self, object: ObjectKey) -> BoxFuture<'static, Option<(Fingerprint, VendorCall)>> {
        let context = Arc::clone(&self.0);
        async move {
            let call = queued_call(&context, &object).await;
            let known = context.remembered.credentials(&object);
            let known = known.and_then(|known| known.found.ok().map(|found| found.fingerprint));
            let is_as_known = call.as_ref().is_some_and(|(read, _)| known == Some(*read));
            if !is_as_known && context.objects.has(&object) {
                // With the remembered grant, the next reconcile would ask again at once. Without it, that reconcile
                // reads the credentials, shows their problem, and waits as after each error of the API server.
                context.remembered.set_credentials(&object, None);
            }
            call
        }
        .boxed()
    }
}

async fn queued_call(context: &Arc<Context>, object: &ObjectKey) -> Option<(Fingerprint, VendorCall)> {
    let (token, key) = (context.objects.get(object)?, context.key()?);
    let checked = ValidatedSpec::new(&token, &context.settings.endpoints).ok()?;
    match credentials::read(context, &object.namespace, &checked).await {
        Ok(read) => {
            let fingerprint = key.fingerprint(&checked.endpoint, &checked.grant, &read.values);
            Some((fingerprint, checked.call(read.values)))
        }
        Err(credentials::ReadError::Unusable(problem)) => {
            tracing::debug!(
                %object, problem = problem.message,
                "the credentials of a request cannot be used when its turn has come"
            );
            None
        }
        Err(credentials::ReadError::Api { name, source }) => {
            tracing::debug!(
                %object, secret = name, error = with_causes(&source),
                "the credentials of a request could not be read when its turn came"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use http::Method;
    use rstest::rstest;
    use serde_json::{Value, json};
    use tokio::time::Instant;

    use super::*;
    use crate::clock::{Clock, TokioClock};
    use crate::controller::LONGEST_WAIT;
    use crate::controller::cluster::secret_record;
    use crate::controller::fake::{self, Triggered};
    use crate::controller::reconcile::{after_error, reconcile};
    use crate::sync::lock;

    /// The behaviour of the API server, and the requests that it has received.
    #[derive(Debug, Default)]
    struct Server {
        /// Reads of the Secret fail.
        hides_secret: bool,
        /// Reads of the VendorToken fail.
        hides_object: bool,
        /// The reads that failed.
        failed: Vec<Instant>,
        reads: usize,
        /// The last status.
        status: Value,
    }

    /// A VendorToken whose vendor is out of reach, and with it a queue that is served.
    struct Scene {
        context: Arc<Context>,
        server: Arc<Mutex<Server>>,
        triggered: Triggered,
        next: Instant,
    }

    fn scene(template: &str) -> Scene {
        let server = Arc::new(Mutex::new(Server::default()));
        let clock = Arc::new(TokioClock::new("2026-05-04T10:00:00Z".parse().unwrap()));
        let data: serde_json::Map<_, _> = (0..3)
            .map(|number| (number.to_string(), template.into()))
            .collect();
        let whole = json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": "t", "namespace": "a", "uid": "u", "generation": 1, "resourceVersion": "5" },
            "spec": { "vendor": "Mapiq", "credentialsSecretRef": { "name": "c" }, "target": { "data": data } },
        });
        let metadata = json!({ "name": "c", "namespace": "a", "uid": "c", "resourceVersion": "4" });
        let data = json!({ "client-id": STANDARD.encode("id"), "client-secret": STANDARD.encode("secret") });
        let secret = json!({ "type": "Opaque", "metadata": metadata, "data": data });
        let (served, answer) = (Arc::clone(&server), whole.clone());
        let (context, triggered) = fake::context_at(clock as Arc<dyn Clock>, move |method, path, sent| {
            let mut server = lock(&served);
            let (is_hidden, found) = match (method, path) {
                (&Method::GET, "/api/v1/namespaces/a/secrets/c") => (server.hides_secret, secret.clone()),
                (&Method::GET, path) if path.ends_with("/vendortokens/t") => {
                    (server.hides_object, answer.clone())
                }
                (&Method::PATCH, path) if path.ends_with("/status") => {
                    let sent: Value = serde_json::from_slice(sent).unwrap();
                    server.status = sent["status"].clone();
                    let mut object = answer.clone();
                    object["status"] = sent["status"].clone();
                    return (200, object);
                }
                // An event.
                _ => return (200, json!({ "metadata": {} })),
            };
            server.reads += 1;
            if is_hidden {
                server.failed.push(Instant::now());
                return (
                    500,
                    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500,
                    "reason": "InternalError", "message": "failed to decrypt" }),
                );
            }
            (200, found)
        });
        context.secrets.begin_list("");
        let record = secret_record::read(&serde_json::from_value(metadata).unwrap());
        context.secrets.put("a", "c", record.unwrap());
        context.secrets.end_list("");
        context.objects.put(serde_json::from_value(whole).unwrap());
        tokio::spawn(Arc::clone(&context.grants).run(Arc::new(QueuedCalls(Arc::clone(&context)))));
        Scene {
            context,
            server,
            triggered,
            next: Instant::now(),
        }
    }

    impl Scene {
        /// Reconciles the object when it is woken and when it is due, as a session does.
        async fn go_on_for(&mut self, seconds: u64) {
            let end = Instant::now() + Duration::from_secs(seconds);
            let mut reconciles = 0;
            loop {
                tokio::select! {
                    Some(_) = self.triggered.recv() => {}
                    () = tokio::time::sleep_until(self.next) => {}
                    () = tokio::time::sleep_until(end) => return,
                }
                reconciles += 1;
                assert!(reconciles < 1000, "it spins");
                let token = self.context.objects.get(&fake::object()).unwrap();
                let wait = match reconcile(Arc::clone(&token), Arc::clone(&self.context)).await {
                    Ok(wait) => wait.unwrap_or(LONGEST_WAIT),
                    Err(error) => after_error(&token, &error, &self.context),
                };
                self.next = Instant::now() + wait;
            }
        }

        /// `Ready`'s reason and message, and the condition beside it.
        fn told(&self) -> (String, String, String) {
            let status = lock(&self.server).status.clone();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let conditions = &status["conditions"];
            (
                text(&conditions[0]["reason"]),
                text(&conditions[0]["message"]),
                text(&conditions[1]["type"]),
            )
        }
    }

    #[rstest]
    #[case::of_a_small_object("$(token)", false)]
    #[case::of_a_large_object("x".repeat(4096), false)]
    #[case::of_the_large_object_itself("x".repeat(4096), true)]
    #[tokio::test(start_paused = true)]
    async fn reads_that_keep_failing_at_the_turn_of_a_request_are_paced_and_told(
        #[case] template: String,
        #[case] hides_object: bool,
    ) {
        let mut scene = scene(&template);
        // The vendor is out of reach, so that one request after the other is queued.
        scene.go_on_for(60).await;
        assert_eq!(scene.told().0, "VendorUnavailable");
        {
            let mut server = lock(&scene.server);
            (server.hides_secret, server.hides_object) = (!hides_object, hides_object);
        }
        scene.go_on_for(600).await;
        let failed = std::mem::take(&mut lock(&scene.server).failed);
        let pauses: Vec<_> = failed
            .windows(2)
            .map(|pair| pair[1].duration_since(pair[0]).as_millis())
            .collect();
        println!(
            "{} reads failed in ten minutes, with pauses of {:?} ms at first",
            failed.len(),
            &pauses[..6]
        );
        assert!(failed.len() <= 130, "{} reads", failed.len());
        // One read may have been under way when the first failed.
        assert!(pauses.iter().skip(4).all(|pause| *pause >= 4000), "{pauses:?}");
        let (reason, message, beside) = scene.told();
        assert_eq!((reason.as_str(), beside.as_str()), ("ApiDenied", "Reconciling"));
        let kind = if hides_object {
            "reads of VendorTokens"
        } else {
            "reads of Secrets"
        };
        assert!(message.contains(kind), "{message}");
        {
            let mut server = lock(&scene.server);
            (server.hides_secret, server.hides_object, server.reads) = (false, false, 0);
        }
        scene.go_on_for(400).await;
        assert_eq!(scene.told().0, "VendorUnavailable", "it is asked again");
        let reads = lock(&scene.server).reads;
        assert!((1..=20).contains(&reads), "{reads} reads");
    }
}
