//! Owner references that the API server forbids to change: the admission plugin OwnerReferencesPermissionEnforcement asks
//! for the right to delete the Secret, which the operator does not have.

use jiff::Timestamp;

use crate::controller::cluster::remembered::OwnersStay;
use crate::controller::context::Context;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::policy::ownership::has_desired_owner;
use crate::policy::{self, Target};

impl Snapshot {
    /// True where the API server has refused to change the owner references of this target for this spec: as this process
    /// knows, or as the status says.
    pub(super) fn owner_change_was_refused(&self, context: &Context) -> bool {
        let Some(record) = &self.record else { return false };
        match context.remembered.owners_stay(&self.object) {
            Some(refused) => {
                refused.target == record.uid && refused.generation == self.token.metadata.generation
            }
            None => policy::says_that_owners_stay(self.status(), self.token.metadata.generation),
        }
    }

    /// Notes whether the API server forbids to change the target's owner references, and judges it anew.
    pub(crate) fn set_owners_stay(&mut self, owners_stay: bool, context: &Context) {
        let refused = self
            .record
            .as_ref()
            .filter(|_| owners_stay)
            .map(|record| OwnersStay {
                target: record.uid.clone(),
                generation: self.token.metadata.generation,
            });
        context.remembered.set_owners_stay(&self.object, refused);
        self.owners_stay = owners_stay;
        self.judge_target(context);
    }

    /// True where the owner references of the target are not those that the spec wants.
    pub(crate) fn has_undesired_owners(&self) -> bool {
        let has_desired = |record| has_desired_owner(record, &self.object.name, &self.desired());
        self.record.as_ref().is_some_and(|record| !has_desired(record))
    }

    /// True for a target of ours that has other owners than the spec wants, and keeps them.
    pub(super) fn has_other_owners(&self) -> bool {
        self.owners_stay && matches!(self.target, Target::Ours { .. }) && self.has_undesired_owners()
    }

    /// True where a write of the token that was issued at `issued` leaves the owner references as they are. The first
    /// write of another token tries the change again.
    pub(crate) fn keeps_owners(&self, issued: Timestamp) -> bool {
        self.owners_stay && self.stored().is_some_and(|stored| stored.issued == issued)
    }
}
