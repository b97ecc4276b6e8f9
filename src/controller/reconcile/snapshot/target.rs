//! The target in a [`Snapshot`]: the facts on it that count, whose it is, and what it should be.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::Snapshot;
use crate::api::names::Reason;
use crate::controller::cluster::objects::lacks_templates;
use crate::controller::cluster::remembered::PublishBackoff;
use crate::controller::cluster::repairs::TargetWrite;
use crate::controller::context::Context;
use crate::controller::reconcile::validated;
use crate::policy::ownership::{Claimant, Desired, SecretRecord, incumbent, judge};
use crate::policy::{Problem, Stored, Target};
use crate::seal::{Place, SealedFacts, Verified};
use crate::token;

impl Snapshot {
    /// The place for which the target is sealed.
    fn place(&self) -> Place<'_> {
        Place {
            namespace: &self.object.namespace,
            secret: &self.target_name,
            vendor_token: &self.object.name,
        }
    }

    fn facts(&self) -> Option<&SealedFacts> {
        self.record.as_ref()?.facts.as_deref()
    }

    /// The facts on the target, as far as its seal proves them.
    pub(crate) fn verified(&self) -> Option<Verified<'_>> {
        self.facts()?.verify(&self.key, self.place())
    }

    /// True when the target was sealed with this token.
    pub(crate) fn is_sealed(&self, token: &token::AccessToken) -> bool {
        self.facts()
            .is_some_and(|facts| facts.is_of(&self.key, self.place(), &token.value))
    }

    /// The token in the target, where facts on it count.
    pub(crate) fn stored(&self) -> Option<&Stored> {
        match &self.target {
            Target::Ours { stored, .. } => stored.as_ref(),
            Target::Free | Target::Blocked(_) => None,
        }
    }

    /// Notes that the token cannot be read from the target, and judges the target anew.
    pub(crate) fn has_no_readable_token(&mut self, context: &Context) {
        self.target_is_unreadable = true;
        self.judge_target(context);
    }

    /// Notes that the target holds another token than the sealed one, which does not count, and judges the target anew.
    pub(crate) fn token_was_exchanged(&mut self, context: &Context) {
        self.exchanged = self.target_version();
        self.judge_target(context);
    }

    /// Judges the target anew, after [`Self::record`] has changed.
    pub(crate) fn judge_target(&mut self, context: &Context) {
        if let Some(problem) = &self.target_denied {
            self.target = Target::Blocked(problem.clone());
            return;
        }
        let rivals = context.objects.strongest_rivals(
            &self.object,
            &self.target_name,
            self.record.as_ref().and_then(incumbent),
        );
        let rivals: Vec<_> = rivals
            .iter()
            .map(|(name, created)| Claimant {
                name,
                created: *created,
            })
            .collect();
        let me = Claimant {
            name: &self.object.name,
            created: self.token.creation_timestamp().map(|time| time.0),
        };
        let desired = self.desired();
        let is_exchanged = self.exchanged.is_some() && self.exchanged == self.target_version();
        let stored = self.verified().filter(|_| !is_exchanged).map(|verified| {
            let life = validated::vendor(&self.token).default_life();
            Stored::new(
                verified,
                SignedDuration::try_from(life).unwrap_or(SignedDuration::MAX),
            )
        });
        // The token's times are judged by the clock as it was before it was set back.
        let set_back = stored.as_ref().map_or(SignedDuration::ZERO, |stored| {
            context
                .remembered
                .known_set_back(&self.object, stored.issued, &context.timeline)
        });
        let now = context
            .timeline
            .now()
            .wall()
            .saturating_add(set_back)
            .unwrap_or(Timestamp::MAX);
        self.target = judge(self.record.as_ref(), stored, me, &rivals, &desired, now);
        if let Target::Ours {
            stored: Some(stored), ..
        } = &mut self.target
        {
            stored.is_readable &= !self.target_is_unreadable;
            // Without its templates, the data cannot be compared: it counts as it was written.
            stored.is_in_place |= lacks_templates(&self.token);
        }
        // A target that exists stays one when another VendorToken names it for its credentials; a new one is not made
        // there.
        if self.target == Target::Free
            && let Some(reader) = context.objects.reader_of(&self.object, &self.target_name)
        {
            self.target = Target::Blocked(Problem::new(
                Reason::TargetConflict,
                format!(
                    "Secret '{}' is named by VendorToken '{reader}' for its credentials, and is not written: give one of the \
                     two another Secret",
                    self.target_name
                ),
            ));
        }
    }

    /// The target that the spec describes. A spec that cannot be used has no templates, but its status shows the token in
    /// the target all the same.
    pub(crate) fn desired(&self) -> Desired<'_> {
        let target = self.validated.as_ref().ok().map(|checked| &checked.target);
        Desired {
            secret_name: &self.target_name,
            content: target.map_or("", |target| &target.content),
            owned: target.map_or(0, |target| target.owned),
            owned_data: target.map_or(0, |target| target.owned_data),
            delete_with_owner: target.is_some_and(|target| target.delete_with_owner),
            uid: self.token.metadata.uid.as_deref().unwrap_or_default(),
            owners_stay: self.owners_stay,
            sealed: match self.verified() {
                Some(Verified::Sealed(facts)) => Some(facts),
                Some(Verified::LostKey(..)) | None => None,
            },
        }
    }

    /// A write of the token that was issued at `issued` to the target.
    pub(crate) fn target_write(&self, issued: Timestamp) -> TargetWrite {
        TargetWrite {
            issued,
            generation: self.token.metadata.generation,
        }
    }

    /// The wait after the last failed write of the target, while nothing has changed since.
    pub(crate) fn present_backoff(&self, context: &Context) -> Option<PublishBackoff> {
        context
            .remembered
            .publish_backoff(&self.object)
            .filter(|backoff| {
                backoff.generation == self.token.metadata.generation
                    && backoff.target_version == self.target_version()
            })
    }

    pub(crate) fn target_version(&self) -> Option<String> {
        self.record.as_ref().map(SecretRecord::version)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::VendorToken;
    use crate::api::names;
    use crate::controller::cluster::remembered::GrantIdentity;
    use crate::controller::cluster::secret_record;
    use crate::controller::fake;
    use crate::fingerprint::{Fingerprint, FingerprintKey};
    use crate::policy::Evidence;
    use crate::seal::TokenFacts;
    use crate::times::{later, whole_seconds};

    fn credential() -> Fingerprint {
        Fingerprint::from_bytes([1; 16])
    }

    fn token() -> VendorToken {
        serde_json::from_value(json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": "t", "namespace": "a", "uid": "u", "generation": 1,
                "annotations": { names::REFRESH_REQUESTED_AT: "monday" } },
            "spec": { "vendor": "Mapiq", "credentialsSecretRef": { "name": "c" } },
        }))
        .unwrap()
    }

    /// The facts of a token that was issued ten minutes ago and lives for an hour.
    fn facts(key: &FingerprintKey, context: &Context) -> TokenFacts {
        let issued = later(whole_seconds(context.timeline.now().wall()), -600);
        let facts = fake::facts(key, &token(), credential(), (issued, later(issued, 3600)));
        TokenFacts {
            refresh_handled: Some("monday".into()),
            ..facts
        }
    }

    /// The snapshot of a VendorToken whose target has this metadata and whose credential was read. The operator's key
    /// is in use since `made`.
    async fn gathered(target: Value, made: Timestamp) -> (Snapshot, Arc<Context>) {
        let (context, _, _) = fake::context(|sent| sent);
        let key = Arc::new(fake::key().made_at(made));
        let record =
            |metadata: Value| secret_record::read(&serde_json::from_value(metadata).unwrap()).unwrap();
        context.secrets.begin_list("");
        context.secrets.put("a", "t", record(target));
        let credentials = json!({ "name": "c", "namespace": "a", "uid": "c", "resourceVersion": "4" });
        context.secrets.put("a", "c", record(credentials));
        context.secrets.end_list("");
        let mut snapshot = Snapshot::gather(Arc::new(token()), key, &context).await.unwrap();
        let found = GrantIdentity {
            fingerprint: credential(),
            login: None,
        };
        snapshot.found(found, "c/4".to_owned());
        (snapshot, context)
    }

    fn evidence(snapshot: &Snapshot, context: &Context) -> Evidence {
        let now = context.timeline.now().wall();
        snapshot.observation(now).unwrap().evidence
    }

    #[tokio::test]
    async fn sealed_facts_are_believed() {
        let (context, _, _) = fake::context(|sent| sent);
        let facts = facts(&fake::key(), &context);
        let target = fake::sealed_by(&fake::key(), "t", &facts);
        let (snapshot, context) = gathered(target, Timestamp::MIN).await;
        let observed = snapshot.observe(&context);
        let stored = snapshot.stored().unwrap();
        assert_eq!((stored.issued, stored.expires), (facts.issued, facts.expires));
        assert_eq!(observed.pending_request(), None);
        let evidence = evidence(&snapshot, &context);
        assert_eq!(
            (evidence.issued, evidence.live_until),
            (Some(facts.issued), Some(facts.expires))
        );
    }

    /// Each forgery is written under the name of our field manager, in the form that we write.
    #[rstest]
    #[case::issue(names::ISSUED_TIME, "2026-01-01T00:00:00Z")]
    #[case::issue_in_another_era(names::ISSUED_TIME, "-009999-01-02T01:59:59Z")]
    #[case::expiry(names::EXPIRATION_TIME, "2036-01-01T00:00:00Z")]
    #[case::content(names::CONTENT, "adopted.0123456789abcdef")]
    #[case::credentials(names::CREDENTIALS_VERSION, "c/9")]
    #[case::refresh_request(names::REFRESH_HANDLED, "tuesday")]
    #[case::seal(
        names::SEAL,
        "00000000.00000000000000000000000000000000.00000000000000000000000000000000"
    )]
    #[tokio::test]
    async fn a_forged_fact_under_our_managers_name_leaves_no_facts(#[case] name: &str, #[case] value: &str) {
        let (context, _, _) = fake::context(|sent| sent);
        let mut target = fake::sealed_by(&fake::key(), "t", &facts(&fake::key(), &context));
        target["annotations"][name] = json!(value);
        nothing_is_believed(target).await;
    }

    async fn nothing_is_believed(mut target: Value) {
        fake::owned_by_us(&mut target);
        let (snapshot, context) = gathered(target, Timestamp::MAX).await;
        assert_eq!(
            snapshot.target,
            Target::Ours {
                stored: None,
                as_desired: false
            }
        );
        assert_eq!(snapshot.observe(&context).pending_request(), Some("monday"));
        let evidence = evidence(&snapshot, &context);
        assert_eq!((evidence.issued, evidence.live_until), (None, None));
    }

    #[tokio::test]
    async fn forged_inputs_under_our_managers_name_leave_no_facts() {
        let (context, _, _) = fake::context(|sent| sent);
        let mut forged = facts(&fake::key(), &context);
        let mut target = fake::sealed_by(&fake::key(), "t", &forged);
        forged.inputs.fingerprint = "0".repeat(32);
        target["annotations"][names::INPUTS] = json!(forged.inputs.to_string());
        nothing_is_believed(target).await;
    }

    #[tokio::test]
    async fn facts_that_were_copied_from_another_target_are_no_facts() {
        let (context, _, _) = fake::context(|sent| sent);
        let other = fake::sealed_by(&fake::key(), "other", &facts(&fake::key(), &context));
        nothing_is_believed(other).await;
    }

    #[tokio::test]
    async fn facts_under_a_lost_key_give_a_due_time_and_nothing_else() {
        let (context, _, _) = fake::context(|sent| sent);
        let lost = FingerprintKey::new(&[8; 32]).unwrap();
        let now = context.timeline.now().wall();
        let mut facts = facts(&lost, &context);
        facts.expires = later(facts.issued, 399 * 86_400);
        let target = fake::sealed_by(&lost, "t", &facts);
        let (snapshot, context) = gathered(target.clone(), now).await;
        let stored = snapshot.stored().unwrap();
        // Mapiq documents an hour.
        assert_eq!(
            (stored.issued, stored.expires),
            (facts.issued, later(facts.issued, 3600))
        );
        assert_eq!(snapshot.observe(&context).pending_request(), Some("monday"));
        let evidence = evidence(&snapshot, &context);
        assert_eq!((evidence.issued, evidence.live_until), (None, None));

        let (snapshot, _) = gathered(target, later(facts.issued, -86_400)).await;
        assert_eq!(
            snapshot.stored(),
            None,
            "the operator had its present key by then"
        );
    }
}
