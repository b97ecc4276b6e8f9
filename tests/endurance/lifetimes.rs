//! Tokens that live for a minute, over ten of their lifetimes, with everything killed in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vendor_simulator::Vendor;

use crate::ledger::{shorter_than, times};
use crate::witness::{Witness, all_right, create, object};
use crate::world::installation::plane_of_its_own;
use crate::world::{Running as _, World, lives};

const LIFE: u64 = 60;
const LIFETIMES: u64 = 10;
/// A token that lives a minute is due after half of it.
const PERIOD: u64 = LIFE / 2;
/// When the operator is killed, in seconds: long after a refresh, in the middle of one, shortly before and after.
const KILLED_AT: [u64; 5] = [70, 149, 241, 420, 505];
/// When the API server is restarted: as all tokens are due.
const RESTARTED_AT: u64 = 329;

/// As many requests as the vendors are known to take, and a Lease.
const AS_BY_DEFAULT: [&str; 2] = ["--leader-elect=true", "--rate-limit=Mapiq=20"];

async fn until(begun: Instant, second: u64, witness: &Witness) {
    while begun.elapsed() < Duration::from_secs(second) {
        assert_eq!(
            witness.complaint(),
            None,
            "expired tokens, after {:?}",
            begun.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_target_ever_holds_an_expired_token_over_ten_lifetimes_of_a_minute() {
    let world = World::on(plane_of_its_own().await, "lifetimes", lives(LIFE)).await;
    let world = Arc::new(world);
    let mut program = world.program_with(&AS_BY_DEFAULT).await;
    create(&world, &Vendor::ALL).await;
    all_right(&world, &Vendor::ALL).await;
    let begun = Instant::now();
    let calls_before = world.all_calls();
    let witness = Witness::of(Arc::clone(&world));

    let mut events: Vec<_> = KILLED_AT.into_iter().map(|second| (second, true)).collect();
    events.push((RESTARTED_AT, false));
    events.sort_unstable();
    for (second, is_kill) in events {
        until(begun, second, &witness).await;
        if is_kill {
            program.kill().await;
            program = world.start(&AS_BY_DEFAULT).await;
        } else {
            world.plane.restart_api_server().await.unwrap();
        }
        println!(
            "{second} s: {} {:?} after it was due",
            if is_kill {
                "killed, and runs again"
            } else {
                "the API server is back"
            },
            begun.elapsed() - Duration::from_secs(second)
        );
    }
    until(begun, LIFETIMES * LIFE, &witness).await;
    let seen = witness.ends().await;

    println!("{} samples, tokens held {:?}", seen.samples, seen.tokens);
    println!("the least that a token had left: {:?} ms", seen.least_left_ms);
    println!("not ready in between: {:?}", seen.not_ready);
    assert_eq!(seen.expired, Default::default());
    assert!(seen.samples > LIFETIMES * LIFE * 5, "{}", seen.samples);
    // One extra grant is allowed at each kill, and one where the API server went.
    let most = KILLED_AT.len() + 1;
    for vendor in Vendor::ALL {
        let times = times(&world, vendor);
        let early = shorter_than(Duration::from_secs(PERIOD), &times);
        let held = seen.tokens[&object(vendor)];
        println!(
            "{vendor:?}: {} calls, early by their gaps: {early:?}",
            times.len()
        );
        assert!(held >= LIFETIMES, "{vendor:?}: {held}");
        assert!(early.len() <= most, "{vendor:?}: {early:?}");
    }
    assert!(world.all_calls() > calls_before);
    assert_eq!(world.simulator.violations(), []);
    all_right(&world, &Vendor::ALL).await;
}
