//! The steps of one reconcile: gather, decide, act, record.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt as _;

use crate::api::VendorToken;
use crate::controller::cluster::objects::{key_of, lacks_templates, slim};
use crate::controller::cluster::references::target_name;
use crate::controller::cluster::secrets::Lookup;
use crate::controller::context::Context;
use crate::controller::reconcile::ask::{Asked, ask};
use crate::controller::reconcile::error::Error;
use crate::controller::reconcile::exchanged::verify_token;
use crate::controller::reconcile::publish::{Published, publish, repair};
use crate::controller::reconcile::record::{Outcome, record};
use crate::controller::reconcile::retry::Failed;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::controller::reconcile::vendor_token_calls::VendorTokenCalls;
use crate::error_text::with_causes;
use crate::grants::ObjectKey;
use crate::policy::{self, Decision, decide};
use crate::times::later;

/// The most steps of one reconcile. No object needs more: read, publish, look again, wait.
const MOST_STEPS: usize = 6;

/// Reconciles `token`, and gives the wait until the next look; `None` where only a change brings one.
///
/// # Errors
/// When the API server did not answer as it should. What is known by then is in the status.
pub(crate) async fn reconcile(
    token: Arc<VendorToken>,
    context: Arc<Context>,
) -> Result<Option<Duration>, Failed> {
    let Some(key) = context.key() else {
        return Ok(Some(Duration::from_secs(1)));
    };
    let nothing_is_known = |error| Failed {
        error,
        look_within: context.settings.longest_wait,
    };
    let (mut snapshot, result);
    match with_templates(Arc::clone(&token), &context).await {
        Ok(None) => return Ok(None),
        Ok(Some(token)) => {
            let gathered = Snapshot::gather(token, key, &context).await;
            snapshot = gathered.map_err(nothing_is_known)?;
            result = go_through(&mut snapshot, &context).await;
        }
        // Nothing is read of the target for a call that was not sent.
        Err(error) if error.held().is_some() && !watches_target(&token, &context) => {
            return Err(nothing_is_known(error));
        }
        Err(error) => {
            let gathered = Snapshot::gather_for_grant(token, key, &context).await;
            snapshot = gathered.map_err(nothing_is_known)?;
            result = fail(&mut snapshot, error, &context).await;
        }
    }
    if !context.objects.has(&snapshot.object) {
        // It was deleted meanwhile.
        context.remembered.forget(&snapshot.object);
    }
    result
}

fn watches_target(token: &VendorToken, context: &Context) -> bool {
    let namespace = token.namespace().unwrap_or_default();
    context.secrets.get(&namespace, &target_name(token)) != Lookup::Unknown
}

/// The whole object: one that is kept without its templates is read; `None` where it is gone.
async fn with_templates(
    token: Arc<VendorToken>,
    context: &Context,
) -> Result<Option<Arc<VendorToken>>, Error> {
    if !lacks_templates(&token) {
        return Ok(Some(token));
    }
    let ObjectKey { namespace, name } = key_of(&token);
    let calls = VendorTokenCalls::new(&context.client, &namespace);
    match calls.read(&name).await {
        Ok(found) => Ok(found.map(|mut whole| {
            slim(&mut whole.metadata);
            Arc::new(whole)
        })),
        Err(source) => Err(Error::ReadVendorToken {
            namespace,
            name,
            source,
        }),
    }
}

async fn go_through(snapshot: &mut Snapshot, context: &Arc<Context>) -> Result<Option<Duration>, Failed> {
    match act(snapshot, context).await {
        Ok(outcome) => {
            context.remembered.set_trouble(&snapshot.object, None);
            let recorded = record(snapshot, &outcome, context).await;
            if recorded.is_ok() {
                context.remembered.succeeded(&snapshot.object);
            }
            recorded
        }
        Err(error) => fail(snapshot, error, context).await,
    }
}

/// Notes that a call of this reconcile has failed, and gives its error. The status is written all the same: a token must
/// not stay Ready past its expiry because one object cannot be read.
async fn fail(
    snapshot: &mut Snapshot,
    error: Error,
    context: &Arc<Context>,
) -> Result<Option<Duration>, Failed> {
    snapshot.note_trouble(&error, context);
    let nothing = Outcome {
        until: None,
        asked: None,
    };
    let look_within = match record(snapshot, &nothing, context).await {
        Ok(wait) => wait.unwrap_or(context.settings.longest_wait),
        Err(failed) => {
            tracing::debug!(
                object = %snapshot.object, error = with_causes(&failed.error), "nor could the status be told"
            );
            failed.look_within
        }
    };
    Err(Failed { error, look_within })
}

async fn act(snapshot: &mut Snapshot, context: &Arc<Context>) -> Result<Outcome, Error> {
    let verified_at = verify_token(snapshot, context).await?;
    let outcome = take_steps(snapshot, context).await?;
    Ok(Outcome {
        until: [outcome.until, verified_at].into_iter().flatten().min(),
        ..outcome
    })
}

async fn take_steps(snapshot: &mut Snapshot, context: &Arc<Context>) -> Result<Outcome, Error> {
    for _ in 0..MOST_STEPS {
        let decision = decide(&snapshot.observe(context));
        tracing::trace!(object = %snapshot.object, ?decision, "decided");
        match decision {
            Decision::Nothing => {
                context.grants.withdraw(&snapshot.object);
                return Ok(Outcome {
                    until: None,
                    asked: None,
                });
            }
            Decision::Wait { until } => {
                let is_blocked = matches!(snapshot.target, policy::Target::Blocked(_));
                if snapshot.token.spec.suspend || snapshot.validated.is_err() || is_blocked {
                    context.grants.withdraw(&snapshot.object);
                }
                // The record of an attempt that is under way makes the decision wait; it is asking all the same.
                let asked = context.grants.waits_since(&snapshot.object);
                return Ok(Outcome { until, asked });
            }
            Decision::ReadCredentials => snapshot.read_credentials(context).await?,
            Decision::Publish => {
                let Some(token) = context.grants.token(&snapshot.object) else {
                    continue;
                };
                let due = due_before(snapshot, token.issued);
                match publish(snapshot, &token, context).await? {
                    Published::Written => {
                        if let Some(due) = due {
                            let lateness = context.timeline.now().wall().duration_since(due);
                            context
                                .metrics
                                .refreshed(Duration::try_from(lateness).unwrap_or_default());
                        }
                    }
                    Published::Conflict | Published::Refused => {}
                }
            }
            Decision::Repair => {
                repair(snapshot, context).await?;
            }
            Decision::Issue => match ask(snapshot, context).await? {
                Asked::Waiting(since) => {
                    return Ok(Outcome {
                        until: None,
                        asked: Some(since),
                    });
                }
                Asked::NeedsCredentials => snapshot.read_credentials(context).await?,
                Asked::Changed => break,
            },
        }
    }
    // The target changes with each look: it is left alone for a moment.
    Ok(Outcome {
        until: Some(later(context.timeline.now().wall(), 1)),
        asked: None,
    })
}

/// The due time of the token in the target, where a token that was issued at `issued` refreshes it. `None` where it is
/// that same token, written once more.
fn due_before(snapshot: &Snapshot, issued: Timestamp) -> Option<Timestamp> {
    let (
        policy::Target::Ours {
            stored: Some(stored), ..
        },
        Ok(checked),
    ) = (&snapshot.target, &snapshot.validated)
    else {
        return None;
    };
    (issued > stored.issued).then(|| stored.due(checked.refresh))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::cluster::secret_record;
    use crate::controller::fake;
    use crate::fingerprint::Fingerprint;
    use crate::seal::TokenFacts;
    use crate::times::whole_seconds;

    /// A token in the target that has just expired, and a status that still calls it ready.
    fn expired(context: &Context) -> Arc<VendorToken> {
        stored(context, -1, false)
    }

    /// A token in the target that ends in as many seconds, and a status that calls it ready.
    fn stored(context: &Context, ends_in: i64, suspend: bool) -> Arc<VendorToken> {
        // The credentials were written since.
        stored_since(context, -3600, ends_in, "c/3", suspend)
    }

    /// The same, of a token that was issued `begun` seconds from now with this version of the credentials.
    fn stored_since(
        context: &Context,
        begun: i64,
        ends_in: i64,
        credentials_version: &str,
        suspend: bool,
    ) -> Arc<VendorToken> {
        let now = whole_seconds(context.timeline.now().wall());
        let (begun, ended) = (later(now, begun), later(now, ends_in));
        let token: VendorToken = serde_json::from_value(json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": "t", "namespace": "a", "uid": "u", "generation": 1, "resourceVersion": "5" },
            "spec": { "vendor": "Mapiq", "credentialsSecretRef": { "name": "c" }, "suspend": suspend },
            "status": { "observedGeneration": 1, "expirationTime": ended.to_string(), "conditions": [{ "type": "Ready",
                "status": "True", "reason": "Published", "message": "m", "lastTransitionTime": begun.to_string() }] },
        }))
        .unwrap();
        let record =
            |metadata: Value| secret_record::read(&serde_json::from_value(metadata).unwrap()).unwrap();
        let credentials = json!({ "name": "c", "namespace": "a", "uid": "c", "resourceVersion": "4" });
        context.secrets.begin_list("");
        context.secrets.put("a", "c", record(credentials));
        let facts = fake::facts(
            &fake::key(),
            &token,
            Fingerprint::from_bytes([1; 16]),
            (begun, ended),
        );
        let facts = TokenFacts {
            credentials_version: Some(credentials_version.into()),
            ..facts
        };
        let target = fake::sealed_by(&fake::key(), "t", &facts);
        context.secrets.put("a", "t", record(target));
        context.secrets.end_list("");
        context.objects.put(token.clone());
        Arc::new(token)
    }

    #[tokio::test]
    async fn a_token_past_its_expiry_is_not_left_ready_when_its_credentials_cannot_be_read() {
        let (context, writes, mut triggered) = fake::context(|sent| answered(sent, 1));
        let token = expired(&context);
        assert!(matches!(
            failure(reconcile(token, Arc::clone(&context)).await),
            Error::ReadSecret { .. }
        ));
        let writes = writes.lock().unwrap();
        assert_eq!(writes.len(), 1);
        let ready = &writes[0]["conditions"][0];
        assert_eq!(
            (&ready["type"], &ready["status"]),
            (&json!("Ready"), &json!("False"))
        );
        assert_eq!(ready["reason"], "TokenExpired");
        assert!(triggered.try_recv().is_err(), "the answer told nothing new");
    }

    fn failure(result: Result<Option<Duration>, Failed>) -> Error {
        result.unwrap_err().error
    }

    /// The object as it is after the write of a status, with a spec of this generation.
    fn answered(sent: Value, generation: i64) -> Value {
        let mut object = sent;
        object["metadata"]["namespace"] = json!("a");
        object["metadata"]["generation"] = json!(generation);
        object["metadata"]["resourceVersion"] = json!("9");
        object["spec"] = json!({ "vendor": "Mapiq", "credentialsSecretRef": { "name": "other" } });
        object
    }

    #[tokio::test]
    async fn an_edit_that_came_just_before_a_status_write_is_reconciled() {
        let (context, _, mut triggered) = fake::context(|sent| answered(sent, 2));
        let token = expired(&context);
        let object = key_of(&token);
        assert!(reconcile(token, Arc::clone(&context)).await.is_err());
        // The watch brings both changes, and neither is newer than the known object.
        let mut seen = (*context.objects.get(&object).unwrap()).clone();
        seen.metadata.resource_version = Some("8".to_owned());
        assert!(context.objects.put(seen).is_none());
        assert_eq!(triggered.try_recv(), Ok(object));
    }

    #[tokio::test]
    async fn a_token_that_lives_for_a_year_is_looked_at_again_in_five_minutes() {
        let (context, _, _) = fake::context(|sent| answered(sent, 1));
        let token = stored(&context, 400 * 86_400, true);
        let wait = reconcile(token, Arc::clone(&context)).await.unwrap();
        assert_eq!(wait, Some(Duration::from_secs(300)));
    }

    #[tokio::test]
    async fn a_status_that_cannot_be_written_delays_no_refresh() {
        for code in [403, 422, 500] {
            let writes = Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let counted = Arc::clone(&writes);
            let clock = Arc::new(crate::clock::SystemClock);
            let (context, _) = fake::context_at(clock, move |method, path, _| {
                let is_status = method == http::Method::PATCH && path.ends_with("/status");
                if is_status {
                    counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
                let code = if is_status { code } else { 403 };
                let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                    "reason": "Forbidden", "message": "m" });
                (code, status)
            });
            // It lives for 2 minutes, and is due after one.
            let token = stored_since(&context, -20, 100, "c/4", false);
            for reconciles in 1..=20 {
                let result = reconcile(Arc::clone(&token), Arc::clone(&context)).await;
                let failed = result.unwrap_err();
                assert!(matches!(failed.error, Error::WriteStatus { .. }), "{failed:?}");
                let wait = crate::controller::reconcile::after_error(&token, &failed, &context);
                assert!(wait <= Duration::from_secs(40), "{wait:?} after {reconciles}");
            }
            let writes = writes.load(std::sync::atomic::Ordering::SeqCst);
            assert!((1..=20).contains(&writes));
        }
    }

    /// The result and the written binding, where the status names another target than the spec, and the API server
    /// refuses to read that one.
    async fn renamed(refusal: u16) -> (Result<Option<Duration>, Failed>, Value) {
        let (context, writes, _) = fake::context_without_secrets(refusal, |sent| answered(sent, 1));
        let mut token = (*stored(&context, 3600, true)).clone();
        token.status.as_mut().unwrap().binding = Some(crate::api::Binding {
            name: "former".to_owned(),
        });
        token.metadata.resource_version = Some("6".to_owned());
        context.objects.put(token.clone());
        let result = reconcile(Arc::new(token), context).await;
        let binding = writes.lock().unwrap()[0]["binding"]["name"].clone();
        (result, binding)
    }

    #[tokio::test]
    async fn a_former_target_that_may_not_be_read_holds_up_no_status() {
        let (result, binding) = renamed(403).await;
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(binding, "t");
    }

    #[tokio::test]
    async fn a_former_target_that_could_not_be_read_is_named_until_it_can_be() {
        let (result, binding) = renamed(500).await;
        assert!(matches!(failure(result), Error::ReadSecret { .. }));
        assert_eq!(binding, "former");
    }

    #[tokio::test]
    async fn a_token_past_its_expiry_is_not_left_ready_when_its_target_cannot_be_read() {
        let (context, writes, _) = fake::context(|sent| answered(sent, 1));
        let token = expired(&context);
        context.secrets.lose("");
        let _ = reconcile(token, context).await;
        let writes = writes.lock().unwrap();
        let ready = &writes[0]["conditions"][0];
        assert_eq!(
            (&ready["status"], &ready["reason"]),
            (&json!("False"), &json!("ApiDenied"))
        );
        let message = ready["message"].as_str().unwrap();
        assert!(
            message.contains("failed to decrypt") && message.contains("expired"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn a_good_token_stays_ready_while_its_target_cannot_be_read_for_a_moment() {
        let (context, writes, _) = fake::context(|sent| answered(sent, 1));
        let token = stored(&context, 3600, false);
        context.secrets.lose("");
        let result = reconcile(token, context).await;
        assert!(matches!(failure(result), Error::ReadSecret { .. }));
        assert_eq!(*writes.lock().unwrap(), Vec::<Value>::new());
    }

    #[tokio::test]
    async fn an_object_that_is_kept_without_its_templates_is_read_before_it_is_judged() {
        let data: std::collections::BTreeMap<_, _> = (0..16)
            .map(|number| (format!("key-{number}"), "x".repeat(4096)))
            .collect();
        let whole = json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": "t", "namespace": "a", "uid": "u", "generation": 1, "resourceVersion": "5" },
            "spec": { "vendor": "Mapiq", "credentialsSecretRef": { "name": "c" }, "target": { "data": data },
                "suspend": true },
        });
        let answer = whole.clone();
        let reads = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let clock = Arc::new(crate::clock::SystemClock);
        let (context, _) = fake::context_at(clock, move |method, path, _| {
            if method == http::Method::GET && path.ends_with("/vendortokens/t") {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
            (200, answer.clone())
        });
        context.secrets.begin_list("");
        context.secrets.end_list("");
        context.objects.put(serde_json::from_value(whole).unwrap());
        let kept = context.objects.get(&fake::object()).unwrap();
        assert!(lacks_templates(&kept));
        let found = with_templates(Arc::clone(&kept), &context)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found.spec.target.data, data);
        reconcile(kept, context).await.unwrap();
        assert_eq!(reads.load(std::sync::atomic::Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_good_token_stays_ready_while_its_large_object_cannot_be_read_for_a_moment() {
        let (context, writes, _) = fake::context(|sent| answered(sent, 1));
        let mut token = (*stored(&context, 3600, false)).clone();
        let template = "x".repeat(4096);
        token.spec.target.data = (0..3)
            .map(|number| (number.to_string(), template.clone()))
            .collect();
        token.metadata.resource_version = Some("6".to_owned());
        context.objects.put(token);
        let kept = context.objects.get(&fake::object()).unwrap();
        assert!(lacks_templates(&kept));
        let result = reconcile(kept, context).await;
        assert!(matches!(failure(result), Error::ReadVendorToken { .. }));
        let writes = writes.lock().unwrap();
        assert!(
            writes
                .iter()
                .all(|status| status["conditions"][0]["status"] == "True"),
            "{writes:?}"
        );
    }

    #[rstest]
    #[case::and_the_write_of_a_status(true)]
    #[case::and_the_read_of_a_target_that_is_not_watched(false)]
    #[tokio::test]
    async fn many_large_objects_at_a_failing_api_server_cost_one_call_of_each_kind(#[case] watched: bool) {
        let reads = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let clock = Arc::new(crate::clock::SystemClock);
        let (context, _) = fake::context_at(clock, move |_, _, _| {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500,
                "reason": "InternalError", "message": "m" });
            (500, status)
        });
        if watched {
            context.secrets.begin_list("");
            context.secrets.end_list("");
        }
        for number in 0..20 {
            let kept = json!({
                "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
                "metadata": { "name": format!("t{number}"), "namespace": "a" },
                "spec": { "vendor": "Mapiq", "credentialsSecretRef": { "name": "c" }, "target": { "data": {} } },
            });
            let kept = Arc::new(serde_json::from_value(kept).unwrap());
            let error = reconcile(kept, Arc::clone(&context)).await.unwrap_err();
            assert!(error.error.call().is_some());
        }
        assert_eq!(reads.load(std::sync::atomic::Ordering::SeqCst), 2);
    }
}
