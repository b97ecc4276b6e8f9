//! The consequences of a Kubernetes call that failed: the time of another try, and the problem that the status shows.

use std::time::Duration;

use crate::api::VendorToken;
use crate::api::names::Reason;
use crate::controller::cluster::objects::key_of;
use crate::controller::cluster::remembered::Trouble;
use crate::controller::context::Context;
use crate::controller::reconcile::error::Error;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::error_text::with_causes;
use crate::grants::ObjectKey;
use crate::policy::{Problem, backoff};
use crate::text;

/// The shortest wait after an error for a look that is due whatever has failed.
const SHORTEST_WAIT: Duration = Duration::from_secs(5);
/// Kubernetes calls have failed for this long when a status shows it.
const TROUBLE_IS_TOLD_AFTER: Duration = Duration::from_secs(60);

/// A reconcile that has failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// The longest wait until the next look: a token that becomes due meanwhile is refreshed in time all the same.
    pub(crate) look_within: Duration,
}

impl Snapshot {
    /// Notes that a call of this reconcile has failed.
    pub(crate) fn note_trouble(&self, error: &Error, context: &Context) {
        let trouble = error.call().map(|call| Trouble {
            kind: call.kind,
            since: context.timeline.now().moment,
        });
        context.remembered.set_trouble(&self.object, trouble);
    }

    /// The problem of calls that have failed for a minute.
    pub(super) fn trouble(&self, context: &Context) -> Option<Problem> {
        let now = context.timeline.now().moment;
        let trouble = context
            .remembered
            .trouble(&self.object, now, TROUBLE_IS_TOLD_AFTER)?;
        let message = format!(
            "{} have failed at the API server for more than a minute; they are tried again after short pauses: look into \
             the operator's log, and ask the cluster's administrator",
            trouble.kind.words()
        );
        Some(Problem::new(Reason::ApiDenied, message))
    }
}

/// Logs the error of a reconcile, and gives the wait until another try. Objects whose calls fail as those of others do wait
/// together, and go on when the API server answers; one that fails alone has waits of its own, which grow.
pub(crate) fn after_error(token: &VendorToken, failed: &Failed, context: &Context) -> Duration {
    let object = key_of(token);
    let wait = wait_after_error(&object, &failed.error, context).min(failed.look_within.max(SHORTEST_WAIT));
    if !context.objects.has(&object) {
        // It was deleted meanwhile.
        context.pacer.forget(&object);
    }
    wait
}

fn wait_after_error(object: &ObjectKey, error: &Error, context: &Context) -> Duration {
    if let Some(held) = error.held() {
        tracing::debug!(%object, error = with_causes(error), "a reconcile waits");
        return context.pacer.wait_at(held, object);
    }
    tracing::warn!(%object, error = with_causes(error), "a reconcile failed and is tried again");
    let before = context
        .remembered
        .last_error(object, context.timeline.now().moment);
    let gate = error
        .call()
        .and_then(|call| Some((context.pacer.wait_after(&call)?, call)));
    let fails_alone = |kind| before.is_some_and(|before| context.pacer.was_answered_since(kind, before));
    match gate {
        Some((wait, call)) if !fails_alone(call.kind) => {
            // This object's next call tries the gate.
            context.pacer.wake_at_opening(&call, object);
            wait
        }
        _ => {
            let wait = backoff::after_own_error(context.remembered.count_error(object));
            // Spread by the object's name, so that many objects do not return together.
            let spread = text::spread(&object.to_string()) % 256;
            wait + wait.mul_f64(spread as f64 / 256.0).min(Duration::from_secs(5))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::cluster::pacing::{CallKind, Outcome};
    use crate::controller::cluster::secret_name::SecretName;
    use crate::controller::fake;
    use crate::controller::reconcile::read_target::read_record;

    fn object(name: &str) -> ObjectKey {
        ObjectKey {
            namespace: "a".to_owned(),
            name: name.to_owned(),
        }
    }

    #[tokio::test]
    async fn an_object_that_fails_alone_waits_longer_and_longer_and_others_do_not() {
        let (context, _, _) = fake::context(|sent| sent);
        let name = SecretName::new("s").unwrap();
        // The first failure may come from an outage that begins, so another try follows soon.
        let error = read_record(&context, "a", &name).await.unwrap_err();
        let wait = wait_after_error(&object("bad"), &error, &context);
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        for least in [5, 10, 20] {
            // Calls for other objects are answered in between.
            let call = error.call().unwrap();
            while context
                .pacer
                .enter(call.clone())
                .map(|pass| pass.end(Outcome::Answered))
                .is_err()
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let error = read_record(&context, "a", &name).await.unwrap_err();
            let wait = wait_after_error(&object("bad"), &error, &context);
            assert!((least..=least + 5).contains(&wait.as_secs()), "{wait:?}");
            let held = read_record(&context, "a", &name).await.unwrap_err();
            let wait = wait_after_error(&object("good"), &held, &context);
            assert!(wait <= Duration::from_secs(2), "{wait:?}");
        }
        assert_eq!(context.pacer.check(CallKind::WriteSecret, "a"), Ok(()));
    }

    #[tokio::test]
    async fn an_object_that_was_deleted_waits_at_no_gate() {
        let (context, _, mut triggered) = fake::context(|sent| sent);
        let name = SecretName::new("s").unwrap();
        let failed = read_record(&context, "a", &name).await.unwrap_err();
        let held = read_record(&context, "a", &name).await.unwrap_err();
        assert!(failed.held().is_none() && held.held().is_some());
        for name in ["kept", "deleted"] {
            wait_after_error(&object(name), &held, &context);
        }
        context.remembered.forget(&object("deleted"));
        let deleted_meanwhile = serde_json::from_value(serde_json::json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": "deleted-meanwhile", "namespace": "a" },
            "spec": { "vendor": "Mapiq", "credentialsSecretRef": { "name": "c" } },
        }));
        let failed = Failed {
            error: held,
            look_within: Duration::from_secs(300),
        };
        after_error(&deleted_meanwhile.unwrap(), &failed, &context);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let pass = context.pacer.enter(failed.error.call().unwrap()).unwrap();
        pass.end(Outcome::Answered);
        assert_eq!(triggered.try_recv(), Ok(object("kept")));
        assert!(triggered.try_recv().is_err());
    }
}
