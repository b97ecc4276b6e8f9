//! What the endpoints accept, reject and refuse.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{
    KEY, SECRET, ask, client, client_with, credential, form, json, request, request_with, start, start_with,
    token,
};
use reqwest::Client;
use serde_json::{Value, json};
use vendor_simulator::{Credential, Options, Simulator, TlsMode, Vendor};

fn claims(token: &str) -> Value {
    let parts: Vec<_> = token.split('.').collect();
    assert_eq!(parts.len(), 3);
    URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap()
}

#[tokio::test]
async fn the_request_of_each_vendors_page_gets_a_distinct_token_with_that_vendors_fields() {
    let simulator = start().await;
    let client = client(&simulator);
    for vendor in Vendor::ALL {
        let response = ask(&client, &simulator, vendor).await;
        assert_eq!(response.status(), 200, "{vendor}");
        let body: Value = response.json().await.unwrap();
        let first = token(&body);
        let second = token(&ask(&client, &simulator, vendor).await.json().await.unwrap());
        assert_ne!(first, second, "{vendor}");
        let found = simulator.validate(vendor, &first);
        assert!(found.known && found.valid);
        assert_eq!(
            found.credential.as_deref(),
            Some(credential(vendor).ledger_id().as_str())
        );
        let life = vendor.default_lifetime_seconds();
        assert_eq!(found.expires_ms - found.issued_ms, life * 1000);
        let seconds = i64::try_from(found.issued_ms / 1000).unwrap();
        match vendor {
            Vendor::SixMap => {
                assert_eq!(body["expires_in"], json!(3600));
                assert_eq!(body["status_code"], json!(200));
                assert!(body["request_id"].as_str().unwrap().starts_with("request-id-"));
                assert_eq!(claims(&first)["exp"], json!(seconds + 3600));
            }
            Vendor::CheckmarxSca => {
                assert_eq!(body["expires_in"], json!(3600));
                assert_eq!(body["token_type"], json!("Bearer"));
                assert_eq!(claims(&first)["tenant_name"], json!("acme"));
            }
            Vendor::Mapiq => {
                assert_eq!(body["not_before"], json!(seconds));
                assert_eq!(body["expires_on"], json!(seconds + 3600));
                assert!(body["resource"].is_string());
            }
            Vendor::Picus => {
                assert_eq!(body["expire_at"], json!(found.expires_ms));
                assert_eq!(body.as_object().unwrap().len(), 2);
            }
            Vendor::SixClicks => {
                assert_eq!(body.as_object().unwrap().len(), 1);
                assert_eq!(claims(&first)["exp"], json!(seconds + 86_400));
            }
        }
        assert!(
            !simulator
                .validate(Vendor::ALL[(vendor as usize + 1) % 5], &first)
                .known
        );
        let counts = simulator.counts(vendor);
        assert_eq!(
            (counts.total.calls, counts.total.issued, counts.connections),
            (2, 2, 1),
            "{vendor}"
        );
    }
    assert_eq!(simulator.violations(), []);
    simulator.stop().await;
}

#[tokio::test]
async fn a_wrong_secret_gets_each_vendors_own_error() {
    let simulator = start().await;
    let client = client(&simulator);
    for vendor in Vendor::ALL {
        let response = request_with(&client, &simulator, vendor, "wrong")
            .send()
            .await
            .unwrap();
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        match vendor {
            Vendor::SixMap => {
                assert_eq!((status, &body["error"]), (401, &json!("invalid_client")));
                assert_eq!(body["status_code"], json!(401));
            }
            Vendor::CheckmarxSca => assert_eq!((status, &body["error"]), (400, &json!("invalid_grant"))),
            Vendor::Mapiq => {
                assert_eq!((status, &body["error"]), (400, &json!("invalid_client")));
                assert!(
                    body["error_description"]
                        .as_str()
                        .unwrap()
                        .contains("\r\nCorrelation ID: ")
                );
            }
            Vendor::Picus => assert_eq!((status, body), (401, json!({"message": "unauthorized error"}))),
            Vendor::SixClicks => {
                assert_eq!(
                    (status, &body["success"], &body["__abp"]),
                    (401, &json!(false), &json!(true))
                );
            }
        }
    }
    assert_eq!(simulator.violations(), [], "a wrong secret is no violation");
    let text = format!("{:?}", simulator.calls());
    assert!(
        !text.contains("wrong") && !text.contains(SECRET),
        "the ledger never holds a secret"
    );
}

/// Sends a request and expects a refusal with this status and a violation that says this.
async fn refused(simulator: &Simulator, request: reqwest::RequestBuilder, status: u16, reason: &str) {
    let before = simulator.sequence();
    let response = request.send().await.unwrap();
    let calls = simulator.calls_since(before);
    assert_eq!(calls.len(), 1);
    let violation = calls[0].violation.clone().unwrap_or_default();
    assert!(
        violation.contains(reason),
        "'{violation}' does not say '{reason}'"
    );
    assert_eq!(response.status().as_u16(), status, "{violation}");
    assert_eq!(calls[0].status, Some(status));
    assert_eq!(calls[0].token, None);
}

#[tokio::test]
async fn what_no_page_allows_is_refused_and_recorded() {
    let simulator = start().await;
    let client = client(&simulator);
    for vendor in Vendor::ALL {
        let url = simulator.url(vendor);
        let ok = || request(&client, &simulator, vendor);
        let always_400 = vendor == Vendor::CheckmarxSca;
        let or_400 = |status| if always_400 { 400 } else { status };
        let moved = |url: String| {
            let (client, request) = ok().build_split();
            let mut request = request.unwrap();
            *request.url_mut() = url.parse().unwrap();
            reqwest::RequestBuilder::from_parts(client, request)
        };
        let bad = if vendor == Vendor::Picus { 422 } else { 400 };
        refused(&simulator, moved(format!("{url}/")), 404, "the path").await;
        refused(&simulator, moved(format!("{url}?a=b")), bad, "query").await;
        refused(&simulator, client.get(&url), or_400(405), "the method").await;
        refused(
            &simulator,
            ok().header("Authorization", "Basic YTpi"),
            bad,
            "authorization",
        )
        .await;
        refused(&simulator, ok().header("Cookie", "a=b"), bad, "cookie").await;
        refused(
            &simulator,
            ok().header("Referer", "https://localhost/"),
            bad,
            "redirect was followed",
        )
        .await;
        refused(&simulator, ok().header("Host", "api.example.com"), bad, "host").await;
        refused(
            &simulator,
            ok().header("Expect", "100-continue"),
            or_400(417),
            "expect",
        )
        .await;
        if vendor != Vendor::SixClicks {
            refused(
                &simulator,
                ok().header("6Clicks-Api-Key", "k"),
                bad,
                "another vendor",
            )
            .await;
            let plain = client.post(&url).header("Content-Type", "text/plain").body("x");
            refused(&simulator, plain, or_400(415), "content-type is not application/").await;
            let content_type = if matches!(vendor, Vendor::SixMap | Vendor::Picus) {
                "application/json"
            } else {
                "application/x-www-form-urlencoded"
            };
            let garbage = client
                .post(&url)
                .header("Content-Type", content_type)
                .body("garbage");
            refused(&simulator, garbage, bad, "").await;
            let large = client
                .post(&url)
                .header("Content-Type", content_type)
                .body("x".repeat(70_000));
            refused(&simulator, large, or_400(413), "64 KiB").await;
        }
    }
    assert!(
        simulator.accounts().is_empty(),
        "a refused request is no failed password"
    );
}

#[tokio::test]
async fn parameters_must_be_exactly_those_of_the_page() {
    let simulator = start().await;
    let client = client(&simulator);
    for vendor in [Vendor::CheckmarxSca, Vendor::Mapiq] {
        let send = |pairs: Vec<(&'static str, String)>| client.post(simulator.url(vendor)).form(&pairs);
        let good = form(vendor, SECRET);
        for index in 0..good.len() {
            let name = good[index].0;
            let mut pairs = good.clone();
            pairs.remove(index);
            refused(&simulator, send(pairs), 400, &format!("{name} is missing")).await;
            let mut pairs = good.clone();
            pairs[index].1.clear();
            refused(&simulator, send(pairs), 400, &format!("{name} is empty")).await;
            let mut pairs = good.clone();
            pairs.push(good[index].clone());
            refused(&simulator, send(pairs), 400, &format!("{name} is given twice")).await;
        }
        let mut pairs = good.clone();
        pairs.push(("audience", "x".into()));
        refused(&simulator, send(pairs), 400, "unknown parameter").await;
        for scope in [
            "openid",
            "sca_api  access_control_api",
            "sca_api sca_api",
            "sca_api offline_access",
        ] {
            let mut pairs = good.clone();
            pairs.iter_mut().find(|(name, _)| *name == "scope").unwrap().1 = scope.into();
            refused(&simulator, send(pairs), 400, "scope").await;
        }
    }
    for tenant in [
        "acme",
        "tenant:acme",
        "Tenant:",
        "Tenant:Tenant:acme",
        "Tenant:a b",
    ] {
        let mut pairs = form(Vendor::CheckmarxSca, SECRET);
        pairs[2].1 = tenant.into();
        let request = client.post(simulator.url(Vendor::CheckmarxSca)).form(&pairs);
        refused(&simulator, request, 400, "acr_values").await;
    }
    for vendor in [Vendor::SixMap, Vendor::Picus] {
        let status = if vendor == Vendor::Picus { 422 } else { 400 };
        let send = |body: String| {
            client
                .post(simulator.url(vendor))
                .header("Content-Type", "application/json")
                .body(body)
        };
        let good = json(vendor, SECRET);
        for (name, value) in good.as_object().unwrap() {
            let mut body = good.clone();
            body.as_object_mut().unwrap().remove(name);
            refused(
                &simulator,
                send(body.to_string()),
                status,
                &format!("{name} is missing"),
            )
            .await;
            let text = good.to_string();
            let twice = format!("{},{}:{}}}", &text[..text.len() - 1], json!(name), value);
            refused(&simulator, send(twice), status, &format!("{name} is given twice")).await;
            let mut body = good.clone();
            body[name] = json!(1);
            refused(&simulator, send(body.to_string()), status, "not a string").await;
        }
        let mut body = good.clone();
        body["audience"] = json!("x");
        refused(&simulator, send(body.to_string()), status, "unknown parameter").await;
        refused(&simulator, send("[]".into()), status, "not a JSON object").await;
    }
    let body = json!({"client_id": "client", "client_secret": SECRET, "grant_type": "password"});
    refused(
        &simulator,
        client.post(simulator.url(Vendor::SixMap)).json(&body),
        400,
        "grant_type",
    )
    .await;
}

#[tokio::test]
async fn both_checkmarx_scopes_and_sixmap_scopes_are_accepted_within_the_credentials_own() {
    let simulator = start().await;
    let client = client(&simulator);
    let ask = async |scope: &str| {
        let mut pairs = form(Vendor::CheckmarxSca, SECRET);
        pairs[3].1 = scope.into();
        let response = client
            .post(simulator.url(Vendor::CheckmarxSca))
            .form(&pairs)
            .send()
            .await
            .unwrap();
        (
            response.status().as_u16(),
            response.json::<Value>().await.unwrap(),
        )
    };
    assert_eq!(ask("sca_api access_control_api").await.0, 200);
    simulator.put_credential(
        Vendor::CheckmarxSca,
        credential(Vendor::CheckmarxSca).scopes(["sca_api"]),
    );
    assert_eq!(ask("sca_api").await.0, 200);
    let (status, body) = ask("sca_api access_control_api").await;
    assert_eq!((status, &body["error"]), (400, &json!("invalid_scope")));
    let mut body = json(Vendor::SixMap, SECRET);
    body["scope"] = json!("read:scans write:scans");
    let response = client
        .post(simulator.url(Vendor::SixMap))
        .json(&body)
        .send()
        .await
        .unwrap();
    let token = token(&response.json().await.unwrap());
    assert_eq!(claims(&token)["scope"], json!("read:scans write:scans"));
    assert_eq!(simulator.violations(), []);
}

#[tokio::test]
async fn sixclicks_wants_a_length_and_no_body() {
    let simulator = start().await;
    let client = client(&simulator);
    let url = simulator.url(Vendor::SixClicks);
    let post = || client.post(&url).header("6Clicks-Api-Key", KEY);
    refused(&simulator, post(), 411, "content-length is missing").await;
    refused(&simulator, post().body("{}"), 400, "has a body").await;
    let with_type = post()
        .header("Content-Length", "0")
        .header("Content-Type", "application/json");
    refused(&simulator, with_type, 415, "content-type without a body").await;
    let twice = post()
        .header("Content-Length", "0")
        .header("6Clicks-Api-Key", KEY);
    refused(&simulator, twice, 400, "given twice").await;
    refused(
        &simulator,
        client.post(&url).header("Content-Length", "0"),
        401,
        "missing or empty",
    )
    .await;
}

#[tokio::test]
async fn picus_refresh_is_a_violation_and_ends_the_refresh_token_and_its_access_tokens() {
    let simulator = start().await;
    let client = client(&simulator);
    let first = token(
        &ask(&client, &simulator, Vendor::Picus)
            .await
            .json()
            .await
            .unwrap(),
    );
    let url = format!("{}/v1/auth/refresh", simulator.origin(Vendor::Picus));
    refused_rotation(&simulator, client.post(url).json(&json(Vendor::Picus, SECRET))).await;
    assert!(!simulator.validate(Vendor::Picus, &first).valid);
    assert_eq!(ask(&client, &simulator, Vendor::Picus).await.status(), 401);
}

async fn refused_rotation(simulator: &Simulator, request: reqwest::RequestBuilder) {
    assert_eq!(request.send().await.unwrap().status(), 200);
    let violations = simulator.violations();
    assert_eq!(violations.len(), 1);
    assert!(
        violations[0]
            .violation
            .as_deref()
            .unwrap()
            .contains("/v1/auth/refresh")
    );
}

#[tokio::test]
async fn five_wrong_checkmarx_passwords_lock_the_account_even_for_the_right_one() {
    let simulator = start_with(Options {
        lockout: Some(Duration::from_secs(3600)),
        ..Options::default()
    })
    .await;
    let client = client(&simulator);
    let wrong = async || {
        let request = request_with(&client, &simulator, Vendor::CheckmarxSca, "wrong");
        assert_eq!(request.send().await.unwrap().status(), 400);
    };
    for _ in 0..4 {
        wrong().await;
    }
    assert_eq!(
        ask(&client, &simulator, Vendor::CheckmarxSca).await.status(),
        200,
        "a success resets"
    );
    for _ in 0..4 {
        wrong().await;
    }
    assert_eq!(
        (simulator.accounts()[0].failures, simulator.accounts()[0].lockouts),
        (4, 0)
    );
    wrong().await;
    assert_eq!(simulator.accounts()[0].lockouts, 1);
    let response = ask(&client, &simulator, Vendor::CheckmarxSca).await;
    assert_eq!(response.status(), 400);
    assert_eq!(
        response.json::<Value>().await.unwrap()["error"],
        json!("invalid_grant")
    );
    simulator.put_credential(
        Vendor::CheckmarxSca,
        Credential::new("user", SECRET).tenant("other"),
    );
    simulator.clear_accounts();
    assert_eq!(ask(&client, &simulator, Vendor::CheckmarxSca).await.status(), 200);
}

#[tokio::test]
async fn a_key_registered_with_a_certificate_needs_that_certificate() {
    let simulator = start().await;
    let good = simulator.client_certificate("good").unwrap();
    let other = simulator.client_certificate("other").unwrap();
    let registered = credential(Vendor::SixClicks).client_certificate(&good.fingerprint);
    simulator.put_credential(Vendor::SixClicks, registered);
    let status = async |client: &Client| ask(client, &simulator, Vendor::SixClicks).await.status().as_u16();
    assert_eq!(status(&client(&simulator)).await, 401);
    assert_eq!(status(&client_with(&simulator, &other)).await, 401);
    assert_eq!(status(&client_with(&simulator, &good)).await, 200);
    assert!(simulator.calls().last().unwrap().client_certificate);
    simulator
        .set_tls(Vendor::SixClicks, TlsMode::ClientCertificateRequired)
        .await
        .unwrap();
    assert!(
        request(&client(&simulator), &simulator, Vendor::SixClicks)
            .send()
            .await
            .is_err()
    );
    let stranger = simulator.stranger_certificate("stranger").unwrap();
    let refused = client_with(&simulator, &stranger);
    assert!(
        request(&refused, &simulator, Vendor::SixClicks)
            .send()
            .await
            .is_err()
    );
    assert_eq!(status(&client_with(&simulator, &good)).await, 200);
    assert_eq!(simulator.total(Vendor::SixClicks).calls, 4);
}

#[tokio::test]
async fn wildcard_accepts_what_is_not_registered_and_still_judges_what_is() {
    let simulator = start_with(Options {
        wildcard_credentials: true,
        ..Options::default()
    })
    .await;
    let client = client(&simulator);
    for vendor in Vendor::ALL {
        let response = request_with(&client, &simulator, vendor, "anything")
            .send()
            .await
            .unwrap();
        let registered_id = !matches!(vendor, Vendor::SixClicks | Vendor::Picus);
        assert_eq!(response.status() == 200, !registered_id, "{vendor}");
        simulator.clear_credentials(vendor);
        let response = request_with(&client, &simulator, vendor, "anything")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{vendor}");
    }
    assert_eq!(simulator.violations(), []);
}

#[tokio::test]
async fn a_lifetime_is_the_credentials_or_the_vendors() {
    let simulator = start_with(Options::default().lifetime(Vendor::Mapiq, 40)).await;
    let client = client(&simulator);
    let expires_in = async || {
        let body: Value = ask(&client, &simulator, Vendor::Mapiq)
            .await
            .json()
            .await
            .unwrap();
        body["expires_in"].as_u64().unwrap()
    };
    assert_eq!(expires_in().await, 40);
    simulator.set_lifetime(Vendor::Mapiq, 50);
    assert_eq!(expires_in().await, 50);
    simulator.put_credential(Vendor::Mapiq, credential(Vendor::Mapiq).lifetime_seconds(60));
    assert_eq!(expires_in().await, 60);
}
