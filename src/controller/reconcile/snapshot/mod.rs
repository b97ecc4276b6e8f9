//! Gathers all that one reconcile knows of its VendorToken: the object, its target and its credentials.

mod credentials;
mod target;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::api::VendorToken;
use crate::api::names;
use crate::controller::cluster::objects::{LONGEST_REQUEST, key_of};
use crate::controller::cluster::references::target_name;
use crate::controller::cluster::secret_name::SecretName;
use crate::controller::cluster::secrets::Lookup;
use crate::controller::context::Context;
use crate::controller::reconcile::error::Error;
use crate::controller::reconcile::read_target::{denied, outlived, read_record};
use crate::controller::reconcile::validated::ValidatedSpec;
use crate::fingerprint::{Fingerprint, FingerprintKey, KnownInputs, Login};
use crate::grants::{ObjectKey, Observation};
use crate::inputs::Inputs;
use crate::policy::ownership::SecretRecord;
use crate::policy::schedule::RefreshPolicy;
use crate::policy::{Credentials, Evidence, Observed, Problem, PublishBlock, Standing, Target};
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
    /// The problem of a target that the API server refuses to show.
    target_denied: Option<Problem>,
    /// The token could not be read from the target in this reconcile.
    target_is_unreadable: bool,
    /// The version of the target that holds another token than the sealed one.
    exchanged: Option<String>,
    pub(crate) target: Target,
    pub(crate) credentials: Credentials,
    pub(crate) fingerprint: Option<Fingerprint>,
    /// The account that failed attempts with the credentials could lock, and the password for it.
    pub(crate) login: Option<Login>,
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

    /// Gathers the same of an object that may lack its templates: enough for its grant, not for its target.
    ///
    /// # Errors
    /// Fails as [`Self::gather`] does.
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
            // No Secret has a name that Kubernetes would refuse.
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
            login: None,
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

    /// The facts for a decision. The book of grants takes in what the status and the target say.
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
            login: self.login,
            endpoint: &checked.endpoint,
            vendor: checked.grant.vendor(),
            inputs,
            evidence: Evidence::new(self.status(), self.stored(), inputs, now),
        })
    }
}
