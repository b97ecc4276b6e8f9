//! The attempts on accounts: a vendor that locks accounts must not be asked too often with passwords that are not proven.
//! Namespaces share the attempts on an account, so that junk of one holds no other up for ever.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::clock::Moment;
use crate::fingerprint::{Account, Fingerprint, Login, PasswordDigest};
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
/// A rejected password is in doubt until a success, and for this long at most: as long as a latch outlives its users.
const IN_DOUBT_FOR: Duration = Duration::from_secs(24 * 3600);

/// The accounts that are known: by attempts, a lock, rejected or proven passwords, or namespaces that wait.
#[derive(Debug, Default)]
pub(super) struct Accounts(HashMap<Account, AccountState>);

#[derive(Debug, Default)]
struct AccountState {
    /// The attempts that have not ended, and those that count.
    attempts: Vec<Attempt>,
    /// The passwords that were rejected, or that may have been, each with the moment of the answer.
    rejected: HashMap<PasswordDigest, Moment>,
    lock: Option<AccountLock>,
    /// The namespaces in which a password of the account is held back.
    waiting: BTreeMap<String, Waiting>,
    /// The namespaces in which a password has brought a token, each with the moment at which that was last seen.
    proven: BTreeMap<String, Moment>,
}

#[derive(Clone, Debug)]
struct Attempt {
    fingerprint: Fingerprint,
    namespace: String,
    /// The moment of its reservation, and after it was sent the moment of that, as a status shows it.
    at: Moment,
    progress: Progress,
    /// False while it is made with a proven password: such an attempt counts from its rejection on.
    counts: bool,
}

#[derive(Clone, Copy, Debug)]
enum Progress {
    /// It is reserved, or waits in the queue.
    Waits,
    /// Its slot came or it was sent at this moment, and it has not ended.
    InFlight(Moment),
    Ended(Moment),
}

/// A lock of which the vendor has told the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AccountLock {
    pub(super) until: Moment,
    /// True when it is known from a status only: it says nothing against a proven password.
    pub(super) only_from_status: bool,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Moment,
    seen: Moment,
}

/// The answer of an account to a request whose slot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// It may be sent when another one in flight has ended.
    Busy,
    /// It may not be sent: its permission has been overtaken by rejections or by a lock.
    Closed,
}

/// The end of an attempt that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Token,
    /// The vendor rejected the password, or may have.
    Rejected,
    /// Any other failure.
    Failed,
}

impl Attempt {
    fn has_ended(&self) -> bool {
        matches!(self.progress, Progress::Ended(_))
    }

    /// The moment from which it counts no more. One that has not ended counts for as long as that takes: its moment
    /// moves on by a window at a time.
    fn counts_until(&self, now: Moment) -> Moment {
        let windows_before = match self.progress {
            Progress::Ended(_) => 0,
            Progress::Waits | Progress::InFlight(_) => now.since(self.at).as_secs() / WINDOW.as_secs(),
        };
        self.at + WINDOW.saturating_mul(u32::try_from(windows_before + 1).unwrap_or(u32::MAX))
    }

    fn counts_at(&self, now: Moment) -> bool {
        self.counts && now < self.counts_until(now)
    }
}

impl AccountState {
    /// The moment from which `namespace` may make an attempt; `None` where it may make one now.
    ///
    /// One attempt is kept for a namespace in which the account is proven. The others go round: they are for the
    /// namespaces that wait with the fewest attempts, and among these for the one that has waited longest.
    fn free_at(&self, namespace: &str, now: Moment) -> Option<Moment> {
        let mut counts: Vec<_> = self
            .attempts
            .iter()
            .filter(|attempt| attempt.counts_at(now))
            .map(|attempt| (attempt.counts_until(now), attempt.namespace.as_str()))
            .collect();
        counts.sort_by_key(|(until, _)| *until);
        let own = |namespace: &str| counts.iter().filter(|(_, other)| *other == namespace).count();
        let is_proven = |namespace: &str| self.proven.contains_key(namespace);
        let kept_used = counts.iter().position(|(_, other)| is_proven(other));
        let kept = usize::from(!self.proven.is_empty());
        if kept > 0 && is_proven(namespace) && kept_used.is_none() && counts.len() < MOST_ATTEMPTS {
            return None;
        }
        let mut common = counts.clone();
        if let Some(used) = kept_used {
            common.remove(used);
        }
        let most = MOST_ATTEMPTS - kept;
        if let Some((until, _)) = common.iter().rev().nth(most - 1) {
            return Some(*until);
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
        let own_first = counts.iter().find(|(_, other)| *other == namespace);
        let first = own_first.or(counts.first());
        Some(first.map_or(now + WAITS_FOR, |(until, _)| *until))
    }

    /// The place of the attempt of `fingerprint` that has not ended. There is one at most: a grant is asked for once at a
    /// time.
    fn open(&self, fingerprint: Fingerprint) -> Option<usize> {
        self.attempts
            .iter()
            .position(|attempt| attempt.fingerprint == fingerprint && !attempt.has_ended())
    }

    fn lock(&self, now: Moment) -> Option<AccountLock> {
        self.lock.filter(|lock| now < lock.until)
    }

    /// The answer to the request of `fingerprint` with this password, whose slot has come.
    ///
    /// Those that count keep to the bound whatever the proven ones in flight bring. Proven ones are never held back for
    /// what others try; but beyond the bound they are sent one at a time, so that a password that has become wrong costs
    /// one attempt more at most.
    fn gate(&self, fingerprint: Fingerprint, password: PasswordDigest, now: Moment) -> Gate {
        let own = self.open(fingerprint);
        let counts = own.is_some_and(|own| self.attempts[own].counts);
        if self
            .lock(now)
            .is_some_and(|lock| counts || !lock.only_from_status)
            || (!counts && self.rejected.contains_key(&password))
        {
            return Gate::Closed;
        }
        let (mut sent, mut proven) = (0, 0);
        for (place, attempt) in self.attempts.iter().enumerate() {
            if own == Some(place) || matches!(attempt.progress, Progress::Waits) {
                continue;
            }
            sent += usize::from(attempt.counts_at(now));
            proven += usize::from(!attempt.counts);
        }
        if counts && sent >= MOST_ATTEMPTS {
            Gate::Closed
        } else if sent + proven >= MOST_ATTEMPTS && (counts || proven > 0) {
            Gate::Busy
        } else {
            Gate::Open
        }
    }
}

impl Accounts {
    /// The moment from which `namespace` may try another password; `None` where it may try one now.
    pub(super) fn free_at(&self, account: Account, namespace: &str, now: Moment) -> Option<Moment> {
        self.0.get(&account)?.free_at(namespace, now)
    }

    /// The lock that holds now.
    pub(super) fn lock(&self, account: Account, now: Moment) -> Option<AccountLock> {
        self.0.get(&account)?.lock(now)
    }

    /// True for a password that was rejected, whichever grant it was sent for, and has brought no token since.
    pub(super) fn is_in_doubt(&self, login: Login) -> bool {
        let state = self.0.get(&login.account);
        state.is_some_and(|state| state.rejected.contains_key(&login.password))
    }

    /// The answer to the request of `fingerprint`, whose slot has come.
    pub(super) fn gate(&self, login: Login, fingerprint: Fingerprint, now: Moment) -> Gate {
        let state = self.0.get(&login.account);
        state.map_or(Gate::Open, |state| state.gate(fingerprint, login.password, now))
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

    /// Counts an attempt of `namespace` that is reserved at `at`.
    pub(super) fn reserve(
        &mut self,
        account: Account,
        fingerprint: Fingerprint,
        namespace: &str,
        at: Moment,
    ) {
        let state = self.0.entry(account).or_default();
        state.waiting.remove(namespace);
        state.attempts.push(Attempt {
            fingerprint,
            namespace: namespace.to_owned(),
            at,
            progress: Progress::Waits,
            counts: true,
        });
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
        let state = self.0.entry(account).or_default();
        let is_known = state.attempts.iter().any(|attempt| {
            let apart = attempt.at - last;
            attempt.fingerprint == fingerprint && apart.unsigned_abs() <= STATUS_PRECISION
        });
        if is_known {
            return;
        }
        for before in 0..number.clamp(1, 3) {
            let at = last - STATUS_PRECISION * before.unsigned_abs();
            state.attempts.push(Attempt {
                fingerprint,
                namespace: namespace.to_owned(),
                at,
                progress: Progress::Ended(at),
                counts: true,
            });
        }
    }

    /// Notes that the slot of the request of `fingerprint` has come. Without a reservation it is one with a proven
    /// password.
    pub(super) fn start(&mut self, account: Account, fingerprint: Fingerprint, namespace: &str, now: Moment) {
        let state = self.0.entry(account).or_default();
        match state.open(fingerprint) {
            Some(place) => state.attempts[place].progress = Progress::InFlight(now),
            None => state.attempts.push(Attempt {
                fingerprint,
                namespace: namespace.to_owned(),
                at: now,
                progress: Progress::InFlight(now),
                counts: false,
            }),
        }
    }

    /// Notes that the request of `fingerprint` is sent now. A status shows that as `shown`.
    pub(super) fn send(&mut self, account: Account, fingerprint: Fingerprint, shown: Moment, now: Moment) {
        if let Some(attempt) = self.open_mut(account, fingerprint) {
            attempt.at = shown;
            attempt.progress = Progress::InFlight(now);
        }
    }

    /// Takes back the attempt of `fingerprint` that has not ended, because it is not made.
    pub(super) fn withdraw(&mut self, account: Account, fingerprint: Fingerprint) {
        if let Some(state) = self.0.get_mut(&account)
            && let Some(place) = state.open(fingerprint)
        {
            state.attempts.remove(place);
        }
    }

    /// Ends the attempt of `fingerprint` whose slot came and that was not sent. One that was recorded stays counted, so
    /// that attempts which come to nothing are not made one after the other.
    pub(super) fn not_sent(&mut self, account: Account, fingerprint: Fingerprint, now: Moment) {
        match self.open_mut(account, fingerprint) {
            Some(attempt) if attempt.counts => attempt.progress = Progress::Ended(now),
            _ => self.withdraw(account, fingerprint),
        }
    }

    /// Ends the attempt of `fingerprint` that was sent.
    ///
    /// After a success with a password that counted, the vendor counts anew: the attempts that had ended when it was
    /// sent are forgotten. Of others it is not known which of the two the vendor judged first.
    pub(super) fn end(&mut self, login: Login, fingerprint: Fingerprint, end: End, now: Moment) {
        let Some(state) = self.0.get_mut(&login.account) else {
            return;
        };
        let Some(place) = state.open(fingerprint) else {
            return;
        };
        let attempt = &mut state.attempts[place];
        let sent = match attempt.progress {
            Progress::InFlight(sent) => sent,
            Progress::Waits | Progress::Ended(_) => now,
        };
        attempt.progress = Progress::Ended(now);
        match end {
            End::Token => {
                let counted = attempt.counts;
                state.attempts.remove(place);
                let is_before = |moment: Moment| moment <= sent;
                state.attempts.retain(
                    |other| !matches!(other.progress, Progress::Ended(ended) if counted && is_before(ended)),
                );
                let rejected = state.rejected.get(&login.password).copied();
                if rejected.is_some_and(is_before) {
                    state.rejected.remove(&login.password);
                }
            }
            End::Rejected => {
                attempt.counts = true;
                state.rejected.insert(login.password, now);
            }
            End::Failed if attempt.counts => {}
            End::Failed => {
                state.attempts.remove(place);
            }
        }
    }

    /// Takes in a lock of the account until `until`, of which this process knows from the vendor's answer.
    pub(super) fn lock_until(&mut self, account: Account, until: Moment) {
        let state = self.0.entry(account).or_default();
        let known = state.lock.filter(|lock| !lock.only_from_status);
        state.lock = Some(AccountLock {
            until: known.map_or(until, |known| known.until.max(until)),
            only_from_status: false,
        });
    }

    /// Takes in a lock that a status shows, where none is known.
    pub(super) fn show_lock(&mut self, account: Account, until: Moment, now: Moment) {
        let state = self.0.entry(account).or_default();
        if state.lock(now).is_none() {
            state.lock = Some(AccountLock {
                until,
                only_from_status: true,
            });
        }
    }

    /// Forgets what no longer counts.
    pub(super) fn sweep(&mut self, now: Moment) {
        self.0.retain(|_, state| {
            state
                .attempts
                .retain(|attempt| !attempt.has_ended() || attempt.counts_at(now));
            state
                .rejected
                .retain(|_, answered| now.since(*answered) < IN_DOUBT_FOR);
            state.lock = state.lock(now);
            state
                .waiting
                .retain(|_, waiting| now.since(waiting.seen) < WAITS_FOR);
            state.proven.retain(|_, seen| now.since(*seen) < PROVEN_FOR);
            !(state.attempts.is_empty()
                && state.rejected.is_empty()
                && state.lock.is_none()
                && state.waiting.is_empty()
                && state.proven.is_empty())
        });
    }

    fn open_mut(&mut self, account: Account, fingerprint: Fingerprint) -> Option<&mut Attempt> {
        let state = self.0.get_mut(&account)?;
        let place = state.open(fingerprint)?;
        state.attempts.get_mut(place)
    }
}

#[cfg(test)]
mod tests;
