//! Act: asks for a token, and records the attempt first where a failed one could lock an account.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::api::VendorToken;
use crate::clock::Moment;
use crate::controller::cluster::objects::lacks_templates;
use crate::controller::context::Context;
use crate::controller::reconcile::credentials;
use crate::controller::reconcile::error::Error;
use crate::controller::reconcile::record::status_context;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::controller::reconcile::status::write_status;
use crate::controller::reconcile::validated::ValidatedSpec;
use crate::error_text::with_causes;
use crate::fingerprint::Fingerprint;
use crate::grants::{CallSource, ObjectKey, Reservation, VendorCall};
use crate::policy::{self, Progress};

/// The result of asking.
pub(crate) enum Asked {
    /// The object waits since this moment.
    Waiting(Moment),
    /// The credentials must be read first.
    NeedsCredentials,
    /// The grant is held, or the object was changed or deleted in between: look again.
    Changed,
}

/// Reserves a request, records it if it must be, and queues it.
pub(crate) async fn ask(snapshot: &mut Snapshot, context: &Arc<Context>) -> Result<Asked, Error> {
    let observed = snapshot.observe(context);
    let refresh_request = observed.pending_request().map(str::to_owned);
    // An attempt that could lock an account is recorded before it is sent, so its credentials are read before that. To
    // join an attempt that is under way, no credentials are needed.
    let must_be_read = observed.standing.counts_for_account && !observed.standing.under_way;
    if snapshot.values.is_none() && must_be_read {
        return Ok(Asked::NeedsCredentials);
    }
    let Some(observation) = snapshot.observation(context.timeline.now().wall()) else {
        return Ok(Asked::NeedsCredentials);
    };
    let permit = match context.grants.reserve(&observation, refresh_request.as_deref()) {
        Reservation::UnderWay(since) => return Ok(Asked::Waiting(since)),
        Reservation::Held => return Ok(Asked::Changed),
        Reservation::Permitted(permit) => permit,
    };
    if let Some(attempt) = permit.attempt_to_record() {
        if snapshot.values.is_none() {
            // The attempt that was under way has just ended.
            return Ok(Asked::NeedsCredentials);
        }
        let status = policy::status_before_asking(
            &snapshot.observe(context),
            &status_context(snapshot, Progress::Asked),
            attempt.clone(),
        );
        if !write_status(snapshot, &status, context).await? {
            return Ok(Asked::Changed);
        }
        if let Some(written) = context.objects.get(&snapshot.object) {
            snapshot.token = if lacks_templates(&written) {
                Arc::new(VendorToken {
                    spec: snapshot.token.spec.clone(),
                    ..(*written).clone()
                })
            } else {
                written
            };
        }
    }
    let Ok(checked) = &snapshot.validated else {
        return Ok(Asked::Changed);
    };
    let call = snapshot
        .values
        .take()
        .map(|credentials| checked.call(credentials));
    let waits = permit.send(call);
    Ok(waits.map_or(Asked::Changed, Asked::Waiting))
}

/// Reads the credentials of requests whose turn has come. One read serves all who want the Secret at that time.
pub(crate) struct QueuedCalls(pub(crate) Arc<Context>);

impl CallSource for QueuedCalls {
    fn call(&self, object: ObjectKey) -> BoxFuture<'static, Option<(Fingerprint, VendorCall)>> {
        let context = Arc::clone(&self.0);
        async move {
            let call = queued_call(&context, &object).await;
            let known = context.remembered.credentials(&object);
            let known = known.and_then(|known| known.found.ok().map(|found| found.fingerprint));
            let is_as_known = call.as_ref().is_some_and(|(read, _)| known == Some(*read));
            if !is_as_known && context.objects.has(&object) {
                // With the remembered grant, the next reconcile would ask again at once. Without it, that reconcile
                // reads the credentials, shows their problem, and waits as after each error of the API server.
                context.remembered.set_credentials(&object, None);
            }
            call
        }
        .boxed()
    }
}

async fn queued_call(context: &Arc<Context>, object: &ObjectKey) -> Option<(Fingerprint, VendorCall)> {
    let (token, key) = (context.objects.get(object)?, context.key()?);
    let checked = ValidatedSpec::new(&token, &context.settings.endpoints).ok()?;
    match credentials::read(context, &object.namespace, &checked).await {
        Ok(read) => {
            let fingerprint = key.fingerprint(&checked.endpoint, &checked.grant, &read.values);
            Some((fingerprint, checked.call(read.values)))
        }
        Err(credentials::ReadError::Unusable(problem)) => {
            tracing::debug!(
                %object, problem = problem.message,
                "the credentials of a request cannot be used when its turn has come"
            );
            None
        }
        Err(credentials::ReadError::Api { name, source }) => {
            tracing::debug!(
                %object, secret = name, error = with_causes(&source),
                "the credentials of a request could not be read when its turn came"
            );
            None
        }
    }
}
