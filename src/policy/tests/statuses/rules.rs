//! Properties of every status.

use proptest::prelude::*;

use super::super::generators::any_scene;
use super::*;

fn any_context() -> impl Strategy<Value = (Option<i64>, Progress)> {
    (
        prop::option::of(-100..4_000_000_i64),
        prop_oneof![
            Just(Progress::None),
            Just(Progress::Asked),
            (100..9000_i64).prop_map(|until| Progress::Paused(at(until))),
            (100..9000_i64, any::<bool>()).prop_map(|(until, is_locked)| Progress::Held {
                until: at(until),
                is_locked
            }),
        ],
    )
}

/// All times in a status.
fn times(status: &VendorTokenStatus) -> Vec<Timestamp> {
    let failure = status.failure.iter().flat_map(|failure| {
        [
            Some(&failure.last_attempt_time),
            failure.next_attempt_time.as_ref(),
        ]
    });
    [
        &status.issued_time,
        &status.expiration_time,
        &status.next_refresh_time,
    ]
    .map(Option::as_ref)
    .into_iter()
    .chain(failure)
    .flatten()
    .chain(status.conditions.iter().map(|found| &found.last_transition_time))
    .map(|time| time.0)
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_status_keeps_the_rules_of_its_conditions((scene, (ends, progress)) in (any_scene(), any_context())) {
        let context = StatusContext { credential_expires: ends.map(at), progress, ..context() };
        let status = status(&scene.observed(), &context);
        let ready = find(&status, condition::READY).unwrap();
        let stalled = find(&status, condition::STALLED).is_some();
        let reconciling = find(&status, condition::RECONCILING).is_some();
        prop_assert!(!(stalled && reconciling));
        if ready.status == "True" {
            prop_assert!(!stalled && !reconciling, "{:?}", status.conditions);
            prop_assert!(status.expiration_time.as_ref().is_some_and(|time| time.0 > scene.now));
            let is_in_place = scene.observed().stored().is_some_and(|stored| stored.is_in_place);
            prop_assert!(is_in_place || scene.suspended);
        } else {
            // kstatus: an object that is not ready shows if it makes progress.
            let suspended = find(&status, condition::SUSPENDED).is_some();
            prop_assert!(stalled || reconciling || suspended, "{:?}", status.conditions);
        }
        let mut kinds: Vec<_> = status.conditions.iter().map(|found| found.type_.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        prop_assert_eq!(kinds.len(), status.conditions.len(), "a list-map has each type once");
        prop_assert!(kinds.len() <= 16);
        for found in &status.conditions {
            prop_assert_eq!(found.observed_generation, Some(3));
            prop_assert!(found.message.chars().count() <= 2048);
            prop_assert!(!found.message.is_empty());
            prop_assert!(found.type_ == condition::READY || found.status == "True");
            let reason = &found.reason;
            prop_assert!((1..=64).contains(&reason.len()));
            prop_assert!(reason.starts_with(|first: char| first.is_ascii_uppercase()));
            prop_assert!(reason.bytes().all(|byte| byte.is_ascii_alphabetic()));
        }
        for time in times(&status) {
            prop_assert_eq!(time, crate::times::recorded(time), "the API server refuses others, or stores another");
        }
        if let Some(failure) = &status.failure {
            prop_assert!(failure.message.chars().count() <= 1024 && failure.count >= 0 && failure.inputs.len() <= 256);
        }
    }

    #[test]
    fn a_status_stays_equal_while_nothing_changes((scene, (ends, progress)) in (any_scene(), any_context()), millisecond in 0..1000_i64) {
        let context = StatusContext { credential_expires: ends.map(at), progress, ..context() };
        let mut scene = scene;
        scene.now = scene.now.clamp(at(-7200), at(14_400));
        scene.now += SignedDuration::from_millis(millisecond);
        let first = status(&scene.observed(), &context);
        scene.status = as_the_api_server_keeps_it(&first);
        let second = status(&scene.observed(), &context);
        prop_assert_eq!(&second, &scene.status);
        scene.status = second.clone();
        prop_assert_eq!(status(&scene.observed(), &context), second);
    }
}
