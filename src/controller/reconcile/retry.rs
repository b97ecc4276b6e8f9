//! The time of another try after a reconcile that failed.

use std::time::Duration;

use crate::api::VendorToken;
use crate::controller::cluster::objects::key_of;
use crate::controller::context::Context;
use crate::controller::reconcile::error::Error;
use crate::error_text::with_causes;
use crate::policy::backoff;
use crate::text;

/// Logs the error of a reconcile, and gives the wait until another try. Objects whose calls fail as those of others do wait
/// together, and go on when the API server answers; one that fails alone has waits of its own, which grow.
pub(crate) fn after_error(token: &VendorToken, error: &Error, context: &Context) -> Duration {
    let object = key_of(token);
    if let Some(held) = error.held() {
        tracing::debug!(%object, error = with_causes(error), "a reconcile waits");
        return context.pacer.wait_at(&held.call, held.wait, &object);
    }
    tracing::warn!(%object, error = with_causes(error), "a reconcile failed and is tried again");
    let before = context
        .remembered
        .last_error(&object, context.timeline.now().moment);
    let gate = error
        .call()
        .and_then(|call| Some((context.pacer.wait_after(&call)?, call)));
    let fails_alone = |kind| before.is_some_and(|before| context.pacer.was_answered_since(kind, before));
    match gate {
        Some((wait, call)) if !fails_alone(call.kind) => context.pacer.wait_at(&call, wait, &object),
        _ => {
            let wait = backoff::after_own_error(context.remembered.count_error(&object));
            // By name, so that many objects do not return together.
            let spread = text::spread(&object.to_string()) % 256;
            wait + wait.mul_f64(spread as f64 / 256.0).min(Duration::from_secs(5))
        }
    }
}
