//! The failure in a status: shown, kept, read back and dropped.

use rstest::rstest;

use super::*;

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
fn a_failed_attempt_whose_account_is_locked_says_so() {
    let mut scene = scene().free().known('a').failed(VendorUnavailable, 50, Some(120));
    scene.grant.account_lock = Some(AccountLock {
        until: at(900),
        only_from_status: false,
    });
    let message = &status_of(&scene).conditions[0].message;
    assert!(
        message.starts_with("why; the vendor has locked") && message.contains(&at(900).to_string()),
        "{message}"
    );
}

#[rstest]
#[case::while_it_holds(1000, true)]
#[case::after_its_end(3600, false)]
fn a_lock_that_another_password_met_is_kept_in_the_status(#[case] now: i64, #[case] kept: bool) {
    let mut scene = scene()
        .free()
        .known('b')
        .failed_in_status(CredentialsRejected, 50, Some(3600), &inputs('a'))
        .at(now);
    scene.grant.has_account = true;
    let failure = scene.status.failure.as_mut().unwrap();
    failure.message = format!("the account is locked: {}", crate::failure::LOCKED_UNTIL);
    let failure = failure.clone();
    assert_eq!(status_of(&scene).failure, kept.then_some(failure));
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
