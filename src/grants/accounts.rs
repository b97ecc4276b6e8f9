//! Attempts with passwords that are not proven, by account: a vendor that locks accounts must not be asked too often.

use std::collections::{HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::entry::whole_seconds;
use crate::fingerprint::{Account, Fingerprint};
use crate::policy::ACCOUNT_WINDOW as WINDOW;

/// At most this many in a quarter of an hour: below the five that lock an account by default.
const MOST: usize = 3;

/// The attempts of the last quarter of an hour.
#[derive(Debug, Default)]
pub(super) struct Accounts(HashMap<Account, VecDeque<Attempt>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attempt {
    fingerprint: Fingerprint,
    at: Timestamp,
}

impl Accounts {
    /// Not before this time may another password be tried; `None` means now.
    pub(super) fn free_at(&mut self, account: Account, now: Timestamp) -> Option<Timestamp> {
        let attempts = self.0.get_mut(&account)?;
        attempts.retain_mut(|attempt| {
            // An attempt that is still to come was noted before the clock was set back: it counts from now.
            attempt.at = attempt.at.min(now);
            now.duration_since(attempt.at) < WINDOW
        });
        let oldest = attempts.len().checked_sub(MOST)?;
        attempts.get(oldest)?.at.checked_add(WINDOW).ok()
    }

    /// Notes an attempt; the same one (after a restart, from several statuses) counts once.
    /// In whole seconds, as statuses tell them.
    pub(super) fn note(&mut self, account: Account, fingerprint: Fingerprint, at: Timestamp) {
        let at = whole_seconds(at);
        let attempts = self.0.entry(account).or_default();
        let attempt = Attempt { fingerprint, at };
        if !attempts.contains(&attempt) {
            let place = attempts.partition_point(|other| other.at <= at);
            attempts.insert(place, attempt);
        }
    }

    /// Notes `count` attempts of which the last was made at `last`, as a status tells after a restart; when the others
    /// were made is not known, and it is taken to be just before. Where the last one is known, the others are.
    pub(super) fn recall(&mut self, account: Account, fingerprint: Fingerprint, last: Timestamp, count: i32) {
        let last_one = Attempt {
            fingerprint,
            at: whole_seconds(last),
        };
        if self
            .0
            .get(&account)
            .is_some_and(|attempts| attempts.contains(&last_one))
        {
            return;
        }
        for number in 0..count.clamp(1, 3) {
            let at = last
                .checked_sub(SignedDuration::from_secs(i64::from(number)))
                .unwrap_or(last);
            self.note(account, fingerprint, at);
        }
    }

    /// The attempt noted at `at` is sent only now.
    pub(super) fn sent(&mut self, account: Account, fingerprint: Fingerprint, at: Timestamp, now: Timestamp) {
        self.withdraw(account, fingerprint, at);
        self.note(account, fingerprint, now);
    }

    /// The attempt noted at `at` is not made.
    pub(super) fn withdraw(&mut self, account: Account, fingerprint: Fingerprint, at: Timestamp) {
        let at = whole_seconds(at);
        if let Some(attempts) = self.0.get_mut(&account) {
            attempts.retain(|attempt| *attempt != Attempt { fingerprint, at });
        }
    }

    /// The password was right: the vendor forgets the failures before it, and so may we.
    pub(super) fn succeeded(&mut self, account: Account) {
        self.0.remove(&account);
    }

    /// Forgets what is past.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        self.0.retain(|_, attempts| {
            attempts.retain(|attempt| now.duration_since(attempt.at) < WINDOW);
            !attempts.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::schedule::later;

    fn account() -> Account {
        Account::from_bytes([1; 16])
    }

    fn password(number: u8) -> Fingerprint {
        Fingerprint::from_bytes([number; 16])
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn three_passwords_may_be_tried_in_a_quarter_of_an_hour() {
        let mut accounts = Accounts::default();
        for minute in 0..3_u8 {
            let at = later(now(), i64::from(minute) * 60);
            assert_eq!(accounts.free_at(account(), at), None);
            accounts.note(account(), password(minute), at);
        }
        assert_eq!(
            accounts.free_at(account(), later(now(), 180)),
            Some(later(now(), 900))
        );
        assert_eq!(
            accounts.free_at(Account::from_bytes([2; 16]), later(now(), 180)),
            None
        );
        assert_eq!(accounts.free_at(account(), later(now(), 900)), None);
    }

    #[test]
    fn one_attempt_that_several_statuses_tell_of_counts_once() {
        let mut accounts = Accounts::default();
        for _ in 0..5 {
            accounts.note(account(), password(1), now());
        }
        assert_eq!(accounts.free_at(account(), now()), None);
    }

    #[test]
    fn what_a_status_tells_of_an_attempt_that_is_known_counts_no_second_time() {
        let mut accounts = Accounts::default();
        let sent = now().saturating_add(SignedDuration::from_millis(300)).unwrap();
        accounts.note(account(), password(1), later(now(), -40));
        accounts.note(account(), password(1), sent);
        // After standing down and leading again: the status has whole seconds, and the number of failures in a row.
        accounts.recall(account(), password(1), now(), 2);
        assert_eq!(accounts.free_at(account(), later(now(), 1)), None);
        accounts.recall(account(), password(2), now(), 2);
        assert!(accounts.free_at(account(), later(now(), 1)).is_some());
    }

    #[test]
    fn an_attempt_counts_from_when_it_was_sent_and_not_at_all_when_it_was_not() {
        let mut accounts = Accounts::default();
        for number in 0..3 {
            accounts.note(account(), password(number), now());
        }
        accounts.sent(account(), password(0), now(), later(now(), 600));
        accounts.sent(account(), password(1), now(), later(now(), 600));
        accounts.sent(account(), password(2), now(), later(now(), 600));
        assert_eq!(
            accounts.free_at(account(), later(now(), 901)),
            Some(later(now(), 1500))
        );
        accounts.withdraw(account(), password(1), later(now(), 600));
        assert_eq!(accounts.free_at(account(), later(now(), 901)), None);
    }

    #[test]
    fn a_success_forgets_and_a_clock_that_was_set_back_holds_for_a_quarter_of_an_hour_at_most() {
        let mut accounts = Accounts::default();
        for number in 0..3 {
            accounts.note(account(), password(number), later(now(), 7200));
        }
        assert_eq!(accounts.free_at(account(), now()), Some(later(now(), 900)));
        assert_eq!(
            accounts.free_at(account(), later(now(), 60)),
            Some(later(now(), 900))
        );
        assert_eq!(accounts.free_at(account(), later(now(), 900)), None);
        for number in 0..3 {
            accounts.note(account(), password(number), later(now(), 900));
        }
        assert!(accounts.free_at(account(), later(now(), 901)).is_some());
        accounts.succeeded(account());
        assert_eq!(accounts.free_at(account(), now()), None);
    }
}
