//! Requests to vendors while the API server is silent.

use super::*;
use crate::election::FakeApiServer;

fn bench_beside(server: &Arc<FakeApiServer>) -> Bench {
    bench_led(
        &[(Vendor::Mapiq, 1)],
        32,
        |_| token("t", 3600),
        |_| Leadership::always().with_reachability(server.reachability()),
    )
}

#[tokio::test(start_paused = true)]
async fn no_vendor_is_asked_while_the_api_server_is_silent() {
    let server = Arc::new(FakeApiServer::default());
    server.set_silent(true);
    let bench = bench_beside(&server);
    bench.ask("a", 1, Vendor::Mapiq);
    bench.pass(60).await;
    assert_eq!(bench.calls().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn credentials_at_hand_are_dropped_while_the_api_server_is_silent() {
    let server = Arc::new(FakeApiServer::default());
    server.set_silent(true);
    let bench = bench_beside(&server);
    bench.ask("a", 1, Vendor::Mapiq);
    bench.settle().await;
    assert_eq!(bench.grants.lock().in_hand.len(), 1);
    bench.pass(60).await;
    assert_eq!(bench.grants.lock().in_hand.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn vendors_are_asked_beside_an_api_server_that_takes_12_s_for_each_answer() {
    let server = Arc::new(FakeApiServer::default());
    server.set_answer_time(Some(Duration::from_secs(12)));
    let bench = bench_beside(&server);
    bench.ask("a", 1, Vendor::Mapiq);
    bench.pass(13).await;
    assert_eq!(bench.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_vendor_is_asked_beside_an_api_server_that_is_frozen() {
    let server = Arc::new(FakeApiServer::default());
    server.set_answer_time(None);
    let bench = bench_beside(&server);
    bench.ask("a", 1, Vendor::Mapiq);
    bench.pass(300).await;
    assert_eq!(bench.calls().len(), 0);
    assert!(server.calls() < 80, "{}", server.calls());
}

#[tokio::test(start_paused = true)]
async fn a_silent_api_server_is_asked_after_pauses_that_grow_in_each_outage() {
    let server = Arc::new(FakeApiServer::default());
    let bench = bench_beside(&server);
    for (grant, object) in [(1, "a"), (2, "b")] {
        server.set_silent(true);
        bench.pass(60).await;
        bench.ask(object, grant, Vendor::Mapiq);
        let before = server.calls();
        bench.pass(59).await;
        // At once, after 1, 2 and 4 s, and then each 5 s.
        assert_eq!(server.calls() - before, 4 + 10);
        server.set_silent(false);
        bench.pass(5).await;
        assert_eq!(bench.calls().len(), usize::from(grant), "it is found back in 5 s");
    }
}

#[tokio::test(start_paused = true)]
async fn the_api_server_is_asked_before_a_request_that_waited_for_its_slot() {
    let server = Arc::new(FakeApiServer::default());
    let bench = bench_beside(&server);
    bench.ask("a", 1, Vendor::Mapiq);
    bench.ask("b", 2, Vendor::Mapiq);
    bench.settle().await;
    assert_eq!((bench.calls().len(), server.calls()), (1, 1));
    bench.pass(70).await;
    assert_eq!((bench.calls().len(), server.calls()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn the_api_server_is_not_asked_without_a_waiting_request() {
    let server = Arc::new(FakeApiServer::default());
    let bench = bench_beside(&server);
    bench.pass(300).await;
    assert_eq!(server.calls(), 0);
    assert_eq!(bench.calls().len(), 0);
}
