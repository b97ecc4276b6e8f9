//! The status field by field, from scenes.

mod failures;
mod rules;
mod warnings;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use rstest::rstest;

use super::*;
use crate::api::names::condition;

const REFRESH_AT: i64 = DUE;

fn context() -> StatusContext<'static> {
    StatusContext {
        generation: 3,
        target_name: "sca-token",
        endpoint: Some("api.example.com"),
        credential_expires: None,
        progress: Progress::None,
    }
}

fn scene() -> Scene {
    Scene::new()
}

fn status_of(scene: &Scene) -> VendorTokenStatus {
    status(&scene.observed(), &context())
}

/// The scene with the status that it gives.
fn with_its_status(mut scene: Scene) -> Scene {
    scene.status = status_of(&scene);
    scene
}

fn find<'a>(status: &'a VendorTokenStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

/// `Ready` as "True Reason", then the other conditions.
fn summary(status: &VendorTokenStatus) -> String {
    let ready = find(status, condition::READY).unwrap();
    let mut text = format!("{} {}", ready.status, ready.reason);
    for other in status
        .conditions
        .iter()
        .filter(|other| other.type_ != condition::READY)
    {
        text.push(' ');
        text.push_str(&other.type_);
    }
    text
}

fn as_the_api_server_keeps_it(status: &VendorTokenStatus) -> VendorTokenStatus {
    serde_json::from_str(&serde_json::to_string(status).unwrap()).unwrap()
}

use Reason::{
    ApiDenied, CredentialsInvalid, CredentialsNotFound, CredentialsRejected, RateLimited, VendorUnavailable,
};

// From observations to conditions; `conditions.rs` has the table from facts to conditions.
#[rstest]
#[case::published(scene(), "True Published")]
#[case::published_and_the_credentials_read(scene().known('a'), "True Published")]
#[case::a_due_token_is_still_published(scene().known('a').at(DUE + 5), "True Published")]
#[case::a_rotated_credential_leaves_the_old_token_published(scene().known('b'), "True Published")]
#[case::a_lost_key_leaves_the_token_published(scene().key_lost().grant_edited(), "True Published")]
#[case::a_refresh_failed(
    scene().known('a').at(DUE + 5).failed(VendorUnavailable, DUE, Some(DUE + 10)), "True VendorUnavailable RefreshFailing"
)]
#[case::a_refresh_failed_before_a_restart(
    scene().at(DUE + 5).failed_in_status(VendorUnavailable, DUE, Some(DUE + 10), &inputs('a')),
    "True VendorUnavailable RefreshFailing"
)]
#[case::a_rotated_credential_was_rejected(
    scene().known('b').failed(CredentialsRejected, 50, None), "True CredentialsRejected RefreshFailing"
)]
#[case::the_credentials_were_deleted(scene().unusable(CredentialsNotFound), "True CredentialsNotFound RefreshFailing")]
#[case::the_credentials_became_invalid(scene().unusable(CredentialsInvalid), "True CredentialsInvalid RefreshFailing")]
#[case::the_credentials_may_not_be_read(scene().unusable(ApiDenied), "False ApiDenied Stalled")]
#[case::rejected_and_no_token(
    scene().free().known('a').failed(CredentialsRejected, 50, None), "False CredentialsRejected Stalled"
)]
#[case::rejected_and_the_token_has_expired(
    scene().known('a').at(EXPIRES).failed(CredentialsRejected, DUE, None), "False CredentialsRejected Stalled"
)]
#[case::rejected_and_the_token_is_of_the_grant_before_the_edit(
    scene().grant_edited().known('b').failed(CredentialsRejected, 50, None), "False CredentialsRejected Stalled"
)]
#[case::invalid_credentials_and_no_token(
    scene().free().unusable(CredentialsInvalid), "False CredentialsInvalid Stalled"
)]
#[case::no_credentials_and_no_token(
    scene().free().unusable(CredentialsNotFound), "False CredentialsNotFound Reconciling"
)]
#[case::no_credentials_and_the_token_is_of_the_grant_before_the_edit(
    scene().grant_edited().unusable(CredentialsNotFound), "False CredentialsNotFound Reconciling"
)]
#[case::unavailable_and_no_token(
    scene().free().known('a').failed(VendorUnavailable, 50, Some(120)), "False VendorUnavailable Reconciling"
)]
#[case::no_token_yet(scene().free().known('a'), "False Progressing Reconciling")]
#[case::the_grant_was_edited(scene().grant_edited(), "False Progressing Reconciling")]
#[case::the_facts_of_the_target_are_lost(scene().facts_lost().known('a'), "False Progressing Reconciling")]
#[case::expired_and_no_cause_is_known(scene().known('a').at(EXPIRES), "False TokenExpired Reconciling")]
#[case::expired_by_its_age_though_the_clock_was_set_back(
    scene().known('a').at(EXPIRES - 600).set_back(600), "False TokenExpired Reconciling"
)]
#[case::valid_for_a_second_more_by_its_age(scene().known('a').at(EXPIRES - 601).set_back(600), "True Published")]
#[case::expired_and_a_cause_is_known(
    scene().known('a').at(EXPIRES).failed(RateLimited, DUE, Some(EXPIRES + 60)), "False RateLimited Reconciling"
)]
#[case::a_success_since_the_failure(
    scene().known('a').failed_in_status(VendorUnavailable, -5, Some(0), &inputs('a')), "True Published"
)]
#[case::an_invalid_spec(scene().spec_problem(), "False InvalidSpec Stalled")]
#[case::a_target_of_somebody_else(scene().target_blocked(), "False TargetNotOwned Stalled")]
#[case::calls_that_fail_hold_a_first_token_up(
    scene().free().known('a').api_trouble(), "False ApiDenied Reconciling"
)]
#[case::calls_that_fail_leave_a_good_token_ready(scene().api_trouble(), "True ApiDenied RefreshFailing")]
#[case::a_contest_stands_beside_a_good_token(scene().contested(0, 200), "True Published TargetContested")]
#[case::a_contest_stands_beside_a_token_that_waits_for_its_repair(
    scene().free().known('a').memory(0, EXPIRES).contested(0, 200), "False Progressing Reconciling TargetContested"
)]
#[case::a_contest_stands_beside_a_token_that_is_not_in_its_key(
    scene().not_in_place().known('a').memory(0, EXPIRES).contested(0, 200),
    "False Progressing Reconciling TargetContested"
)]
#[case::a_token_that_is_not_in_its_key_is_not_ready_while_the_vendor_is_away(
    scene().not_in_place().known('a').failed(VendorUnavailable, 50, Some(120)),
    "False VendorUnavailable Reconciling"
)]
#[case::a_token_whose_labels_are_not_as_the_spec_wants_is_ready(
    scene().not_as_desired().known('a').failed(VendorUnavailable, 50, Some(120)),
    "True VendorUnavailable RefreshFailing"
)]
#[case::a_contest_stands_beside_a_missing_token(
    scene().free().known('a').contested(0, 200), "False Progressing Reconciling TargetContested"
)]
#[case::a_refused_write(scene().known('a').publish_blocked(200), "False TargetInvalid Stalled")]
#[case::an_invalid_spec_comes_before_a_foreign_target(
    scene().spec_problem().target_blocked().publish_blocked(200), "False InvalidSpec Stalled"
)]
#[case::a_foreign_target_comes_before_missing_credentials(
    scene().target_blocked().unusable(CredentialsNotFound), "False TargetNotOwned Stalled"
)]
#[case::suspended(scene().suspended(), "True Suspended Suspended")]
#[case::suspended_and_expired(scene().suspended().at(EXPIRES), "False Suspended Suspended")]
#[case::suspended_comes_before_all(
    scene().suspended().spec_problem().unusable(CredentialsInvalid), "True Suspended Suspended"
)]
#[case::suspended_shows_no_failure(
    scene().suspended().known('a').failed(CredentialsRejected, 50, None), "True Suspended Suspended"
)]
fn each_situation_has_its_status(#[case] scene: Scene, #[case] expected: &str) {
    assert_eq!(summary(&status_of(&scene)), expected);
}

#[test]
fn progress_shows_only_while_there_is_no_token() {
    for (progress, expected) in [
        (Progress::None, "False Progressing Reconciling"),
        (Progress::Asked, "False Progressing Reconciling"),
        (Progress::Paused(at(400)), "False RateLimited Reconciling"),
    ] {
        let context = StatusContext {
            progress,
            ..context()
        };
        assert_eq!(
            summary(&status(&scene().free().known('a').observed(), &context)),
            expected
        );
        assert_eq!(
            summary(&status(&scene().known('a').observed(), &context)),
            "True Published"
        );
    }
}

#[test]
fn a_published_token_is_described_in_full() {
    let status = status_of(&scene());
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(status.binding.unwrap().name, "sca-token");
    assert_eq!(status.issued_time, Some(Time(at(0))));
    assert_eq!(status.expiration_time, Some(Time(at(EXPIRES))));
    assert_eq!(status.next_refresh_time, Some(Time(at(REFRESH_AT))));
    assert_eq!(status.endpoint.as_deref(), Some("api.example.com"));
    assert_eq!(status.failure, None);
    assert_eq!(status.last_handled_refresh_request, None);
    assert_eq!(status.conditions[0].last_transition_time, Time(at(100)));
    assert_eq!(
        status.conditions[0].message,
        format!(
            "the token is in Secret 'sca-token' and valid until {}",
            at(EXPIRES)
        )
    );
}

#[rstest]
#[case::free(scene().free())]
#[case::not_ours(scene().target_blocked())]
#[case::facts_lost(scene().facts_lost())]
fn without_a_stored_token_the_status_describes_none(#[case] scene: Scene) {
    // The former status, which describes a token, is not carried over.
    let mut scene = scene;
    scene.status = status_of(&Scene::new());
    let status = status_of(&scene);
    assert_eq!(
        (
            status.binding,
            status.issued_time,
            status.expiration_time,
            status.next_refresh_time
        ),
        (None, None, None, None)
    );
}

#[rstest]
#[case::a_fresh_token(scene(), Some(DUE))]
#[case::a_due_token(scene().known('a').at(DUE + 9), Some(DUE))]
#[case::no_token(scene().free().known('a'), None)]
#[case::a_failed_refresh(scene().known('a').at(DUE + 5).failed(VendorUnavailable, DUE, Some(DUE + 10)), Some(DUE + 10))]
#[case::a_failed_request_while_the_token_is_fresh(
    scene().known('a').failed(VendorUnavailable, 50, Some(60)), Some(DUE)
)]
#[case::a_throttled_request_beyond_the_due_time(
    scene().known('a').at(DUE - 10).failed(RateLimited, DUE - 20, Some(DUE + 280)), Some(DUE + 280)
)]
#[case::no_token_and_a_failed_attempt(scene().free().known('a').failed(VendorUnavailable, 50, Some(120)), Some(120))]
#[case::no_token_and_a_latch(scene().free().known('a').failed(CredentialsRejected, 50, None), None)]
#[case::a_latched_refresh(scene().known('a').at(DUE + 9).failed(CredentialsRejected, DUE, None), None)]
#[case::a_failed_attempt_whose_account_is_held(
    scene().free().known('a').failed(VendorUnavailable, 50, Some(120)).held(900), Some(900)
)]
#[case::a_password_that_waits_for_its_account(scene().free().known('b').held(900), Some(900))]
#[case::a_proven_password_waits_for_no_account(scene().known('a').held(9000), Some(DUE))]
#[case::suspended(scene().suspended(), None)]
#[case::an_invalid_spec(scene().spec_problem(), None)]
#[case::unusable_credentials(scene().unusable(CredentialsNotFound), None)]
#[case::a_rejection_before_the_token_is_due(scene().known('a').failed(CredentialsRejected, 50, None), None)]
fn the_next_refresh_is_the_time_of_the_next_request(#[case] scene: Scene, #[case] expected: Option<i64>) {
    assert_eq!(
        status_of(&scene).next_refresh_time,
        expected.map(|second| Time(at(second)))
    );
}

#[rstest]
#[case::never_asked(None, None, None, None)]
#[case::asked_and_pending(Some("monday"), None, None, None)]
#[case::pending_after_an_earlier_one(Some("monday"), Some("sunday"), None, Some("sunday"))]
#[case::its_attempt_has_ended(Some("monday"), Some("sunday"), Some("monday"), Some("monday"))]
#[case::the_annotation_was_taken_away(None, Some("sunday"), None, Some("sunday"))]
fn the_handled_refresh_request_is_echoed(
    #[case] request: Option<&str>,
    #[case] before: Option<&str>,
    #[case] completed: Option<&str>,
    #[case] expected: Option<&str>,
) {
    let mut scene = scene().known('a');
    scene.request = request.map(str::to_owned);
    scene.status.last_handled_refresh_request = before.map(str::to_owned);
    scene.grant.completed_request = completed.map(str::to_owned);
    assert_eq!(
        status_of(&scene).last_handled_refresh_request.as_deref(),
        expected
    );
}

#[test]
fn a_request_handled_in_the_target_is_echoed_after_a_lost_status() {
    let scene = scene()
        .requested()
        .stored(|stored| stored.refresh_handled = Some("monday".to_owned()));
    assert_eq!(
        status_of(&scene).last_handled_refresh_request.as_deref(),
        Some("monday")
    );
}

#[test]
fn a_transition_time_changes_with_the_status_and_not_with_the_reason() {
    let before = with_its_status(scene().known('a'));
    let failing = with_its_status(
        before
            .clone()
            .at(DUE + 5)
            .failed(VendorUnavailable, DUE, Some(DUE + 10)),
    );
    let time = |scene: &Scene, kind| find(&scene.status, kind).map(|found| found.last_transition_time.0);
    assert_eq!(
        time(&failing, condition::READY),
        Some(at(100)),
        "Ready was True before"
    );
    assert_eq!(time(&failing, condition::REFRESH_FAILING), Some(at(DUE + 5)));
    let later = with_its_status(
        failing
            .clone()
            .at(DUE + 20)
            .failed(RateLimited, DUE + 10, Some(DUE + 100)),
    );
    assert_eq!(time(&later, condition::REFRESH_FAILING), Some(at(DUE + 5)));
    let expired = with_its_status(later.at(EXPIRES));
    assert_eq!(time(&expired, condition::READY), Some(at(EXPIRES)));
    assert_eq!(time(&expired, condition::RECONCILING), Some(at(EXPIRES)));
    assert_eq!(time(&expired, condition::REFRESH_FAILING), None);
}

#[test]
fn times_are_whole_seconds() {
    let mut scene = scene().free().known('a');
    scene.now += SignedDuration::from_millis(999);
    let status = status_of(&scene);
    assert_eq!(status.conditions[0].last_transition_time, Time(at(100)));
    assert_eq!(as_the_api_server_keeps_it(&status), status);
}

#[test]
fn a_message_too_long_for_the_schema_is_cut() {
    let mut scene = scene().free().known('a').failed(VendorUnavailable, 50, Some(120));
    scene.grant.failure.as_mut().unwrap().message = "é".repeat(5000);
    let status = status_of(&scene);
    assert_eq!(status.failure.unwrap().message.chars().count(), 1024);
    assert_eq!(status.conditions[0].message.chars().count(), 2048);
    assert_eq!(status.conditions[1].message.chars().count(), 2048);
}

#[test]
fn a_target_that_is_gone_in_a_contest_waits_for_no_vendor() {
    let scene = scene().free().known('a').memory(0, EXPIRES).contested(0, 200);
    let status = status_of(&scene);
    let ready = status.condition(condition::READY).unwrap();
    assert!(ready.message.contains("kubectl-edit"), "{}", ready.message);
}
