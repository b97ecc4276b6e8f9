//! Requests that a vendor's page does not allow.

use reqwest::Client;
use serde_json::json;
use vendor_simulator::{Simulator, Vendor};

use crate::common::{KEY, SECRET, answer, ask, client, form, json, request, start, token};

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
    assert_eq!(
        simulator.accounts(),
        [],
        "a refused request is no failed password"
    );
}

/// Every parameter of a form must be there once, with a value.
#[tokio::test]
async fn a_form_has_each_parameter_of_the_page_once_and_no_other() {
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
    }
}

#[tokio::test]
async fn a_scope_that_the_page_does_not_name_is_refused() {
    let simulator = start().await;
    let client = client(&simulator);
    for vendor in [Vendor::CheckmarxSca, Vendor::Mapiq] {
        for scope in [
            "openid",
            "sca_api  access_control_api",
            "sca_api sca_api",
            "sca_api offline_access",
        ] {
            let mut pairs = form(vendor, SECRET);
            pairs.iter_mut().find(|(name, _)| *name == "scope").unwrap().1 = scope.into();
            let request = client.post(simulator.url(vendor)).form(&pairs);
            refused(&simulator, request, 400, "scope").await;
        }
    }
}

#[tokio::test]
async fn a_tenant_without_its_prefix_is_refused() {
    let simulator = start().await;
    let client = client(&simulator);
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
}

#[tokio::test]
async fn a_json_body_has_each_member_of_the_page_once_as_text_and_no_other() {
    let simulator = start().await;
    let client = client(&simulator);
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
}

#[tokio::test]
async fn another_grant_type_is_refused() {
    let simulator = start().await;
    let body = json!({"client_id": "client", "client_secret": SECRET, "grant_type": "password"});
    let request = client(&simulator).post(simulator.url(Vendor::SixMap)).json(&body);
    refused(&simulator, request, 400, "grant_type").await;
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

async fn refresh(client: &Client, simulator: &Simulator) {
    let url = format!("{}/v1/auth/refresh", simulator.origin(Vendor::Picus));
    let request = client.post(url).json(&json(Vendor::Picus, SECRET));
    assert_eq!(request.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn picus_refresh_is_a_violation() {
    let simulator = start().await;
    refresh(&client(&simulator), &simulator).await;
    let violations = simulator.violations();
    assert_eq!(violations.len(), 1);
    let reason = violations[0].violation.as_deref().unwrap();
    assert!(reason.contains("/v1/auth/refresh"), "{reason}");
}

#[tokio::test]
async fn picus_refresh_ends_the_refresh_token_and_its_access_tokens() {
    let simulator = start().await;
    let client = client(&simulator);
    let first = token(&answer(&client, &simulator, Vendor::Picus).await);
    refresh(&client, &simulator).await;
    assert!(!simulator.validate(Vendor::Picus, &first).valid);
    assert_eq!(ask(&client, &simulator, Vendor::Picus).await.status(), 401);
}
