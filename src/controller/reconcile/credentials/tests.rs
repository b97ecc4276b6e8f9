//! One read of a Secret serves all VendorTokens that name it, and each learns the problem of its credentials.

use std::collections::BTreeMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt as _, stream};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use super::*;
use crate::clock::SystemClock;
use crate::controller::cluster::objects::lacks_templates;
use crate::controller::cluster::secret_record;
use crate::controller::fake;
use crate::controller::reconcile::ask::QueuedCalls;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::grants::{CallSource as _, ObjectKey};
use crate::policy;
use crate::sync::lock;

/// The number of reconciles that run at a time.
const AT_A_TIME: usize = 32;

/// A namespace with Secrets, and the names of those that were read.
struct Cluster {
    context: Arc<Context>,
    secrets: Arc<Mutex<BTreeMap<String, Value>>>,
    reads: Arc<Mutex<Vec<String>>>,
}

impl Cluster {
    fn new() -> Self {
        let secrets = Arc::new(Mutex::new(BTreeMap::<String, Value>::new()));
        let reads = Arc::new(Mutex::new(Vec::new()));
        let (served, noted) = (Arc::clone(&secrets), Arc::clone(&reads));
        let (context, _) = fake::context_at(Arc::new(SystemClock), move |_, path, _| {
            let name = path.rsplit('/').next().unwrap_or_default().to_owned();
            let found = lock(&served).get(&name).cloned().unwrap();
            lock(&noted).push(name);
            (200, found)
        });
        context.secrets.begin_list("");
        context.secrets.end_list("");
        Self {
            context,
            secrets,
            reads,
        }
    }

    /// Gives a Secret this version and data, and lets the watch tell of it.
    fn put(&self, name: &str, version: usize, data: &[(&str, &str)]) {
        let data: BTreeMap<_, _> = data
            .iter()
            .map(|(key, value)| (*key, STANDARD.encode(value)))
            .collect();
        let metadata =
            json!({ "name": name, "namespace": "a", "uid": name, "resourceVersion": version.to_string() });
        let record = secret_record::read(&serde_json::from_value(metadata.clone()).unwrap());
        self.context.secrets.put("a", name, record.unwrap());
        let secret = json!({ "kind": "Secret", "apiVersion": "v1", "type": "Opaque", "metadata": metadata, "data": data });
        lock(&self.secrets).insert(name.to_owned(), secret);
    }

    fn apply(&self, count: usize, spec: impl Fn(usize) -> Value) {
        for number in 0..count {
            let token = json!({
                "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
                "metadata": { "name": format!("t{number}"), "namespace": "a", "uid": format!("t{number}"),
                    "resourceVersion": "1" },
                "spec": spec(number),
            });
            self.context.objects.put(serde_json::from_value(token).unwrap());
        }
    }

    /// Looks at all VendorTokens, and gives what is known of their credentials, and the reads that it took.
    async fn look(&self) -> (Vec<policy::Credentials>, usize) {
        lock(&self.reads).clear();
        let context = &self.context;
        let found = stream::iter(context.objects.all())
            .map(|token| async move {
                let key = context.key().unwrap();
                let mut snapshot = Snapshot::gather(token, key, context).await.unwrap();
                if let policy::Credentials::Unread { .. } = snapshot.credentials {
                    snapshot.read_credentials(context).await.unwrap();
                }
                snapshot.credentials
            })
            .buffered(AT_A_TIME)
            .collect()
            .await;
        (found, lock(&self.reads).len())
    }
}

fn is_known(credentials: &policy::Credentials) -> bool {
    matches!(credentials, policy::Credentials::Known { .. })
}

fn sixmap(number: usize) -> Value {
    json!({ "vendor": "SixMap", "credentialsSecretRef": { "name": "c" },
        "sixMap": { "scopes": [format!("scope-{number}")] } })
}

const SIXMAP: [(&str, &str); 2] = [("client-id", "id"), ("client-secret", "secret")];

#[tokio::test]
async fn one_edit_of_a_secret_that_a_thousand_name_costs_one_read() {
    let cluster = Cluster::new();
    cluster.put("c", 1, &SIXMAP);
    cluster.apply(1000, sixmap);
    let (first, at_first) = cluster.look().await;
    cluster.put("c", 2, &SIXMAP);
    let (annotated, after_an_annotation) = cluster.look().await;
    cluster.put("c", 3, &[("client-id", "id"), ("client-secret", "rotated")]);
    let (rotated, after_a_rotation) = cluster.look().await;
    println!(
        "reads: {at_first} at first, {after_an_annotation} after an annotation, {after_a_rotation} after a rotation"
    );
    assert_eq!((at_first, after_an_annotation, after_a_rotation), (1, 1, 1));
    assert!(first.iter().all(is_known));
    assert_eq!(first, annotated);
    assert!(
        rotated
            .iter()
            .zip(&first)
            .all(|(new, old)| is_known(new) && new != old)
    );
}

#[tokio::test]
async fn who_comes_while_a_secret_is_read_is_not_told_that_its_key_is_missing() {
    let cluster = Cluster::new();
    cluster.put(
        "c",
        1,
        &[("client-id", "id"), ("client-secret", "one"), ("other", "two")],
    );
    cluster.apply(1, sixmap);
    let keys = ["client-id", "client-secret"].map(str::to_owned).into();
    let name = SecretName::new("c").unwrap();
    let reading = get(&cluster.context, "a", &name, keys);
    let applying = async {
        cluster.apply(2, |number| {
            let mut spec = sixmap(number);
            if number == 1 {
                spec["credentialsSecretRef"]["keys"] = json!({ "client-secret": "other" });
            }
            spec
        });
    };
    let (read, ()) = futures::join!(reading, applying);
    assert!(read.is_ok());
    let (found, _) = cluster.look().await;
    assert_eq!(
        found.iter().filter(|credentials| is_known(credentials)).count(),
        2,
        "{found:?}"
    );
}

#[tokio::test]
async fn credentials_that_cannot_be_used_are_not_read_again_either() {
    let cluster = Cluster::new();
    cluster.put("c", 1, &[("client-id", "id")]);
    cluster.apply(200, sixmap);
    let mut counts = Vec::new();
    for version in [1, 1, 2] {
        cluster.put("c", version, &[("client-id", "id")]);
        let (found, reads) = cluster.look().await;
        counts.push(reads);
        for credentials in found {
            let policy::Credentials::Unusable(problem) = credentials else {
                panic!("{credentials:?}");
            };
            assert!(problem.message.contains("client-secret"), "{}", problem.message);
        }
    }
    assert_eq!(counts, [1, 0, 1]);
}

fn pair() -> (String, String) {
    pair_until(2400)
}

fn pair_until(year: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
    parameters.not_before = date_time_ymd(2024, 1, 2);
    parameters.not_after = date_time_ymd(year, 3, 4);
    (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn sixclicks(certificate: impl Fn(usize) -> String) -> impl Fn(usize) -> Value {
    move |number| {
        json!({ "vendor": "SixClicks", "credentialsSecretRef": { "name": "c" }, "sixClicks": {
            "region": format!("r{number}"), "clientCertificateSecretRef": { "name": certificate(number) } } })
    }
}

#[tokio::test]
async fn an_edit_of_credentials_with_a_certificate_costs_a_read_of_each() {
    let cluster = Cluster::new();
    let (certificate, key) = pair();
    let pem = [("tls.crt", certificate.as_str()), ("tls.key", key.as_str())];
    cluster.put("c", 1, &[("api-key", "k")]);
    cluster.put("tls", 1, &pem);
    cluster.apply(200, sixclicks(|_| "tls".to_owned()));
    let (first, at_first) = cluster.look().await;
    cluster.put("c", 2, &[("api-key", "k")]);
    let (edited, of_credentials) = cluster.look().await;
    cluster.put("tls", 2, &pem);
    let (renewed, of_certificate) = cluster.look().await;
    println!("reads: {at_first} at first, {of_credentials} and {of_certificate} after an edit of each");
    assert!(at_first <= 2 && of_credentials <= 2 && of_certificate <= 2);
    assert!(first.iter().all(is_known));
    assert_eq!((&first, &first), (&edited, &renewed));
}

#[tokio::test]
async fn certificates_and_keys_that_are_too_long_are_refused_with_the_limit() {
    let (certificate, key) = pair();
    let long = |text: &str, bytes: usize| text.repeat(bytes / text.len() + 1);
    for (chain, private, expected) in [
        (
            long(&certificate, 900_000),
            key.clone(),
            "key tls.crt is longer than 64 KiB",
        ),
        (
            long(&certificate, 65_537),
            key.clone(),
            "key tls.crt is longer than 64 KiB",
        ),
        (
            certificate.clone(),
            long(&key, 16_385),
            "key tls.key is longer than 16 KiB",
        ),
    ] {
        let cluster = Cluster::new();
        cluster.put("c", 1, &[("api-key", "k")]);
        cluster.put(
            "tls",
            1,
            &[("tls.crt", chain.as_str()), ("tls.key", private.as_str())],
        );
        cluster.apply(1, sixclicks(|_| "tls".to_owned()));
        let (found, _) = cluster.look().await;
        let policy::Credentials::Unusable(problem) = &found[0] else {
            panic!("{found:?}");
        };
        assert_eq!(problem.reason, Reason::CredentialsInvalid);
        assert!(problem.message.contains(expected), "{}", problem.message);
        assert!(problem.message.chars().count() <= 256, "{}", problem.message);
        let (_, again) = cluster.look().await;
        assert_eq!(again, 0, "it is not read again before it changes");
    }
}

fn object(name: &str) -> ObjectKey {
    ObjectKey {
        namespace: "a".to_owned(),
        name: name.to_owned(),
    }
}

/// True where the request of `t0` is sent when its turn comes, and the credentials that the next reconcile finds.
async fn at_its_turn(cluster: &Cluster) -> (bool, policy::Credentials) {
    let call = QueuedCalls(Arc::clone(&cluster.context)).call(object("t0")).await;
    (call.is_some(), cluster.look().await.0.remove(0))
}

#[tokio::test]
async fn a_certificate_that_ends_before_the_turn_of_its_request_is_told() {
    let cluster = Cluster::new();
    let (certificate, key) = pair();
    cluster.put("c", 1, &[("api-key", "k")]);
    cluster.put("tls", 1, &[("tls.crt", &certificate), ("tls.key", &key)]);
    cluster.apply(1, sixclicks(|_| "tls".to_owned()));
    assert!(is_known(&cluster.look().await.0[0]));
    // The Secret has the same version, and its certificate has ended.
    let (ended, key) = pair_until(2025);
    let data = json!({ "tls.crt": STANDARD.encode(ended), "tls.key": STANDARD.encode(key) });
    lock(&cluster.secrets).get_mut("tls").unwrap()["data"] = data;
    let (is_sent, found) = at_its_turn(&cluster).await;
    assert!(!is_sent);
    let policy::Credentials::Unusable(problem) = found else {
        panic!("{found:?}");
    };
    assert_eq!(problem.reason, Reason::CredentialsInvalid);
    assert!(cluster.context.remembered.certificate(&object("t0")).is_none());
}

#[tokio::test]
async fn a_large_object_has_its_grant_and_its_requests_without_its_templates() {
    let cluster = Cluster::new();
    cluster.put("c", 1, &SIXMAP);
    cluster.apply(1, |number| {
        let mut spec = sixmap(number);
        spec["target"] = json!({ "data": { "a": "x".repeat(4096), "b": "x".repeat(4096), "c": "$(token)" } });
        spec
    });
    let object = object("t0");
    let kept = cluster.context.objects.get(&object).unwrap();
    assert!(lacks_templates(&kept));
    for version in 1..=3 {
        cluster.put("c", version, &SIXMAP);
        let call = QueuedCalls(Arc::clone(&cluster.context))
            .call(object.clone())
            .await;
        assert!(call.is_some(), "refresh {version} is sent");
        let known = cluster.context.remembered.credentials(&object);
        assert_eq!(
            known.map(|known| known.version.to_string()),
            Some(format!("c/{version}"))
        );
    }
    let key = cluster.context.key().unwrap();
    let of_grant = Snapshot::gather_for_grant(Arc::clone(&kept), Arc::clone(&key), &cluster.context).await;
    assert!(is_known(&of_grant.unwrap().credentials));
    let whole = Snapshot::gather(kept, key, &cluster.context).await.unwrap();
    assert!(
        whole.validated.is_err(),
        "its target is not judged without templates"
    );
}

#[tokio::test]
async fn a_chain_of_intermediates_below_the_limit_is_used() {
    let (certificate, key) = pair();
    let cluster = Cluster::new();
    cluster.put("c", 1, &[("api-key", "k")]);
    let chain = certificate.repeat(60_000 / certificate.len());
    cluster.put(
        "tls",
        1,
        &[("tls.crt", chain.as_str()), ("tls.key", key.as_str())],
    );
    cluster.apply(1, sixclicks(|_| "tls".to_owned()));
    assert!(is_known(&cluster.look().await.0[0]));
}
