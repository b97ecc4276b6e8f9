//! The book of grants: the one handle to it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, mpsc};

use super::grant::GrantRecord;
use super::object::ObjectKey;
use super::observation::Observation;
use super::options::{GrantObserver, GrantsOptions};
use super::table::GrantTable;
use crate::clock::{Moment, Timeline};
use crate::election::Leadership;
use crate::fingerprint::Login;
use crate::http::Transport;
use crate::policy::{Hold, Standing};
use crate::sync::lock;
use crate::token::AccessToken;

/// The book of grants (see [the module](super)).
pub struct Grants {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) timeline: Arc<Timeline>,
    pub(super) observer: Arc<dyn GrantObserver>,
    wake: mpsc::UnboundedSender<ObjectKey>,
    /// Checked before each reservation and each request: a process that does not lead sends none.
    pub(super) leadership: Leadership,
    pub(super) changed: Notify,
    table: Mutex<GrantTable>,
}

impl fmt::Debug for Grants {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Grants").finish_non_exhaustive()
    }
}

impl Grants {
    /// Gives an empty book that sends nothing yet (see [`Self::run`]). Objects to reconcile are sent to `wake`.
    pub fn new(
        options: GrantsOptions,
        transport: Arc<dyn Transport>,
        timeline: Arc<Timeline>,
        observer: Arc<dyn GrantObserver>,
        wake: mpsc::UnboundedSender<ObjectKey>,
        leadership: Leadership,
    ) -> Arc<Self> {
        let table = GrantTable::new(options, timeline.now().moment);
        Arc::new(Self {
            transport,
            timeline,
            observer,
            wake,
            leadership,
            changed: Notify::new(),
            table: Mutex::new(table),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, GrantTable> {
        lock(&self.table)
    }

    pub(super) fn wake(&self, object: ObjectKey) {
        // The receiver is gone at shutdown only.
        let _ = self.wake.send(object);
    }

    /// Takes the observation of a VendorToken, and gives the standing of its grant.
    pub fn observe(&self, observation: &Observation<'_>) -> Standing {
        let mut table = self.lock();
        self.standing(&mut table, observation)
    }

    pub(super) fn standing(&self, table: &mut GrantTable, observation: &Observation<'_>) -> Standing {
        let now = self.timeline.now();
        table.use_grant(
            observation.object,
            observation.fingerprint,
            observation.login,
            &now,
        );
        if let Some(until) = table.take_evidence(observation, &now) {
            self.observer
                .throttled_until(observation.vendor, now.wall_at(until));
        }
        let standing = table.standing(observation, &now);
        if let Some(Login { account, .. }) = observation.login {
            let namespace = &observation.object.namespace;
            if !standing.counts_for_account {
                table.accounts.proven(account, namespace, now.moment);
            } else if standing.account_free_at.map(Hold::Until) == Some(standing.hold) {
                table.accounts.waits(account, namespace, now.moment);
            }
        }
        standing
    }

    /// Ends the use of its grant by `object`, whose credentials cannot be used: no token leaves memory for it.
    pub fn release(&self, object: &ObjectKey) {
        self.lock().leave(object, &self.timeline.now());
    }

    /// Forgets `object`, which is gone.
    pub fn forget(&self, object: &ObjectKey) {
        let mut table = self.lock();
        table.leave(object, &self.timeline.now());
        table.objects.remove(object);
    }

    /// Forgets the objects that do not exist.
    pub fn forget_unless(&self, exists: impl Fn(&ObjectKey) -> bool) {
        let mut table = self.lock();
        let now = self.timeline.now();
        let gone: Vec<_> = table
            .objects
            .keys()
            .filter(|object| !exists(object))
            .cloned()
            .collect();
        for object in gone {
            table.leave(&object, &now);
            table.objects.remove(&object);
        }
    }

    /// Ends the wait of `object` for its grant (it was suspended, say). A request that nobody else waits for leaves the
    /// queue; one in flight goes on.
    pub fn withdraw(&self, object: &ObjectKey) {
        let mut table = self.lock();
        if let Some(fingerprint) = table.objects.get(object).and_then(|record| record.fingerprint) {
            table.withdraw(object, fingerprint);
        }
    }

    /// All objects that use a grant with a last token or a last failure in memory.
    pub fn objects_with_outcome(&self) -> Vec<ObjectKey> {
        let table = self.lock();
        table
            .grants
            .values()
            .filter(|grant| grant.token.is_some() || grant.failure.is_some())
            .flat_map(|grant| grant.users.iter().cloned())
            .collect()
    }

    /// The last token of the grant that `object` uses, while it is valid.
    pub fn token(&self, object: &ObjectKey) -> Option<Arc<AccessToken>> {
        let now = self.timeline.now();
        self.lock().grant_of(object)?.usable(&now).cloned()
    }

    /// The moment since which `object` waits for an attempt; `None` where it waits for none.
    pub fn waits_since(&self, object: &ObjectKey) -> Option<Moment> {
        let table = self.lock();
        let waiter = table.grant_of(object)?.waiters.get(object)?;
        Some(waiter.since)
    }

    /// True while an attempt for the grant that `object` uses is under way: it can be joined without credentials.
    pub fn is_under_way(&self, object: &ObjectKey) -> bool {
        self.lock()
            .grant_of(object)
            .is_some_and(GrantRecord::is_under_way)
    }
}
