//! The table of decisions: one row a situation.

use rstest::rstest;

use super::*;

const READ: Decision = Decision::ReadCredentials;
const PUBLISH: Decision = Decision::Publish;
const REPAIR: Decision = Decision::Repair;
const ISSUE: Decision = Decision::Issue;
const WAIT_FOR_A_CHANGE: Decision = Decision::Wait { until: None };

fn wait(second: i64) -> Decision {
    Decision::Wait {
        until: Some(at(second)),
    }
}

fn scene() -> Scene {
    Scene::new()
}

use Reason::{ApiDenied, CredentialsNotFound, CredentialsRejected, RateLimited, VendorUnavailable};

#[rstest]
// The ordinary life of a token.
#[case::the_first_token_needs_the_credentials(scene().free(), READ)]
#[case::the_first_token_is_asked_for(scene().free().known('a'), ISSUE)]
#[case::a_first_token_is_published(scene().free().known('a').memory(99, 3699), PUBLISH)]
#[case::a_fresh_token_waits_for_its_due_time(scene().known('a').memory(0, EXPIRES), wait(DUE))]
#[case::a_token_is_not_due_a_second_early(scene().known('a').at(DUE - 1), wait(DUE))]
#[case::a_due_token_is_refreshed(scene().known('a').memory(0, EXPIRES).at(DUE), ISSUE)]
#[case::an_expired_token_is_refreshed(scene().known('a').at(EXPIRES + 10), ISSUE)]
#[case::a_refreshed_token_is_published(scene().known('a').memory(DUE, DUE + 3600).at(DUE + 1), PUBLISH)]
#[case::a_token_that_another_object_brought_is_published_before_the_old_one_is_due(
    scene().known('a').memory(50, 3650), PUBLISH
)]
#[case::a_token_in_memory_older_than_the_stored_one_is_left(scene().known('a').memory(-50, 3550), wait(DUE))]
#[case::a_due_token_is_not_replaced_by_an_older_one(scene().known('a').memory(-50, 3550).at(DUE), ISSUE)]
#[case::the_refresh_setting_decides_when_it_is_due(
    Scene { refresh: RefreshPolicy::BeforeExpirySeconds(900), ..scene().known('a').at(2700) }, ISSUE
)]
#[case::a_wait_ends_at_the_expiry_where_that_is_sooner_than_the_next_attempt(
    scene().known('a').at(DUE).failed(VendorUnavailable, DUE, Some(EXPIRES + 100)), wait(EXPIRES)
)]
// A step back of the clock.
#[case::a_token_is_due_by_its_age_though_the_clock_was_set_back(scene().known('a').at(DUE - 600).set_back(600), ISSUE)]
#[case::a_token_is_not_due_by_its_age_a_second_sooner(scene().known('a').at(DUE - 601).set_back(600), wait(DUE - 600))]
#[case::a_wait_ends_at_the_expiry_by_its_age(
    scene().known('a').at(DUE).set_back(600).failed(VendorUnavailable, DUE, Some(EXPIRES)), wait(EXPIRES - 600)
)]
#[case::a_token_issued_after_the_step_back_is_newer(
    scene().known('a').at(-100).set_back(3000).memory(-100, 3500), PUBLISH
)]
#[case::a_published_token_is_not_newer_than_itself(
    scene().known('a').at(100).set_back(600).memory(0, EXPIRES), wait(DUE - 600)
)]
// After a restart, metadata alone decides.
#[case::a_restart_with_a_fresh_token_reads_nothing(scene(), wait(DUE))]
#[case::a_restart_with_a_due_token_reads_the_credentials(scene().at(DUE), READ)]
#[case::credentials_changed_while_away_are_read(scene().unread(Some("uid/2")), READ)]
#[case::credentials_made_anew_while_away_are_read(scene().unread(Some("uid2/1")), READ)]
#[case::credentials_that_are_not_watched_are_read(scene().unread(None), READ)]
#[case::credentials_not_watched_are_read_also_where_the_target_names_no_version(
    scene().unread(None).stored(|stored| stored.credentials_version = None), READ
)]
#[case::another_credentials_secret_is_read(scene().sources_edited(), READ)]
#[case::another_secret_with_the_same_credential_costs_nothing(scene().sources_edited().known('a'), wait(DUE))]
#[case::a_token_made_under_a_lost_key_stays_until_it_is_due(scene().key_lost(), wait(DUE))]
#[case::a_token_made_under_a_lost_key_stays_whatever_the_credential(scene().key_lost().known('b'), wait(DUE))]
#[case::a_token_made_under_a_lost_key_stays_though_all_seems_edited(
    scene().key_lost().grant_edited().sources_edited(), wait(DUE)
)]
#[case::a_token_made_under_a_lost_key_is_refreshed_when_due(scene().key_lost().known('a').at(DUE), ISSUE)]
// Changes.
#[case::a_rotated_credential_is_used_at_once(scene().known('b').at(1), ISSUE)]
#[case::a_rotated_credential_whose_token_is_in_memory_is_published(scene().known('b').memory(-10, 3590), PUBLISH)]
#[case::a_rotated_credential_waits_only_for_its_own_gap(scene().known('b').gap(360, 30), wait(360))]
#[case::an_edited_grant_reads_the_credentials(scene().grant_edited(), READ)]
#[case::an_edited_grant_asks_the_vendor(scene().grant_edited().known('b'), ISSUE)]
#[case::an_edited_grant_is_not_served_with_the_old_token(
    scene().grant_edited().known('a').at(DUE - 1), ISSUE
)]
#[case::edited_templates_read_the_credentials(scene().not_as_desired(), READ)]
#[case::edited_templates_are_published_from_memory(scene().not_as_desired().known('a').memory(0, EXPIRES), PUBLISH)]
#[case::edited_templates_are_published_before_a_due_refresh(
    scene().not_as_desired().known('a').memory(0, EXPIRES).at(DUE), PUBLISH
)]
#[case::edited_templates_ask_the_vendor_where_memory_is_empty(scene().not_as_desired().known('a'), ISSUE)]
#[case::a_changed_target_is_written_with_its_own_token_where_memory_is_empty(
    scene().readable().not_as_desired().known('a'), REPAIR
)]
#[case::a_changed_target_is_written_after_a_restart_without_the_credentials(
    scene().readable().not_as_desired(), REPAIR
)]
#[case::a_token_in_memory_is_written_rather_than_the_one_in_the_target(
    scene().readable().not_as_desired().known('a').memory(0, EXPIRES), PUBLISH
)]
#[case::a_token_in_the_target_under_a_lost_key_is_kept(scene().readable().not_as_desired().key_lost(), REPAIR)]
#[case::a_token_of_another_credential_is_not_kept(scene().readable().not_as_desired().known('b'), ISSUE)]
#[case::a_token_of_an_edited_grant_is_not_kept(scene().readable().not_as_desired().grant_edited().known('b'), ISSUE)]
#[case::changed_credentials_are_read_before_the_token_in_the_target_is_kept(
    scene().readable().not_as_desired().unread(Some("uid/2")), READ
)]
#[case::a_due_token_is_repaired_before_it_is_refreshed(scene().readable().not_as_desired().known('a').at(DUE), REPAIR)]
#[case::a_token_that_has_ended_is_not_repaired(scene().readable().not_as_desired().known('a').at(EXPIRES), ISSUE)]
#[case::a_request_is_served_after_a_repair(scene().readable().not_as_desired().known('a').requested(), REPAIR)]
#[case::an_intact_target_is_not_repaired(scene().readable(), wait(DUE))]
#[case::suspended_repairs_nothing(scene().readable().not_as_desired().suspended(), wait(EXPIRES))]
#[case::a_refused_repair_waits_for_its_time(
    scene().readable().not_as_desired().publish_blocked(200), wait(200)
)]
#[case::unusable_credentials_repair_nothing(
    scene().readable().not_as_desired().unusable(CredentialsNotFound), wait(EXPIRES)
)]
#[case::an_edited_target_waits_for_the_gap_where_memory_is_empty(
    scene().not_as_desired().known('a').gap(360, 30), wait(360)
)]
#[case::a_target_without_its_facts_is_restored_from_memory(
    scene().facts_lost().known('a').memory(0, EXPIRES), PUBLISH
)]
#[case::a_target_without_its_facts_asks_the_vendor_where_memory_is_empty(scene().facts_lost().known('a'), ISSUE)]
#[case::a_deleted_target_is_restored_from_memory(scene().free().known('a').memory(0, EXPIRES), PUBLISH)]
// Somebody else keeps undoing what is written.
#[case::a_repair_waits_in_a_contest(
    scene().not_as_desired().known('a').memory(0, EXPIRES).contested(0, 200), wait(200)
)]
#[case::a_deleted_target_waits_in_a_contest(scene().free().known('a').memory(0, EXPIRES).contested(0, 200), wait(200))]
#[case::a_repair_from_the_target_waits_in_a_contest(
    scene().readable().not_as_desired().known('a').contested(0, 200), wait(200)
)]
#[case::a_repair_is_made_after_the_pause(
    scene().not_as_desired().known('a').memory(0, EXPIRES).contested(0, 200).at(200), PUBLISH
)]
#[case::another_token_waits_for_no_contest(
    scene().not_as_desired().known('a').memory(50, 3650).contested(0, 200), PUBLISH
)]
#[case::a_due_refresh_waits_for_no_contest(
    scene().not_as_desired().known('a').memory(0, EXPIRES).contested(0, DUE + 200).at(DUE), ISSUE
)]
#[case::a_due_refresh_waits_for_no_contest_after_a_restart(
    scene().readable().not_as_desired().known('a').contested(0, DUE + 200).at(DUE), ISSUE
)]
#[case::an_intact_target_is_looked_at_when_the_contest_is_over(scene().known('a').contested(0, 200), wait(260))]
#[case::a_contest_that_is_over_holds_nothing(scene().known('a').contested(0, 10).at(100), wait(DUE))]
// States in which nothing is done.
#[case::deletion_does_nothing(scene().free().known('a').memory(0, EXPIRES).deleting(), Decision::Nothing)]
#[case::deletion_does_nothing_even_on_request(scene().known('a').requested().deleting(), Decision::Nothing)]
#[case::suspended_waits_for_the_expiry(scene().suspended().known('a').at(DUE), wait(EXPIRES))]
#[case::suspended_after_the_expiry_waits_for_a_change(scene().suspended().known('a').at(EXPIRES), WAIT_FOR_A_CHANGE)]
#[case::suspended_publishes_nothing(scene().suspended().not_as_desired().known('a').memory(50, 3650), wait(EXPIRES))]
#[case::suspended_keeps_a_refresh_request_waiting(scene().suspended().known('a').requested(), wait(EXPIRES))]
#[case::suspended_reads_no_credentials(scene().suspended().free(), WAIT_FOR_A_CHANGE)]
#[case::an_invalid_spec_does_nothing(scene().spec_problem().known('b').requested().at(DUE), wait(EXPIRES))]
#[case::a_target_of_somebody_else_is_left(
    scene().target_blocked().known('a').memory(0, EXPIRES).requested(), WAIT_FOR_A_CHANGE
)]
#[case::a_refused_write_waits_for_its_time(
    scene().not_as_desired().known('a').memory(0, EXPIRES).publish_blocked(200), wait(200)
)]
#[case::a_refused_write_is_tried_again_at_its_time(
    scene().not_as_desired().known('a').memory(0, EXPIRES).publish_blocked(200).at(200), PUBLISH
)]
#[case::a_refused_write_asks_no_vendor(scene().known('a').at(DUE).publish_blocked(DUE + 5), wait(DUE + 5))]
#[case::unusable_credentials_leave_the_token_until_it_expires(
    scene().unusable(CredentialsNotFound).at(DUE), wait(EXPIRES)
)]
#[case::credentials_that_may_not_be_read_are_looked_at_again_soon(
    scene().unusable(ApiDenied).at(DUE), wait(DUE + 5)
)]
#[case::a_denied_secret_is_looked_at_after_as_long_as_the_denial_lasted(
    scene().unusable(ApiDenied).denied_in_status(DUE - 100).at(DUE), wait(DUE + 100)
)]
#[case::a_denied_secret_is_looked_at_after_five_minutes_at_most(
    scene().unusable(ApiDenied).denied_in_status(-9000).at(100), wait(400)
)]
#[case::a_target_that_may_not_be_read_is_looked_at_again_soon(
    Scene { target: Target::Blocked(Problem::new(ApiDenied, "why")), ..scene() }, wait(105)
)]
#[case::unusable_credentials_publish_nothing_from_memory(
    scene().unusable(CredentialsNotFound).not_as_desired().memory(50, 3650), wait(EXPIRES)
)]
#[case::unusable_credentials_restore_no_deleted_target(
    scene().unusable(CredentialsNotFound).free().memory(0, EXPIRES), WAIT_FOR_A_CHANGE
)]
#[case::unusable_credentials_keep_a_refresh_request_waiting(
    scene().unusable(CredentialsNotFound).requested(), wait(EXPIRES)
)]
// Failures.
#[case::a_rejected_credential_is_not_tried_again(
    scene().free().known('a').failed(CredentialsRejected, 50, None), WAIT_FOR_A_CHANGE
)]
#[case::a_rejected_refresh_waits_for_the_expiry_only(
    scene().known('a').at(DUE + 9).failed(CredentialsRejected, DUE, None), wait(EXPIRES)
)]
#[case::a_failed_attempt_waits_for_the_next(
    scene().known('a').at(DUE + 9).failed(VendorUnavailable, DUE, Some(DUE + 10)), wait(DUE + 10)
)]
#[case::the_next_attempt_is_made_at_its_time(
    scene().known('a').at(DUE + 10).failed(VendorUnavailable, DUE, Some(DUE + 10)), ISSUE
)]
#[case::a_rejected_credential_is_probed_at_its_time(
    scene().free().known('a').at(3650).failed(CredentialsRejected, 50, Some(3650)), ISSUE
)]
#[case::a_token_in_memory_is_published_whatever_failed_since(
    scene().not_as_desired().known('a').memory(0, EXPIRES).failed(CredentialsRejected, 50, None), PUBLISH
)]
#[case::a_failed_refresh_brings_nothing_forward(
    scene().known('a').failed(VendorUnavailable, 50, Some(60)), wait(DUE)
)]
#[case::a_latch_in_the_status_holds_after_a_restart(
    scene().free().known('a').failed_in_status(CredentialsRejected, 50, None, &inputs('a')), WAIT_FOR_A_CHANGE
)]
#[case::a_deadline_in_the_status_holds_after_a_restart(
    scene().free().known('a').failed_in_status(RateLimited, 50, Some(300), &inputs('a')), wait(300)
)]
#[case::a_latch_of_another_credential_holds_nothing(
    scene().free().known('b').failed_in_status(CredentialsRejected, 50, None, &inputs('a')), ISSUE
)]
#[case::a_latch_under_a_lost_key_allows_an_attempt(
    scene().free().key_lost().known('a').failed_in_status(CredentialsRejected, 50, None, &inputs('a')), ISSUE
)]
#[case::a_success_with_another_credential_excuses_no_failure(
    scene().known('b').failed(CredentialsRejected, -5, None), wait(3600)
)]
#[case::a_failure_older_than_the_stored_token_is_no_failure(
    scene().known('a').at(DUE).failed_in_status(CredentialsRejected, -1, None, &inputs('a')), ISSUE
)]
#[case::a_failure_in_the_second_of_the_stored_token_counts(
    scene().known('a').at(DUE).failed_in_status(CredentialsRejected, 0, None, &inputs('a')), wait(EXPIRES)
)]
#[case::a_failure_older_than_the_token_in_memory_is_no_failure(
    scene().known('a').at(DUE + 400).stored(|stored| stored.issued = at(-100)).memory(0, EXPIRES)
        .failed_in_status(CredentialsRejected, -1, None, &inputs('a')).stored(|stored| stored.issued = at(0)), ISSUE
)]
#[case::a_failure_before_the_same_token_came_again_is_no_failure(
    Scene {
        grant: GrantFacts { succeeded: Some(at(DUE + 60)), ..GrantFacts::default() },
        ..scene().known('a').at(DUE + 500).failed_in_status(CredentialsRejected, DUE, None, &inputs('a'))
    },
    ISSUE
)]
#[case::a_success_ahead_of_a_clock_that_was_set_back_excuses_no_failure(
    scene().known('b').at(-100).failed(VendorUnavailable, -101, Some(-95)), wait(-95)
)]
#[case::a_newer_failure_in_memory_counts(
    scene().free().known('a').failed_in_status(RateLimited, 10, Some(400), &inputs('a'))
        .failed(VendorUnavailable, 50, Some(200)),
    wait(200)
)]
#[case::a_newer_failure_in_the_status_counts(
    scene().free().known('a').failed_in_status(RateLimited, 60, Some(400), &inputs('a'))
        .failed(VendorUnavailable, 50, Some(200)),
    wait(400)
)]
#[case::a_newer_failure_in_the_status_ends_no_latch_in_memory(
    scene().free().known('a').failed_in_status(VendorUnavailable, 60, Some(90), &inputs('a'))
        .failed(CredentialsRejected, 50, None),
    WAIT_FOR_A_CHANGE
)]
#[case::a_failure_in_the_future_does_not_hide_one_in_memory(
    scene().free().known('a').failed_in_status(VendorUnavailable, 4000, Some(50), &inputs('a'))
        .failed(VendorUnavailable, 90, Some(200)),
    wait(200)
)]
#[case::a_deadline_made_by_a_clock_that_was_a_day_ahead_holds_nothing(
    scene().free().known('a').failed_in_status(RateLimited, 86_400, Some(86_700), &inputs('a')), ISSUE
)]
#[case::a_latch_holds_whatever_the_clock_was(
    scene().free().known('a').failed_in_status(CredentialsRejected, 86_400, None, &inputs('a')), WAIT_FOR_A_CHANGE
)]
// Refresh requests.
#[case::a_request_refreshes_a_fresh_token(scene().known('a').memory(0, EXPIRES).requested(), ISSUE)]
#[case::a_request_reads_the_credentials(scene().requested(), READ)]
#[case::a_request_that_the_status_names_was_handled(
    Scene {
        status: VendorTokenStatus {
            last_handled_refresh_request: Some("monday".to_owned()), ..VendorTokenStatus::default()
        },
        ..scene().requested()
    },
    wait(DUE)
)]
#[case::a_request_that_the_target_names_was_handled(
    scene().requested().stored(|stored| stored.refresh_handled = Some("monday".to_owned())), wait(DUE)
)]
#[case::a_request_whose_attempt_has_ended_was_handled(
    Scene {
        grant: GrantFacts { completed_request: Some("monday".to_owned()), ..GrantFacts::default() },
        ..scene().known('a').requested()
    },
    wait(DUE)
)]
#[case::a_request_other_than_the_handled_one_is_new(
    scene().known('a').requested().stored(|stored| stored.refresh_handled = Some("sunday".to_owned())), ISSUE
)]
#[case::a_request_overrides_a_back_off(
    scene().known('a').requested().failed(VendorUnavailable, 50, Some(300)), ISSUE
)]
#[case::a_request_overrides_a_latch(
    scene().free().known('a').requested().failed(CredentialsRejected, 50, None), ISSUE
)]
#[case::a_request_overrides_a_latch_in_the_status(
    scene().free().known('a').requested().failed_in_status(CredentialsRejected, 50, None, &inputs('a')), ISSUE
)]
#[case::a_second_request_overrides_no_latch(
    scene().free().known('a').requested().failed(CredentialsRejected, 50, None).may_not_override(), WAIT_FOR_A_CHANGE
)]
#[case::a_second_request_overrides_no_back_off(
    scene().known('a').requested().failed(VendorUnavailable, 50, Some(300)).may_not_override(), wait(300)
)]
#[case::a_second_request_is_served_where_nothing_holds(scene().known('a').requested().may_not_override(), ISSUE)]
#[case::a_request_waits_for_the_vendors_deadline(
    scene().known('a').requested().failed(RateLimited, 50, Some(300)), wait(300)
)]
#[case::a_request_is_served_after_the_vendors_deadline(
    scene().known('a').requested().failed(RateLimited, 50, Some(300)).at(300), ISSUE
)]
#[case::a_request_waits_for_the_short_gap_only(scene().known('a').requested().gap(360, 130), wait(130))]
#[case::a_request_is_served_within_the_long_gap(scene().known('a').requested().gap(360, 30), ISSUE)]
#[case::without_a_request_the_long_gap_holds(scene().known('a').at(DUE).gap(DUE + 360, DUE + 30), wait(DUE + 360))]
#[case::a_gap_that_has_ended_holds_nothing(scene().known('a').at(DUE).gap(DUE, DUE), ISSUE)]
#[case::a_requested_token_is_published_before_another_is_asked_for(
    scene().known('a').requested().memory(50, 3650), PUBLISH
)]
// Tokens that are not usable yet.
#[case::a_token_usable_in_five_minutes_is_published(
    scene().known('a').at(DUE).memory(DUE, DUE + 3600).not_before(DUE + 300), PUBLISH
)]
#[case::a_token_usable_later_waits_while_the_old_one_is_good(
    scene().known('a').at(DUE).memory(DUE, DUE + 3600).not_before(DUE + 301), wait(DUE + 301)
)]
#[case::a_token_not_usable_yet_replaces_the_old_one_when_that_expires(
    scene().known('a').at(DUE).memory(DUE, DUE + 7200).not_before(EXPIRES + 600), wait(EXPIRES)
)]
#[case::a_token_not_usable_yet_is_published_where_the_old_one_has_expired(
    scene().known('a').at(EXPIRES).memory(DUE, DUE + 7200).not_before(EXPIRES + 600), PUBLISH
)]
#[case::a_token_not_usable_yet_is_published_where_there_is_no_other(
    scene().free().known('a').memory(50, 3650).not_before(1000), PUBLISH
)]
#[case::a_token_not_usable_yet_is_published_where_the_old_one_is_of_another_grant(
    scene().known('b').memory(50, 3650).not_before(1000), PUBLISH
)]
#[case::a_token_not_usable_yet_brings_no_early_publishing(
    scene().known('a').memory(50, 3650).not_before(1000), wait(DUE)
)]
#[case::a_published_token_that_is_not_usable_yet_is_still_repaired(
    scene().not_as_desired().known('a').memory(0, EXPIRES).not_before(1000), PUBLISH
)]
fn the_decision_is(#[case] scene: Scene, #[case] expected: Decision) {
    assert_eq!(decide(&scene.observed()), expected);
}
