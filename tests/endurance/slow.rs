//! The API server takes seconds for each answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use test_support::{ApiProxy, Breakage, Calls};
use vendor_simulator::Vendor;

use crate::ledger::times;
use crate::witness::{Witness, all_right, create};
use crate::world::installation::plane_of_its_own;
use crate::world::process::get;
use crate::world::{OPERATOR, Running as _, World, lives};

/// Such a token is due after a minute, and has another one for the slow calls of its refresh.
const LIFE: u64 = 120;
const VENDORS: [Vendor; 2] = [Vendor::SixMap, Vendor::Picus];
const EACH_FOR: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread")]
async fn no_token_expires_while_the_api_server_takes_6_and_then_12_s_for_each_answer() {
    let plane = plane_of_its_own().await;
    let world = Arc::new(World::on(plane, "slow", lives(LIFE)).await);
    let proxy = ApiProxy::start(plane).await.unwrap();
    let kubeconfig = plane
        .kubeconfig_through(&proxy, OPERATOR, OPERATOR)
        .await
        .unwrap();
    let program = world
        .start_as(&kubeconfig, OPERATOR, &["--leader-elect=true"])
        .await;
    program.wait_until_ready().await;
    create(&world, &VENDORS).await;
    all_right(&world, &VENDORS).await;
    let witness = Witness::of(Arc::clone(&world));

    for seconds in [6, 12] {
        let asked = VENDORS.map(|vendor| times(&world, vendor).len());
        proxy.break_calls(Calls::all(), Breakage::Slow(Duration::from_secs(seconds)));
        let since = Instant::now();
        let mut without_lead = 0;
        while since.elapsed() < EACH_FOR {
            assert_eq!(get(program.probes, "/livez").await.unwrap().0, 200);
            assert_eq!(
                witness.complaint(),
                None,
                "{seconds} s, after {:?}",
                since.elapsed()
            );
            let leads = program.samples().await.one("vendortoken_leader") == 1.0;
            without_lead += u32::from(!leads);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        println!("{seconds} s for each answer: {without_lead} s without the lead");
        for (vendor, before) in VENDORS.into_iter().zip(asked) {
            let after = times(&world, vendor).len();
            assert!(after > before, "{seconds} s: {vendor:?} was not asked");
        }
    }
}
