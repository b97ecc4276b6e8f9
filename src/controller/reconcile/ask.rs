//! Act: asks for a token, and records the attempt first where a failed one could lock an account.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::api::VendorTokenStatus;
use crate::controller::context::Context;
use crate::controller::reconcile::error::Error;
use crate::controller::reconcile::record::status_context;
use crate::controller::reconcile::status::write_status;
use crate::controller::reconcile::view::View;
use crate::grants::Ask;
use crate::inputs::Inputs;
use crate::policy::{self, PastFailure, Progress, backoff};

/// What became of asking.
pub(in crate::controller) enum Asked {
    /// The object waits since then.
    Waiting(Instant),
    /// The credentials must be read first.
    NeedsCredentials,
    /// The object was changed or deleted in between: look again.
    Changed,
}

/// Asks for a token. Where a failed attempt could lock an account, it is recorded before it is sent: no crash may
/// forget it.
pub(in crate::controller) async fn ask(view: &mut View, context: &Arc<Context>) -> Result<Asked, Error> {
    if context.grants.is_draining() {
        // It would be recorded, and never sent.
        return Ok(Asked::Changed);
    }
    let refresh_request = view.observed(context).pending_request().map(str::to_owned);
    let now = context.clock.now();
    let live_until = view.live_until(now);
    let joined = context
        .grants
        .join(&view.object, refresh_request.as_deref(), live_until);
    if let Some(since) = joined {
        return Ok(Asked::Waiting(since));
    }
    let (Some(inputs), Some(fingerprint)) = (view.inputs(), view.fingerprint) else {
        return Ok(Asked::NeedsCredentials);
    };
    if view.values.is_none() {
        return Ok(Asked::NeedsCredentials);
    }
    let proven = view.observed(context).is_proven() || context.grants.is_proven(&view.object);
    let account = view.account.filter(|_| !proven);
    let stored_issued = view.observed(context).proven_at();
    let requested = refresh_request.is_some();
    if context
        .grants
        .holds_back(fingerprint, account, stored_issued, requested)
    {
        return Ok(Asked::Changed);
    }
    let failures_before = failures_before(view, &inputs, account.is_some(), now);
    let passes_remembered = remembers_a_hold(view, &inputs, now);
    let mut unrecorded = None;
    if account.is_some() {
        let count = failures_before.saturating_add(1);
        let next = backoff::after_no_answer(count, inputs.jitter, now);
        let attempt = PastFailure::about_to_be_sent(count, now, next, inputs);
        let status = policy::status_before_asking(
            &view.observed(context),
            &status_context(view, Progress::Asked),
            attempt,
        );
        unrecorded = Some(VendorTokenStatus {
            failure: view.status().failure.clone(),
            ..status.clone()
        });
        if !write_status(view, &status, context).await? {
            return Ok(Asked::Changed);
        }
        if let Some(written) = context.tokens.get(&view.object) {
            view.token = written;
        }
    }
    let (Ok(checked), Some(credentials)) = (&view.checked, view.values.take()) else {
        return Ok(Asked::NeedsCredentials);
    };
    let asked = context.grants.ask(Ask {
        fingerprint,
        grant: checked.grant.clone(),
        endpoint: checked.endpoint.clone(),
        credentials,
        object: view.object.clone(),
        account,
        live_until,
        stored_issued,
        failures_before,
        passes_remembered,
        refresh_request,
    });
    if let (None, Some(unrecorded)) = (asked, unrecorded) {
        // Others were quicker, and the attempt is not made: what was recorded of it would be told as a failure.
        if write_status(view, &unrecorded, context).await?
            && let Some(written) = context.tokens.get(&view.object)
        {
            view.token = written;
        }
    }
    Ok(asked.map_or(Asked::Changed, Asked::Waiting))
}

/// A latch or a back-off of these credentials that the status tells of holds.
fn remembers_a_hold(view: &View, inputs: &Inputs, now: Timestamp) -> bool {
    let failure = view.status().failure.as_ref().and_then(PastFailure::from_status);
    failure.is_some_and(|failure| failure.inputs.fingerprint == inputs.fingerprint && failure.holds(now))
}

/// Failures in a row that the status tells of: of these same credentials, and where an account could be locked, of any
/// that were tried within the time that counts.
fn failures_before(view: &View, inputs: &Inputs, counts_for_account: bool, now: Timestamp) -> i32 {
    let failure = view.status().failure.as_ref().and_then(PastFailure::from_status);
    let recent = |failure: &PastFailure| now.duration_since(failure.last_attempt) < policy::ACCOUNT_WINDOW;
    failure
        .filter(|failure| {
            failure.inputs.fingerprint == inputs.fingerprint || (counts_for_account && recent(failure))
        })
        .map_or(0, |failure| failure.count)
}
