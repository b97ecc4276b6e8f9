//! Listeners: pause and resume, certificates, the end.

use std::time::{Duration, Instant};

use vendor_simulator::{TlsMode, Vendor};

use crate::common::{ask, client, request, start};

const MAPIQ: Vendor = Vendor::Mapiq;

#[tokio::test]
async fn a_paused_listener_refuses_connections_and_comes_back_on_its_port() {
    let simulator = start().await;
    let client = client(&simulator);
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
    simulator.pause(MAPIQ).await.unwrap();
    let error = request(&client, &simulator, MAPIQ).send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert_eq!(
        ask(&client, &simulator, Vendor::Picus).await.status(),
        200,
        "the others go on"
    );
    simulator.resume(MAPIQ).await.unwrap();
    simulator.resume(MAPIQ).await.unwrap();
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
    assert_eq!(simulator.total(MAPIQ).calls, 2);
}

#[tokio::test]
async fn a_bad_certificate_fails_the_handshake_until_a_good_one_comes() {
    let simulator = start().await;
    let client = client(&simulator);
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
    let mut failed = 0;
    for (mode, words) in [
        (TlsMode::Expired, "Expired"),
        (TlsMode::WrongHost, "NotValidForName"),
        (TlsMode::Untrusted, "UnknownIssuer"),
    ] {
        simulator.set_tls(MAPIQ, mode).await.unwrap();
        let error = request(&client, &simulator, MAPIQ).send().await.unwrap_err();
        failed += 1;
        let end = Instant::now() + Duration::from_secs(5);
        while simulator.counts(MAPIQ).failed_handshakes < failed {
            assert!(Instant::now() < end, "the server has not seen the failure");
            tokio::task::yield_now().await;
        }
        assert!(format!("{error:?}").contains(words), "{mode:?}: {error:?}");
    }
    simulator.set_tls(MAPIQ, TlsMode::Trusted).await.unwrap();
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
}

#[tokio::test]
async fn a_stopped_simulator_refuses_connections() {
    let simulator = start().await;
    let client = client(&simulator);
    assert_eq!(ask(&client, &simulator, MAPIQ).await.status(), 200);
    let url = simulator.url(MAPIQ);
    simulator.stop().await;
    assert!(client.post(&url).send().await.unwrap_err().is_connect());
}

#[tokio::test]
async fn a_dropped_simulator_stops_listening() {
    let simulator = start().await;
    let address = simulator.origin(MAPIQ).replace("https://localhost", "127.0.0.1");
    drop(simulator);
    let end = Instant::now() + Duration::from_secs(5);
    while tokio::net::TcpStream::connect(&address).await.is_ok() {
        assert!(Instant::now() < end, "still listening");
        tokio::task::yield_now().await;
    }
}
