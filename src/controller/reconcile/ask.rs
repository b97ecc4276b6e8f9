//! Act: asks for a token, and records the attempt first where a failed one could lock an account.

use std::sync::Arc;

use crate::api::VendorToken;
use crate::clock::Moment;
use crate::controller::cluster::objects::lacks_templates;
use crate::controller::context::Context;
use crate::controller::reconcile::error::Error;
use crate::controller::reconcile::record::status_context;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::controller::reconcile::status::write_status;
use crate::grants::{Reservation, VendorCall};
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

/// Reserves a request, records it if it must be, sends it.
pub(crate) async fn ask(snapshot: &mut Snapshot, context: &Arc<Context>) -> Result<Asked, Error> {
    // An attempt that is under way is joined without credentials.
    if snapshot.values.is_none() && !context.grants.is_under_way(&snapshot.object) {
        return Ok(Asked::NeedsCredentials);
    }
    let refresh_request = snapshot.observe(context).pending_request().map(str::to_owned);
    let Some(observation) = snapshot.observation(context.timeline.now().wall()) else {
        return Ok(Asked::NeedsCredentials);
    };
    let permit = match context.grants.reserve(&observation, refresh_request.as_deref()) {
        Reservation::UnderWay(since) => return Ok(Asked::Waiting(since)),
        Reservation::Held => return Ok(Asked::Changed),
        Reservation::Permitted(permit) => permit,
    };
    if snapshot.values.is_none() {
        // The attempt that was under way has just ended.
        return Ok(Asked::NeedsCredentials);
    }
    if let Some(attempt) = permit.attempt_to_record() {
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
    let (Ok(checked), Some(credentials)) = (&snapshot.validated, snapshot.values.take()) else {
        return Ok(Asked::NeedsCredentials);
    };
    let waits = permit.send(VendorCall {
        grant: checked.grant.clone(),
        endpoint: checked.endpoint.clone(),
        credentials,
    });
    Ok(waits.map_or(Asked::Changed, Asked::Waiting))
}
