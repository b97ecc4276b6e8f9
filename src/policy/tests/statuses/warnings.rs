//! The conditions that warn of a token or of a credential.

use rstest::rstest;

use super::*;

fn with_warnings(mut scene: Scene) -> Scene {
    scene.grant.token.as_mut().unwrap().warnings = Warnings {
        expiry_assumed: true,
        clock_skew_suspected: true,
        unusually_long: false,
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
            unusually_long: false,
            not_before: None,
        };
        assert_eq!(summary(&status_of(&scene)), expected);
    }
}

#[rstest]
#[case::clocks(true, false, &["time synchronisation"], &["ten times"])]
#[case::a_long_life(false, true, &["ten times", "support"], &["time synchronisation"])]
#[case::both(true, true, &["time synchronisation", "ten times"], &[])]
fn a_suspicious_expiry_is_told_in_words_of_its_own_and_still_after_a_restart(
    #[case] clocks_differ: bool,
    #[case] unusually_long: bool,
    #[case] words: &[&str],
    #[case] others: &[&str],
) {
    let mut scene = scene().known('a').memory(0, EXPIRES);
    scene.grant.token.as_mut().unwrap().warnings = Warnings {
        clock_skew_suspected: clocks_differ,
        unusually_long,
        ..Warnings::default()
    };
    let message = |scene: &Scene| {
        let status = status_of(scene);
        assert_eq!(summary(&status), "True Published ClockSkewSuspected");
        find(&status, condition::CLOCK_SKEW_SUSPECTED)
            .unwrap()
            .message
            .clone()
    };
    let told = message(&scene);
    assert!(words.iter().all(|word| told.contains(word)), "{told}");
    assert!(!others.iter().any(|word| told.contains(word)), "{told}");
    let mut restarted = with_its_status(scene);
    restarted.grant = GrantFacts::default();
    assert_eq!(message(&restarted.unread(Some("uid/1"))), told);
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
