//! The answers to requests that the vendors' pages allow.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use vendor_simulator::{Options, Vendor};

use crate::common::{
    SECRET, answer, ask, client, credential, form, json, request_with, start, start_with, token,
};

fn claims(token: &str) -> Value {
    let parts: Vec<_> = token.split('.').collect();
    assert_eq!(parts.len(), 3);
    URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap()
}

#[tokio::test]
async fn each_request_gets_another_token() {
    let simulator = start().await;
    let client = client(&simulator);
    for vendor in Vendor::ALL {
        let first = token(&answer(&client, &simulator, vendor).await);
        let second = token(&answer(&client, &simulator, vendor).await);
        assert_ne!(first, second, "{vendor}");
    }
    assert_eq!(simulator.violations(), []);
}

#[tokio::test]
async fn a_success_has_the_members_of_its_vendor() {
    let simulator = start().await;
    let client = client(&simulator);
    for vendor in Vendor::ALL {
        let response = ask(&client, &simulator, vendor).await;
        assert_eq!(response.status(), 200, "{vendor}");
        let body: Value = response.json().await.unwrap();
        let token = token(&body);
        let issued = simulator.validate(vendor, &token);
        let seconds = i64::try_from(issued.issued_ms / 1000).unwrap();
        match vendor {
            Vendor::SixMap => {
                assert_eq!(body["expires_in"], json!(3600));
                assert_eq!(body["status_code"], json!(200));
                assert!(body["request_id"].as_str().unwrap().starts_with("request-id-"));
                assert_eq!(claims(&token)["exp"], json!(seconds + 3600));
            }
            Vendor::CheckmarxSca => {
                assert_eq!(body["expires_in"], json!(3600));
                assert_eq!(body["token_type"], json!("Bearer"));
                assert_eq!(claims(&token)["tenant_name"], json!("acme"));
            }
            Vendor::Mapiq => {
                assert_eq!(body["not_before"], json!(seconds));
                assert_eq!(body["expires_on"], json!(seconds + 3600));
                assert!(body["resource"].is_string());
            }
            Vendor::Picus => {
                assert_eq!(body["expire_at"], json!(issued.expires_ms));
                assert_eq!(body.as_object().unwrap().len(), 2);
            }
            Vendor::SixClicks => {
                assert_eq!(body.as_object().unwrap().len(), 1);
                assert_eq!(claims(&token)["exp"], json!(seconds + 86_400));
            }
        }
    }
}

#[tokio::test]
async fn a_token_is_valid_at_its_vendor_for_the_vendors_lifetime() {
    let simulator = start().await;
    let client = client(&simulator);
    for vendor in Vendor::ALL {
        let token = token(&answer(&client, &simulator, vendor).await);
        let found = simulator.validate(vendor, &token);
        assert!(found.known && found.valid, "{vendor}");
        assert_eq!(found.credential, Some(credential(vendor).ledger_id()));
        let life = vendor.default_lifetime_seconds();
        assert_eq!(found.expires_ms - found.issued_ms, life * 1000);
        let other = Vendor::ALL[(vendor as usize + 1) % 5];
        assert!(!simulator.validate(other, &token).known, "{vendor}");
    }
}

#[tokio::test]
async fn a_lifetime_is_the_credentials_or_the_vendors() {
    let simulator = start_with(Options::default().lifetime(Vendor::Mapiq, 40)).await;
    let client = client(&simulator);
    let expires_in = async || answer(&client, &simulator, Vendor::Mapiq).await["expires_in"].clone();
    assert_eq!(expires_in().await, json!(40));
    simulator.set_lifetime(Vendor::Mapiq, 50);
    assert_eq!(expires_in().await, json!(50));
    simulator.put_credential(Vendor::Mapiq, credential(Vendor::Mapiq).lifetime_seconds(60));
    assert_eq!(expires_in().await, json!(60));
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
}

#[tokio::test]
async fn both_checkmarx_scopes_are_accepted_within_the_credentials_own() {
    let simulator = start().await;
    let client = client(&simulator);
    let ask = async |scope: &str| {
        let mut pairs = form(Vendor::CheckmarxSca, SECRET);
        pairs[3].1 = scope.into();
        let request = client.post(simulator.url(Vendor::CheckmarxSca)).form(&pairs);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.unwrap())
    };
    assert_eq!(ask("sca_api access_control_api").await.0, 200);
    simulator.put_credential(
        Vendor::CheckmarxSca,
        credential(Vendor::CheckmarxSca).scopes(["sca_api"]),
    );
    assert_eq!(ask("sca_api").await.0, 200);
    let (status, body) = ask("sca_api access_control_api").await;
    assert_eq!((status, &body["error"]), (400, &json!("invalid_scope")));
    assert_eq!(simulator.violations(), []);
}

#[tokio::test]
async fn sixmap_scopes_are_in_the_token() {
    let simulator = start().await;
    let mut body = json(Vendor::SixMap, SECRET);
    body["scope"] = json!("read:scans write:scans");
    let request = client(&simulator).post(simulator.url(Vendor::SixMap)).json(&body);
    let token = token(&request.send().await.unwrap().json().await.unwrap());
    assert_eq!(claims(&token)["scope"], json!("read:scans write:scans"));
    assert_eq!(simulator.violations(), []);
}
