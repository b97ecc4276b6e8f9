//! Reads the credentials of VendorTokens. Values are never kept beyond the request; what they make, the fingerprint of a
//! grant, is noted for all VendorTokens that name the Secret, so that one edit of it costs one read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use zeroize::Zeroize;

use crate::api::VendorToken;
use crate::api::names::Reason;
use crate::controller::cluster::references::certificate_secret;
use crate::controller::cluster::remembered::{GrantIdentity, KnownCertificate, KnownCredentials, number_of};
use crate::controller::cluster::secret_data::{SecretData, SecretValue};
use crate::controller::cluster::secret_name::SecretName;
use crate::controller::cluster::secrets::Lookup;
use crate::controller::context::Context;
use crate::controller::reconcile::validated::{ValidatedSpec, vendor};
use crate::fingerprint::FingerprintKey;
use crate::grants::ObjectKey;
use crate::http::{ClientCertificateError, check_client_certificate};
use crate::policy::Problem;
use crate::token::{
    CERTIFICATE_LIMIT, ClientCertificate, CredentialError, CredentialProblem, Credentials, PRIVATE_KEY_LIMIT,
    SecretString,
};

/// The keys of a `kubernetes.io/tls` Secret, and the longest value of each.
const CERTIFICATE_KEYS: [(&str, usize); 2] = [("tls.crt", CERTIFICATE_LIMIT), ("tls.key", PRIVATE_KEY_LIMIT)];
/// So many VendorTokens of a Secret are looked at before others have their turn.
const NOTED_AT_A_TIME: usize = 16;

/// The credentials that were read.
pub(crate) struct Read {
    /// `uid/resourceVersion` of each Secret, joined by `+`.
    pub(crate) version: String,
    pub(crate) values: Credentials,
}

/// The cause of missing credentials.
pub(crate) enum ReadError {
    /// A person must act.
    Unusable(Problem),
    /// The API server did not give the Secret.
    Api { name: String, source: kube::Error },
}

/// The problem of a Secret that does not exist. Without a watch, a new Secret is found at the next look.
pub(crate) fn not_found(name: &str, watched: bool) -> Problem {
    let soon = if watched { "seconds" } else { "5 minutes" };
    Problem::new(
        Reason::CredentialsNotFound,
        format!("Secret '{name}' does not exist: create it in this namespace; it is used within {soon}"),
    )
}

fn invalid(message: String) -> Problem {
    Problem::new(Reason::CredentialsInvalid, message)
}

/// Reads and checks the credentials Secret, and the client certificate's where the spec names one.
pub(crate) async fn read(
    context: &Arc<Context>,
    namespace: &str,
    checked: &ValidatedSpec,
) -> Result<Read, ReadError> {
    // The certificate first: by then the credentials make the fingerprints of all who name both.
    let certificate = match &checked.certificate_secret {
        Some(name) => {
            let data = get(context, namespace, name, keys_of_certificates()).await?;
            let now = context.timeline.now().wall();
            let certificate = client_certificate(name, &data, now).map_err(|(problem, _)| problem);
            Some((data.version.clone(), certificate.map_err(ReadError::Unusable)?))
        }
        None => None,
    };
    let keys = keys_of_credentials(checked);
    let data = get(context, namespace, &checked.credentials_secret, keys).await?;
    let mut values = credentials(checked, &data).map_err(ReadError::Unusable)?;
    let mut version = data.version.clone();
    if let Some((of_certificate, certificate)) = certificate {
        version = format!("{version}+{of_certificate}");
        values.client_certificate = Some(certificate);
    }
    Ok(Read { version, values })
}

/// The key in the Secret for a canonical key.
fn in_secret(keys: &BTreeMap<String, String>, canonical: &str) -> String {
    keys.get(canonical).map_or(canonical, String::as_str).to_owned()
}

fn keys_of_credentials(checked: &ValidatedSpec) -> BTreeSet<String> {
    let canonical = checked.grant.credential_keys().iter();
    canonical
        .map(|canonical| in_secret(&checked.keys, canonical))
        .collect()
}

fn keys_of_certificates() -> BTreeSet<String> {
    CERTIFICATE_KEYS
        .iter()
        .map(|(key, _)| (*key).to_owned())
        .collect()
}

/// Reads a Secret together with all others who want it now.
async fn get(
    context: &Arc<Context>,
    namespace: &str,
    name: &SecretName,
    keys: BTreeSet<String>,
) -> Result<Arc<SecretData>, ReadError> {
    let (wanted, watched) = match context.secrets.get(namespace, name) {
        Lookup::Found(record) => (Some(record.version()), true),
        Lookup::Absent => (None, true),
        Lookup::Unknown => (None, false),
    };
    let note = {
        let (context, namespace, name) = (Arc::clone(context), namespace.to_owned(), name.to_string());
        move |data: Arc<SecretData>| async move { note_for_all(&context, &namespace, &name, &data).await }
    };
    let found = context
        .secret_reads
        .read(
            (namespace, name),
            wanted.as_deref(),
            &keys,
            || named_keys(context, namespace, name, wanted.as_deref()),
            note,
        )
        .await;
    match found {
        Ok(Some(data)) => Ok(data),
        Ok(None) => Err(ReadError::Unusable(not_found(name, watched))),
        Err(source) => Err(ReadError::Api {
            name: name.to_string(),
            source,
        }),
    }
}

/// True where the grant that this version of its only Secret makes is known.
fn is_known(context: &Context, object: &ObjectKey, version: &str) -> bool {
    let known = context.remembered.credentials(object);
    known.is_some_and(|known| *known.version == *version)
}

/// The keys of a Secret that VendorTokens name, without those of VendorTokens that know this version of it.
fn named_keys(context: &Context, namespace: &str, secret: &str, version: Option<&str>) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for object in context.objects.referrers(namespace, secret) {
        if version.is_some_and(|version| is_known(context, &object, version)) {
            continue;
        }
        let Some(token) = context.objects.get(&object) else {
            continue;
        };
        let reference = &token.spec.credentials_secret_ref;
        if reference.name == secret {
            let canonical = vendor(&token).credential_keys().iter();
            named.extend(canonical.map(|canonical| in_secret(&reference.keys, canonical)));
        }
        if certificate_secret(&token).is_some_and(|name| name == secret) {
            named.extend(keys_of_certificates());
        }
    }
    named
}

/// Notes for each VendorToken that names this Secret what its values make, where this version of it is not known yet.
async fn note_for_all(context: &Context, namespace: &str, secret: &str, data: &SecretData) {
    let Some(key) = context.key() else { return };
    let mut certificate = None;
    for (count, object) in context
        .objects
        .referrers(namespace, secret)
        .into_iter()
        .enumerate()
    {
        if count % NOTED_AT_A_TIME == NOTED_AT_A_TIME - 1 {
            tokio::task::yield_now().await;
        }
        if is_known(context, &object, &data.version) {
            continue;
        }
        let Some(token) = context.objects.get(&object) else {
            continue;
        };
        if certificate_secret(&token).is_some_and(|name| name == secret)
            && data.has_asked_for(&keys_of_certificates())
        {
            let now = context.timeline.now().wall();
            let known = certificate.get_or_insert_with(|| known_certificate(&key, secret, data, now));
            // One that has ended since makes no grant any more.
            context.remembered.set_certificate(&object, known.clone());
        }
        if token.spec.credentials_secret_ref.name == secret {
            note_credentials(context, &key, &object, &token, data);
        }
    }
}

/// The certificate by its Secret. `None` where it is not valid by the clock, which time may change.
fn known_certificate(
    key: &FingerprintKey,
    secret: &str,
    data: &SecretData,
    now: Timestamp,
) -> Option<KnownCertificate> {
    let found = match client_certificate(secret, data, now) {
        Ok(certificate) => Ok(key.certificate(&certificate)),
        Err((problem, true)) => Err(problem),
        Err((_, false)) => return None,
    };
    Some(KnownCertificate {
        version: data.version.clone(),
        found,
    })
}

fn note_credentials(
    context: &Context,
    key: &FingerprintKey,
    object: &ObjectKey,
    token: &VendorToken,
    data: &SecretData,
) {
    let mut version = data.version.clone();
    let mut certificate = None;
    if let Some(name) = certificate_secret(token) {
        let Lookup::Found(present) = context.secrets.get(&object.namespace, name) else {
            return;
        };
        let known = context.remembered.certificate(object);
        let Some(known) = known.filter(|known| known.version == present.version()) else {
            return;
        };
        let Ok(digest) = known.found else { return };
        certificate = Some(digest);
        version = format!("{version}+{}", known.version);
    }
    let known = context.remembered.credentials(object);
    if known.is_some_and(|known| *known.version == *version) {
        return;
    }
    let Ok(checked) = ValidatedSpec::new(token, &context.settings.endpoints) else {
        return;
    };
    if !data.has_asked_for(&keys_of_credentials(&checked)) {
        // It came, or was edited, after the read had begun.
        return;
    }
    let found = credentials(&checked, data).map(|values| GrantIdentity {
        fingerprint: key.fingerprint_with(&checked.endpoint, &checked.grant, &values, certificate.as_ref()),
        account: key.account(&checked.endpoint, &checked.grant, &values),
    });
    let known = KnownCredentials {
        version: version.into(),
        known: number_of(&checked.known_inputs(key, &object.namespace)),
        found,
    };
    context.remembered.set_credentials(object, Some(known));
}

fn credentials(checked: &ValidatedSpec, secret: &SecretData) -> Result<Credentials, Problem> {
    let name = &checked.credentials_secret;
    if secret.type_ == "kubernetes.io/service-account-token" {
        return Err(invalid(format!(
            "Secret '{name}' holds a ServiceAccount's token, which is never sent to a vendor: name the Secret with the \
             vendor's credentials in `spec.credentialsSecretRef.name`"
        )));
    }
    let wrong = |error: CredentialError| invalid(format!("Secret '{name}': {error}"));
    for canonical in checked.grant.credential_keys() {
        let key = in_secret(&checked.keys, canonical);
        if let Some(SecretValue::TooLong) = secret.get(&key) {
            let problem = CredentialProblem::TooLong;
            return Err(wrong(CredentialError { key, problem }));
        }
    }
    let data = |key: &str| match secret.get(key) {
        Some(SecretValue::Bytes(bytes)) => Some(bytes.as_slice()),
        Some(SecretValue::TooLong) | None => None,
    };
    Credentials::from_data(checked.grant.credential_keys(), &checked.keys, data).map_err(wrong)
}

/// The client certificate in a Secret. The problem of another is lasting or not, with the clock.
fn client_certificate(
    name: &str,
    secret: &SecretData,
    now: Timestamp,
) -> Result<ClientCertificate, (Problem, bool)> {
    let lasting = |message: String| (invalid(message), true);
    let part = |(key, limit): (&str, usize)| -> Result<SecretString, (Problem, bool)> {
        let bytes = match secret.get(key) {
            Some(SecretValue::Bytes(bytes)) if bytes.len() <= limit => bytes,
            Some(SecretValue::Bytes(_) | SecretValue::TooLong) => {
                return Err(lasting(format!(
                    "Secret '{name}': key {key} is longer than {} KiB: store the client certificate with its intermediate \
                     certificates alone, without the vendor's or the system's authorities",
                    limit / 1024
                )));
            }
            None => {
                return Err(lasting(format!(
                    "Secret '{name}' has no key {key}: store the client certificate as a `kubernetes.io/tls` Secret"
                )));
            }
        };
        let text = std::str::from_utf8(bytes).map_err(|_| {
            lasting(format!(
                "Secret '{name}': key {key} is not text: store the certificate and its key as PEM"
            ))
        })?;
        Ok(SecretString::from(text))
    };
    let [chain, key] = CERTIFICATE_KEYS;
    let certificate = ClientCertificate {
        certificate_chain: part(chain)?,
        private_key: part(key)?,
    };
    check_client_certificate(&certificate, now).map_err(|error| {
        let passes = matches!(
            error,
            ClientCertificateError::Expired(_) | ClientCertificateError::NotYetValid(_)
        );
        (invalid(format!("Secret '{name}': {error}")), !passes)
    })?;
    Ok(certificate)
}

/// Wipes a Secret's data, which kube keeps in plain buffers.
pub(crate) fn wipe(data: &mut Option<BTreeMap<String, ByteString>>) {
    for bytes in data.iter_mut().flat_map(BTreeMap::values_mut) {
        bytes.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
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
    use crate::grants::CallSource as _;
    use crate::policy;
    use crate::sync::lock;

    /// As many reconciles run at a time.
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
            let metadata = json!({ "name": name, "namespace": "a", "uid": name, "resourceVersion": version.to_string() });
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

    // C4
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

    // C3
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
        // The same version of the Secret, which time has passed.
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
            spec["target"] =
                json!({ "data": { "a": "x".repeat(4096), "b": "x".repeat(4096), "c": "$(token)" } });
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
        let of_grant =
            Snapshot::gather_for_grant(Arc::clone(&kept), Arc::clone(&key), &cluster.context).await;
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
}
