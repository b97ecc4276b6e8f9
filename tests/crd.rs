//! The CustomResourceDefinition on a real API server: rules, bounds, defaults, columns and `kubectl explain`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

#[path = "fixtures/crd/mod.rs"]
mod fixtures;

use std::time::{Duration, Instant};

use fixtures::{Bound, Rule, base, bounds, expand, merged, rules, schema, walk};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use test_support::{ControlPlane, DEADLINE, Error, wait_for};
use tokio::sync::OnceCell;
use vendor_token_operator::api::{self, VendorToken};

/// The shared control plane with the definition of `crds/` in it.
async fn control_plane() -> &'static ControlPlane {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let control_plane = test_support::shared().await.unwrap();
    INSTALLED
        .get_or_init(|| async {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/crds/vendortokens.yaml");
            control_plane
                .apply_yaml("default", &std::fs::read_to_string(file).unwrap())
                .await
                .unwrap();
            // The kind is served a moment after its definition is established.
            let tokens = Api::<VendorToken>::all(control_plane.admin().unwrap());
            let few = ListParams::default().limit(1);
            wait_for("the kind VendorToken", DEADLINE, || tokens.list(&few))
                .await
                .unwrap();
        })
        .await;
    control_plane
}

/// Asks the API server to check an object without storing it; unknown fields are refused, so that a row with a
/// typing mistake does not pass. Gives the object with its defaults, or all that the server says against it.
async fn check(client: &Client, mut object: Value) -> Result<VendorToken, String> {
    object["apiVersion"] = json!("vendortoken.io/v1alpha1");
    object["kind"] = json!("VendorToken");
    let uri =
        "/apis/vendortoken.io/v1alpha1/namespaces/default/vendortokens?dryRun=All&fieldValidation=Strict";
    let request = http::Request::post(uri)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&object).unwrap())
        .unwrap();
    match client.request::<Value>(request).await {
        Ok(answer) => {
            Ok(serde_json::from_value(answer).expect("what the server accepts, the operator can read"))
        }
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => panic!("no verdict: {error}"),
    }
}

#[tokio::test]
async fn each_rule_accepts_and_refuses_what_its_rows_say() {
    let client = control_plane().await.admin().unwrap();
    let mut wrong = Vec::new();
    for Rule {
        at,
        says,
        vendor,
        accepted,
        refused,
    } in rules()
    {
        for row in accepted {
            if let Err(message) = check(&client, merged(base(&vendor), &expand(&row))).await {
                wrong.push(format!("{at}: refused {row}: {message}"));
            }
        }
        for row in refused {
            match check(&client, merged(base(&vendor), &expand(&row))).await {
                Ok(_) => wrong.push(format!("{at}: accepted {row}")),
                Err(message) if message.contains(&says) => {}
                Err(message) => wrong.push(format!("{at}: {row}: `{says}` is not in: {message}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn each_bound_accepts_what_just_fits_and_refuses_what_just_does_not() {
    let client = control_plane().await.admin().unwrap();
    let mut wrong = Vec::new();
    for Bound {
        bound,
        vendor,
        accepted,
        refused,
        says,
        ..
    } in bounds()
    {
        if let Some(row) = accepted
            && let Err(message) = check(&client, merged(base(&vendor), &expand(&row))).await
        {
            wrong.push(format!("{bound}: refused {row}: {message}"));
        }
        match check(&client, merged(base(&vendor), &expand(&refused))).await {
            Ok(_) => wrong.push(format!("{bound}: accepted {refused}")),
            Err(message) if message.contains(&says) => {}
            Err(message) => wrong.push(format!("{bound}: {refused}: `{says}` is not in: {message}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_longest_texts_are_read_within_the_cost_limit() {
    let client = control_plane().await.admin().unwrap();
    for unit in [
        "$(expirationTime)",
        "$$(",
        "$$$$$$$$a",
        "$a",
        "a",
        "$",
        "(",
        "€$",
        "$(token)$",
    ] {
        let count = 4096 / unit.chars().count();
        let object = merged(
            base("Mapiq"),
            &expand(&json!({ "spec": { "target": { "data": format!("<16 keys of {unit} × {count}>") } } })),
        );
        let started = Instant::now();
        check(&client, object)
            .await
            .unwrap_or_else(|message| panic!("{unit}: {message}"));
        // It takes some ten milliseconds; a rule that goes back and forth over the text would take minutes.
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{unit}: {:?}",
            started.elapsed()
        );
    }
    // The one mistake stands at the very end.
    let almost = format!("{}$(x)", "$(token)".repeat(511));
    let object = merged(
        base("Mapiq"),
        &json!({ "spec": { "target": { "data": { "a": almost } } } }),
    );
    assert!(
        check(&client, object)
            .await
            .unwrap_err()
            .contains("must hold no placeholder but")
    );
}

#[tokio::test]
async fn defaults_are_filled_in() {
    let client = control_plane().await.admin().unwrap();
    for vendor in ["SixMap", "SixClicks", "CheckmarxSCA", "Mapiq", "Picus"] {
        let token = check(&client, base(vendor)).await.unwrap();
        assert_eq!(token.spec.vendor.as_str(), vendor);
        assert_eq!(
            serde_json::to_value(&token.spec.target).unwrap(),
            json!({ "type": "Opaque", "data": { "token": "$(token)" }, "deletionPolicy": "Delete" })
        );
        assert_eq!(
            token.spec.refresh, None,
            "a default here would collide with the other way to say it"
        );
        assert!(!token.spec.suspend);
        if vendor == "CheckmarxSCA" {
            assert_eq!(
                token.spec.checkmarx_sca.unwrap().scopes,
                [api::CheckmarxScaScope::ScaApi]
            );
        }
    }
    let partly = json!({ "spec": { "target": { "name": "other", "data": { "a": "b" } } } });
    let target = check(&client, merged(base("Mapiq"), &partly))
        .await
        .unwrap()
        .spec
        .target;
    assert_eq!(
        serde_json::to_value(&target).unwrap(),
        json!({ "name": "other", "type": "Opaque", "data": { "a": "b" }, "deletionPolicy": "Delete" })
    );
}

#[tokio::test]
async fn an_explicit_null_is_an_absent_field() {
    let client = control_plane().await.admin().unwrap();
    let mut object = base("CheckmarxSCA");
    object["spec"]["suspend"] = Value::Null;
    object["spec"]["refresh"] = Value::Null;
    object["spec"]["mapiq"] = Value::Null;
    object["spec"]["checkmarxSCA"]["scopes"] = Value::Null;
    object["spec"]["target"] = json!({ "name": null, "type": null, "data": null, "labels": null });
    let token = check(&client, object).await.unwrap();
    assert_eq!(
        token.spec,
        check(&client, base("CheckmarxSCA")).await.unwrap().spec
    );
}

/// A namespace with one object of each vendor, named after it.
async fn namespace_with_all_vendors(control_plane: &ControlPlane) -> (String, Api<VendorToken>) {
    let namespace = control_plane.namespace("crd").await.unwrap();
    let tokens: Api<VendorToken> = Api::namespaced(control_plane.admin().unwrap(), &namespace);
    for vendor in api::VendorName::ALL {
        let name = vendor.as_str().to_lowercase();
        let mut object = merged(base(vendor.as_str()), &json!({ "metadata": { "name": name } }));
        object["apiVersion"] = json!("vendortoken.io/v1alpha1");
        object["kind"] = json!("VendorToken");
        let object = serde_json::from_value(object).unwrap();
        tokens.create(&PostParams::default(), &object).await.unwrap();
    }
    (namespace, tokens)
}

#[tokio::test]
async fn a_fresh_object_is_seen_as_not_looked_at() {
    let (_, tokens) = namespace_with_all_vendors(control_plane().await).await;
    let status = tokens.get("mapiq").await.unwrap().status.unwrap();
    assert_eq!(
        status,
        api::VendorTokenStatus {
            observed_generation: Some(-1),
            ..Default::default()
        }
    );

    let seen = json!({
        "apiVersion": "vendortoken.io/v1alpha1",
        "kind": "VendorToken",
        "status": { "observedGeneration": 1 },
    });
    let by_operator = PatchParams::apply(api::names::STATUS_FIELD_MANAGER);
    tokens
        .patch_status("mapiq", &by_operator, &Patch::Apply(&seen))
        .await
        .unwrap();
    let token = tokens.get("mapiq").await.unwrap();
    assert_eq!(token.status.unwrap().observed_generation, Some(1));
    assert_eq!(
        token.metadata.generation,
        Some(1),
        "a status write is no new generation"
    );
}

#[tokio::test]
async fn objects_can_be_selected_by_vendor() {
    let (_, tokens) = namespace_with_all_vendors(control_plane().await).await;
    let list = tokens
        .list(&ListParams::default().fields("spec.vendor=CheckmarxSCA"))
        .await
        .unwrap();
    assert_eq!(
        list.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(),
        ["checkmarxsca"]
    );
}

#[tokio::test]
async fn applying_the_same_again_changes_nothing() {
    let (_, tokens) = namespace_with_all_vendors(control_plane().await).await;
    let mut object = merged(base("CheckmarxSCA"), &json!({ "metadata": { "name": "again" } }));
    object["apiVersion"] = json!("vendortoken.io/v1alpha1");
    object["kind"] = json!("VendorToken");
    let by_user = PatchParams::apply("user");
    tokens
        .patch("again", &by_user, &Patch::Apply(&object))
        .await
        .unwrap();
    // The API server takes the status off a new object, and stores the default with whatever write comes next.
    let seen = json!({ "status": { "observedGeneration": 1 } });
    let first = tokens
        .patch_status("again", &PatchParams::default(), &Patch::Merge(&seen))
        .await
        .unwrap();
    let second = tokens
        .patch("again", &by_user, &Patch::Apply(&object))
        .await
        .unwrap();
    assert_eq!(first.resource_version(), second.resource_version());
    assert_eq!(second.metadata.generation, Some(1));
}

/// The largest value that fits the schema; one step larger at `beyond`.
fn largest(path: &str, schema: &Value, beyond: &str) -> Value {
    let more = i64::from(path == beyond);
    match schema["type"].as_str().unwrap() {
        "object" => schema["properties"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, property)| (name.clone(), largest(&format!("{path}.{name}"), property, beyond)))
            .collect(),
        "array" => {
            let count = schema["maxItems"].as_i64().unwrap() + more;
            (0..count)
                .map(|index| {
                    let mut item = largest(&format!("{path}[]"), &schema["items"], beyond);
                    if let Value::String(key) = &mut item["type"] {
                        key.replace_range(..2, &format!("{index:02}"));
                    }
                    item
                })
                .collect()
        }
        "integer" => json!(schema["maximum"].as_f64().unwrap() as i64 + more),
        "string" if schema["enum"].is_array() => {
            if more > 0 {
                json!("Beyond")
            } else {
                schema["enum"][0].clone()
            }
        }
        "string" if schema["format"] == "date-time" => {
            json!(if more > 0 {
                "tomorrow"
            } else {
                "2026-05-04T10:00:00Z"
            })
        }
        "string" => {
            json!(format!(
                "A{}",
                "a".repeat((schema["maxLength"].as_i64().unwrap() + more - 1) as usize)
            ))
        }
        other => panic!("{path}: {other}"),
    }
}

#[tokio::test]
async fn a_status_is_accepted_up_to_its_bounds_and_refused_beyond() {
    let (_, tokens) = namespace_with_all_vendors(control_plane().await).await;
    let schema = schema()["properties"]["status"].clone();
    let merge = PatchParams::default();
    let write = async |beyond: &str| {
        let status = json!({ "status": largest("status", &schema, beyond) });
        tokens.patch_status("picus", &merge, &Patch::Merge(&status)).await
    };
    let status = write("").await.unwrap().status.unwrap();
    assert_eq!(status.conditions.len(), 16);
    assert!(status.failure.is_some() && status.binding.is_some() && status.next_refresh_time.is_some());

    let mut fields = Vec::new();
    walk("status", &schema, &mut fields);
    let bounded = fields.iter().filter(|(_, schema)| schema["type"] != "object");
    let mut accepted = Vec::new();
    for (path, _) in bounded {
        if write(path).await.is_ok() {
            accepted.push(path);
        }
    }
    assert!(accepted.is_empty(), "accepted beyond the bounds of {accepted:?}");
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The schema that the API server publishes; `kubectl explain` and editors read it. It follows the definition
/// within a second or so.
async fn published_schema(client: &Client) -> Value {
    wait_for("the OpenAPI document", DEADLINE, || async {
        let request = http::Request::get("/openapi/v3/apis/vendortoken.io/v1alpha1")
            .body(Vec::new())
            .unwrap();
        let document = client
            .request::<Value>(request)
            .await
            .map_err(|error| error.to_string())?;
        let schema = &document["components"]["schemas"]["io.vendortoken.v1alpha1.VendorToken"];
        if schema.is_object() {
            Ok(schema.clone())
        } else {
            Err("no VendorToken in it".to_owned())
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn the_api_server_publishes_the_text_of_every_field() {
    let client = control_plane().await.admin().unwrap();
    let texts = |root: &Value| {
        let mut fields = Vec::new();
        walk("vendortoken", root, &mut fields);
        fields.retain(|(path, _)| path.contains(".spec") || path.contains(".status"));
        fields
            .into_iter()
            .map(|(path, schema)| (path, schema["description"].clone()))
            .collect::<Vec<_>>()
    };
    let expected = texts(&schema());
    assert!(
        expected.len() > 50 && expected.iter().all(|(_, text)| text.is_string()),
        "{expected:?}"
    );
    assert_eq!(texts(&published_schema(&client).await), expected);
}

/// Runs kubectl, and gives what it prints; nothing where there is no kubectl, which `make test` does not ask for.
async fn kubectl(control_plane: &ControlPlane, arguments: &[&str]) -> Option<String> {
    match control_plane.kubectl(arguments).await {
        Ok(output) => {
            assert!(output.status.success(), "{arguments:?}: {}", output.stderr);
            Some(output.stdout)
        }
        Err(Error::KubectlMissing) => {
            eprintln!("not tried: there is no kubectl on this machine");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn kubectl_explain_documents_every_field() {
    let control_plane = control_plane().await;
    let root = published_schema(&control_plane.admin().unwrap()).await;
    let arguments = ["explain", "vendortoken.spec", "--recursive"];
    let Some(overview) = kubectl(control_plane, &arguments).await else {
        return;
    };
    let mut fields = Vec::new();
    walk("vendortoken.spec", &root["properties"]["spec"], &mut fields);
    walk("vendortoken.status", &root["properties"]["status"], &mut fields);
    for (path, schema) in fields {
        let Some(members) = schema["properties"].as_object().filter(|_| !path.ends_with("[]")) else {
            continue;
        };
        let Some(text) = kubectl(control_plane, &["explain", &path]).await else {
            return;
        };
        let text = one_line(&text);
        for (name, member) in members {
            let listed = overview.contains(&format!("  {name}\t<"));
            assert!(
                listed || path.starts_with("vendortoken.status"),
                "{path}.{name}: {overview}"
            );
            let description = one_line(member["description"].as_str().unwrap());
            assert!(text.contains(&description), "{path}.{name}: {text}");
        }
    }
}

/// A VendorToken whose token is published, in a namespace of its own.
async fn published_token(control_plane: &ControlPlane) -> String {
    let (namespace, tokens) = namespace_with_all_vendors(control_plane).await;
    let status = json!({ "status": {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": "CredentialExpiring", "status": "True", "reason": "Other", "message": "not this one",
                "lastTransitionTime": "2026-05-04T10:00:00Z", "observedGeneration": 1,
            },
            {
                "type": "Ready", "status": "True", "reason": "Published", "message": "all is well",
                "lastTransitionTime": "2026-05-04T10:00:00Z", "observedGeneration": 1,
            },
        ],
        "binding": { "name": "sca-token" },
        "expirationTime": "2099-05-04T11:00:00Z",
        "nextRefreshTime": "2099-05-04T10:48:00Z",
    }});
    tokens
        .patch_status("checkmarxsca", &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
    namespace
}

#[tokio::test]
async fn the_table_shows_what_a_person_wants_to_know() {
    let control_plane = control_plane().await;
    let namespace = published_token(control_plane).await;
    let uri = format!("/apis/vendortoken.io/v1alpha1/namespaces/{namespace}/vendortokens/checkmarxsca");
    let request = http::Request::get(uri)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())
        .unwrap();
    let table: Value = control_plane.admin().unwrap().request(request).await.unwrap();
    let mut cells = table["rows"][0]["cells"].as_array().unwrap().clone();
    assert!(cells.remove(6).is_string(), "the age");
    assert_eq!(
        Value::Array(cells),
        json!([
            "checkmarxsca",
            "CheckmarxSCA",
            "True",
            "Published",
            "sca-token",
            "2099-05-04T11:00:00Z",
            "2099-05-04T10:48:00Z",
            "all is well",
        ])
    );
}

#[tokio::test]
async fn kubectl_get_shows_what_a_person_wants_to_know() {
    let control_plane = control_plane().await;
    let namespace = published_token(control_plane).await;
    let get = async |format: &str| {
        let arguments = [
            "get",
            "vtok",
            "checkmarxsca",
            "--namespace",
            &namespace,
            "--output",
            format,
        ];
        let table = kubectl(control_plane, &arguments).await?;
        let lines: Vec<String> = table.lines().map(one_line).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        Some(lines)
    };
    let Some(table) = get("").await else { return };
    assert_eq!(table[0], "NAME VENDOR READY REASON SECRET EXPIRES AGE");
    let expected = "checkmarxsca CheckmarxSCA True Published sca-token 2099-05-04T11:00:00Z ";
    assert!(table[1].starts_with(expected), "{}", table[1]);
    let Some(wide) = get("wide").await else { return };
    assert_eq!(
        wide[0],
        "NAME VENDOR READY REASON SECRET EXPIRES AGE NEXT REFRESH MESSAGE"
    );
    assert!(
        wide[1].ends_with(" 2099-05-04T10:48:00Z all is well"),
        "{}",
        wide[1]
    );
}
