//! Verifies the token in a target that somebody else has written.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::controller::cluster::remembered::TargetLook;
use crate::controller::context::Context;
use crate::controller::reconcile::content::{Content, read_content};
use crate::controller::reconcile::error::Error;
use crate::controller::reconcile::snapshot::Snapshot;
use crate::seal::{TokenFacts, Verified};
use crate::template;

/// Reads a target that somebody else has written since this process last knew what is in it, and verifies the token.
/// A writer under the name of our field manager can replace the sealed token, and the metadata does not show it. The
/// first look at a target reads nothing: a restart reads no Secret data where all is in order.
///
/// Somebody may write again and again: reads of one target have a pause between them, in which it counts as it was found
/// before. Gives the time of the next read where there is one to come.
///
/// # Errors
/// When the target could not be read, and that may pass.
pub(crate) async fn verify_token(
    snapshot: &mut Snapshot,
    context: &Context,
) -> Result<Option<Timestamp>, Error> {
    let Some((facts, templates, version)) = to_verify(snapshot) else {
        return Ok(None);
    };
    let now = context.timeline.now();
    let next = |look| match look {
        TargetLook::Later { at, .. } => Some(now.wall_at(at)),
        TargetLook::Known { .. } | TargetLook::Read => None,
    };
    let remembered = &context.remembered;
    let found = remembered.look_at_target(&snapshot.object, &version, now.moment);
    if let TargetLook::Known { is_exchanged } | TargetLook::Later { is_exchanged, .. } = found {
        if is_exchanged {
            snapshot.token_was_exchanged(context);
        }
        return Ok(next(found));
    }
    let is_exchanged = match read_content(snapshot, &templates, &facts, context).await? {
        // The watch has nothing new to tell of the version that was found.
        Content::Changed => {
            let version = snapshot.target_version();
            let look =
                version.map(|version| remembered.look_at_target(&snapshot.object, &version, now.moment));
            return Ok(look.and_then(next));
        }
        Content::Denied => return Ok(None),
        Content::Sealed(_) => false,
        Content::Unreadable | Content::Exchanged => true,
    };
    remembered.set_known_target(&snapshot.object, &version, is_exchanged);
    if is_exchanged {
        tracing::warn!(object = %snapshot.object, "the target holds another token than was written to it");
        snapshot.token_was_exchanged(context);
    }
    Ok(None)
}

/// The facts and the templates that verify the token in the target, and the target's version. `None` where nothing can
/// verify the token, or the target will be written anyway.
fn to_verify(snapshot: &Snapshot) -> Option<(TokenFacts, BTreeMap<String, String>, String)> {
    let is_idle = snapshot.token.spec.suspend || snapshot.token.metadata.deletion_timestamp.is_some();
    if is_idle || !snapshot.stored()?.is_readable {
        return None;
    }
    let Verified::Sealed(facts) = snapshot.verified()? else {
        return None;
    };
    let templates = &snapshot.validated.as_ref().ok()?.target.data;
    templates
        .values()
        .any(|text| template::shows_token(text))
        .then(|| {
            (
                facts.clone(),
                templates.clone(),
                snapshot.target_version().unwrap_or_default(),
            )
        })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use http::Method;
    use serde_json::{Map, Value, json};

    use crate::api::VendorToken;
    use crate::clock::{Clock, TokioClock};
    use crate::controller::cluster::secret_record;
    use crate::controller::context::Context;
    use crate::controller::fake;
    use crate::controller::reconcile::{Failed, reconcile};
    use crate::fingerprint::Fingerprint;
    use crate::sync::lock;
    use crate::times::later;

    /// A token that makes a value of 100 KiB of the longest template.
    fn issued() -> String {
        "0123456789".repeat(20)
    }

    /// A VendorToken, and the API server with its target.
    struct Scene {
        context: Arc<Context>,
        token: Arc<VendorToken>,
        target: Arc<Mutex<Target>>,
    }

    /// The Secret, and the calls for it.
    struct Target {
        secret: Value,
        version: u64,
        reads: usize,
        writes: usize,
        /// Somebody else writes while the Secret is read.
        is_busy: bool,
    }

    impl Target {
        /// Writes the Secret, of which our apply entry stays as it is.
        fn write(&mut self, edit: impl FnOnce(&mut Value)) {
            edit(&mut self.secret);
            self.version += 1;
            self.secret["metadata"]["resourceVersion"] = json!(self.version.to_string());
        }

        fn apply(&mut self, body: &[u8]) -> Value {
            self.writes += 1;
            let body: Value = serde_json::from_slice(body).unwrap();
            let metadata = &body["metadata"];
            self.write(|secret| {
                secret["data"] = body["data"].clone();
                for part in ["labels", "annotations", "ownerReferences"] {
                    secret["metadata"][part] = metadata[part].clone();
                }
                own(secret);
            });
            self.secret.clone()
        }
    }

    /// Makes everything in a Secret look as if our apply had written it.
    fn own(secret: &mut Value) {
        let fields = |part: &Value| -> Value {
            let keys = part.as_object().unwrap().keys();
            keys.map(|key| (format!("f:{key}"), json!({})))
                .collect::<Map<_, _>>()
                .into()
        };
        let metadata = &secret["metadata"];
        let fields = json!({ "f:data": fields(&secret["data"]), "f:metadata": {
            "f:labels": fields(&metadata["labels"]), "f:annotations": fields(&metadata["annotations"]) } });
        secret["metadata"]["managedFields"][0]["fieldsV1"] = fields;
    }

    /// A target that was made of `data`, and needs a repair: it has no owner.
    fn scene(data: Value) -> Scene {
        let clock = Arc::new(TokioClock::new("2026-05-04T10:00:00Z".parse().unwrap()));
        let token: VendorToken = serde_json::from_value(json!({
            "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken",
            "metadata": { "name": "t", "namespace": "a", "uid": "u", "generation": 1, "resourceVersion": "5" },
            "spec": { "vendor": "Mapiq", "credentialsSecretRef": { "name": "c" }, "target": { "data": data } },
        }))
        .unwrap();
        let life = (clock.now(), later(clock.now(), 3600));
        let facts = fake::facts(&fake::key(), &token, Fingerprint::from_bytes([1; 16]), life);
        let metadata = fake::sealed_with(&fake::key(), "t", &facts, &issued());
        let values: Map<String, Value> = token
            .spec
            .target
            .data
            .iter()
            .map(|(key, template)| {
                (
                    key.clone(),
                    STANDARD.encode(template.replace("$(token)", &issued())).into(),
                )
            })
            .collect();
        let mut secret = json!({ "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": values });
        own(&mut secret);
        let target = Arc::new(Mutex::new(Target {
            secret,
            version: 4,
            reads: 0,
            writes: 0,
            is_busy: false,
        }));
        let served = Arc::clone(&target);
        let spec = serde_json::to_value(&token.spec).unwrap();
        let (context, _) = fake::context_at(clock, move |method, path, sent| {
            let mut target = lock(&served);
            match (method, path) {
                (&Method::GET, "/api/v1/namespaces/a/secrets/t") => {
                    target.reads += 1;
                    if std::mem::take(&mut target.is_busy) {
                        target.write(exchange);
                    }
                    (200, target.secret.clone())
                }
                (&Method::PATCH, "/api/v1/namespaces/a/secrets/t") => (200, target.apply(sent)),
                (&Method::PATCH, path) if path.ends_with("/status") => {
                    let mut object: Value = serde_json::from_slice(sent).unwrap();
                    object["metadata"]["namespace"] = json!("a");
                    object["metadata"]["generation"] = json!(1);
                    object["metadata"]["resourceVersion"] = json!("6");
                    object["spec"] = spec.clone();
                    (200, object)
                }
                _ => (
                    500,
                    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500,
                    "reason": "InternalError", "message": "m" }),
                ),
            }
        });
        context.secrets.begin_list("");
        let credentials = json!({ "name": "c", "namespace": "a", "uid": "c", "resourceVersion": "4" });
        put(&context, "c", &credentials);
        put(&context, "t", &lock(&target).secret["metadata"]);
        context.secrets.end_list("");
        context.objects.put(token.clone());
        Scene {
            context,
            token: Arc::new(token),
            target,
        }
    }

    fn put(context: &Context, name: &str, metadata: &Value) {
        let record = secret_record::read(&serde_json::from_value(metadata.clone()).unwrap());
        context.secrets.put("a", name, record.unwrap());
    }

    /// Puts another token in the place of the sealed one.
    fn exchange(secret: &mut Value) {
        secret["data"]["token"] = json!(STANDARD.encode("another"));
    }

    impl Scene {
        /// Lets somebody else write the target, under our field manager's name, and the watch tell of it.
        fn write(&self, edit: impl FnOnce(&mut Value)) {
            let mut target = lock(&self.target);
            target.write(edit);
            put(&self.context, "t", &target.secret["metadata"]);
        }

        async fn try_reconcile(&self) -> Result<Option<Duration>, Failed> {
            let token = self.context.objects.get(&fake::object()).unwrap();
            let spec = self.token.spec.clone();
            let token = VendorToken {
                spec,
                ..(*token).clone()
            };
            let result = reconcile(Arc::new(token), Arc::clone(&self.context)).await;
            eprintln!(
                "{result:?} {:?}",
                self.context.objects.get(&fake::object()).unwrap().status
            );
            result
        }

        async fn reconcile(&self) -> Duration {
            self.try_reconcile().await.unwrap().unwrap()
        }

        /// The numbers of reads and writes of the target since the last call.
        fn calls(&self) -> (usize, usize) {
            let mut target = lock(&self.target);
            (
                std::mem::take(&mut target.reads),
                std::mem::take(&mut target.writes),
            )
        }

        fn value(&self, key: &str) -> String {
            let target = lock(&self.target);
            let value = STANDARD
                .decode(target.secret["data"][key].as_str().unwrap())
                .unwrap();
            String::from_utf8(value).unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_longer_than_64_kib_is_verified_and_repaired() {
        let scene = scene(json!({ "token": "$(token)", "large": "$(token)".repeat(512) }));
        assert!(scene.value("large").len() > 65 * 1024);
        scene.reconcile().await;
        assert_eq!(scene.calls(), (1, 1), "it had no owner");
        scene.write(|secret| secret["metadata"]["annotations"]["note"] = json!("new"));
        scene.reconcile().await;
        assert_eq!(scene.calls(), (1, 0), "it is as it should be");
        scene.write(|secret| secret["data"]["large"] = json!("bm8="));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(
            scene.try_reconcile().await.is_err(),
            "memory has no token, and the credentials cannot be read"
        );
        assert_eq!(scene.calls(), (1, 0), "it is found that it is not");
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_is_annotated_ten_times_a_second_is_read_each_five_seconds() {
        let scene = scene(json!({ "token": "$(token)" }));
        scene.reconcile().await;
        scene.calls();
        let mut next = Duration::ZERO;
        for number in 0..600 {
            scene.write(|secret| secret["metadata"]["annotations"]["note"] = json!(number.to_string()));
            next = scene.reconcile().await;
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        let (reads, writes) = scene.calls();
        println!("{reads} reads of a target that was annotated 600 times in a minute");
        assert!(
            (10..=13).contains(&reads) && writes == 0,
            "{reads} reads, {writes} writes"
        );
        assert!(
            next <= Duration::from_secs(5),
            "the last write is looked at in {next:?}"
        );
        scene.reconcile().await;
        scene.calls();
        scene.write(exchange);
        tokio::time::advance(scene.reconcile().await).await;
        assert_eq!(scene.calls().0, 0, "its pause goes on");
        assert!(scene.try_reconcile().await.is_err(), "there is no token to write");
        assert_eq!(scene.calls().0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_exchanged_while_the_target_is_read_is_found_in_seconds() {
        let scene = scene(json!({ "token": "$(token)" }));
        scene.reconcile().await;
        scene.write(|secret| secret["metadata"]["annotations"]["note"] = json!("new"));
        lock(&scene.target).is_busy = true;
        let wait = scene.reconcile().await;
        assert!(wait <= Duration::from_secs(5), "{wait:?}");
        scene.calls();
        tokio::time::advance(wait).await;
        // The credentials are read for a new token: memory has none to write.
        assert!(scene.try_reconcile().await.is_err());
        assert_eq!((scene.calls().0, scene.value("token").as_str()), (1, "another"));
    }
}
