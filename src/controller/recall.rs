//! What a process that begins to lead must know of the time before: requests of the last minute, attempts on accounts,
//! rejections and pauses. All of it is read back from targets and statuses.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};

use super::checked::{self, Checked};
use super::context::Context;
use super::error::Error;
use super::secrets::Lookup;
use super::tokens::{key_of, target_name};
use super::view::View;
use crate::api::VendorToken;
use crate::api::names::Reason;
use crate::error_text::with_causes;
use crate::policy::PastFailure;
use crate::vendor::{Endpoint, Vendor};

/// Requests count against a budget for this long.
const MINUTE: SignedDuration = SignedDuration::from_mins(1);
/// Credentials that are read at a time.
const CONCURRENCY: usize = 32;
/// An API server that is slow does not hold up fresh tokens for longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads back what counts of the time before.
pub(super) async fn recall(context: &Arc<Context>) {
    recall_requests(context);
    if tokio::time::timeout(PATIENCE, recall_failures(context))
        .await
        .is_err()
    {
        tracing::warn!(
            "not every failure from before could be read back in time; the rest is as objects are looked at"
        );
    }
}

/// When this VendorToken's last requests were sent, as far as its target and its status tell.
fn last_requests(token: &VendorToken, context: &Context) -> Vec<(String, Timestamp)> {
    let object = key_of(token);
    let stored = match context.secrets.get(&object.namespace, &target_name(token)) {
        Lookup::Found(record) => record.ours.and_then(|ours| ours.stored),
        Lookup::Absent | Lookup::Unknown => None,
    };
    let stored = stored.map(|stored| (stored.inputs.fingerprint, stored.issued));
    let failure = token.status.as_ref().and_then(|status| status.failure.as_ref());
    let failure = failure.and_then(PastFailure::from_status);
    let failure = failure.map(|failure| (failure.inputs.fingerprint, failure.last_attempt));
    [stored, failure].into_iter().flatten().collect()
}

fn recall_requests(context: &Context) {
    let now = context.clock.now();
    // VendorTokens that share a grant have shared its request, which counts once.
    let mut requests: BTreeMap<(Endpoint, Vendor), HashSet<(String, Timestamp)>> = BTreeMap::new();
    for token in context.tokens.all() {
        let Ok(checked) = Checked::new(&token, &context.settings.endpoints) else {
            continue;
        };
        let recent = last_requests(&token, context)
            .into_iter()
            .filter(|(_, sent)| (SignedDuration::ZERO..MINUTE).contains(&now.duration_since(*sent)));
        requests
            .entry((checked.endpoint, checked.grant.vendor()))
            .or_default()
            .extend(recent);
    }
    for ((endpoint, vendor), sent) in requests {
        let sent: Vec<_> = sent.into_iter().map(|(_, sent)| sent).collect();
        if !sent.is_empty() {
            context.grants.recall_requests(&endpoint, vendor, &sent);
        }
    }
}

/// Failures that hold for others too: at a vendor that locks accounts, and where an endpoint was paused.
async fn recall_failures(context: &Arc<Context>) {
    let holds_for_others = |token: &Arc<VendorToken>| {
        let failure = token.status.as_ref().and_then(|status| status.failure.as_ref());
        failure.is_some_and(|failure| {
            checked::vendor(token) == Vendor::CheckmarxSca || failure.reason == Reason::RateLimited.as_str()
        })
    };
    let Some(key) = context.key() else { return };
    let tokens = context.tokens.all().into_iter().filter(holds_for_others);
    stream::iter(tokens)
        .for_each_concurrent(CONCURRENCY, |token| {
            let key = Arc::clone(&key);
            async move {
                let object = key_of(&token);
                let read = async {
                    let mut view = View::gather(token, key, context).await?;
                    view.read_credentials(context).await?;
                    if let Some(failure) = view.status().failure.as_ref().and_then(PastFailure::from_status) {
                        context.grants.recall_attempts(&view.object, &failure);
                    }
                    Ok::<_, Error>(())
                };
                if let Err(error) = read.await {
                    tracing::warn!(%object, error = with_causes(&error), "a failure from before could not be read back");
                }
            }
        })
        .await;
}
