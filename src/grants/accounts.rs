//! Attempts with passwords that are not proven, by account: a vendor that locks accounts must not be asked too often.
//! Namespaces share the attempts on an account, so that junk of one holds no other up for ever.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use crate::clock::Moment;
use crate::fingerprint::{Account, Fingerprint};
use crate::policy::ACCOUNT_WINDOW;

/// Attempts count for this long.
const WINDOW: Duration = ACCOUNT_WINDOW.unsigned_abs();
/// Attempts on one account within that time at most: fewer than the five that lock an account by default.
const MOST_ATTEMPTS: usize = 3;
/// The precision of a status, which shows an attempt by the whole second in which it was sent.
const STATUS_PRECISION: Duration = Duration::from_secs(1);
/// A namespace that has not looked at the account for this long waits no more. While it waits, it looks every five
/// minutes at least.
const WAITS_FOR: Duration = Duration::from_secs(6 * 60);
/// An attempt is kept for a namespace in which the account is proven, until this long after that was last seen.
const PROVEN_FOR: Duration = Duration::from_secs(24 * 3600);

/// The accounts that have attempts which count, or for which a namespace waits.
#[derive(Debug, Default)]
pub(super) struct Accounts(HashMap<Account, AccountState>);

#[derive(Debug, Default)]
struct AccountState {
    /// The attempts that count, the oldest first.
    attempts: VecDeque<Attempt>,
    /// The namespaces in which a password of the account is held back.
    waiting: BTreeMap<String, Waiting>,
    /// The namespaces in which a password has brought a token, each with the moment at which that was last seen.
    proven: BTreeMap<String, Moment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attempt {
    fingerprint: Fingerprint,
    namespace: String,
    at: Moment,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Moment,
    seen: Moment,
}

impl AccountState {
    /// The moment from which `namespace` may make an attempt; `None` where it may make one now.
    ///
    /// One attempt is kept for a namespace in which the account is proven. The others go round: they are for the
    /// namespaces that wait with the fewest attempts, and among these for the one that has waited longest.
    fn free_at(&self, namespace: &str, now: Moment) -> Option<Moment> {
        let counts: Vec<_> = self
            .attempts
            .iter()
            .filter(|attempt| now.since(attempt.at) < WINDOW)
            .collect();
        let own = |namespace: &str| {
            let of_namespace = counts.iter().filter(|attempt| attempt.namespace == namespace);
            of_namespace.count()
        };
        let is_proven = |namespace: &str| self.proven.contains_key(namespace);
        let kept_used = counts.iter().find(|attempt| is_proven(&attempt.namespace));
        let kept = usize::from(!self.proven.is_empty());
        if kept > 0 && is_proven(namespace) && kept_used.is_none() && counts.len() < MOST_ATTEMPTS {
            return None;
        }
        let common: Vec<_> = counts
            .iter()
            .filter(|attempt| kept_used != Some(*attempt))
            .collect();
        let most = MOST_ATTEMPTS - kept;
        if let Some(latest) = common.iter().rev().nth(most - 1) {
            return Some(latest.at + WINDOW);
        }
        let rank = |namespace: &str| {
            let since = self.waiting.get(namespace).map_or(now, |waiting| waiting.since);
            (own(namespace), since)
        };
        let ahead = self
            .waiting
            .iter()
            .filter(|(other, waiting)| *other != namespace && now.since(waiting.seen) < WAITS_FOR)
            .filter(|(other, _)| rank(other) < rank(namespace))
            .count();
        if ahead < most - common.len() {
            return None;
        }
        // At that time this namespace has fewer attempts that count, or the other namespaces have had theirs.
        let own_first = counts.iter().find(|attempt| attempt.namespace == namespace);
        let first = own_first.or(counts.first());
        Some(first.map_or(now + WAITS_FOR, |attempt| attempt.at + WINDOW))
    }
}

impl Accounts {
    /// The moment from which `namespace` may try another password; `None` where it may try one now.
    pub(super) fn free_at(&self, account: Account, namespace: &str, now: Moment) -> Option<Moment> {
        self.0.get(&account)?.free_at(namespace, now)
    }

    /// Notes that a password of `namespace` is held back.
    pub(super) fn waits(&mut self, account: Account, namespace: &str, now: Moment) {
        let state = self.0.entry(account).or_default();
        let known = state.waiting.get(namespace).copied();
        let since = known
            .filter(|waiting| now.since(waiting.seen) < WAITS_FOR)
            .map_or(now, |waiting| waiting.since);
        state
            .waiting
            .insert(namespace.to_owned(), Waiting { since, seen: now });
    }

    /// Notes that a password of `namespace` has brought a token.
    pub(super) fn proven(&mut self, account: Account, namespace: &str, now: Moment) {
        let state = self.0.entry(account).or_default();
        state.proven.insert(namespace.to_owned(), now);
    }

    /// Counts an attempt of `namespace` at `at`, which may lie before others.
    pub(super) fn count(&mut self, account: Account, fingerprint: Fingerprint, namespace: &str, at: Moment) {
        let state = self.0.entry(account).or_default();
        state.waiting.remove(namespace);
        let attempt = Attempt {
            fingerprint,
            namespace: namespace.to_owned(),
            at,
        };
        let place = state.attempts.partition_point(|other| other.at <= at);
        state.attempts.insert(place, attempt);
    }

    /// Counts `number` attempts (1 to 3) that a status shows after a restart, the last of them sent at `last`. The
    /// times of the others are not known, and are taken to be just before. Counts nothing where the last one is known.
    pub(super) fn count_earlier(
        &mut self,
        account: Account,
        fingerprint: Fingerprint,
        namespace: &str,
        last: Moment,
        number: i32,
    ) {
        let attempts = self.0.get(&account).into_iter().flat_map(|state| &state.attempts);
        let is_known = attempts.into_iter().any(|attempt| {
            let apart = attempt.at - last;
            attempt.fingerprint == fingerprint && apart.unsigned_abs() <= STATUS_PRECISION
        });
        if !is_known {
            for before in 0..number.clamp(1, 3) {
                let earlier = STATUS_PRECISION * before.unsigned_abs();
                self.count(account, fingerprint, namespace, last - earlier);
            }
        }
    }

    /// Moves the attempt that was counted at `reserved` to `now`, the moment at which it is sent.
    pub(super) fn sent(&mut self, account: Account, fingerprint: Fingerprint, reserved: Moment, now: Moment) {
        if let Some(attempt) = self.withdraw(account, fingerprint, reserved) {
            self.count(account, fingerprint, &attempt, now);
        }
    }

    /// Takes back the attempt that was counted at `at`, because it is not made, and gives its namespace.
    pub(super) fn withdraw(
        &mut self,
        account: Account,
        fingerprint: Fingerprint,
        at: Moment,
    ) -> Option<String> {
        let attempts = &mut self.0.get_mut(&account)?.attempts;
        let place = attempts
            .iter()
            .position(|attempt| attempt.fingerprint == fingerprint && attempt.at == at)?;
        Some(attempts.remove(place)?.namespace)
    }

    /// Forgets the attempts on an account after a success: the vendor counts anew from there, too.
    pub(super) fn succeeded(&mut self, account: Account) {
        if let Some(state) = self.0.get_mut(&account) {
            state.attempts.clear();
        }
    }

    /// Forgets what no longer counts.
    pub(super) fn sweep(&mut self, now: Moment) {
        self.0.retain(|_, state| {
            state.attempts.retain(|attempt| now.since(attempt.at) < WINDOW);
            state
                .waiting
                .retain(|_, waiting| now.since(waiting.seen) < WAITS_FOR);
            state.proven.retain(|_, seen| now.since(*seen) < PROVEN_FOR);
            !(state.attempts.is_empty() && state.waiting.is_empty() && state.proven.is_empty())
        });
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn account() -> Account {
        Account::from_bytes([1; 16])
    }

    fn password(number: u8) -> Fingerprint {
        Fingerprint::from_bytes([number; 16])
    }

    fn at(second: i64) -> Moment {
        Moment::at_second(second)
    }

    #[test]
    fn three_passwords_may_be_tried_in_a_quarter_of_an_hour() {
        let mut accounts = Accounts::default();
        for minute in 0..3_u8 {
            let now = at(i64::from(minute) * 60);
            assert_eq!(accounts.free_at(account(), "a", now), None);
            accounts.count(account(), password(minute), "a", now);
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
        accounts.count(account(), password(1), "a", at(-40));
        accounts.count(account(), password(1), "a", at(0) + Duration::from_millis(300));
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
            accounts.count(account(), password(number), "a", at(0));
        }
        for number in 0..3 {
            accounts.sent(account(), password(number), at(0), at(600));
        }
        assert_eq!(accounts.free_at(account(), "a", at(901)), Some(at(1500)));
    }

    #[test]
    fn an_attempt_that_is_not_made_does_not_count() {
        let mut accounts = Accounts::default();
        for number in 0..3 {
            accounts.count(account(), password(number), "a", at(600));
        }
        assert_eq!(accounts.free_at(account(), "a", at(901)), Some(at(1500)));
        accounts.withdraw(account(), password(1), at(600));
        assert_eq!(accounts.free_at(account(), "a", at(901)), None);
    }

    #[test]
    fn a_success_forgets_the_attempts_before_it() {
        let mut accounts = Accounts::default();
        for number in 0..3 {
            accounts.count(account(), password(number), "a", at(0));
        }
        assert!(accounts.free_at(account(), "a", at(1)).is_some());
        accounts.succeeded(account());
        assert_eq!(accounts.free_at(account(), "a", at(1)), None);
    }

    #[test]
    fn attempts_that_no_longer_count_are_forgotten() {
        let mut accounts = Accounts::default();
        accounts.count(account(), password(1), "a", at(0));
        accounts.sweep(at(899));
        assert_eq!(accounts.0.len(), 1);
        accounts.sweep(at(900));
        assert!(accounts.0.is_empty());
    }

    /// An event at one account: an attempt, a look that is held back, or a look at a proven password. Each has a
    /// namespace and a second.
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
                    accounts.count(account(), password(number), namespace, at(*second));
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
                        accounts.count(account(), password(second as u8), namespace, at(second));
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
}
