//! Kubernetes events: one on each transition, none for a first publish that went well.

use std::sync::Arc;

use kube::Resource;
use kube::runtime::events::{Event, EventType, Reporter};

use crate::api::names::{self, Reason, condition};
use crate::api::{VendorToken, VendorTokenStatus};
use crate::controller::context::Context;
use crate::policy;
use crate::text::first_characters;

/// A note longer than this is refused by the API server.
const LONGEST_NOTE: usize = 1000;

/// The operator as the reporter of events.
pub(crate) fn reporter() -> Reporter {
    Reporter {
        controller: names::FIELD_MANAGER.to_owned(),
        instance: std::env::var("HOSTNAME").ok(),
    }
}

/// A transition of a status that is worth an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) warning: bool,
    pub(crate) reason: String,
    pub(crate) note: String,
}

/// The transitions from `old` to `new` that are worth an event.
pub(crate) fn transitions(old: &VendorTokenStatus, new: &VendorTokenStatus) -> Vec<Transition> {
    let mut transitions = Vec::new();
    if let Some(ready) = new.condition(condition::READY) {
        let before = old.condition(condition::READY);
        let unchanged =
            before.is_some_and(|before| before.status == ready.status && before.reason == ready.reason);
        let first_publish = ready.reason == Reason::Published.as_str()
            && before.is_none_or(|before| before.reason == Reason::Progressing.as_str());
        let under_way = ready.reason == Reason::Progressing.as_str();
        if !unchanged && !first_publish && !under_way {
            let normal =
                ready.reason == Reason::Published.as_str() || ready.reason == Reason::Suspended.as_str();
            transitions.push(Transition {
                warning: !normal,
                reason: ready.reason.clone(),
                note: ready.message.clone(),
            });
        }
    }
    let tells_of_owners = |status| policy::says_that_owners_stay(status, new.observed_generation);
    if let Some(ready) = new.condition(condition::READY)
        && tells_of_owners(new)
        && !tells_of_owners(old)
    {
        transitions.push(Transition {
            warning: true,
            reason: Reason::ApiDenied.as_str().to_owned(),
            note: ready.message.clone(),
        });
    }
    let warnings = [
        condition::EXPIRY_ASSUMED,
        condition::CLOCK_SKEW_SUSPECTED,
        condition::TOKEN_NOT_YET_VALID,
        condition::CREDENTIAL_EXPIRING,
        condition::TARGET_CONTESTED,
    ];
    for kind in warnings {
        let Some(warning) = new.condition(kind) else {
            continue;
        };
        if old
            .condition(kind)
            .is_none_or(|before| before.message != warning.message)
        {
            transitions.push(Transition {
                warning: true,
                reason: kind.to_owned(),
                note: warning.message.clone(),
            });
        }
    }
    transitions
}

/// Publishes events in the background: none of them may hold up or fail a reconcile.
pub(crate) fn publish(context: &Arc<Context>, token: &VendorToken, transitions: Vec<Transition>) {
    if transitions.is_empty() {
        return;
    }
    let reference = token.object_ref(&());
    let context = Arc::clone(context);
    tokio::spawn(async move {
        for transition in transitions {
            let event = Event {
                type_: if transition.warning {
                    EventType::Warning
                } else {
                    EventType::Normal
                },
                reason: transition.reason,
                note: Some(first_characters(&transition.note, LONGEST_NOTE).to_owned()),
                action: "Refresh".to_owned(),
                secondary: None,
            };
            context.recorder.publish(&event, &reference).await;
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
    #[case::a_first_publish_is_none(None, ("True", "Published"), None)]
    #[case::a_first_publish_after_a_wait_is_none(Some(("False", "Progressing")), ("True", "Published"), None)]
    #[case::a_refresh_is_none(Some(("True", "Published")), ("True", "Published"), None)]
    #[case::asking_is_none(Some(("True", "Published")), ("False", "Progressing"), None)]
    #[case::a_rejection_is_one(None, ("False", "CredentialsRejected"), Some((true, "CredentialsRejected")))]
    #[case::a_second_rejection_is_none(
        Some(("False", "CredentialsRejected")), ("False", "CredentialsRejected"), None
    )]
    #[case::a_failing_refresh_is_one(
        Some(("True", "Published")), ("True", "VendorUnavailable"), Some((true, "VendorUnavailable"))
    )]
    #[case::its_end_is_one(Some(("True", "VendorUnavailable")), ("True", "Published"), Some((false, "Published")))]
    #[case::the_expiry_is_one(
        Some(("True", "VendorUnavailable")), ("False", "VendorUnavailable"), Some((true, "VendorUnavailable"))
    )]
    fn a_transition_is_worth_an_event(
        #[case] old: Option<(&str, &str)>,
        #[case] new: (&str, &str),
        #[case] expected: Option<(bool, &str)>,
    ) {
        let found = transitions(&status(old), &status(Some(new)));
        let found: Vec<_> = found
            .iter()
            .map(|event| (event.warning, event.reason.as_str()))
            .collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }
}
