//! A process that has lost the Lease sends nothing, then and when it leads again.

use super::*;

#[tokio::test(start_paused = true)]
async fn requests_queued_at_the_loss_of_the_lease_are_never_sent() {
    let mut set = None;
    let bench = bench_led(
        &[(Vendor::Mapiq, 1)],
        32,
        |_| token("t", 3600),
        |timeline| {
            let (leadership, leads) = Leadership::switchable(timeline);
            set = Some(leads);
            leadership
        },
    );
    let leads = set.unwrap();
    bench.ask("a", 1, Vendor::Mapiq);
    bench.ask("b", 2, Vendor::Mapiq);
    bench.settle().await;
    assert_eq!(bench.calls().len(), 1, "the other waits for the budget");
    leads(false);
    bench.grants.step_down();
    // A reconcile that began before the loss.
    assert_eq!(bench.ask_as(ask("c", 3, Grant::Mapiq)), None);
    bench.pass(300).await;
    leads(true);
    bench.grants.start_leading();
    bench.pass(300).await;
    assert_eq!(bench.calls().len(), 1);
    assert_eq!(bench.grants.waits_since(&object("b")), None);
    assert!(bench.ask_as(ask("b", 2, Grant::Mapiq)).is_some());
    bench.pass(300).await;
    assert_eq!(bench.calls().len(), 2, "who asks anew is served");
}
