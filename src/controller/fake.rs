//! A context for tests, with an API server that refuses Secrets and vendors that are out of reach.

#![allow(clippy::unwrap_used)] // tests only: a fake that cannot be set up fails its test

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use kube::client::Body;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tower::service_fn;

use crate::api::{VendorToken, names};
use crate::clock::{Clock, Moment, SystemClock, Timeline};
use crate::controller::cluster::event_recorder::EventRecorder;
use crate::controller::context::{Context, Parts, Settings};
use crate::controller::reconcile::events::reporter;
use crate::controller::reconcile::validated::ValidatedSpec;
use crate::election::Leadership;
use crate::failure::{Failure, FailureClass};
use crate::fingerprint::{Fingerprint, FingerprintKey};
use crate::grants::{GrantObserver, Grants, GrantsOptions, ObjectKey, Observation, Reservation};
use crate::http::Transport;
use crate::inputs::Inputs;
use crate::metrics::Metrics;
use crate::policy::{Evidence, ownership};
use crate::providers::{Grant, TokenRequest, TokenResponse, Vendor};
use crate::seal::{Place, Seal, TokenFacts};
use crate::server::Health;
use crate::token::SecretString;

struct NoVendor;

impl Transport for NoVendor {
    fn send(&self, _: TokenRequest) -> BoxFuture<'static, Result<TokenResponse, Failure>> {
        async { Err(Failure::new(FailureClass::Transient, "nobody is there")) }.boxed()
    }
}

struct Nobody;

impl GrantObserver for Nobody {
    fn request_ended(&self, _: Vendor, _: Result<(), FailureClass>, _: Duration) {}
    fn throttled_until(&self, _: Vendor, _: Timestamp) {}
}

/// The key of every context.
pub(crate) fn key() -> FingerprintKey {
    FingerprintKey::new(&[7; 32]).unwrap()
}

/// The metadata of a target of [`object`] that `key` has sealed with the token `stored`, and that nobody has touched.
pub(crate) fn sealed_by(key: &FingerprintKey, secret: &str, facts: &TokenFacts) -> Value {
    sealed_with(key, secret, facts, "stored")
}

/// The same with this token.
pub(crate) fn sealed_with(key: &FingerprintKey, secret: &str, facts: &TokenFacts, token: &str) -> Value {
    let object = object();
    let place = Place {
        namespace: &object.namespace,
        secret,
        vendor_token: &object.name,
    };
    let seal = Seal::new(key, place, facts, &SecretString::from(token));
    let mut annotations: Map<String, Value> = facts
        .annotations()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    annotations.insert(names::SEAL.to_owned(), seal.to_string().into());
    let mut target = json!({
        "name": secret, "namespace": object.namespace, "uid": secret, "resourceVersion": "4",
        "labels": { names::NAME_LABEL: object.name }, "annotations": annotations,
    });
    owned_by_us(&mut target);
    target
}

/// Makes everything on a Secret's metadata look as if an apply under our field manager's name had written it.
pub(crate) fn owned_by_us(metadata: &mut Value) {
    let owned = |part: &str| -> Value {
        let keys = metadata[part].as_object().unwrap().keys();
        keys.map(|key| (format!("f:{key}"), json!({})))
            .collect::<Map<_, _>>()
            .into()
    };
    let fields = json!({
        "f:data": { "f:token": {} },
        "f:metadata": { "f:labels": owned("labels"), "f:annotations": owned("annotations") },
    });
    metadata["managedFields"] = json!([{ "manager": names::FIELD_MANAGER, "operation": "Apply", "apiVersion": "v1",
        "fieldsType": "FieldsV1", "fieldsV1": fields }]);
}

/// The facts of a token that the grant of `token` has brought. Its credential has the inputs of `fingerprint`.
pub(crate) fn facts(
    key: &FingerprintKey,
    token: &VendorToken,
    fingerprint: Fingerprint,
    (issued, expires): (Timestamp, Timestamp),
) -> TokenFacts {
    let checked = ValidatedSpec::new(token, &BTreeMap::new()).unwrap();
    let object = object();
    let known = key.known_inputs(
        &object.namespace,
        &checked.endpoint,
        &checked.grant,
        checked.sources(),
    );
    TokenFacts {
        issued,
        expires,
        inputs: key.inputs(&object.namespace, &object.name, &known, fingerprint),
        content: ownership::content(false, &checked.target.content).into(),
        credentials_version: Some("c/4".into()),
        refresh_handled: None,
    }
}

/// A VendorToken's name.
pub(crate) fn object() -> ObjectKey {
    ObjectKey {
        namespace: "a".to_owned(),
        name: "t".to_owned(),
    }
}

/// Asks for a token of `object`, and gives the moment since which it waits.
pub(crate) fn ask(context: &Context, object: &ObjectKey) -> Option<Moment> {
    let endpoint = Grant::Mapiq.endpoint();
    let inputs = Inputs {
        key_id: "0".repeat(8),
        parameters: "1".repeat(32),
        sources: "2".repeat(8),
        fingerprint: "3".repeat(32),
        jitter: 0,
    };
    let observation = Observation {
        object,
        fingerprint: Fingerprint::from_bytes([1; 16]),
        login: None,
        endpoint: &endpoint,
        vendor: Vendor::Mapiq,
        inputs: &inputs,
        evidence: Evidence::default(),
    };
    match context.grants.reserve(&observation, None) {
        Reservation::Permitted(permit) => permit.send(None),
        Reservation::UnderWay(since) => Some(since),
        Reservation::Held => None,
    }
}

/// The statuses that were written.
pub(crate) type Writes = Arc<Mutex<Vec<Value>>>;
/// The objects that are to be reconciled.
pub(crate) type Triggered = tokio::sync::mpsc::UnboundedReceiver<ObjectKey>;

/// A context with an API server that refuses Secrets and takes statuses: `answer` makes the object that it answers
/// with.
pub(crate) fn context(answer: fn(Value) -> Value) -> (Arc<Context>, Writes, Triggered) {
    context_without_secrets(500, answer)
}

/// A context as [`context`] makes it, with an API server that refuses Secrets with this HTTP status.
pub(crate) fn context_without_secrets(
    refusal: u16,
    answer: fn(Value) -> Value,
) -> (Arc<Context>, Writes, Triggered) {
    context_by(Arc::new(SystemClock), refusal, answer)
}

/// A context as [`context_without_secrets`] makes it, by this clock.
pub(crate) fn context_by(
    clock: Arc<dyn Clock>,
    refusal: u16,
    answer: fn(Value) -> Value,
) -> (Arc<Context>, Writes, Triggered) {
    let writes = Writes::default();
    let taken = Arc::clone(&writes);
    let (context, triggered) = context_at(clock, move |method, path, sent| {
        if method == Method::PATCH && path.ends_with("/status") {
            let sent: Value = serde_json::from_slice(sent).unwrap();
            taken.lock().unwrap().push(sent["status"].clone());
            return (200, answer(sent));
        }
        let message = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": refusal,
            "reason": "InternalError", "message": "failed to decrypt" });
        (refusal, message)
    });
    (context, writes, triggered)
}

/// A context with an API server that answers each request, by method, path and body, with what `respond` gives: a code
/// and a body.
pub(crate) fn context_at(
    clock: Arc<dyn Clock>,
    respond: impl Fn(&Method, &str, &[u8]) -> (u16, Value) + Send + Sync + 'static,
) -> (Arc<Context>, Triggered) {
    let respond = Arc::new(respond);
    let service = service_fn(move |request: Request<Body>| {
        let respond = Arc::clone(&respond);
        async move {
            let (head, body) = request.into_parts();
            let sent = body.collect().await.unwrap().to_bytes();
            let (code, body) = respond(&head.method, head.uri.path(), &sent);
            // An answer takes a moment, as it does over a network.
            tokio::task::yield_now().await;
            let response = Response::builder()
                .status(code)
                .body(Body::from(body.to_string().into_bytes()));
            Ok::<_, Infallible>(response.unwrap())
        }
    });
    context_over(clock, kube::Client::new(service, "default"))
}

/// A context with the API server behind `client`.
pub(crate) fn context_over(clock: Arc<dyn Clock>, client: kube::Client) -> (Arc<Context>, Triggered) {
    let (queue, triggered) = tokio::sync::mpsc::unbounded_channel();
    let timeline = Arc::new(Timeline::new(clock));
    let grants = Grants::new(
        GrantsOptions {
            per_minute: BTreeMap::new(),
            max_concurrent: 1,
        },
        Arc::new(NoVendor),
        Arc::clone(&timeline),
        Arc::new(Nobody),
        queue.clone(),
        Leadership::always(),
    );
    let context = Context::new(Parts {
        recorder: EventRecorder::new(client.clone(), reporter()),
        client,
        settings: Settings {
            operator_namespace: "operator".to_owned(),
            watch_namespaces: Vec::new(),
            secret_watch: true,
            endpoints: BTreeMap::new(),
            concurrency: 1,
            longest_wait: crate::controller::LONGEST_WAIT,
        },
        timeline,
        grants,
        metrics: Metrics::new(),
        health: Health::new(&[]),
        key: watch::channel(Some(Arc::new(key()))).1,
        queue,
    });
    (Arc::new(context), triggered)
}
