//! What a process that begins to lead must know of the time before: requests of the last minute, attempts on accounts,
//! rejections and pauses. All of it is read back from targets and statuses.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;

use super::checked::{self, Checked};
use super::context::Context;
use super::error::Error;
use super::secrets::Lookup;
use super::tokens::{key_of, target_name};
use super::view::View;
use crate::api::VendorToken;
use crate::api::names::Reason;
use crate::error_text::with_causes;
use crate::grants::{RECALLED_FOR, requests_before};
use crate::policy::PastFailure;
use crate::vendor::{Endpoint, Vendor};

/// Credentials that are read at a time.
const CONCURRENCY: usize = 32;
/// An API server that is slow does not hold up fresh tokens for longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads back what counts of the time before.
pub(super) async fn recall(context: &Arc<Context>) {
    context.grants.begins();
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

/// The token that a VendorToken has been given last.
struct Given {
    /// What is the same for all that share the grant.
    grant: String,
    issued: Timestamp,
    refreshed_after: SignedDuration,
}

/// What the target tells of its token; where no target is known, as without a watch of Secrets, what the status tells.
fn given(token: &VendorToken, checked: &Checked, context: &Context) -> Option<Given> {
    let object = key_of(token);
    let stored = match context.secrets.get(&object.namespace, &target_name(token)) {
        Lookup::Found(record) => record.ours.and_then(|ours| ours.stored),
        Lookup::Absent | Lookup::Unknown => None,
    };
    if let Some(stored) = stored {
        return Some(Given {
            refreshed_after: stored.refresh_interval(checked.refresh),
            grant: stored.inputs.fingerprint,
            issued: stored.issued,
        });
    }
    let status = token.status.as_ref()?;
    let (issued, next) = (status.issued_time.as_ref()?, status.next_refresh_time.as_ref());
    Some(Given {
        // A status has no fingerprint. That others share the credential from elsewhere is not seen: too much is counted.
        grant: format!(
            "{}/{} {:?}",
            object.namespace, checked.credentials_secret, checked.grant
        ),
        issued: issued.0,
        refreshed_after: next.map_or(SignedDuration::MAX, |next| next.0.duration_since(issued.0)),
    })
}

/// When this VendorToken's last requests were sent, as far as its target and its status tell, and at the latest before:
/// a token that lives a minute has had more than one in that minute.
fn last_requests(
    token: &VendorToken,
    checked: &Checked,
    context: &Context,
    now: Timestamp,
) -> impl Iterator<Item = (String, Timestamp)> + use<> {
    let created = token.creation_timestamp().map(|created| created.0);
    let given = given(token, checked, context).into_iter().flat_map(move |given| {
        let oldest = now
            .checked_sub(RECALLED_FOR)
            .unwrap_or(now)
            .max(created.unwrap_or(now));
        requests_before(given.issued, given.refreshed_after, oldest)
            .map(move |sent| (given.grant.clone(), sent))
    });
    let failure = token.status.as_ref().and_then(|status| status.failure.as_ref());
    let failure = failure.and_then(PastFailure::from_status);
    let failure = failure.map(|failure| (failure.inputs.fingerprint, failure.last_attempt));
    given.chain(failure)
}

fn recall_requests(context: &Context) {
    let now = context.clock.now();
    // VendorTokens that share a grant have shared its request, which counts once.
    let mut requests: BTreeMap<(Endpoint, Vendor), HashSet<(String, Timestamp)>> = BTreeMap::new();
    for token in context.tokens.all() {
        let Ok(checked) = Checked::new(&token, &context.settings.endpoints) else {
            continue;
        };
        let recent = last_requests(&token, &checked, context, now)
            .filter(|(_, sent)| (SignedDuration::ZERO..RECALLED_FOR).contains(&now.duration_since(*sent)));
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
            checked::vendor(token).locks_accounts() || failure.reason == Reason::RateLimited.as_str()
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
                    Ok::<_, Error>(())
                };
                if let Err(error) = read.await {
                    tracing::warn!(%object, error = with_causes(&error), "a failure from before could not be read back");
                }
            }
        })
        .await;
}
