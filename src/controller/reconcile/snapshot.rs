//! Gather: what is known of one VendorToken in one reconcile.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::api::VendorToken;
use crate::api::names::{self, Reason};
use crate::controller::cluster::objects::{LONGEST_REQUEST, key_of};
use crate::controller::cluster::references::target_name;
use crate::controller::cluster::remembered::{GrantIdentity, KnownCredentials, PublishBackoff, number_of};
use crate::controller::cluster::repairs::TargetWrite;
use crate::controller::cluster::secret_name::SecretName;
use crate::controller::cluster::secrets::Lookup;
use crate::controller::context::Context;
use crate::controller::reconcile::credentials;
use crate::controller::reconcile::error::{Error, read_problem};
use crate::controller::reconcile::read_target::{denied, outlived, read_record};
use crate::controller::reconcile::validated::{self, ValidatedSpec};
use crate::fingerprint::{Account, Fingerprint, FingerprintKey, KnownInputs};
use crate::grants::{ObjectKey, Observation};
use crate::inputs::Inputs;
use crate::policy::ownership::{Claimant, Desired, SecretRecord, incumbent, judge};
use crate::policy::schedule::RefreshPolicy;
use crate::policy::{Credentials, Evidence, Observed, Problem, PublishBlock, Standing, Stored, Target};
use crate::seal::{Place, SealedFacts, Verified};
use crate::token;

/// One VendorToken with its target and its credentials, as far as metadata shows them, for one reconcile.
pub(crate) struct Snapshot {
    pub(crate) token: Arc<VendorToken>,
    pub(crate) object: ObjectKey,
    pub(crate) target_name: String,
    pub(crate) validated: Result<ValidatedSpec, Problem>,
    pub(crate) key: Arc<FingerprintKey>,
    pub(crate) known: KnownInputs,
    /// The target Secret's metadata.
    pub(crate) record: Option<SecretRecord>,
    /// The API server refuses to show the target.
    target_denied: Option<Problem>,
    /// The token could not be read from the target in this reconcile.
    target_is_unreadable: bool,
    /// The version of the target that holds another token than the sealed one.
    exchanged: Option<String>,
    pub(crate) target: Target,
    pub(crate) credentials: Credentials,
    pub(crate) fingerprint: Option<Fingerprint>,
    /// The account that failed attempts with them could lock.
    pub(crate) account: Option<Account>,
    /// `uid/resourceVersion` of the credentials that make [`Self::fingerprint`].
    pub(crate) credentials_version: Option<String>,
    /// The values themselves, when this reconcile has read them.
    pub(crate) values: Option<token::Credentials>,
    pub(crate) block: Option<PublishBlock>,
    /// The API server forbids to change the target's owner references.
    pub(super) owners_stay: bool,
}

impl Snapshot {
    /// Gathers everything that metadata shows of a whole object. Reads no Secret data.
    ///
    /// # Errors
    /// When the target's metadata could not be read, and the status need not say so.
    pub(crate) async fn gather(
        token: Arc<VendorToken>,
        key: Arc<FingerprintKey>,
        context: &Context,
    ) -> Result<Self, Error> {
        let validated = ValidatedSpec::of_whole(&token, &context.settings.endpoints);
        Self::with_spec(token, validated, key, context).await
    }

    /// The same of an object that may be kept without its templates: enough for its grant, and not for its target.
    ///
    /// # Errors
    /// As those of [`Self::gather`].
    pub(crate) async fn gather_for_grant(
        token: Arc<VendorToken>,
        key: Arc<FingerprintKey>,
        context: &Context,
    ) -> Result<Self, Error> {
        let validated = ValidatedSpec::new(&token, &context.settings.endpoints);
        Self::with_spec(token, validated, key, context).await
    }

    async fn with_spec(
        token: Arc<VendorToken>,
        validated: Result<ValidatedSpec, Problem>,
        key: Arc<FingerprintKey>,
        context: &Context,
    ) -> Result<Self, Error> {
        let object = key_of(&token);
        let target_name = target_name(&token);
        let mut target_denied = None;
        let checked_name = SecretName::new(&target_name);
        let record = match (
            context.secrets.get(&object.namespace, &target_name),
            &checked_name,
        ) {
            (Lookup::Found(record), _) => Some(record),
            // No Secret can have a name that is none.
            (Lookup::Absent, _) | (Lookup::Unknown, None) => None,
            (Lookup::Unknown, Some(name)) => match read_record(context, &object.namespace, name).await {
                Ok(record) => record,
                Err(error) => {
                    match denied(&error).or_else(|| outlived(&error, &token, context.timeline.now().wall())) {
                        Some(problem) => {
                            target_denied = Some(problem);
                            None
                        }
                        None => return Err(error),
                    }
                }
            },
        };
        let known = match &validated {
            Ok(checked) => checked.known_inputs(&key, &object.namespace),
            Err(_) => KnownInputs {
                parameters: String::new(),
                sources: String::new(),
            },
        };
        let mut snapshot = Self {
            object,
            target_name,
            validated,
            key,
            known,
            record,
            target_denied,
            target_is_unreadable: false,
            exchanged: None,
            target: Target::Free,
            credentials: Credentials::Unread { version: None },
            fingerprint: None,
            account: None,
            credentials_version: None,
            values: None,
            block: None,
            owners_stay: false,
            token,
        };
        snapshot.owners_stay = snapshot.owner_change_was_refused(context);
        snapshot.judge_target(context);
        snapshot.look_at_credentials(context);
        snapshot.block = snapshot
            .present_backoff(context)
            .map(|backoff| backoff.block(&context.timeline.now()));
        Ok(snapshot)
    }

    /// Everything that the decision depends on. The book of grants takes in what the status and the target say.
    pub(crate) fn observe(&self, context: &Context) -> Observed<'_> {
        let now = context.timeline.now().wall();
        Observed {
            now,
            deleting: self.token.metadata.deletion_timestamp.is_some(),
            suspended: self.token.spec.suspend,
            spec_problem: self.validated.as_ref().err().cloned(),
            refresh: self
                .validated
                .as_ref()
                .map_or_else(|_| RefreshPolicy::from_spec(None), |checked| checked.refresh),
            refresh_request: self
                .token
                .annotations()
                .get(names::REFRESH_REQUESTED_AT)
                .map(String::as_str)
                .filter(|request| !request.is_empty() && request.len() <= LONGEST_REQUEST),
            status: self.status(),
            target: self.target.clone(),
            set_back: self.stored().map_or(SignedDuration::ZERO, |stored| {
                context
                    .remembered
                    .set_back(&self.object, stored.issued, &context.timeline)
            }),
            key_id: self.key.id(),
            parameters: &self.known.parameters,
            sources: &self.known.sources,
            credentials: self.credentials.clone(),
            standing: self
                .observation(now)
                .map_or_else(Standing::default, |observation| {
                    context.grants.observe(&observation)
                }),
            publish_block: self.block.clone(),
            owners_stay: self.has_other_owners(),
            contest: context.remembered.contest(&self.object, &context.timeline.now()),
            api_trouble: self.trouble(context),
        }
    }

    /// The status that the object has now.
    pub(crate) fn status(&self) -> &crate::api::VendorTokenStatus {
        static NONE: std::sync::LazyLock<crate::api::VendorTokenStatus> =
            std::sync::LazyLock::new(Default::default);
        self.token.status.as_ref().unwrap_or(&NONE)
    }

    /// The published form of the grant; `None` before the credentials were read.
    pub(crate) fn inputs(&self) -> Option<&Inputs> {
        match &self.credentials {
            Credentials::Known { inputs } => Some(inputs),
            Credentials::Unread { .. } | Credentials::Unusable(_) => None,
        }
    }

    /// The grant, with what the status and the target say of it; `None` before the credentials were read.
    pub(crate) fn observation(&self, now: Timestamp) -> Option<Observation<'_>> {
        let (inputs, checked) = (self.inputs()?, self.validated.as_ref().ok()?);
        Some(Observation {
            object: &self.object,
            fingerprint: self.fingerprint?,
            account: self.account,
            endpoint: &checked.endpoint,
            vendor: checked.grant.vendor(),
            inputs,
            evidence: Evidence::new(self.status(), self.stored(), inputs, now),
        })
    }

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

    /// The token cannot be read from the target after all.
    pub(crate) fn has_no_readable_token(&mut self, context: &Context) {
        self.target_is_unreadable = true;
        self.judge_target(context);
    }

    /// The target holds another token than the sealed one: there is none that counts.
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
        // Judged by the clock that the token was issued by, where it was set back since.
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
        }
        // A Secret that is ours already may be read by whom it pleases; no other is made where credentials are to be.
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
    pub(super) fn desired(&self) -> Desired<'_> {
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

    fn look_at_credentials(&mut self, context: &Context) {
        let Ok(checked) = &self.validated else { return };
        let mut versions = Vec::new();
        let names = [
            Some(checked.credentials_secret.clone()),
            checked.certificate_secret.clone(),
        ];
        for name in names.into_iter().flatten() {
            match context.secrets.get(&self.object.namespace, &name) {
                Lookup::Found(record) => versions.push(record.version()),
                Lookup::Absent => {
                    self.unusable(context, credentials::not_found(&name, true));
                    return;
                }
                Lookup::Unknown => return,
            }
        }
        let certificate = context.remembered.certificate(&self.object);
        if let (Some(present), Some(known)) = (versions.get(1), certificate)
            && *present == known.version
            && let Err(problem) = known.found
        {
            return self.unusable(context, problem);
        }
        let version = versions.join("+");
        let known = context.remembered.credentials(&self.object);
        match known.filter(|known| *known.version == *version && known.known == number_of(&self.known)) {
            Some(known) => match known.found {
                Ok(found) => self.found(found, version),
                Err(problem) => self.unusable(context, problem),
            },
            None => {
                self.credentials = Credentials::Unread {
                    version: Some(version),
                }
            }
        }
    }

    /// Reads the credentials Secret, and the client certificate's.
    pub(crate) async fn read_credentials(&mut self, context: &Arc<Context>) -> Result<(), Error> {
        let Ok(checked) = &self.validated else {
            return Ok(());
        };
        let namespace = &self.object.namespace;
        match credentials::read(context, namespace, checked).await {
            Ok(read) => {
                let (endpoint, grant) = (&checked.endpoint, &checked.grant);
                let found = GrantIdentity {
                    fingerprint: self.key.fingerprint(endpoint, grant, &read.values),
                    account: self.key.account(endpoint, grant, &read.values),
                };
                let known = KnownCredentials {
                    version: read.version.as_str().into(),
                    known: number_of(&self.known),
                    found: Ok(found),
                };
                context.remembered.set_credentials(&self.object, Some(known));
                self.values = Some(read.values);
                self.found(found, read.version);
                Ok(())
            }
            Err(credentials::ReadError::Unusable(problem)) => {
                self.unusable(context, problem);
                Ok(())
            }
            Err(credentials::ReadError::Api { name, source }) => match read_problem(&source, &name) {
                Some(problem) => {
                    self.unusable(context, problem);
                    Ok(())
                }
                None => Err(Error::ReadSecret {
                    namespace: namespace.clone(),
                    name,
                    source,
                }),
            },
        }
    }

    fn found(&mut self, found: GrantIdentity, version: String) {
        let (namespace, name) = (&self.object.namespace, &self.object.name);
        let inputs = self.key.inputs(namespace, name, &self.known, found.fingerprint);
        self.credentials = Credentials::Known { inputs };
        self.fingerprint = Some(found.fingerprint);
        self.account = found.account;
        self.credentials_version = Some(version);
    }

    /// The credentials cannot be used, so nothing may be published from memory either.
    fn unusable(&mut self, context: &Context, problem: Problem) {
        if problem.reason == Reason::CredentialsNotFound {
            context.remembered.set_credentials(&self.object, None);
        }
        context.grants.release(&self.object);
        self.fingerprint = None;
        self.values = None;
        self.credentials = Credentials::Unusable(problem);
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
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::cluster::secret_record;
    use crate::controller::fake;
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

    /// A token that lives for an hour since ten minutes ago.
    fn facts(key: &FingerprintKey, context: &Context) -> TokenFacts {
        let issued = later(whole_seconds(context.timeline.now().wall()), -600);
        let facts = fake::facts(key, &token(), credential(), (issued, later(issued, 3600)));
        TokenFacts {
            refresh_handled: Some("monday".into()),
            ..facts
        }
    }

    /// What is known of the VendorToken whose target has this metadata, with its credential read. The operator has its
    /// key since `made`.
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
            account: None,
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

    /// Each forgery bears our field manager's name, and is of the form that we write.
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
