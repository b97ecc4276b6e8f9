//! Attempts with passwords that are not proven, by account: a vendor that locks accounts must not be asked too often.

use std::collections::{HashMap, VecDeque};
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

/// The attempts that count, by account, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Accounts(HashMap<Account, VecDeque<Attempt>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attempt {
    fingerprint: Fingerprint,
    at: Moment,
}

/// True while the attempt counts.
fn counts(attempt: &Attempt, now: Moment) -> bool {
    now.since(attempt.at) < WINDOW
}

impl Accounts {
    /// The moment from which another password may be tried; `None` where one may be tried now.
    pub(super) fn free_at(&self, account: Account, now: Moment) -> Option<Moment> {
        let attempts = self
            .0
            .get(&account)?
            .iter()
            .filter(|attempt| counts(attempt, now));
        let latest = attempts.rev().nth(MOST_ATTEMPTS - 1)?;
        Some(latest.at + WINDOW)
    }

    /// Counts an attempt at `at`, which may lie before others.
    pub(super) fn count(&mut self, account: Account, fingerprint: Fingerprint, at: Moment) {
        let attempts = self.0.entry(account).or_default();
        let place = attempts.partition_point(|other| other.at <= at);
        attempts.insert(place, Attempt { fingerprint, at });
    }

    /// Counts `number` attempts (1 to 3) that a status shows after a restart, the last of them sent at `last`. The
    /// times of the others are not known, and are taken to be just before. Counts nothing where the last one is known.
    pub(super) fn count_earlier(
        &mut self,
        account: Account,
        fingerprint: Fingerprint,
        last: Moment,
        number: i32,
    ) {
        let known = self.0.get(&account).into_iter().flatten().any(|attempt| {
            let apart = attempt.at - last;
            attempt.fingerprint == fingerprint && apart.unsigned_abs() <= STATUS_PRECISION
        });
        if !known {
            for before in 0..number.clamp(1, 3) {
                let earlier = STATUS_PRECISION * before.unsigned_abs();
                self.count(account, fingerprint, last - earlier);
            }
        }
    }

    /// Moves the attempt that was counted at `reserved` to `now`, the moment at which it is sent.
    pub(super) fn sent(&mut self, account: Account, fingerprint: Fingerprint, reserved: Moment, now: Moment) {
        self.withdraw(account, fingerprint, reserved);
        self.count(account, fingerprint, now);
    }

    /// Takes back the attempt that was counted at `at`, because it is not made.
    pub(super) fn withdraw(&mut self, account: Account, fingerprint: Fingerprint, at: Moment) {
        if let Some(attempts) = self.0.get_mut(&account) {
            attempts.retain(|attempt| *attempt != Attempt { fingerprint, at });
        }
    }

    /// Forgets the attempts on an account after a success: the vendor counts anew from there, too.
    pub(super) fn succeeded(&mut self, account: Account) {
        self.0.remove(&account);
    }

    /// Forgets the attempts that no longer count.
    pub(super) fn sweep(&mut self, now: Moment) {
        self.0.retain(|_, attempts| {
            attempts.retain(|attempt| counts(attempt, now));
            !attempts.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
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
            assert_eq!(accounts.free_at(account(), now), None);
            accounts.count(account(), password(minute), now);
        }
        assert_eq!(accounts.free_at(account(), at(180)), Some(at(900)));
        assert_eq!(accounts.free_at(Account::from_bytes([2; 16]), at(180)), None);
        assert_eq!(accounts.free_at(account(), at(900)), None);
    }

    #[test]
    fn an_attempt_that_several_statuses_show_counts_once() {
        let mut accounts = Accounts::default();
        for _ in 0..5 {
            accounts.count_earlier(account(), password(1), at(0), 1);
        }
        assert_eq!(accounts.0[&account()].len(), 1);
    }

    #[test]
    fn an_attempt_in_memory_is_not_counted_again_from_a_status() {
        let mut accounts = Accounts::default();
        accounts.count(account(), password(1), at(-40));
        accounts.count(account(), password(1), at(0) + Duration::from_millis(300));
        // A status from a former term has whole seconds, and the number of failures in a row.
        accounts.count_earlier(account(), password(1), at(0), 2);
        assert_eq!(accounts.free_at(account(), at(1)), None);
        accounts.count_earlier(account(), password(2), at(0), 2);
        assert!(accounts.free_at(account(), at(1)).is_some());
    }

    #[test]
    fn an_attempt_counts_from_the_moment_it_is_sent() {
        let mut accounts = Accounts::default();
        for number in 0..3 {
            accounts.count(account(), password(number), at(0));
        }
        for number in 0..3 {
            accounts.sent(account(), password(number), at(0), at(600));
        }
        assert_eq!(accounts.free_at(account(), at(901)), Some(at(1500)));
    }

    #[test]
    fn an_attempt_that_is_not_made_does_not_count() {
        let mut accounts = Accounts::default();
        for number in 0..3 {
            accounts.count(account(), password(number), at(600));
        }
        assert_eq!(accounts.free_at(account(), at(901)), Some(at(1500)));
        accounts.withdraw(account(), password(1), at(600));
        assert_eq!(accounts.free_at(account(), at(901)), None);
    }

    #[test]
    fn a_success_forgets_the_attempts_before_it() {
        let mut accounts = Accounts::default();
        for number in 0..3 {
            accounts.count(account(), password(number), at(0));
        }
        assert!(accounts.free_at(account(), at(1)).is_some());
        accounts.succeeded(account());
        assert_eq!(accounts.free_at(account(), at(1)), None);
    }

    #[test]
    fn attempts_that_no_longer_count_are_forgotten() {
        let mut accounts = Accounts::default();
        accounts.count(account(), password(1), at(0));
        accounts.sweep(at(899));
        assert_eq!(accounts.0.len(), 1);
        accounts.sweep(at(900));
        assert!(accounts.0.is_empty());
    }
}
