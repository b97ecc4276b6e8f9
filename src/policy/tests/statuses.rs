//! The status field by field, and properties of every status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use proptest::prelude::*;
use rstest::rstest;

use super::properties::any_scene;
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
fn the_next_refresh_is_the_time_of_the_next_request(#[case] scene: Scene, #[case] expected: Option<i64>) {
    assert_eq!(
        status_of(&scene).next_refresh_time,
        expected.map(|second| Time(at(second)))
    );
}

#[test]
fn a_failed_attempt_whose_account_is_held_says_so() {
    let scene = scene()
        .free()
        .known('a')
        .failed(VendorUnavailable, 50, Some(120))
        .held(900);
    let status = status_of(&scene);
    let message = &status.conditions[0].message;
    assert!(
        message.starts_with("why; three attempts") && message.contains(&at(900).to_string()),
        "{message}"
    );
    let failure = status.failure.unwrap();
    assert_eq!(
        (failure.message.as_str(), failure.next_attempt_time),
        ("why", Some(Time(at(900))))
    );
}

#[test]
fn a_rejection_does_not_name_the_end_of_the_accounts_hold() {
    // Only a change ends a rejection.
    let rejected = scene()
        .free()
        .known('a')
        .failed(CredentialsRejected, 50, None)
        .held(900);
    assert_eq!(status_of(&rejected).conditions[0].message, "why");
}

#[test]
fn a_failure_in_the_status_is_read_back_the_same() {
    let scene = scene()
        .known('a')
        .at(DUE + 5)
        .failed(VendorUnavailable, DUE, Some(DUE + 10));
    let failure = status_of(&scene).failure.unwrap();
    assert_eq!(
        (failure.reason.as_str(), failure.message.as_str(), failure.count),
        ("VendorUnavailable", "why", 2)
    );
    assert_eq!(failure.last_attempt_time, Time(at(DUE)));
    assert_eq!(failure.next_attempt_time, Some(Time(at(DUE + 10))));
    assert_eq!(failure.inputs, inputs('a').to_string());
    assert_eq!(PastFailure::parse(&failure), scene.grant.failure);
}

#[rstest]
#[case::of_the_stored_token(scene(), true)]
#[case::of_the_credential_that_was_read(scene().known('a'), true)]
#[case::of_another_credential_that_was_read(scene().known('b'), false)]
#[case::under_a_key_that_is_lost_and_the_credential_read(scene().key_lost().known('a'), false)]
#[case::under_a_key_that_is_lost_and_nothing_read(scene().key_lost(), true)]
#[case::no_token_and_the_credential_not_read_again(scene().free(), true)]
#[case::no_token_and_the_spec_edited(scene().free().grant_edited(), false)]
#[case::of_a_credential_that_was_deleted(scene().free().unusable(CredentialsNotFound), true)]
#[case::of_a_credential_that_was_deleted_while_a_token_is_stored(scene().unusable(CredentialsNotFound), true)]
#[case::of_a_credential_that_may_not_be_read(scene().free().unusable(ApiDenied), true)]
#[case::of_a_credential_that_was_deleted_and_the_spec_edited(
    scene().free().unusable(CredentialsNotFound).grant_edited(), false
)]
#[case::while_the_spec_is_invalid(Scene { parameters: "", sources: "", ..scene().free().spec_problem() }, true)]
#[case::while_suspended(scene().free().suspended(), true)]
#[case::while_the_target_is_somebody_elses(scene().target_blocked(), true)]
fn a_rejection_is_kept_until_the_credential_or_the_spec_changes(#[case] scene: Scene, #[case] kept: bool) {
    let scene = scene.failed_in_status(CredentialsRejected, 50, None, &inputs('a'));
    let before = scene.status.failure.clone();
    assert_eq!(status_of(&scene).failure, before.filter(|_| kept));
}

#[test]
fn a_rejected_password_is_not_tried_again_from_a_recreated_secret() {
    let mut scene = with_its_status(scene().free().known('a').failed(CredentialsRejected, 50, None));
    scene.grant = GrantFacts::default();
    let deleted = with_its_status(scene.unusable(CredentialsNotFound));
    assert_eq!(summary(&deleted.status), "False CredentialsNotFound Reconciling");
    let again = deleted.unread(Some("uid/9")).known('a');
    assert_eq!(decide(&again.observed()), Decision::Wait { until: None });
    assert_eq!(summary(&status_of(&again)), "False CredentialsRejected Stalled");
    assert_eq!(decide(&again.known('b').observed()), Decision::Issue);
}

#[test]
fn a_restored_token_shows_no_failure_of_credentials_that_rotated_since() {
    let scene = scene().failed_in_status(CredentialsRejected, 50, None, &inputs('b'));
    let status = status_of(&scene);
    assert_eq!(
        (summary(&status).as_str(), status.failure),
        ("True Published", None)
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

fn with_warnings(mut scene: Scene) -> Scene {
    scene.grant.token.as_mut().unwrap().warnings = Warnings {
        expiry_assumed: true,
        clock_skew_suspected: true,
        not_before: Some(at(200)),
    };
    scene
}

#[test]
fn each_warning_about_a_token_is_a_condition() {
    let scene = with_warnings(scene().known('a').memory(0, EXPIRES));
    assert_eq!(
        summary(&status_of(&scene)),
        "True Published ExpiryAssumed ClockSkewSuspected TokenNotYetValid"
    );
    for (assumed, skew, expected) in [
        (true, false, "True Published ExpiryAssumed"),
        (false, true, "True Published ClockSkewSuspected"),
        (false, false, "True Published"),
    ] {
        let mut scene = scene.clone();
        let warnings = &mut scene.grant.token.as_mut().unwrap().warnings;
        *warnings = Warnings {
            expiry_assumed: assumed,
            clock_skew_suspected: skew,
            not_before: None,
        };
        assert_eq!(summary(&status_of(&scene)), expected);
    }
}

#[test]
fn a_token_that_is_not_usable_yet_has_a_warning_until_it_is() {
    let scene = with_warnings(scene().known('a').memory(0, EXPIRES));
    let message = find(&status_of(&scene), condition::TOKEN_NOT_YET_VALID)
        .unwrap()
        .message
        .clone();
    assert!(message.contains(&at(200).to_string()), "{message}");
    assert_eq!(
        summary(&status_of(&scene.clone().at(200))),
        "True Published ExpiryAssumed ClockSkewSuspected"
    );
}

#[test]
fn a_token_that_is_not_published_shows_no_warnings() {
    let scene = with_warnings(scene().known('a').memory(50, 3650));
    assert_eq!(summary(&status_of(&scene)), "True Published");
    assert_eq!(
        summary(&status_of(&scene.free())),
        "False Progressing Reconciling"
    );
}

#[test]
fn warnings_are_carried_over_a_restart_for_the_same_token_only() {
    let mut scene = with_its_status(with_warnings(scene().known('a').memory(0, EXPIRES)));
    scene.grant = GrantFacts::default();
    let restarted = scene.clone().unread(Some("uid/1"));
    assert_eq!(
        summary(&status_of(&restarted)),
        "True Published ExpiryAssumed ClockSkewSuspected TokenNotYetValid"
    );
    assert_eq!(
        summary(&status_of(&restarted.clone().at(200))),
        "True Published ExpiryAssumed ClockSkewSuspected",
        "the token is usable by now"
    );
    let another = restarted.clone().stored(|stored| stored.issued = at(5));
    assert_eq!(summary(&status_of(&another)), "True Published");
    let known_better = scene.known('a').memory(0, EXPIRES);
    assert_eq!(summary(&status_of(&known_better)), "True Published");
    let mut not_said = restarted;
    for condition in &mut not_said.status.conditions {
        condition.status = "False".to_owned();
    }
    assert_eq!(summary(&status_of(&not_said)), "True Published");
}

#[rstest]
#[case::more_than_30_days(30 * 86_400 + 1, None)]
#[case::thirty_days(30 * 86_400, Some("in less than 30 days"))]
#[case::more_than_14_days(14 * 86_400 + 1, Some("in less than 30 days"))]
#[case::fourteen_days(14 * 86_400, Some("in less than 14 days"))]
#[case::more_than_3_days(3 * 86_400 + 1, Some("in less than 14 days"))]
#[case::three_days(3 * 86_400, Some("in less than 3 days"))]
#[case::a_second(1, Some("in less than 3 days"))]
#[case::none_left(0, Some("expired at"))]
#[case::long_past(-86_400, Some("expired at"))]
fn the_end_of_a_credential_has_a_warning_in_stages(#[case] left: i64, #[case] expected: Option<&str>) {
    let scene = scene();
    let expires = seconds_later(scene.now, left);
    let context = StatusContext {
        credential_expires: Some(expires),
        ..context()
    };
    let status = status(&scene.observed(), &context);
    let warning = find(&status, condition::CREDENTIAL_EXPIRING);
    match expected {
        None => assert_eq!(warning, None),
        Some(words) => {
            let warning = warning.unwrap();
            assert!(warning.message.contains(words), "{}", warning.message);
            assert!(
                warning.message.contains(&expires.to_string()),
                "{}",
                warning.message
            );
            assert_eq!(
                (warning.status.as_str(), warning.reason.as_str()),
                ("True", "CredentialExpiring")
            );
        }
    }
    assert!(summary(&status).starts_with("True Published"));
}

#[test]
fn the_end_of_a_credential_has_a_warning_without_a_token_too() {
    let context = StatusContext {
        credential_expires: Some(at(0)),
        ..context()
    };
    assert_eq!(
        summary(&status(&scene().free().known('a').observed(), &context)),
        "False Progressing Reconciling CredentialExpiring"
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
fn an_unreadable_failure_in_the_status_is_dropped() {
    let mut scene = scene()
        .free()
        .known('a')
        .failed_in_status(CredentialsRejected, 50, None, &inputs('a'));
    scene.status.failure.as_mut().unwrap().reason = "Whatever".to_owned();
    assert_eq!(status_of(&scene).failure, None);
    scene.status.failure.as_mut().unwrap().reason = "CredentialsRejected".to_owned();
    scene.status.failure.as_mut().unwrap().inputs = "x".to_owned();
    assert_eq!(status_of(&scene).failure, None);
}

#[test]
fn facts_under_a_lost_key_take_no_failure_out_of_the_status() {
    let present = Inputs {
        key_id: OTHER_KEY.to_owned(),
        ..inputs('a')
    };
    let scene = scene()
        .key_lost()
        .failed_in_status(CredentialsRejected, 50, None, &present);
    assert!(status_of(&scene).failure.is_some());
}

#[test]
fn a_failure_publishes_no_jitter() {
    let mut scene = scene().free().known('a').failed(CredentialsRejected, 50, None);
    scene.grant.failure.as_mut().unwrap().inputs.jitter = 7;
    let failure = status_of(&scene).failure.unwrap();
    assert_eq!(Inputs::parse(&failure.inputs), Some(inputs('a')));
}

#[test]
fn times_in_the_status_that_nobody_can_have_written_here_are_taken_for_others() {
    let mut scene = scene()
        .free()
        .known('a')
        .failed_in_status(CredentialsRejected, 50, None, &inputs('a'));
    let failure = scene.status.failure.as_mut().unwrap();
    for (written, read) in [
        ("0001-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
        ("2026-05-04T10:00:00.75Z", "2026-05-04T10:00:00Z"),
    ] {
        failure.last_attempt_time = Time(written.parse().unwrap());
        let failure = PastFailure::parse(failure).unwrap();
        assert_eq!(failure.last_attempt, read.parse::<Timestamp>().unwrap());
    }
}

#[test]
fn a_negative_count_in_the_status_is_read_as_one() {
    let mut scene = scene()
        .free()
        .known('a')
        .failed_in_status(CredentialsRejected, 50, None, &inputs('a'));
    scene.status.failure.as_mut().unwrap().count = -7;
    assert_eq!(status_of(&scene).failure.unwrap().count, 1);
}

fn any_context() -> impl Strategy<Value = (Option<i64>, Progress)> {
    (
        prop::option::of(-100..4_000_000_i64),
        prop_oneof![
            Just(Progress::None),
            Just(Progress::Asked),
            (100..9000_i64).prop_map(|until| Progress::Paused(at(until))),
            (100..9000_i64).prop_map(|until| Progress::Held(at(until))),
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

#[test]
fn a_failure_with_a_future_time_ends_with_the_next_success() {
    let mut scene = scene()
        .known('a')
        .failed_in_status(VendorUnavailable, 7200, Some(7205), &inputs('a'));
    assert_eq!(
        summary(&status_of(&scene)),
        "True VendorUnavailable RefreshFailing",
        "no success has followed"
    );
    scene.grant.succeeded = Some(at(0));
    let status = status_of(&scene);
    assert_eq!(summary(&status), "True Published");
    assert_eq!(status.failure, None);
}

#[test]
fn a_target_that_is_gone_in_a_contest_waits_for_no_vendor() {
    let scene = scene().free().known('a').memory(0, EXPIRES).contested(0, 200);
    let status = status_of(&scene);
    let ready = status.condition(condition::READY).unwrap();
    assert!(ready.message.contains("kubectl-edit"), "{}", ready.message);
}
