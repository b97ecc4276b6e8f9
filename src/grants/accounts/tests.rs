//! The account rules in tables: no vendor, no clock.

use rstest::rstest;

use super::*;
use crate::grants::tests::at;

fn account() -> Account {
    Account::from_bytes([1; 16])
}

fn password(number: u8) -> Fingerprint {
    Fingerprint::from_bytes([number; 16])
}

fn login(number: u8) -> Login {
    Login {
        account: account(),
        password: PasswordDigest::from_bytes([number; 16]),
    }
}

/// An attempt that is sent at once and fails at once.
fn attempt(accounts: &mut Accounts, fingerprint: Fingerprint, namespace: &str, at: Moment) {
    accounts.reserve(account(), fingerprint, namespace, at);
    send(accounts, fingerprint, at);
    accounts.end(login(0), fingerprint, End::Failed, at);
}

/// The slot of this request comes, and it is sent.
fn send(accounts: &mut Accounts, fingerprint: Fingerprint, at: Moment) {
    accounts.start(account(), fingerprint, "a", at);
    accounts.send(account(), fingerprint, at, at);
}

#[test]
fn three_passwords_may_be_tried_in_a_quarter_of_an_hour() {
    let mut accounts = Accounts::default();
    for minute in 0..3_u8 {
        let now = at(i64::from(minute) * 60);
        assert_eq!(accounts.free_at(account(), "a", now), None);
        attempt(&mut accounts, password(minute), "a", now);
    }
    assert_eq!(accounts.free_at(account(), "a", at(180)), Some(at(900)));
    assert_eq!(accounts.free_at(Account::from_bytes([2; 16]), "a", at(180)), None);
    assert_eq!(accounts.free_at(account(), "a", at(900)), None);
}

#[test]
fn an_attempt_that_several_statuses_show_counts_once() {
    let mut accounts = Accounts::default();
    for _ in 0..5 {
        accounts.count_earlier(account(), password(1), "a", at(0), 1);
    }
    assert_eq!(accounts.0[&account()].attempts.len(), 1);
}

#[test]
fn an_attempt_in_memory_is_not_counted_again_from_a_status() {
    let mut accounts = Accounts::default();
    attempt(&mut accounts, password(1), "a", at(-40));
    attempt(
        &mut accounts,
        password(1),
        "a",
        at(0) + Duration::from_millis(300),
    );
    // A status from a former term has whole seconds, and the number of failures in a row.
    accounts.count_earlier(account(), password(1), "a", at(0), 2);
    assert_eq!(accounts.free_at(account(), "a", at(1)), None);
    accounts.count_earlier(account(), password(2), "a", at(0), 2);
    assert!(accounts.free_at(account(), "a", at(1)).is_some());
}

#[test]
fn an_attempt_counts_from_the_moment_it_is_sent() {
    let mut accounts = Accounts::default();
    for number in 0..3 {
        accounts.reserve(account(), password(number), "a", at(0));
    }
    for number in 0..3 {
        send(&mut accounts, password(number), at(600));
    }
    assert_eq!(accounts.free_at(account(), "a", at(901)), Some(at(1500)));
}

#[test]
fn an_attempt_that_waits_counts_for_as_long_as_it_waits() {
    let mut accounts = Accounts::default();
    for number in 0..3 {
        accounts.reserve(account(), password(number), "a", at(0));
    }
    accounts.sweep(at(3000));
    assert_eq!(accounts.free_at(account(), "a", at(899)), Some(at(900)));
    assert_eq!(
        accounts.free_at(account(), "a", at(3000)),
        Some(at(3600)),
        "the next look"
    );
    accounts.withdraw(account(), password(1));
    assert_eq!(accounts.free_at(account(), "a", at(3000)), None);
}

#[test]
fn a_success_forgets_the_attempts_that_ended_before_it_was_sent() {
    let mut accounts = Accounts::default();
    attempt(&mut accounts, password(0), "a", at(0));
    accounts.reserve(account(), password(1), "a", at(1));
    send(&mut accounts, password(1), at(1));
    accounts.reserve(account(), password(2), "a", at(2));
    send(&mut accounts, password(2), at(2));
    assert!(accounts.free_at(account(), "a", at(3)).is_some());
    accounts.end(login(2), password(2), End::Token, at(3));
    assert_eq!(accounts.free_at(account(), "a", at(3)), None);
    accounts.end(login(1), password(1), End::Rejected, at(4));
    let left: Vec<_> = accounts.0[&account()]
        .attempts
        .iter()
        .map(|left| left.fingerprint)
        .collect();
    assert_eq!(left, [password(1)], "the vendor may have judged it last");
}

/// An attempt with a proven password, which is in flight from this second on.
fn proven_in_flight(accounts: &mut Accounts, number: u8, second: i64) {
    send(accounts, password(number), at(second));
}

#[test]
fn a_rejected_password_is_in_doubt_until_a_success_that_was_sent_after_it() {
    let mut accounts = Accounts::default();
    // Grants 1 and 2 have the same password.
    proven_in_flight(&mut accounts, 1, 0);
    proven_in_flight(&mut accounts, 2, 0);
    accounts.end(login(9), password(1), End::Rejected, at(1));
    assert!(accounts.is_in_doubt(login(9)) && !accounts.is_in_doubt(login(8)));
    assert_eq!(accounts.gate(login(9), password(3), at(1)), Gate::Closed);
    accounts.end(login(9), password(2), End::Token, at(2));
    assert!(accounts.is_in_doubt(login(9)), "it may have been judged before");
    accounts.reserve(account(), password(2), "a", at(3));
    send(&mut accounts, password(2), at(3));
    accounts.end(login(9), password(2), End::Token, at(4));
    assert!(!accounts.is_in_doubt(login(9)));
}

#[rstest]
#[case::a_token(End::Token, 0)]
#[case::trouble(End::Failed, 0)]
#[case::a_rejection(End::Rejected, 1)]
fn an_attempt_with_a_proven_password_counts_once_it_was_rejected(#[case] end: End, #[case] expected: usize) {
    let mut accounts = Accounts::default();
    proven_in_flight(&mut accounts, 1, 0);
    let counting = |accounts: &Accounts| {
        let attempts = accounts.0[&account()].attempts.iter();
        attempts.filter(|attempt| attempt.counts_at(at(5))).count()
    };
    assert_eq!(counting(&accounts), 0);
    accounts.end(login(1), password(1), end, at(5));
    assert_eq!(counting(&accounts), expected);
}

#[test]
fn proven_passwords_are_sent_one_at_a_time_beyond_the_bound() {
    let mut accounts = Accounts::default();
    attempt(&mut accounts, password(1), "a", at(0));
    let gate = |accounts: &Accounts, number| accounts.gate(login(number), password(number), at(9));
    proven_in_flight(&mut accounts, 10, 9);
    assert_eq!(gate(&accounts, 11), Gate::Open, "at most three can fail");
    proven_in_flight(&mut accounts, 11, 9);
    assert_eq!(gate(&accounts, 12), Gate::Busy);
    accounts.end(login(10), password(10), End::Token, at(9));
    assert_eq!(gate(&accounts, 12), Gate::Open);
    // Junk of others holds none up.
    accounts.end(login(11), password(11), End::Token, at(9));
    for number in 2..6 {
        attempt(&mut accounts, password(number), "a", at(9));
    }
    assert_eq!(gate(&accounts, 12), Gate::Open);
    proven_in_flight(&mut accounts, 12, 9);
    assert_eq!(gate(&accounts, 13), Gate::Busy);
}

#[test]
fn a_reserved_attempt_is_not_sent_where_rejections_have_used_up_the_account() {
    let mut accounts = Accounts::default();
    accounts.reserve(account(), password(1), "a", at(0));
    let gate = |accounts: &Accounts| accounts.gate(login(1), password(1), at(9));
    for number in 10..12 {
        proven_in_flight(&mut accounts, number, 0);
    }
    assert_eq!(gate(&accounts), Gate::Open);
    proven_in_flight(&mut accounts, 12, 0);
    assert_eq!(gate(&accounts), Gate::Busy);
    for number in 10..13 {
        accounts.end(login(number), password(number), End::Rejected, at(9));
    }
    assert_eq!(gate(&accounts), Gate::Closed);
}

#[test]
fn a_lock_closes_the_account_and_one_from_a_status_to_unproven_passwords() {
    let mut accounts = Accounts::default();
    accounts.reserve(account(), password(1), "a", at(0));
    let gates = |accounts: &Accounts, second| {
        [1, 2].map(|number| accounts.gate(login(number), password(number), at(second)))
    };
    accounts.show_lock(account(), at(100), at(0));
    assert_eq!(gates(&accounts, 99), [Gate::Closed, Gate::Open]);
    accounts.lock_until(account(), at(90));
    accounts.show_lock(account(), at(100), at(0));
    assert_eq!(gates(&accounts, 89), [Gate::Closed, Gate::Closed]);
    assert_eq!(gates(&accounts, 90), [Gate::Open, Gate::Open]);
    accounts.lock_until(account(), at(50));
    assert_eq!(
        gates(&accounts, 89),
        [Gate::Closed, Gate::Closed],
        "the later one holds"
    );
}

#[test]
fn attempts_that_no_longer_count_are_forgotten() {
    let mut accounts = Accounts::default();
    attempt(&mut accounts, password(1), "a", at(0));
    accounts.sweep(at(899));
    assert_eq!(accounts.0.len(), 1);
    accounts.sweep(at(900));
    assert!(accounts.0.is_empty());
}

/// An event at one account: an attempt, a look that is held back, or a look at a proven password. Each has a namespace
/// and a second.
#[derive(Clone, Copy, Debug)]
enum Event {
    Attempt(&'static str, i64),
    Look(&'static str, i64),
    Proven(&'static str, i64),
}

use Event::{Attempt as Tried, Look, Proven};

#[rstest]
#[case::three_of_one_namespace(&[Tried("evil", 0), Tried("evil", 1), Tried("evil", 2)], "evil", Some(900))]
#[case::two_of_a_stranger_where_the_account_is_proven(
    &[Proven("good", 0), Tried("evil", 1), Tried("evil", 2)], "evil", Some(901)
)]
#[case::the_kept_one_for_the_namespace_where_it_is_proven(
    &[Proven("good", 0), Tried("evil", 1), Tried("evil", 2)], "good", None
)]
#[case::the_kept_one_once(
    &[Proven("good", 0), Tried("evil", 1), Tried("evil", 2), Tried("good", 3)], "good", Some(901)
)]
#[case::the_others_for_a_stranger_though_the_kept_one_is_used(
    &[Proven("good", 0), Tried("good", 1), Tried("evil", 2)], "evil", None
)]
#[case::no_more_than_three_though_one_is_kept(
    &[Tried("evil", 0), Tried("evil", 1), Tried("evil", 2), Proven("good", 3)], "good", Some(901)
)]
#[case::the_next_one_for_who_has_waited(
    &[Tried("evil", 3), Tried("evil", 4), Tried("evil", 5), Look("good", 890)], "evil", Some(904)
)]
#[case::not_for_who_has_had_one(
    &[Tried("evil", 700), Tried("evil", 701), Tried("evil", 2), Look("good", 890)], "evil", Some(1600)
)]
#[case::but_for_who_has_had_none(
    &[Tried("evil", 700), Tried("evil", 701), Tried("evil", 2), Look("good", 890)], "good", None
)]
#[case::for_who_has_waited_longest_among_equals(
    &[Tried("evil", 700), Tried("evil", 701), Tried("evil", 2), Look("one", 880), Look("two", 890)], "two", Some(1600)
)]
#[case::not_for_who_waits_no_more(
    &[Tried("evil", 700), Tried("evil", 701), Tried("evil", 2), Look("good", 500)], "evil", None
)]
fn attempts_are_shared_by_namespaces(
    #[case] events: &[Event],
    #[case] namespace: &str,
    #[case] expected: Option<i64>,
) {
    let mut accounts = Accounts::default();
    for (event, number) in events.iter().zip(1..) {
        match event {
            Tried(namespace, second) => {
                attempt(&mut accounts, password(number), namespace, at(*second));
            }
            Look(namespace, second) => accounts.waits(account(), namespace, at(*second)),
            Proven(namespace, second) => accounts.proven(account(), namespace, at(*second)),
        }
    }
    let last = events.iter().map(|event| match event {
        Tried(_, second) | Look(_, second) | Proven(_, second) => *second,
    });
    // Attempts from before 15 minutes do not count any more.
    let now = at(if last.max() >= Some(500) { 903 } else { 10 });
    assert_eq!(accounts.free_at(account(), namespace, now), expected.map(at));
}

#[test]
fn junk_of_one_namespace_holds_another_up_for_one_window_at_most() {
    let mut accounts = Accounts::default();
    let mut first_of_good = None;
    for second in 0..3600 {
        for namespace in ["evil", "good"] {
            if namespace == "good" && second < 100 {
                continue;
            }
            match accounts.free_at(account(), namespace, at(second)) {
                Some(_) => accounts.waits(account(), namespace, at(second)),
                None => {
                    attempt(&mut accounts, password(second as u8), namespace, at(second));
                    if namespace == "good" {
                        first_of_good.get_or_insert(second);
                    }
                }
            }
        }
    }
    assert_eq!(first_of_good, Some(900));
    let of_good = accounts.0[&account()].attempts.iter();
    let of_good = of_good.filter(|attempt| attempt.namespace == "good").count();
    assert!(of_good >= 1, "again and again");
}
