//! Terms of leadership over a scripted API server: one odd object in a list or a watch hides no other, and a reconcile ends
//! with its term.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::Resource as _;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tower::service_fn;

use crate::api::VendorToken;
use crate::clock::{SystemClock, TokioClock};
use crate::controller::cluster::secrets::Lookup;
use crate::controller::context::Context;
use crate::controller::fake;
use crate::controller::leading::session::{Triggered, run};
use crate::election::Leadership;
use crate::grants::ObjectKey;
use crate::sync::lock;

/// The answers of the API server about one kind of objects.
#[derive(Clone, Default)]
struct Script {
    /// The items of each list.
    items: Vec<String>,
    /// The lines of the first watch, which ends after them. Later ones, and one without lines, stay quiet.
    lines: Vec<String>,
    /// The versions from which watches began.
    watches: Arc<Mutex<Vec<String>>>,
    lists: Arc<AtomicUsize>,
}

type Answer = UnsyncBoxBody<Bytes, std::io::Error>;

fn text(text: String) -> Answer {
    Full::new(Bytes::from(text))
        .map_err(|never| match never {})
        .boxed_unsync()
}

impl Script {
    fn answer(&self, query: &str) -> Answer {
        let query: std::collections::HashMap<_, _> = url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        if !query.contains_key("watch") {
            self.lists.fetch_add(1, Ordering::SeqCst);
            return text(format!(
                r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"7"}},"items":[{}]}}"#,
                self.items.join(",")
            ));
        }
        let is_first = {
            let mut watches = lock(&self.watches);
            watches.push(query["resourceVersion"].clone());
            watches.len() == 1
        };
        if !is_first || self.lines.is_empty() {
            return StreamBody::new(stream::pending()).boxed_unsync();
        }
        let lines = self.lines.clone();
        let frames = stream::iter(lines).map(|line| Ok(Frame::data(Bytes::from(format!("{line}\n")))));
        StreamBody::new(frames).boxed_unsync()
    }
}

/// Leads for a minute over an API server with these objects.
async fn lead(tokens: &Script, secrets: &Script) -> Arc<Context> {
    let (tokens, secrets) = (tokens.clone(), secrets.clone());
    let service = service_fn(move |request: Request<Body>| {
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        let (code, body) = if path == VendorToken::url_path(&(), None) {
            (200, tokens.answer(query))
        } else if path == Secret::url_path(&(), None) {
            (200, secrets.answer(query))
        } else {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                "reason": "NotFound", "message": "none" });
            (404, text(status.to_string()))
        };
        async move { Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap()) }
    });
    let (context, _queue) = fake::context_over(Arc::new(SystemClock), Client::new(service, "default"));
    let (_triggers, looks) = mpsc::unbounded_channel();
    let (_wake, outcomes) = mpsc::unbounded_channel();
    let mut triggered = Triggered { looks, outcomes };
    let mut leadership = Leadership::always();
    let leading = run(&context, &mut triggered, &mut leadership, std::future::pending());
    assert!(
        tokio::time::timeout(Duration::from_secs(60), leading)
            .await
            .is_err()
    );
    context
}

/// Metadata that an API server written in Go takes, and that spoils what is around it in stricter parsers.
fn odd_metadata() -> Vec<(&'static str, Value)> {
    let managed = |time: Value, fields: Value| {
        json!({ "managedFields": [{ "manager": "kubectl", "operation": "Update", "apiVersion": "v1", "time": time,
            "fieldsType": "FieldsV1", "fieldsV1": fields }] })
    };
    let deep = (0..300).fold(json!({}), |inner, _| json!({ "f:a": inner }));
    vec![
        ("last-second", managed(json!("9999-12-31T23:59:59Z"), json!({}))),
        ("next-year", managed(json!("10000-01-01T13:59:59Z"), json!({}))),
        ("year-zero", managed(json!("0000-01-01T00:00:00Z"), json!({}))),
        (
            "fraction",
            managed(json!("9999-12-30T22:00:00.9999999999Z"), json!({})),
        ),
        ("no-time", managed(json!(null), json!(null))),
        ("number", managed(json!(5), json!("text"))),
        ("deep", managed(json!("2026-01-01T00:00:00Z"), deep)),
        (
            "no-fields",
            json!({ "managedFields": null, "labels": null, "ownerReferences": null }),
        ),
        ("null-entry", json!({ "managedFields": [null, 5] })),
        (
            "null-values",
            json!({ "annotations": { "a": null, "b": "c" }, "labels": { "a": null } }),
        ),
        (
            "created-late",
            json!({ "creationTimestamp": "9999-12-31T23:59:59Z" }),
        ),
        ("created-never", json!({ "creationTimestamp": null })),
        (
            "deleted-late",
            json!({ "deletionTimestamp": "9999-12-31T23:59:59Z" }),
        ),
    ]
}

/// An object of each kind with this name and metadata: a VendorToken and a Secret.
fn objects(name: &str, version: usize, more: &Value) -> [Value; 2] {
    let mut metadata = json!({ "name": name, "namespace": "hostile", "uid": name, "generation": 1,
        "resourceVersion": version.to_string(), "creationTimestamp": "2026-01-01T00:00:00Z" });
    for (key, value) in more.as_object().unwrap() {
        metadata[key] = value.clone();
    }
    [
        json!({ "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken", "metadata": metadata,
            "spec": { "vendor": "SixClicks", "credentialsSecretRef": { "name": "c" } } }),
        json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata }),
    ]
}

fn event(kind: &str, object: &Value) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#)
}

fn known(context: &Context, name: &str) -> (bool, Lookup) {
    let object = ObjectKey {
        namespace: "hostile".to_owned(),
        name: name.to_owned(),
    };
    let token = context.objects.get(&object);
    (token.is_some(), context.secrets.get("hostile", name))
}

/// Each of these objects is known by its metadata.
fn assert_known<'n>(context: &Context, names: impl Iterator<Item = &'n str>) {
    for name in names {
        let (token, secret) = known(context, name);
        assert!(token, "VendorToken {name}");
        assert!(matches!(secret, Lookup::Found(_)), "Secret {name}: {secret:?}");
    }
}

// C16
#[tokio::test(start_paused = true)]
async fn an_odd_object_in_a_list_hides_no_other() {
    let (mut tokens, mut secrets) = (Script::default(), Script::default());
    let odd = odd_metadata();
    for (version, (name, more)) in (1..).zip(&odd) {
        let [token, secret] = objects(name, version, more);
        tokens.items.push(token.to_string());
        secrets.items.push(secret.to_string());
    }
    let context = lead(&tokens, &secrets).await;
    assert_known(&context, odd.iter().map(|(name, _)| *name));
    assert_watched(&[tokens, secrets], &["7"]);
}

// C16
#[tokio::test(start_paused = true)]
async fn an_odd_object_in_a_watch_hides_no_other() {
    let (mut tokens, mut secrets) = (Script::default(), Script::default());
    let odd = odd_metadata();
    for (version, (name, more)) in (10..).zip(&odd) {
        let [token, secret] = objects(name, version, more);
        tokens.lines.push(event("ADDED", &token));
        secrets.lines.push(event("MODIFIED", &secret));
    }
    let context = lead(&tokens, &secrets).await;
    assert_known(&context, odd.iter().map(|(name, _)| *name));
    let last = (9 + odd.len()).to_string();
    assert_watched(&[tokens, secrets], &["7", &last]);
}

// C16
#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_read_ends_no_watch() {
    let (mut tokens, mut secrets) = (Script::default(), Script::default());
    let [token, secret] = objects("good", 20, &json!({}));
    for (script, good) in [(&mut tokens, token), (&mut secrets, secret)] {
        script.lines = vec![
            event("MOVED", &json!({ "metadata": { "resourceVersion": "18" } })),
            event("BOOKMARK", &json!({ "kind": "VendorToken" })),
            event("ADDED", &json!(null)),
            event("DELETED", &json!({ "metadata": { "labels": [] } })),
            r#"{"type":"ADDED","object":{"metadata":{"name":"cut","namespace":"hostile""#.to_owned(),
            "<html>".to_owned(),
            event("ADDED", &good),
            event("BOOKMARK", &json!({ "metadata": { "resourceVersion": "21" } })),
            event("BOOKMARK", &json!({ "metadata": null })),
        ];
    }
    let context = lead(&tokens, &secrets).await;
    assert_known(&context, ["good"].into_iter());
    assert_watched(&[tokens, secrets], &["7", "21"]);
}

// C16
#[tokio::test(start_paused = true)]
async fn an_error_event_of_an_odd_form_has_everything_listed_anew() {
    for status in [
        json!({ "kind": "Status", "code": 410, "message": "too old" }),
        json!({ "code": 410, "details": { "causes": 5 }, "metadata": [], "message": null }),
        json!({ "reason": "Expired" }),
    ] {
        let (mut tokens, mut secrets) = (Script::default(), Script::default());
        for script in [&mut tokens, &mut secrets] {
            script.lines = vec![event("ERROR", &status)];
        }
        lead(&tokens, &secrets).await;
        for script in [tokens, secrets] {
            assert_eq!(script.lists.load(Ordering::SeqCst), 2, "{status}");
        }
    }
}

// C16
#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_is_counted_and_a_secret_is_asked_for() {
    let (mut tokens, mut secrets) = (Script::default(), Script::default());
    let unreadable = json!({ "labels": ["odd"] });
    for (name, more) in [
        ("good", json!({})),
        ("gone", unreadable.clone()),
        ("bad", unreadable),
    ] {
        let [token, secret] = objects(name, 7, &more);
        tokens.items.push(token.to_string());
        secrets.items.push(secret.to_string());
    }
    // The names in the event of a deletion are enough.
    let gone = json!({ "metadata": { "name": "gone", "namespace": "hostile", "labels": ["odd"] } });
    tokens.lines.push(event("DELETED", &gone));
    secrets.lines.push(event("DELETED", &gone));
    let context = lead(&tokens, &secrets).await;
    assert_known(&context, ["good"].into_iter());
    assert_eq!(known(&context, "bad"), (false, Lookup::Unknown));
    assert_eq!(known(&context, "gone"), (false, Lookup::Absent));
    let metrics = context.metrics.encode().unwrap();
    assert!(
        metrics.contains("vendortoken_undecodable_objects 2\n"),
        "{metrics}"
    );
}

/// Each was listed once, and watched from these versions.
fn assert_watched(scripts: &[Script], versions: &[&str]) {
    for script in scripts {
        assert_eq!(script.lists.load(Ordering::SeqCst), 1);
        assert_eq!(*lock(&script.watches), versions);
    }
}

/// The requests that an API server has seen, and the answer to the read of the Secret `c`, which waits until it is let go.
#[derive(Default)]
struct Held {
    requests: Mutex<Vec<String>>,
    begun: Notify,
    let_go: Notify,
}

/// An API server that lists the VendorToken `t` and its Secret `c`, and takes its time for the credentials.
fn holding(held: &Arc<Held>) -> Client {
    let held = Arc::clone(held);
    let [mut token, _] = objects("t", 5, &json!({}));
    token["spec"] = json!({ "vendor": "Mapiq", "credentialsSecretRef": { "name": "c" } });
    let metadata = json!({ "name": "c", "namespace": "hostile", "uid": "c", "resourceVersion": "6" });
    let (mut tokens, mut secrets) = (Script::default(), Script::default());
    tokens.items = vec![token.to_string()];
    secrets.items = vec![json!({ "metadata": metadata }).to_string()];
    let credentials = json!({ "metadata": metadata, "type": "Opaque",
        "data": { "client-id": "aWQ=", "client-secret": "c2VjcmV0" } });
    Client::new(
        service_fn(move |request: Request<Body>| {
            let (held, tokens, secrets) = (Arc::clone(&held), tokens.clone(), secrets.clone());
            let (token, credentials) = (token.clone(), credentials.clone());
            async move {
                let path = request.uri().path().to_owned();
                let query = request.uri().query().unwrap_or_default().to_owned();
                let answer = if path == VendorToken::url_path(&(), None) {
                    tokens.answer(&query)
                } else if path == Secret::url_path(&(), None) {
                    secrets.answer(&query)
                } else {
                    lock(&held.requests).push(format!("{} {path}", request.method()));
                    if path.ends_with("/secrets/c") {
                        held.begun.notify_one();
                        held.let_go.notified().await;
                        text(credentials.to_string())
                    } else {
                        text(token.to_string())
                    }
                };
                Ok::<_, Infallible>(Response::new(answer))
            }
        }),
        "default",
    )
}

/// The requests that follow the read of the credentials of a reconcile whose term ends while it waits, or does not.
async fn requests_after_a_term(ends: bool) -> Vec<String> {
    let held = Arc::new(Held::default());
    let clock = TokioClock::new(Timestamp::from_second(1_800_000_000).unwrap());
    let (context, _queue) = fake::context_over(Arc::new(clock), holding(&held));
    let (looks, outcomes) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let object = ObjectKey {
        namespace: "hostile".to_owned(),
        name: "t".to_owned(),
    };
    looks.0.send(object.clone()).unwrap();
    let mut triggered = Triggered {
        looks: looks.1,
        outcomes: outcomes.1,
    };
    let (mut leadership, lead) = Leadership::switchable(Arc::clone(&context.timeline));
    let term = run(&context, &mut triggered, &mut leadership, std::future::pending());
    let ending = async {
        held.begun.notified().await;
        if ends {
            lead(false);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        held.let_go.notify_one();
        tokio::time::sleep(Duration::from_secs(10)).await;
    };
    let (_, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(10), term), ending);
    assert_eq!(context.grants.waits_since(&object).is_some(), !ends);
    let mut requests = lock(&held.requests).clone();
    requests.retain(|request| !request.starts_with("GET"));
    requests
}

#[tokio::test(start_paused = true)]
async fn a_reconcile_ends_with_its_term_and_asks_and_writes_nothing() {
    let status = "PATCH /apis/vendortoken.io/v1alpha1/namespaces/hostile/vendortokens/t/status";
    let on = requests_after_a_term(false).await;
    assert!(on.iter().any(|request| request == status), "{on:?}");
    let none: [&str; 0] = [];
    assert_eq!(requests_after_a_term(true).await, none);
}
