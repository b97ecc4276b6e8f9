//! The start of a term: requests of the last minute, attempts on accounts, rejections and pauses are read back from
//! targets and statuses.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;

use crate::api::VendorToken;
use crate::api::names::Reason;
use crate::controller::cluster::objects::key_of;
use crate::controller::cluster::references::target_name;
use crate::controller::cluster::secrets::Lookup;
use crate::controller::context::Context;
use crate::controller::reconcile::error::Error;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::controller::reconcile::validated::{self, ValidatedSpec};
use crate::error_text::with_causes;
use crate::grants::{COUNTED_FOR, requests_before};
use crate::policy::PastFailure;
use crate::policy::schedule::{self, is_credible_issue};
use crate::providers::{Endpoint, Vendor};

/// The number of credentials that are read at a time.
const CONCURRENCY: usize = 32;
/// An API server that is slow does not hold up fresh tokens for longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the term of the book of grants, with what counts of the time before.
pub(crate) async fn seed(context: &Arc<Context>) {
    context.grants.start_leading();
    count_earlier_requests(context);
    if tokio::time::timeout(PATIENCE, take_in_failures(context))
        .await
        .is_err()
    {
        tracing::warn!(
            "not every failure from before could be read back in time; the rest is as objects are looked at"
        );
    }
}

/// The last token of a VendorToken.
struct LastToken {
    /// A name of the grant, equal for all that share it.
    grant: String,
    issued: Timestamp,
    refreshed_after: SignedDuration,
}

/// The last token by the target, or by the status where no target is known, as without a watch of Secrets. An issue that
/// is not credible was written by somebody else.
fn last_token(
    token: &VendorToken,
    checked: &ValidatedSpec,
    context: &Context,
    now: Timestamp,
) -> Option<LastToken> {
    let object = key_of(token);
    let stored = match context.secrets.get(&object.namespace, &target_name(token)) {
        Lookup::Found(record) => record.ours.and_then(|ours| ours.stored),
        Lookup::Absent | Lookup::Unknown => None,
    };
    let is_credible = |issued: &Timestamp| is_credible_issue(*issued, now);
    if let Some(stored) = stored.filter(|stored| is_credible(&stored.issued)) {
        return Some(LastToken {
            refreshed_after: stored.refresh_interval(checked.refresh),
            grant: stored.inputs.fingerprint,
            issued: stored.issued,
        });
    }
    let status = token.status.as_ref()?;
    let issued = status
        .issued_time
        .as_ref()
        .map(|time| time.0)
        .filter(is_credible)?;
    let expires = status.expiration_time.as_ref()?.0;
    Some(LastToken {
        // A status has no fingerprint. Where others share the credential from other Secrets, too much is counted.
        grant: format!("{} {:?} {:?}", object.namespace, checked.sources(), checked.grant),
        issued,
        // By the most jitter, as it is not known either: at the soonest.
        refreshed_after: schedule::due(checked.refresh, issued, expires, u8::MAX).duration_since(issued),
    })
}

/// The times of this VendorToken's last requests by its target and its status, each with the name of its grant. A token
/// that lives less than a minute has had several in that minute.
fn last_requests(
    token: &VendorToken,
    checked: &ValidatedSpec,
    context: &Context,
    now: Timestamp,
) -> impl Iterator<Item = (String, Timestamp)> + use<> {
    let created = token.creation_timestamp().map(|created| created.0);
    let issued = last_token(token, checked, context, now)
        .into_iter()
        .flat_map(move |last| {
            let oldest = now
                .checked_sub(COUNTED_FOR)
                .unwrap_or(now)
                .max(created.unwrap_or(now));
            requests_before(last.issued, last.refreshed_after, oldest)
                .map(move |sent| (last.grant.clone(), sent))
        });
    let failure = token.status.as_ref().and_then(|status| status.failure.as_ref());
    let failure = failure.and_then(PastFailure::parse);
    let failure = failure.map(|failure| (failure.inputs.fingerprint, failure.last_attempt));
    issued.chain(failure)
}

fn count_earlier_requests(context: &Context) {
    let now = context.timeline.now().wall();
    // VendorTokens that share a grant have shared its request, which counts once.
    let mut requests: BTreeMap<(Endpoint, Vendor), HashSet<(String, Timestamp)>> = BTreeMap::new();
    for token in context.objects.all() {
        let Ok(checked) = ValidatedSpec::new(&token, &context.settings.endpoints) else {
            continue;
        };
        let recent = last_requests(&token, &checked, context, now)
            .filter(|(_, sent)| (SignedDuration::ZERO..COUNTED_FOR).contains(&now.duration_since(*sent)));
        requests
            .entry((checked.endpoint, checked.grant.vendor()))
            .or_default()
            .extend(recent);
    }
    for ((endpoint, vendor), sent) in requests {
        let sent: Vec<_> = sent.into_iter().map(|(_, sent)| sent).collect();
        if !sent.is_empty() {
            context.grants.count_earlier_requests(&endpoint, vendor, &sent);
        }
    }
}

/// Failures that hold for others too: at a vendor that locks accounts, and where an endpoint was paused.
async fn take_in_failures(context: &Arc<Context>) {
    let holds_for_others = |token: &Arc<VendorToken>| {
        let failure = token.status.as_ref().and_then(|status| status.failure.as_ref());
        failure.is_some_and(|failure| {
            validated::vendor(token).locks_accounts() || failure.reason == Reason::RateLimited.as_str()
        })
    };
    let Some(key) = context.key() else { return };
    let tokens = context.objects.all().filter(holds_for_others);
    stream::iter(tokens)
        .for_each_concurrent(CONCURRENCY, |token| {
            let key = Arc::clone(&key);
            async move {
                let object = key_of(&token);
                let read = async {
                    let mut snapshot = Snapshot::gather(token, key, context).await?;
                    // The book of grants takes in what the status says of credentials that are known, and of those that
                    // are read.
                    snapshot.observe(context);
                    snapshot.read_credentials(context).await?;
                    snapshot.observe(context);
                    Ok::<_, Error>(())
                };
                if let Err(error) = read.await {
                    tracing::warn!(%object, error = with_causes(&error), "a failure from before could not be read back");
                }
            }
        })
        .await;
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::fake;

    /// The requests of the last minute by the status of a VendorToken with this Secret, in seconds before now, and the names
    /// of their grants. No target is known.
    fn read_back(credentials: Value, status: Value) -> (Vec<i64>, Vec<String>) {
        let (context, _, _) = fake::context(|sent| sent);
        let now = now();
        let token: VendorToken = serde_json::from_value(json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": "t", "namespace": "a", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "vendor": "Mapiq", "credentialsSecretRef": credentials },
            "status": status,
        }))
        .unwrap();
        let checked = ValidatedSpec::new(&token, &BTreeMap::new()).unwrap();
        let (names, times): (Vec<_>, Vec<_>) = last_requests(&token, &checked, &context, now).unzip();
        let ages = times.iter().map(|sent| now.duration_since(*sent).as_secs());
        (ages.collect(), names)
    }

    fn now() -> Timestamp {
        "2026-05-04T10:01:00Z".parse().unwrap()
    }

    fn lives(issued: &str, expires: &str) -> Value {
        json!({ "issuedTime": issued, "expirationTime": expires, "conditions": [] })
    }

    #[tokio::test]
    async fn without_a_target_the_status_gives_the_times_of_requests() {
        let secret = json!({ "name": "c" });
        let hour = lives("2026-05-04T10:00:50Z", "2026-05-04T11:00:50Z");
        assert_eq!(read_back(secret.clone(), hour).0, [10]);
        let forty_seconds = lives("2026-05-04T10:00:50Z", "2026-05-04T10:01:30Z");
        assert_eq!(read_back(secret.clone(), forty_seconds).0, [10, 30, 50]);
        assert_eq!(read_back(secret, json!({})).0, Vec::<i64>::new());
    }

    #[tokio::test]
    async fn grants_of_one_secret_have_a_name_each() {
        let grant = |credentials: Value| {
            let status = lives("2026-05-04T10:00:50Z", "2026-05-04T11:00:50Z");
            read_back(credentials, status).1.remove(0)
        };
        let one = json!({ "name": "c", "keys": { "client-secret": "one" } });
        let other = json!({ "name": "c", "keys": { "client-secret": "other" } });
        assert_eq!(grant(one.clone()), grant(one.clone()));
        assert_ne!(grant(one), grant(other));
    }

    #[tokio::test]
    async fn an_issue_that_is_not_credible_counts_for_nothing() {
        for issued in ["9999-12-30T21:59:59Z", "2026-05-04T10:06:01Z"] {
            let requests = read_back(json!({ "name": "c" }), lives(issued, "9999-12-30T22:00:00Z"));
            assert_eq!(requests.0, Vec::<i64>::new(), "{issued}");
        }
    }
}
