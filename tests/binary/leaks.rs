//! Credentials and tokens stay in Secrets: with every crate's log at trace level, nothing that anyone can read shows
//! any of them, on the good path and on the bad ones.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use test_support::wait_for;
use vendor_simulator::{Effect, Fault, TlsMode, Vendor};

use crate::search::{Marked, marker};
use crate::world::{Account, OPERATOR, PATIENCE, Program, Running as _, World};

/// All crates, hyper, rustls and kube included.
const TRACE: &str = "--log-level=trace,vendor_token_operator=trace";

fn answer(status: u16, headers: &[(&str, &str)], body: impl ToString) -> Effect {
    Effect::Answer {
        status,
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        body: body.to_string(),
    }
}

/// A secret of this account that can stand in a host's name: vendors' redirects are told with their host.
const REDIRECT_TO_HOST: &str = "redirect-host";

/// What a vendor that repeats what it was sent may answer: `secret` is the account's, `token` one that it made up.
fn bad_answers(id: &str, secret: &str, token: &str) -> Vec<(&'static str, Effect)> {
    use base64::Engine as _;
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let basic = base64(&format!("{id}:{secret}"));
    let percent: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let hexadecimal: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let json = ("content-type", "application/json");
    vec![
        (
            "throttled",
            answer(
                429,
                &[json, ("retry-after", "2"), ("x-echo", secret)],
                json!({ "statusCode": 429, "message": format!("Try again in 2 seconds. {secret}") }),
            ),
        ),
        (
            "throttled-by-a-secret",
            answer(
                429,
                &[json, ("retry-after", secret), ("x-ratelimit-reset", secret)],
                json!({ "error": secret, "message": "Try again in 2 seconds." }),
            ),
        ),
        (
            "description",
            answer(
                400,
                &[
                    ("content-type", &format!("application/json; charset={secret}")),
                    ("x-request-id", secret),
                    ("www-authenticate", &format!("Basic realm={basic}")),
                ],
                json!({
                    "error": "invalid_grant", "error_description": format!("{secret} of {id} is wrong"),
                    "error_uri": secret, "request_id": basic, "trace_id": hexadecimal,
                }),
            ),
        ),
        (
            "code",
            answer(
                401,
                &[json],
                json!({ "error": secret, "error_type": secret, "error_message": secret, "status_code": 401 }),
            ),
        ),
        (
            "code-id",
            answer(401, &[json], json!({ "error": id, "error_type": id })),
        ),
        (
            "code-base64",
            answer(400, &[json], json!({ "error": base64(secret) })),
        ),
        ("code-basic", answer(400, &[json], json!({ "error_type": basic }))),
        ("code-percent", answer(400, &[json], json!({ "error": percent }))),
        (
            "code-hexadecimal",
            answer(400, &[json], json!({ "error": hexadecimal })),
        ),
        (
            "code-part",
            answer(400, &[json], json!({ "error": &secret[..20] })),
        ),
        (
            "envelope",
            answer(
                401,
                &[json],
                json!({
                    "result": null, "success": false, "unAuthorizedRequest": true,
                    "error": { "code": 0, "message": secret, "details": basic, "validationErrors": [secret] },
                }),
            ),
        ),
        (
            "inside-of-200",
            answer(
                200,
                &[json],
                json!({ "success": false, "token": token, "error": { "message": secret } }),
            ),
        ),
        (
            "types",
            answer(
                200,
                &[json],
                json!({ "access_token": { "a": token }, "token": [token], "result": { "accessToken": 5 }, "expires_in": secret }),
            ),
        ),
        (
            "token-type",
            answer(
                200,
                &[json],
                json!({
                    "access_token": token, "token": token, "result": { "accessToken": token },
                    "accessToken": token, "token_type": secret, "expires_in": -5, "expire_at": -5,
                }),
            ),
        ),
        (
            "text",
            answer(
                200,
                &[("content-type", "text/plain")],
                format!("{secret} {token}"),
            ),
        ),
        (
            "cut",
            answer(
                200,
                &[json],
                format!("{{\"access_token\": \"{token}\", \"error\": \"{secret}"),
            ),
        ),
        (
            "page",
            answer(
                403,
                &[("content-type", "text/html")],
                format!("<html>{secret} {token}</html>"),
            ),
        ),
        (
            "trouble",
            answer(
                503,
                &[json, ("retry-after", "1800")],
                json!({ "message": secret }),
            ),
        ),
        (
            "not-found",
            answer(404, &[json], json!({ "message": secret, "code": 404 })),
        ),
        (
            "redirect",
            answer(
                302,
                &[(
                    "location",
                    &format!("https://elsewhere.example/{percent}?token={token}"),
                )],
                "",
            ),
        ),
        (
            REDIRECT_TO_HOST,
            answer(307, &[("location", &format!("https://{secret}.example/"))], ""),
        ),
    ]
}

fn account(vendor: Vendor, host: bool) -> Account {
    let id = match vendor {
        // The simulator's name of it, which is sent nowhere.
        Vendor::SixClicks | Vendor::Picus => marker(""),
        _ => marker("@"),
    };
    Account::new(vendor, &id, &marker(if host { "" } else { "/+=%&\"" }))
}

fn mark(marked: &mut Marked, name: &str, account: &Account) {
    for (key, value) in account.data() {
        marked.add(&format!("{key} of {name}"), value.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_and_no_token_is_anywhere_but_in_secrets() {
    let world = World::new("leaks").await;
    let operator = world.program_with(&[TRACE]).await;
    let mut marked = Marked::default();

    // The good path.
    let mut good = Vec::new();
    for vendor in Vendor::ALL {
        let name = format!("good-{vendor}").to_lowercase();
        let account = account(vendor, false);
        mark(&mut marked, &name, &account);
        world.create_with(&name, &account).await;
        good.push(name);
    }
    for name in &good {
        world.ready(name, "True Published").await;
        let token = world.data(name, "token").await.unwrap();
        marked.add_token(&format!("the token of {name}"), &token);
    }

    // Vendors that refuse, that answer nonsense, and that repeat what they were sent.
    let (mut bad, mut names) = (Vec::new(), Vec::new());
    for vendor in Vendor::ALL {
        let kinds = bad_answers("", &"x".repeat(20), "");
        for kind in kinds.into_iter().map(|(kind, _)| kind).chain(["rejected"]) {
            let name = format!("{kind}-{vendor}").to_lowercase();
            let account = account(vendor, kind == REDIRECT_TO_HOST);
            mark(&mut marked, &name, &account);
            let token = marker("-");
            marked.add_token(&format!("the made up token of {name}"), &token);
            names.push(name.clone());
            if kind == "rejected" {
                world.create_unregistered(&name, &account, json!({})).await;
            } else {
                let id = account.data().first().map_or("", |(_, id)| id).to_owned();
                let effect = bad_answers(&id, &account.secret, &token)
                    .into_iter()
                    .find(|(other, _)| *other == kind)
                    .unwrap()
                    .1;
                let ledger_id = account.credential().ledger_id();
                let fault = Fault::new(vendor, effect).credential(&ledger_id);
                // A pause holds up all that use the endpoint, so it comes once.
                let once = kind.starts_with("throttled");
                world
                    .simulator
                    .add_fault(if once { fault.times(1) } else { fault });
                world.create_with(&name, &account).await;
                bad.push((vendor, ledger_id, name.clone()));
            }
        }
    }
    for name in &names {
        failed(&world, name).await;
    }
    for (vendor, ledger_id, name) in &bad {
        // One that waits behind another's pause is told as rate limited before it is asked.
        wait_for(&format!("{name} to be asked"), PATIENCE, || async {
            match world.simulator.credential_counts(*vendor, ledger_id).calls {
                0 => Err("no call"),
                _ => Ok(()),
            }
        })
        .await
        .unwrap();
    }

    // TLS that is refused.
    for vendor in Vendor::ALL {
        world.simulator.set_tls(vendor, TlsMode::Untrusted).await.unwrap();
        world.simulator.close_connections(vendor).await;
        let name = format!("untrusted-{vendor}").to_lowercase();
        let account = account(vendor, false);
        mark(&mut marked, &name, &account);
        world.create_with(&name, &account).await;
        failed(&world, &name).await;
        world.simulator.set_tls(vendor, TlsMode::Trusted).await.unwrap();
        world.simulator.close_connections(vendor).await;
    }

    targets_that_refuse(&world, &mut marked).await;
    conflicts(&world, &operator, &good[0]).await;

    let metrics = operator.samples().await.0;
    operator.signal("TERM");
    operator.ended().await;
    // The next process reads all of it back.
    let second = world.program_with(&[TRACE]).await;
    wait_for("a reconcile of each object", PATIENCE, || async {
        let count = second.count("vendortoken_reconcile_total").await;
        if count >= 100 { Ok(()) } else { Err(count) }
    })
    .await
    .unwrap();
    let metrics = metrics + &second.samples().await.0;
    second.signal("TERM");
    second.ended().await;

    // What else must not be told: who the operator is, and what its fingerprints are made with.
    let kubeconfig = world
        .plane
        .folder()
        .join(format!("{OPERATOR}.{OPERATOR}.kubeconfig"));
    let kubeconfig: Value = serde_json::from_str(&std::fs::read_to_string(kubeconfig).unwrap()).unwrap();
    let own = kubeconfig["users"][0]["user"]["token"].as_str().unwrap();
    marked.add_token("the operator's own token", own);
    let keys: Api<Secret> = Api::namespaced(world.admin.clone(), OPERATOR);
    let key = keys
        .get("vendor-token-operator-fingerprint-key")
        .await
        .unwrap()
        .data
        .unwrap();
    marked.add("the fingerprint key", &key["key"].0);
    assert!(marked.len() > 200, "{}", marked.len());

    let logs = operator.log() + &second.log();
    for crate_name in ["vendor_token_operator", "hyper", "rustls"] {
        let target = format!("\"target\":\"{crate_name}");
        assert!(
            logs.lines()
                .any(|line| line.contains("\"TRACE\"") && line.contains(&target)),
            "{crate_name} logs nothing at trace level, so this test shows nothing"
        );
    }
    let mut places = vec![
        ("the log".to_owned(), logs),
        ("/metrics".to_owned(), metrics),
        (
            "the audit log".to_owned(),
            std::fs::read_to_string(world.plane.audit().path()).unwrap(),
        ),
    ];
    let namespace = &world.namespace;
    for path in [
        format!("/apis/vendortoken.io/v1alpha1/namespaces/{namespace}/vendortokens"),
        format!("/api/v1/namespaces/{namespace}/events"),
        format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"),
        "/api/v1/configmaps".to_owned(),
        "/apis/coordination.k8s.io/v1/leases".to_owned(),
    ] {
        let text = text_at(&world, &path, "application/json").await;
        places.push((path, text));
    }
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    let metadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let text = text_at(&world, &path, metadata).await;
    assert!(
        text.contains("vendortoken.io/inputs") && !text.contains("\"data\""),
        "{text}"
    );
    places.push((format!("metadata at {path}"), text));

    let mut found = Vec::new();
    for (place, text) in &places {
        assert!(!text.is_empty(), "{place} is empty");
        found.extend(
            marked
                .find(text)
                .into_iter()
                .map(|what| format!("{place}: {what}")),
        );
    }
    assert!(
        found.is_empty(),
        "{} finds:\n{}",
        found.len(),
        found[..found.len().min(20)].join("\n")
    );
}

async fn text_at(world: &World, path: &str, accept: &str) -> String {
    let request = http::Request::get(path)
        .header("accept", accept)
        .body(Vec::new())
        .unwrap();
    world.admin.request_text(request).await.unwrap()
}

/// Waits until the status tells of the failure.
async fn failed(world: &World, name: &str) {
    world
        .settled(
            name,
            |ready| !ready.is_empty() && !ready.contains("Progressing"),
            "any failure",
        )
        .await;
}

/// Targets that the API server refuses, with words that repeat the token where a policy does that.
async fn targets_that_refuse(world: &World, marked: &mut Marked) {
    let rule = json!({
        "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["secrets"],
    });
    let validation = json!({
        "expression": "!has(object.metadata.labels) || !('denied' in object.metadata.labels)",
        "messageExpression": "'no: ' + string(object.data['token'])",
    });
    world.refuse("echo", rule, validation).await;
    let secrets = world.secrets();
    wait_for("the policy to be in force", PATIENCE, || async {
        let probe = json!({
            "apiVersion": "v1", "kind": "Secret", "stringData": { "token": "probe" },
            "metadata": { "name": "probe", "labels": { "denied": "yes" } },
        });
        match secrets
            .patch("probe", &PatchParams::apply("test"), &Patch::Apply(probe))
            .await
        {
            Err(kube::Error::Api(status)) if status.message.contains("probe") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();

    // A target that was made immutable.
    let immutable = json!({
        "apiVersion": "v1", "kind": "Secret", "immutable": true, "data": { "token": "b2xk" },
        "metadata": { "name": "immutable", "annotations": { "vendortoken.io/adoptable-by": "unwritable" } },
    });
    secrets
        .patch("immutable", &PatchParams::apply("test"), &Patch::Apply(immutable))
        .await
        .unwrap();
    for (name, target, expected) in [
        ("denied", json!({ "labels": { "denied": "yes" } }), "ApiDenied"),
        ("unwritable", json!({ "name": "immutable" }), "TargetInvalid"),
        (
            "mistyped",
            json!({ "type": "kubernetes.io/dockerconfigjson", "data": { ".dockerconfigjson": "$(token)" } }),
            "TargetInvalid",
        ),
    ] {
        let account = account(Vendor::SixMap, false);
        mark(marked, name, &account);
        // The token stays in memory, so it is one that is known: the vendor gives it as it is told to.
        let token = format!("{}.{}.{}", marker("-"), marker("_"), marker("-"));
        marked.add_token(&format!("the token of {name}"), &token);
        let success = json!({
            "access_token": token, "token_type": "Bearer", "expires_in": 3600, "request_id": "a", "status_code": 200,
        });
        world.simulator.add_fault(
            Fault::new(
                Vendor::SixMap,
                answer(200, &[("content-type", "application/json")], success),
            )
            .credential(account.credential().ledger_id()),
        );
        world
            .simulator
            .put_credential(Vendor::SixMap, account.credential());
        world
            .create_unregistered(name, &account, json!({ "target": target }))
            .await;
        world
            .settled(
                name,
                |ready| ready.starts_with(&format!("False {expected}")),
                expected,
            )
            .await;
    }
}

/// A write that meets another one: the target is repaired while somebody else goes on writing to it.
async fn conflicts(world: &World, operator: &Program, name: &str) {
    let secrets = world.secrets();
    let parameters = PatchParams::default();
    let mut number = 0;
    wait_for("a conflict", PATIENCE, || {
        number += 1;
        let take = Patch::Merge(json!({ "data": { "token": null } }));
        let label = Patch::Merge(json!({ "metadata": { "labels": { "number": number.to_string() } } }));
        let (secrets, parameters) = (&secrets, &parameters);
        async move {
            secrets.patch(name, parameters, &take).await.unwrap();
            for _ in 0..10 {
                let metadata =
                    json!({ "metadata": { "annotations": { "at": format!("{:?}", std::time::Instant::now()) } } });
                secrets
                    .patch(name, parameters, &Patch::Merge(metadata))
                    .await
                    .unwrap();
            }
            secrets.patch(name, parameters, &label).await.unwrap();
            let text = operator.samples().await.0;
            text.lines()
                .any(|line| line.contains("resource=\"secrets\"") && line.contains("code=\"409\""))
                .then_some(())
                .ok_or("no conflict yet")
        }
    })
    .await
    .unwrap();
    wait_for("the target to be repaired", Duration::from_secs(30), || async {
        world.data(name, "token").await.map(|_| ()).ok_or("no token")
    })
    .await
    .unwrap();
}
