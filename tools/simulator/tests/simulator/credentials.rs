//! Which credentials are accepted: lockout, client certificates, wildcard.

use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use vendor_simulator::{Credential, Options, Simulator, TlsMode, Vendor};

use crate::common::{SECRET, ask, client, client_with, credential, request, request_with, start, start_with};

/// Sends wrong passwords to Checkmarx.
async fn fail(client: &Client, simulator: &Simulator, times: usize) {
    for _ in 0..times {
        let request = request_with(client, simulator, Vendor::CheckmarxSca, "wrong");
        assert_eq!(request.send().await.unwrap().status(), 400);
    }
}

#[tokio::test]
async fn five_wrong_passwords_lock_the_account_even_for_the_right_one() {
    let lockout = Some(Duration::from_secs(3600));
    let simulator = start_with(Options {
        lockout,
        ..Options::default()
    })
    .await;
    let client = client(&simulator);
    fail(&client, &simulator, 4).await;
    assert_eq!(
        (simulator.accounts()[0].failures, simulator.accounts()[0].lockouts),
        (4, 0)
    );
    fail(&client, &simulator, 1).await;
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
async fn a_right_password_resets_the_count_of_failures() {
    let simulator = start().await;
    let client = client(&simulator);
    fail(&client, &simulator, 4).await;
    assert_eq!(ask(&client, &simulator, Vendor::CheckmarxSca).await.status(), 200);
    fail(&client, &simulator, 4).await;
    assert_eq!(simulator.accounts()[0].lockouts, 0);
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
}

#[tokio::test]
async fn a_listener_can_demand_a_certificate_of_the_client_authority() {
    let simulator = start().await;
    simulator
        .set_tls(Vendor::SixClicks, TlsMode::ClientCertificateRequired)
        .await
        .unwrap();
    let stranger = simulator.stranger_certificate("stranger").unwrap();
    for client in [client(&simulator), client_with(&simulator, &stranger)] {
        let request = request(&client, &simulator, Vendor::SixClicks);
        assert!(request.send().await.is_err());
    }
    let good = client_with(&simulator, &simulator.client_certificate("good").unwrap());
    assert_eq!(ask(&good, &simulator, Vendor::SixClicks).await.status(), 200);
    assert_eq!(simulator.total(Vendor::SixClicks).calls, 1);
}

async fn with_wildcard() -> Simulator {
    start_with(Options {
        wildcard_credentials: true,
        ..Options::default()
    })
    .await
}

#[tokio::test]
async fn wildcard_accepts_credentials_that_are_not_registered() {
    let simulator = with_wildcard().await;
    let client = client(&simulator);
    for vendor in Vendor::ALL {
        simulator.clear_credentials(vendor);
        let request = request_with(&client, &simulator, vendor, "anything");
        assert_eq!(request.send().await.unwrap().status(), 200, "{vendor}");
    }
    assert_eq!(simulator.violations(), []);
}

#[tokio::test]
async fn wildcard_still_judges_an_id_that_is_registered() {
    let simulator = with_wildcard().await;
    let client = client(&simulator);
    for vendor in [Vendor::SixMap, Vendor::CheckmarxSca, Vendor::Mapiq] {
        let request = request_with(&client, &simulator, vendor, "anything");
        assert_ne!(request.send().await.unwrap().status(), 200, "{vendor}");
    }
}

#[test]
fn a_credentials_debug_text_hides_the_secret() {
    let text = format!("{:?}", Credential::new("client", SECRET));
    assert!(text.contains("client") && !text.contains(SECRET), "{text}");
}
