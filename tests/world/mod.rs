//! A world for one test: a namespace and a simulator of its own, and an operator that works in it. The operator runs in this
//! process (`in_process`) or as a process (`process`); both are [`Running`].

pub(crate) mod in_process;
pub(crate) mod installation;
pub(crate) mod process;
pub(crate) mod running;
pub(crate) mod vendors;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceQuota, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use test_support::{AuditEntries, ControlPlane, Mark, wait_for};
use vendor_simulator::{Options, Simulator, Vendor};
use vendor_token_operator::api::{VendorToken, names};

pub(crate) use in_process::Operator;
pub(crate) use process::Program;
pub(crate) use running::Running;
pub(crate) use vendors::Account;

use in_process::TestClock;

/// Namespace and ServiceAccount of `deploy/`.
pub(crate) const OPERATOR: &str = "vendor-token-operator";
/// How long a test waits for what takes a moment, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A simulator whose tokens live this long.
pub(crate) fn lives(seconds: u64) -> Options {
    Vendor::ALL
        .into_iter()
        .fold(Options::default(), |options, vendor| {
            options.lifetime(vendor, seconds)
        })
}

pub(crate) struct World {
    pub(crate) plane: &'static ControlPlane,
    pub(crate) admin: Client,
    pub(crate) simulator: Arc<Simulator>,
    pub(crate) namespace: String,
    /// The clock of operators in this process.
    pub(crate) clock: Arc<TestClock>,
}

impl World {
    /// A world in a new namespace. An operator that is installed everywhere serves it; others get their rights there later.
    pub(crate) async fn on(plane: &'static ControlPlane, prefix: &str, options: Options) -> Self {
        let namespace = plane.namespace(prefix).await.unwrap();
        Self::in_namespace(plane, namespace, options).await
    }

    /// A world in a namespace that is there.
    pub(crate) async fn in_namespace(
        plane: &'static ControlPlane,
        namespace: String,
        options: Options,
    ) -> Self {
        Self {
            plane,
            admin: plane.admin().unwrap(),
            simulator: Arc::new(Simulator::start(options).await.unwrap()),
            namespace,
            clock: Arc::default(),
        }
    }

    /// Another namespace with the same vendors and the same clock.
    pub(crate) fn beside(&self, namespace: String) -> Self {
        Self {
            plane: self.plane,
            admin: self.admin.clone(),
            simulator: Arc::clone(&self.simulator),
            namespace,
            clock: Arc::clone(&self.clock),
        }
    }

    pub(crate) fn tokens(&self) -> Api<VendorToken> {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    pub(crate) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    /// Creates or changes a credentials Secret; other keys than these go.
    pub(crate) async fn credentials(&self, name: &str, data: &[(&str, &str)]) {
        let data: BTreeMap<_, _> = data
            .iter()
            .map(|(key, value)| {
                (
                    (*key).to_owned(),
                    k8s_openapi::ByteString(value.as_bytes().to_vec()),
                )
            })
            .collect();
        self.apply_secret(name, json!({ "data": data })).await;
    }

    /// Applies a Secret as its user does.
    pub(crate) async fn apply_secret(&self, name: &str, mut secret: Value) {
        secret["apiVersion"] = json!("v1");
        secret["kind"] = json!("Secret");
        secret["metadata"]["name"] = json!(name);
        self.secrets()
            .patch(name, &PatchParams::apply("test").force(), &Patch::Apply(secret))
            .await
            .unwrap();
    }

    /// Applies a Secret under the name of the operator's field manager: `managedFields` does not show that somebody
    /// else has written it.
    pub(crate) async fn forge_secret(&self, name: &str, mut secret: Secret) {
        secret.metadata = kube::core::ObjectMeta {
            name: Some(name.to_owned()),
            labels: secret.metadata.labels,
            annotations: secret.metadata.annotations,
            owner_references: secret.metadata.owner_references,
            ..Default::default()
        };
        let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
        self.secrets()
            .patch(name, &parameters, &Patch::Apply(secret))
            .await
            .unwrap();
    }

    /// Changes a Secret by a JSON merge patch, as `kubectl edit` does.
    pub(crate) async fn edit_secret(&self, name: &str, patch: Value) -> Secret {
        self.secrets()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap()
    }

    /// Changes a VendorToken by a JSON merge patch.
    pub(crate) async fn edit(&self, name: &str, patch: Value) -> VendorToken {
        self.tokens()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap()
    }

    /// Writes a part of a status, as somebody with rights to it could.
    pub(crate) async fn forge_status(&self, name: &str, status: Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        self.tokens()
            .patch_status(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    pub(crate) async fn delete_secret(&self, name: &str) {
        self.secrets().delete(name, &Default::default()).await.unwrap();
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.tokens().delete(name, &Default::default()).await.unwrap();
    }

    pub(crate) async fn secret(&self, name: &str) -> Secret {
        self.secrets().get(name).await.unwrap()
    }

    pub(crate) async fn token(&self, name: &str) -> VendorToken {
        self.tokens().get(name).await.unwrap()
    }

    /// A quota of no further Secrets. Its status, which a controller would keep, is written here.
    pub(crate) async fn forbid_new_secrets(&self) {
        let quotas: Api<ResourceQuota> = Api::namespaced(self.admin.clone(), &self.namespace);
        let hard = json!({ "secrets": "0" });
        let quota = json!({ "metadata": { "name": "no-secrets" }, "spec": { "hard": hard } });
        let quota = serde_json::from_value(quota).unwrap();
        quotas.create(&Default::default(), &quota).await.unwrap();
        let status = Patch::Merge(json!({ "status": { "hard": hard, "used": { "secrets": "1" } } }));
        quotas
            .patch_status("no-secrets", &PatchParams::default(), &status)
            .await
            .unwrap();
        // The API server knows quotas from a watch of its own.
        self.until("the quota to be in force", async || {
            let probe: Secret =
                serde_json::from_value(json!({ "metadata": { "generateName": "probe-" } })).unwrap();
            match self.secrets().create(&Default::default(), &probe).await {
                Ok(_) => Err("a Secret was created".to_owned()),
                Err(_) => Ok(()),
            }
        })
        .await;
    }

    pub(crate) async fn allow_new_secrets(&self) {
        let quotas: Api<ResourceQuota> = Api::namespaced(self.admin.clone(), &self.namespace);
        quotas.delete("no-secrets", &Default::default()).await.unwrap();
    }

    /// Calls to a vendor so far.
    pub(crate) fn calls(&self, vendor: Vendor) -> u64 {
        self.simulator.total(vendor).calls
    }

    /// Calls to all vendors so far.
    pub(crate) fn all_calls(&self) -> u64 {
        Vendor::ALL.into_iter().map(|vendor| self.calls(vendor)).sum()
    }

    /// The reasons of the events about a VendorToken, with how often each was told.
    pub(crate) async fn events(&self, name: &str) -> Vec<(String, i32)> {
        let events: Api<Event> = Api::namespaced(self.admin.clone(), &self.namespace);
        let mut events: Vec<_> = events
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .into_iter()
            .filter(|event| {
                event
                    .regarding
                    .as_ref()
                    .is_some_and(|regarding| regarding.name.as_deref() == Some(name))
            })
            .collect();
        events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
        events
            .into_iter()
            .map(|event| {
                let count = event.series.map_or(1, |series| series.count);
                (event.reason.unwrap_or_default(), count)
            })
            .collect()
    }

    pub(crate) async fn mark(&self) -> Mark {
        self.plane.audit().mark().await.unwrap()
    }

    /// What the operator has asked of the API server in this namespace since `mark`, watches apart: those are renewed
    /// whenever the API server ends them.
    pub(crate) async fn requests_since(&self, mark: Mark) -> AuditEntries {
        let all = self.plane.audit().since(mark).await.unwrap();
        all.of_service_account(OPERATOR, OPERATOR)
            .matching(|entry| entry.namespace == self.namespace && entry.verb != "watch")
    }

    /// As [`Self::requests_since`], lists apart too: a watch that is renewed may begin with one. Without a watch of Secrets,
    /// their reads apart too: every look is one.
    pub(crate) async fn acts_since(&self, mark: Mark) -> AuditEntries {
        self.requests_since(mark).await.matching(|entry| {
            let is_look =
                !installation::has_secret_watch() && entry.resource == "secrets" && entry.verb == "get";
            entry.verb != "list" && !is_look
        })
    }

    /// Has a VendorToken looked at again, and waits until the operator has nothing more to do: what follows from all
    /// that happened before this call has happened.
    pub(crate) async fn settle(&self, name: &str, operator: &impl Running) {
        let before = operator.reconciles().await;
        self.poke(name).await;
        self.until("the operator to look", async || {
            let now = operator.reconciles().await;
            if now > before {
                Ok(())
            } else {
                Err(now.to_string())
            }
        })
        .await;
        operator.quiet().await;
    }

    /// Asks for a new token, as its user does.
    pub(crate) async fn request_refresh(&self, name: &str, request: &str) {
        let request = json!({ "metadata": { "annotations": { names::REFRESH_REQUESTED_AT: request } } });
        self.edit(name, request).await;
    }

    /// Has the API server refuse what a ValidatingAdmissionPolicy with this rule and validation refuses, in this world's
    /// namespace. Gives the policy's name, and its binding's.
    pub(crate) async fn refuse(&self, prefix: &str, rule: Value, validation: Value) -> String {
        let policy = format!("{prefix}-{}", self.namespace);
        let deny = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": { "name": policy },
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": self.namespace } },
                    "resourceRules": [rule],
                },
                "validations": [validation],
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": { "name": policy }, "spec": { "policyName": policy, "validationActions": ["Deny"] },
        });
        for object in [deny, binding] {
            let yaml = serde_json::to_string(&object).unwrap();
            self.plane.apply_yaml("", &yaml).await.unwrap();
        }
        policy
    }

    /// Has the operator look at a VendorToken again.
    pub(crate) async fn poke(&self, name: &str) {
        let poke = Timestamp::now().as_nanosecond().to_string();
        let annotation = json!({ "metadata": { "annotations": { "test/poke": poke } } });
        self.edit(name, annotation).await;
    }

    /// Waits for a condition.
    pub(crate) async fn until<T>(&self, what: &str, condition: impl AsyncFn() -> Result<T, String>) -> T {
        wait_for(what, PATIENCE, || condition()).await.unwrap()
    }

    /// Waits until a key of a Secret has a value that `accepted` likes, and gives it.
    pub(crate) async fn until_data(
        &self,
        secret: &str,
        key: &str,
        accepted: impl Fn(&str) -> bool,
    ) -> String {
        self.until(&format!("key {key} of Secret {secret}"), async || {
            match self.data(secret, key).await {
                Some(value) if accepted(&value) => Ok(value),
                Some(_) => Err("another value".to_owned()),
                None => Err("no value".to_owned()),
            }
        })
        .await
    }

    /// Creates or changes a VendorToken.
    pub(crate) async fn apply(&self, name: &str, spec: Value) -> VendorToken {
        let object = json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken", "metadata": { "name": name }, "spec": spec,
        });
        self.tokens()
            .patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object))
            .await
            .unwrap()
    }

    /// Waits until `Ready` has this status and reason, and gives the object.
    pub(crate) async fn ready(&self, name: &str, expected: &str) -> VendorToken {
        self.settled(name, |ready| ready == expected, expected).await
    }

    /// Waits until `accepts` takes the object's conditions (see [`summary`]), and gives the object.
    pub(crate) async fn settled(
        &self,
        name: &str,
        accepts: impl Fn(&str) -> bool,
        expected: &str,
    ) -> VendorToken {
        let what = format!("VendorToken {name} to be '{expected}'");
        wait_for(&what, PATIENCE, || async {
            let token = self.tokens().get(name).await.map_err(|error| error.to_string())?;
            let ready = summary(&token);
            if accepts(&ready) {
                Ok(token)
            } else {
                Err(format!("{ready}: {:?}", token.status))
            }
        })
        .await
        .unwrap()
    }

    /// Waits until `count` VendorTokens are published.
    pub(crate) async fn until_published(&self, count: usize, patience: Duration) {
        wait_for(&format!("{count} published"), patience, || async {
            let tokens = self.tokens().list(&ListParams::default()).await;
            let tokens = tokens.map_err(|error| error.to_string())?.items;
            let published = tokens
                .iter()
                .filter(|token| summary(token) == "True Published")
                .count();
            if published >= count {
                Ok(())
            } else {
                Err(published.to_string())
            }
        })
        .await
        .unwrap();
    }

    /// The message of `Ready`.
    pub(crate) async fn message(&self, name: &str) -> String {
        let status = self.token(name).await.status.unwrap();
        let ready = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .unwrap();
        ready.message.clone()
    }

    /// A key of a Secret's data, as text.
    pub(crate) async fn data(&self, secret: &str, key: &str) -> Option<String> {
        let secret = self.secrets().get_opt(secret).await.unwrap()?;
        let bytes = secret.data?.remove(key)?;
        Some(String::from_utf8(bytes.0).unwrap())
    }
}

/// Numbers of requests, as `1 patch secrets`.
pub(crate) fn counts(requests: &AuditEntries) -> Vec<String> {
    let counts = requests.by_verb_and_resource().into_iter();
    counts
        .map(|((verb, resource), count)| format!("{count} {verb} {resource}"))
        .collect()
}

/// `Ready` as `True Published`, followed by the other conditions that are True.
pub(crate) fn summary(token: &VendorToken) -> String {
    let conditions = token.status.iter().flat_map(|status| &status.conditions);
    let mut parts: Vec<String> = conditions
        .map(|condition| {
            if condition.type_ == "Ready" {
                format!("{} {}", condition.status, condition.reason)
            } else {
                format!("+{}", condition.type_)
            }
        })
        .collect();
    parts.sort();
    parts.reverse();
    parts.join(" ")
}
