//! Kubernetes events: one on each transition, none for a first publish that went well.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::runtime::events::{Event, EventType, Reporter};

use crate::api::names::{self, Reason, condition};
use crate::api::{VendorToken, VendorTokenStatus};
use crate::controller::context::Context;
use crate::error_text::with_causes;

const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// A note longer than this is refused by the API server.
const LONGEST_NOTE: usize = 1000;

pub(in crate::controller) fn reporter() -> Reporter {
    Reporter {
        controller: names::FIELD_MANAGER.to_owned(),
        instance: std::env::var("HOSTNAME").ok(),
    }
}

/// One event to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) struct Told {
    pub(in crate::controller) warning: bool,
    pub(in crate::controller) reason: String,
    pub(in crate::controller) note: String,
}

/// What is worth an event in the step from `old` to `new`.
pub(in crate::controller) fn transitions(old: &VendorTokenStatus, new: &VendorTokenStatus) -> Vec<Told> {
    let find = |status: &VendorTokenStatus, kind: &str| -> Option<Condition> {
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == kind)
            .cloned()
    };
    let mut told = Vec::new();
    if let Some(ready) = find(new, condition::READY) {
        let before = find(old, condition::READY);
        let unchanged = before
            .as_ref()
            .is_some_and(|before| before.status == ready.status && before.reason == ready.reason);
        let first_publish = ready.reason == Reason::Published.as_str()
            && before
                .as_ref()
                .is_none_or(|before| before.reason == Reason::Progressing.as_str());
        let under_way = ready.reason == Reason::Progressing.as_str();
        if !unchanged && !first_publish && !under_way {
            let normal =
                ready.reason == Reason::Published.as_str() || ready.reason == Reason::Suspended.as_str();
            told.push(Told {
                warning: !normal,
                reason: ready.reason,
                note: ready.message,
            });
        }
    }
    let warnings = [
        condition::EXPIRY_ASSUMED,
        condition::CLOCK_SKEW_SUSPECTED,
        condition::TOKEN_NOT_YET_VALID,
        condition::CREDENTIAL_EXPIRING,
    ];
    for kind in warnings {
        let Some(warning) = find(new, kind) else { continue };
        if find(old, kind).is_none_or(|before| before.message != warning.message) {
            told.push(Told {
                warning: true,
                reason: kind.to_owned(),
                note: warning.message,
            });
        }
    }
    told
}

/// Publishes events in the background: none of them may hold up or fail a reconcile.
pub(in crate::controller) fn publish(context: &Arc<Context>, token: &VendorToken, told: Vec<Told>) {
    if told.is_empty() {
        return;
    }
    let reference = token.object_ref(&());
    let context = Arc::clone(context);
    tokio::spawn(async move {
        for event in told {
            let event = Event {
                type_: if event.warning {
                    EventType::Warning
                } else {
                    EventType::Normal
                },
                reason: event.reason,
                note: Some(event.note.chars().take(LONGEST_NOTE).collect()),
                action: "Refresh".to_owned(),
                secondary: None,
            };
            match tokio::time::timeout(CALL_DEADLINE, context.recorder.publish(&event, &reference)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(error = with_causes(&error), "failed to publish an event"),
                Err(_) => tracing::warn!("failed to publish an event within 10 s"),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn status(ready: Option<(&str, &str)>) -> VendorTokenStatus {
        let condition = |(status, reason): (&str, &str)| {
            serde_json::from_value(serde_json::json!({
                "type": "Ready", "status": status, "reason": reason, "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }))
            .unwrap()
        };
        VendorTokenStatus {
            conditions: ready.map(condition).into_iter().collect(),
            ..VendorTokenStatus::default()
        }
    }

    #[rstest]
    #[case::a_first_publish_is_not_told(None, ("True", "Published"), None)]
    #[case::nor_one_that_took_a_while(Some(("False", "Progressing")), ("True", "Published"), None)]
    #[case::a_refresh_is_not_told(Some(("True", "Published")), ("True", "Published"), None)]
    #[case::asking_is_not_told(Some(("True", "Published")), ("False", "Progressing"), None)]
    #[case::a_rejection_is_told(None, ("False", "CredentialsRejected"), Some((true, "CredentialsRejected")))]
    #[case::a_second_rejection_is_not(
        Some(("False", "CredentialsRejected")), ("False", "CredentialsRejected"), None
    )]
    #[case::a_failing_refresh_is_told(
        Some(("True", "Published")), ("True", "VendorUnavailable"), Some((true, "VendorUnavailable"))
    )]
    #[case::its_end_is_told(Some(("True", "VendorUnavailable")), ("True", "Published"), Some((false, "Published")))]
    #[case::the_expiry_is_told(
        Some(("True", "VendorUnavailable")), ("False", "VendorUnavailable"), Some((true, "VendorUnavailable"))
    )]
    fn a_transition_is_told_once(
        #[case] old: Option<(&str, &str)>,
        #[case] new: (&str, &str),
        #[case] expected: Option<(bool, &str)>,
    ) {
        let told = transitions(&status(old), &status(Some(new)));
        let told: Vec<_> = told
            .iter()
            .map(|event| (event.warning, event.reason.as_str()))
            .collect();
        assert_eq!(told, expected.into_iter().collect::<Vec<_>>());
    }
}
