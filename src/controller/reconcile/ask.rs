//! Act: asks for a token, and records the attempt first where a failed one could lock an account.

use std::sync::Arc;

use crate::clock::Moment;
use crate::controller::context::Context;
use crate::controller::reconcile::error::Error;
use crate::controller::reconcile::record::status_context;
use crate::controller::reconcile::status::write_status;
use crate::controller::reconcile::view::View;
use crate::grants::{Reservation, VendorCall};
use crate::policy::{self, Progress};

/// What became of asking.
pub(in crate::controller) enum Asked {
    /// The object waits since this moment.
    Waiting(Moment),
    /// The credentials must be read first.
    NeedsCredentials,
    /// The grant is held, or the object was changed or deleted in between: look again.
    Changed,
}

/// Reserves a request, records it if it must be, sends it.
pub(in crate::controller) async fn ask(view: &mut View, context: &Arc<Context>) -> Result<Asked, Error> {
    let Some(inputs) = view.inputs() else {
        return Ok(Asked::NeedsCredentials);
    };
    // An attempt that is under way is joined without credentials.
    if view.values.is_none() && !context.grants.is_under_way(&view.object) {
        return Ok(Asked::NeedsCredentials);
    }
    let refresh_request = view.observed(context).pending_request().map(str::to_owned);
    let now = context.timeline.now().wall();
    let Some(observation) = view.observation(&inputs, now) else {
        return Ok(Asked::NeedsCredentials);
    };
    let permit = match context.grants.reserve(&observation, refresh_request.as_deref()) {
        Reservation::UnderWay(since) => return Ok(Asked::Waiting(since)),
        Reservation::Held => return Ok(Asked::Changed),
        Reservation::Permitted(permit) => permit,
    };
    if view.values.is_none() {
        // The attempt that was under way has just ended.
        return Ok(Asked::NeedsCredentials);
    }
    if let Some(attempt) = permit.attempt_to_record() {
        let status = policy::status_before_asking(
            &view.observed(context),
            &status_context(view, Progress::Asked),
            attempt.clone(),
        );
        if !write_status(view, &status, context).await? {
            return Ok(Asked::Changed);
        }
        if let Some(written) = context.objects.get(&view.object) {
            view.token = written;
        }
    }
    let (Ok(checked), Some(credentials)) = (&view.checked, view.values.take()) else {
        return Ok(Asked::NeedsCredentials);
    };
    let waits = permit.send(VendorCall {
        grant: checked.grant.clone(),
        endpoint: checked.endpoint.clone(),
        credentials,
    });
    Ok(waits.map_or(Asked::Changed, Asked::Waiting))
}
