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
use crate::controller::cluster::secrets::Lookup;
use crate::controller::context::Context;
use crate::controller::reconcile::error::Error;
use crate::controller::reconcile::read_target::read_record;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::controller::reconcile::validated::{self, ValidatedSpec};
use crate::error_text::with_causes;
use crate::fingerprint::FingerprintKey;
use crate::grants::{COUNTED_FOR, requests_before};
use crate::inputs::Inputs;
use crate::policy::Stored;
use crate::policy::ownership::is_credible;
use crate::providers::{Endpoint, Vendor};
use crate::seal::{Place, Verified};
use crate::times::recorded;

/// The number of credentials that are read at a time.
const CONCURRENCY: usize = 32;
/// An API server that is slow does not hold up fresh tokens for longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the term of the book of grants, with what counts of the time before.
pub(crate) async fn seed(context: &Arc<Context>) {
    context.grants.start_leading();
    let read_back = async {
        count_earlier_requests(context).await;
        take_in_failures(context).await;
    };
    if tokio::time::timeout(PATIENCE, read_back).await.is_err() {
        tracing::warn!(
            "not everything from before could be read back in time; the rest is as objects are looked at"
        );
    }
}

/// The last token of a VendorToken.
struct LastToken {
    /// A name of the grant: see [`grant_name`].
    grant: String,
    issued: Timestamp,
    refreshed_after: SignedDuration,
}

/// A name of a grant, equal for the VendorTokens of one namespace that ask for the same with the same keys of the same
/// Secrets. Where others share the credential from other Secrets, too much is counted.
fn grant_name(inputs: &Inputs) -> String {
    format!("{} {}", inputs.parameters, inputs.sources)
}

/// The last token by the facts that this operator has sealed on the target; what anybody may have written fills no
/// budget. Without a watch of Secrets the target is read, where the status says that it is worth it.
async fn last_token(
    token: &VendorToken,
    checked: &ValidatedSpec,
    key: &FingerprintKey,
    context: &Context,
    now: Timestamp,
) -> Option<LastToken> {
    let object = key_of(token);
    let target = &checked.target.name;
    let record = match context.secrets.get(&object.namespace, target) {
        Lookup::Found(record) => Some(record),
        Lookup::Absent => None,
        Lookup::Unknown if is_recent(token, now) => {
            match read_record(context, &object.namespace, target).await {
                Ok(record) => record,
                Err(error) => {
                    tracing::debug!(%object, error = with_causes(&error), "its last request could not be read back");
                    None
                }
            }
        }
        Lookup::Unknown => None,
    };
    let facts = record?.facts?;
    let place = Place {
        namespace: &object.namespace,
        secret: target,
        vendor_token: &object.name,
    };
    let verified = facts
        .verify(key, place)
        .filter(|found| matches!(found, Verified::Sealed(_)))?;
    let stored = Stored::new(verified, SignedDuration::MAX);
    is_credible(&stored, now).then(|| LastToken {
        refreshed_after: stored.refresh_interval(checked.refresh),
        grant: grant_name(&stored.inputs),
        issued: stored.issued,
    })
}

/// True when the status shows a request that still counts.
fn is_recent(token: &VendorToken, now: Timestamp) -> bool {
    let issued = token
        .status
        .as_ref()
        .and_then(|status| status.issued_time.as_ref());
    issued.is_some_and(|issued| now.duration_since(recorded(issued.0)) < COUNTED_FOR)
}

/// The times of this VendorToken's last requests by its target, each with the name of its grant. A token that lives less
/// than a minute has had several in that minute. A failed attempt in a status counts for nothing: a status has no seal,
/// and times in it would keep everybody waiting for a minute.
async fn last_requests(
    token: &VendorToken,
    checked: &ValidatedSpec,
    key: &FingerprintKey,
    context: &Context,
    now: Timestamp,
) -> Vec<(String, Timestamp)> {
    let created = token.creation_timestamp().map(|created| created.0);
    let oldest = now
        .checked_sub(COUNTED_FOR)
        .unwrap_or(now)
        .max(created.unwrap_or(now));
    let last = last_token(token, checked, key, context, now).await;
    last.into_iter()
        .flat_map(|last| {
            requests_before(last.issued, last.refreshed_after, oldest)
                .map(move |sent| (last.grant.clone(), sent))
        })
        .filter(|(_, sent)| (SignedDuration::ZERO..COUNTED_FOR).contains(&now.duration_since(*sent)))
        .collect()
}

async fn count_earlier_requests(context: &Context) {
    let now = context.timeline.now().wall();
    let Some(key) = context.key() else { return };
    let key = &key;
    // VendorTokens that share a grant have shared its request, which counts once.
    let mut requests: BTreeMap<(Endpoint, Vendor), HashSet<(String, Timestamp)>> = BTreeMap::new();
    let read = stream::iter(context.objects.all()).map(|token| async move {
        let checked = ValidatedSpec::new(&token, &context.settings.endpoints).ok()?;
        let recent = last_requests(&token, &checked, key, context, now).await;
        Some(((checked.endpoint, checked.grant.vendor()), recent))
    });
    let read: Vec<_> = read.buffer_unordered(CONCURRENCY).collect().await;
    for (endpoint, recent) in read.into_iter().flatten() {
        requests.entry(endpoint).or_default().extend(recent);
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
    stream::iter(in_turns(tokens))
        .for_each_concurrent(CONCURRENCY, |token| {
            let key = Arc::clone(&key);
            async move {
                let object = key_of(&token);
                let read = async {
                    let mut snapshot = Snapshot::gather_for_grant(token, key, context).await?;
                    if snapshot.fingerprint.is_none() {
                        // One read makes the credentials known of all who name the Secret.
                        snapshot.read_credentials(context).await?;
                    }
                    // The book of grants takes in what the status says of credentials that are known.
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

/// Puts the namespaces' VendorTokens in turns, so that one with thousands holds up no other; those of one Secret stand
/// together, since one read serves them all.
fn in_turns(tokens: impl Iterator<Item = Arc<VendorToken>>) -> Vec<Arc<VendorToken>> {
    let mut namespaces: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for token in tokens {
        namespaces.entry(token.namespace()).or_default().push(token);
    }
    let mut turns = Vec::new();
    for mut of_namespace in namespaces.into_values() {
        of_namespace.sort_by(|one, other| {
            let secret = |token: &VendorToken| token.spec.credentials_secret_ref.name.clone();
            secret(one).cmp(&secret(other))
        });
        turns.extend(of_namespace.into_iter().enumerate());
    }
    turns.sort_by_key(|(turn, _)| *turn);
    turns.into_iter().map(|(_, token)| token).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::names;
    use crate::clock::SystemClock;
    use crate::controller::cluster::objects::lacks_templates;
    use crate::controller::cluster::secret_record;
    use crate::controller::fake;
    use crate::fingerprint::Fingerprint;
    use crate::policy::PastFailure;
    use crate::times::{later, whole_seconds};

    fn now() -> Timestamp {
        "2026-05-04T10:01:00Z".parse().unwrap()
    }

    fn token(status: Value) -> VendorToken {
        serde_json::from_value(json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": "t", "namespace": "a", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "vendor": "Mapiq", "credentialsSecretRef": { "name": "c" } },
            "status": status,
        }))
        .unwrap()
    }

    /// The metadata of a target with a token that lives for so many seconds from 10:00:50 on, sealed by `key`.
    fn target(key: &FingerprintKey, life: i64) -> Value {
        let issued: Timestamp = "2026-05-04T10:00:50Z".parse().unwrap();
        let life = (issued, crate::times::later(issued, life));
        let facts = fake::facts(key, &token(json!({})), Fingerprint::from_bytes([1; 16]), life);
        fake::sealed_by(key, "t", &facts)
    }

    /// The requests of the last minute by this target and this status, in seconds before now.
    async fn read_back(target: Option<Value>, status: Value) -> Vec<i64> {
        let (context, _, _) = fake::context(|sent| sent);
        context.secrets.begin_list("");
        if let Some(target) = target {
            let record = secret_record::read(&serde_json::from_value(target).unwrap()).unwrap();
            context.secrets.put("a", "t", record);
        }
        context.secrets.end_list("");
        let token = token(status);
        let checked = ValidatedSpec::new(&token, &BTreeMap::new()).unwrap();
        // Facts under a lost key are older than this one.
        let key = fake::key().made_at(now());
        let requests = last_requests(&token, &checked, &key, &context, now()).await;
        requests
            .iter()
            .map(|(_, sent)| now().duration_since(*sent).as_secs())
            .collect()
    }

    #[tokio::test]
    async fn sealed_facts_give_the_times_of_requests() {
        assert_eq!(read_back(Some(target(&fake::key(), 3600)), json!({})).await, [10]);
        assert_eq!(
            read_back(Some(target(&fake::key(), 40)), json!({})).await,
            [10, 30, 50]
        );
        assert_eq!(read_back(None, json!({})).await, Vec::<i64>::new());
    }

    #[tokio::test]
    async fn facts_that_the_operator_has_not_sealed_fill_no_budget() {
        let mut edited = target(&fake::key(), 3600);
        edited["annotations"][names::EXPIRATION_TIME] = json!("2026-05-04T10:01:30Z");
        let of_a_lost_key = target(&FingerprintKey::new(&[8; 32]).unwrap(), 40);
        let mut without_a_seal = target(&fake::key(), 40);
        without_a_seal["annotations"]
            .as_object_mut()
            .unwrap()
            .remove(names::SEAL);
        for forged in [edited, of_a_lost_key, without_a_seal] {
            assert_eq!(read_back(Some(forged), json!({})).await, Vec::<i64>::new());
        }
    }

    #[tokio::test]
    async fn a_status_fills_no_budget() {
        let inputs = format!(
            "{}.{}.{}.{}.07",
            "0".repeat(8),
            "1".repeat(32),
            "2".repeat(8),
            "3".repeat(32)
        );
        let status = json!({ "issuedTime": "2026-05-04T10:00:50Z", "expirationTime": "2026-05-04T10:01:30Z",
            "failure": { "reason": "CredentialsRejected", "message": "m", "count": 1, "inputs": inputs,
                "lastAttemptTime": "2026-05-04T10:00:55Z" } });
        let failure = token(status.clone()).status.unwrap().failure.unwrap();
        assert!(PastFailure::parse(&failure).is_some(), "it could be read back");
        assert_eq!(read_back(None, status).await, Vec::<i64>::new());
    }

    #[test]
    fn a_target_that_is_not_watched_is_read_where_its_last_request_may_count() {
        for (issued, expected) in [
            ("2026-05-04T10:00:50Z", true),
            ("2026-05-04T09:59:50Z", false),
            ("0001-01-01T00:00:00Z", false),
        ] {
            assert_eq!(
                is_recent(&token(json!({ "issuedTime": issued })), now()),
                expected,
                "{issued}"
            );
        }
        assert!(!is_recent(&token(json!({})), now()), "nothing was published");
    }

    #[test]
    fn grants_are_told_apart_by_what_they_ask_for_and_by_the_secret() {
        let named = |spec: Value| {
            let mut token = serde_json::to_value(token(json!({}))).unwrap();
            token["spec"]["credentialsSecretRef"] = spec;
            let token: VendorToken = serde_json::from_value(token).unwrap();
            let life = (now(), crate::times::later(now(), 60));
            let facts = fake::facts(&fake::key(), &token, Fingerprint::from_bytes([1; 16]), life);
            grant_name(&facts.inputs)
        };
        let one = json!({ "name": "c", "keys": { "client-secret": "one" } });
        let other = json!({ "name": "c", "keys": { "client-secret": "other" } });
        assert_eq!(named(one.clone()), named(one.clone()));
        assert_ne!(named(one), named(other));
    }

    /// A VendorToken that is kept without its templates.
    fn large(context: &Context, version: &str, status: Value) -> Arc<VendorToken> {
        let mut token = token(status);
        token.metadata.resource_version = Some(version.to_owned());
        let template = "x".repeat(4096);
        token.spec.target.data = (0..3)
            .map(|number| (number.to_string(), template.clone()))
            .collect();
        context.objects.put(token);
        let kept = context.objects.get(&fake::object()).unwrap();
        assert!(lacks_templates(&kept));
        kept
    }

    /// The pause of the endpoint for another VendorToken with the same credentials, after the start of a term in which a
    /// large one has this failure.
    async fn paused_until(reason: &str) -> Option<Timestamp> {
        let secret = json!({ "type": "Opaque", "metadata": { "name": "c", "uid": "c", "resourceVersion": "4" },
            "data": { "client-id": "aWQ=", "client-secret": "c2VjcmV0" } });
        let clock = Arc::new(SystemClock);
        let (context, _) = fake::context_at(clock, move |_, path, _| {
            assert!(path.ends_with("/secrets/c"), "{path}");
            (200, secret.clone())
        });
        context.secrets.begin_list("");
        let credentials = json!({ "name": "c", "namespace": "a", "uid": "c", "resourceVersion": "4" });
        let record = secret_record::read(&serde_json::from_value(credentials).unwrap());
        context.secrets.put("a", "c", record.unwrap());
        context.secrets.end_list("");
        let key = context.key().unwrap();
        let kept = large(&context, "1", json!({}));
        let mut known = Snapshot::gather_for_grant(kept, Arc::clone(&key), &context)
            .await
            .unwrap();
        known.read_credentials(&context).await.unwrap();
        let now = whole_seconds(context.timeline.now().wall());
        let failure = json!({ "reason": reason, "message": "m", "count": 1, "inputs": known.inputs().unwrap().to_string(),
            "lastAttemptTime": later(now, -5).to_string(), "nextAttemptTime": later(now, 600).to_string() });
        large(&context, "2", json!({ "failure": failure }));
        context.remembered.set_credentials(&known.object, None);
        seed(&context).await;
        let mut other = token(json!({}));
        other.metadata.name = Some("other".to_owned());
        let other = Arc::new(other);
        let mut other = Snapshot::gather_for_grant(other, key, &context).await.unwrap();
        other.read_credentials(&context).await.unwrap();
        other.observe(&context).standing.paused_until
    }

    #[test]
    fn failures_are_read_back_by_turns_of_the_namespaces_and_secret_by_secret() {
        let named = |namespace: &str, name: &str, secret: &str| {
            let mut token = token(json!({}));
            token.metadata.namespace = Some(namespace.to_owned());
            token.metadata.name = Some(name.to_owned());
            token.spec.credentials_secret_ref.name = secret.to_owned();
            Arc::new(token)
        };
        let tokens = [
            named("a", "1", "y"),
            named("a", "2", "x"),
            named("a", "3", "y"),
            named("b", "4", "z"),
        ];
        let order: Vec<_> = in_turns(tokens.into_iter())
            .iter()
            .map(|token| token.name_any())
            .collect();
        assert_eq!(order, ["2", "4", "1", "3"]);
    }

    #[tokio::test]
    async fn the_failures_of_hundreds_that_share_a_secret_are_read_back_with_few_reads() {
        let reads = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let (context, _) = fake::context_at(Arc::new(SystemClock), move |_, path, _| {
            assert!(path.ends_with("/secrets/c"), "{path}");
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let secret = json!({ "type": "Opaque", "metadata": { "name": "c", "uid": "c", "resourceVersion": "4" },
                "data": { "client-id": "aWQ=", "client-secret": "c2VjcmV0" } });
            (200, secret)
        });
        context.secrets.begin_list("");
        let credentials = json!({ "name": "c", "namespace": "a", "uid": "c", "resourceVersion": "4" });
        let record = secret_record::read(&serde_json::from_value(credentials).unwrap());
        context.secrets.put("a", "c", record.unwrap());
        context.secrets.end_list("");
        let failure = json!({ "reason": "RateLimited", "message": "m", "count": 1, "inputs": "i",
            "lastAttemptTime": "2026-05-04T10:00:55Z" });
        for number in 0..300 {
            let mut token = token(json!({ "failure": failure }));
            token.metadata.name = Some(format!("t{number}"));
            context.objects.put(token);
        }
        seed(&context).await;
        let reads = reads.load(std::sync::atomic::Ordering::SeqCst);
        assert!((1..=2).contains(&reads), "{reads} reads");
    }

    #[tokio::test]
    async fn the_pause_in_the_status_of_a_large_object_is_read_back() {
        assert!(paused_until("RateLimited").await.is_some());
        assert_eq!(paused_until("VendorUnavailable").await, None);
    }

    #[tokio::test]
    async fn the_last_request_of_a_large_object_is_read_back() {
        let (context, _, _) = fake::context(|sent| sent);
        let kept = large(&context, "1", json!({}));
        context.secrets.begin_list("");
        let record = secret_record::read(&serde_json::from_value(target(&fake::key(), 3600)).unwrap());
        context.secrets.put("a", "t", record.unwrap());
        context.secrets.end_list("");
        let checked = ValidatedSpec::new(&kept, &BTreeMap::new()).unwrap();
        let requests = last_requests(&kept, &checked, &fake::key(), &context, now()).await;
        assert_eq!(requests.len(), 1);
    }
}
