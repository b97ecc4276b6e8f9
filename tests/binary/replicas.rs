//! Two replicas and one Lease: who follows when, and what a change of leader costs the vendors and the workloads.

#![allow(clippy::print_stdout, reason = "what was measured is told")]

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use test_support::wait_for;
use vendor_simulator::{Call, Effect, Fault, Vendor};
use vendor_token_operator::election::LEASE_NAME;

use crate::workload::{Chance, Workload};
use crate::world::{Account, OPERATOR, PATIENCE, Program, World, root};

/// The life of each token. It is due after half of it.
const LIFE: Duration = Duration::from_secs(60);
const DUE: Duration = Duration::from_secs(30);
/// Times are rounded to whole seconds, and a request takes a moment to arrive. No hand-over takes as long as the rest.
const TOLERANCE: Duration = Duration::from_secs(5);
/// Publishing a token that arrived, on a busy machine.
const PUBLISHING: Duration = Duration::from_secs(2);
const OBJECTS_OF_A_VENDOR: usize = 2;

/// How a leader goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Sigterm,
    Sigkill,
    /// SIGSTOP, and SIGCONT when another leads.
    Frozen,
}

/// At which moment.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Within this many seconds, by chance.
    ByChance(u64),
    /// While the vendors take this long to answer a request.
    InFlight(Duration),
}

/// One change of leader, as it was measured.
#[derive(Clone, Debug)]
struct HandOver {
    end: End,
    moment: Moment,
    at: Timestamp,
    /// From the signal to the new leader's name in the Lease.
    acquired: Duration,
    /// From the signal to its first list of VendorTokens, as the API server received it.
    first_act: Duration,
    /// Requests to vendors that had no answer yet.
    in_flight: usize,
}

/// Two replicas and what they work on.
struct Replicas {
    world: World,
    kubeconfig: PathBuf,
    leader: Program,
    standby: Program,
    accounts: Vec<Account>,
    chance: Chance,
}

impl Replicas {
    /// Two replicas with a Lease of their own, and tokens whose refreshes are spread over time.
    async fn start(prefix: &str) -> Self {
        let world = World::new(prefix).await;
        let kubeconfig = allow_elections(&world).await;
        let leader = replica(&world, &kubeconfig).await;
        is_leading(&leader).await;
        let standby = replica(&world, &kubeconfig).await;
        let mut accounts = Vec::new();
        for number in 0..OBJECTS_OF_A_VENDOR {
            for vendor in Vendor::ALL {
                let name = format!("{}-{number}", crate::world::vendors::name(vendor).to_lowercase());
                let account = Account::new(vendor, &name, &format!("secret-of-{name}"));
                let credential = account.credential().lifetime_seconds(LIFE.as_secs());
                world.simulator.put_credential(vendor, credential);
                world
                    .create_unregistered(&name, &account, serde_json::json!({}))
                    .await;
                world.ready(&name, "True Published").await;
                accounts.push(account);
                let objects = Vendor::ALL.len() * OBJECTS_OF_A_VENDOR;
                tokio::time::sleep(DUE / u32::try_from(objects).unwrap()).await;
            }
        }
        let replicas = Self {
            world,
            kubeconfig,
            leader,
            standby,
            accounts,
            chance: Chance::new(),
        };
        replicas.one_leads_and_both_are_ready().await;
        replicas
    }

    async fn one_leads_and_both_are_ready(&self) {
        for (operator, leads) in [(&self.leader, 1), (&self.standby, 0)] {
            // Who has just begun to lead lists first.
            operator.wait_until_ready().await;
            assert_eq!(operator.count("vendortoken_leader").await, leads);
        }
    }

    /// Ends the leader, waits until the standby leads, and has a new standby.
    async fn hand_over(&mut self, end: End, moment: Moment) -> HandOver {
        let mark = self.world.plane.audit().mark().await.unwrap();
        let before = lease(&self.world).await;
        let mut in_flight = 0;
        match moment {
            Moment::ByChance(seconds) => self.chance.pause(Duration::from_secs(seconds)).await,
            Moment::InFlight(delay) => {
                let milliseconds = u64::try_from(delay.as_millis()).unwrap();
                let simulator = &self.world.simulator;
                for vendor in Vendor::ALL {
                    let effect = Effect::DelayHead { milliseconds };
                    simulator.add_fault(Fault::new(vendor, effect));
                }
                while in_flight == 0 {
                    let sequence = simulator.sequence();
                    wait_for("a request to a vendor", PATIENCE, || async {
                        let sent = simulator.sequence();
                        if sent > sequence { Ok(()) } else { Err(sent) }
                    })
                    .await
                    .unwrap();
                    self.chance.pause(delay / 3).await;
                    let calls = simulator.calls_since(sequence);
                    let unanswered = calls.iter().filter(|call| time(call) + delay > Timestamp::now());
                    in_flight = unanswered.count();
                }
            }
        }
        let at = Timestamp::now();
        self.leader.signal(match end {
            End::Sigterm => "TERM",
            End::Sigkill => "KILL",
            End::Frozen => "STOP",
        });
        self.world.simulator.clear_faults();
        is_leading(&self.standby).await;
        let after = lease(&self.world).await;
        let acquired = after.spec.unwrap().acquire_time.unwrap().0;
        assert_ne!(before.spec.unwrap().acquire_time.unwrap().0, acquired);
        let first_act = wait_for("the new leader to list", PATIENCE, || async {
            let requests = self.world.requests_since(mark).await;
            let mut lists = requests
                .iter()
                .filter(|entry| entry.verb == "list" && entry.resource == "vendortokens");
            let first = lists.find(|entry| entry.received > at);
            first.map(|entry| entry.received).ok_or("nothing was listed")
        })
        .await
        .unwrap();
        let newcomer = if end == End::Frozen {
            None
        } else {
            let (status, _) = self.leader.ended().await;
            let expected = if end == End::Sigterm { 0 } else { 137 };
            assert_eq!(status.code(), Some(expected), "{}", self.leader.log());
            Some(replica(&self.world, &self.kubeconfig).await)
        };
        std::mem::swap(&mut self.leader, &mut self.standby);
        match newcomer {
            Some(newcomer) => self.standby = newcomer,
            None => {
                self.standby.signal("CONT");
                wait_for("the former leader to stand by", PATIENCE, || async {
                    match self.standby.count("vendortoken_leader").await {
                        0 => Ok(()),
                        other => Err(other),
                    }
                })
                .await
                .unwrap();
            }
        }
        self.one_leads_and_both_are_ready().await;
        assert_eq!(
            lease(&self.world).await.spec.unwrap().acquire_time.unwrap().0,
            acquired
        );
        let since = |time: Timestamp| Duration::try_from(time.duration_since(at)).unwrap_or_default();
        let hand_over = HandOver {
            end,
            moment,
            at,
            acquired: since(acquired),
            first_act: since(first_act),
            in_flight,
        };
        println!(
            "{end:?}, {moment:?}, {} in flight: in the Lease after {:.2} s, first list after {:.2} s",
            hand_over.in_flight,
            hand_over.acquired.as_secs_f64(),
            hand_over.first_act.as_secs_f64()
        );
        hand_over
    }

    /// A leader may take 3 s for what is in flight; the standby must not take long to see that the Lease is free.
    async fn the_standby_looks_often(&self) {
        let mark = self.world.plane.audit().mark().await.unwrap();
        wait_for("the standby to look at the Lease", PATIENCE, || async {
            // The leader renews without a look.
            let requests = self.world.requests_since(mark).await;
            let looks = requests.matching(|entry| entry.resource == "leases" && entry.verb == "get");
            // Any six in a row: a busy machine may delay some of them.
            let between = looks
                .windows(6)
                .map(|six| six[5].received.duration_since(six[0].received).as_secs_f64() / 5.0)
                .reduce(f64::min)
                .ok_or_else(|| looks.len().to_string())?;
            println!("the standby looks every {between:.2} s");
            if between < 1.8 {
                Ok(())
            } else {
                Err(format!("{between} s"))
            }
        })
        .await
        .unwrap();
    }

    /// Waits until each object was refreshed once more.
    async fn refreshed_once_more(&self) {
        let sequence = self.world.simulator.sequence();
        wait_for("a refresh of each object", 2 * PATIENCE, || async {
            let calls = self.world.simulator.calls_since(sequence);
            let asked: HashSet<_> = calls.iter().map(|call| call.credential.clone()).collect();
            if asked.len() == self.accounts.len() {
                Ok(())
            } else {
                Err(format!("{asked:?}"))
            }
        })
        .await
        .unwrap();
    }

    /// Fails where two grants were made for one due time, but for those whose answer the end of a leader lost: `read`
    /// has the tokens that came to a target. Tells how many those were.
    fn no_grant_is_made_twice(&self, hand_overs: &[HandOver], read: &HashSet<String>) {
        let calls = self.world.simulator.calls();
        let of = |account: &Account| -> Vec<&Call> {
            let id = account.credential().ledger_id();
            calls
                .iter()
                .filter(|call| call.vendor == account.vendor && call.credential.as_deref() == Some(&id))
                .collect()
        };
        let (mut extra, mut due_times) = (0, 0);
        for account in &self.accounts {
            let mut excused = HashSet::new();
            let calls = of(account);
            due_times += calls.len();
            for pair in calls.windows(2) {
                let (sent, again) = (time(pair[0]), time(pair[1]));
                let gap = Duration::try_from(again.duration_since(sent)).unwrap();
                if gap >= DUE - TOLERANCE {
                    continue;
                }
                let cause = hand_overs.iter().position(|hand_over| {
                    let delay = match hand_over.moment {
                        Moment::InFlight(delay) => delay,
                        Moment::ByChance(_) => Duration::ZERO,
                    };
                    // SIGTERM waits for what is in flight: nothing is excused.
                    let lost = pair[0].token.as_ref().is_none_or(|token| !read.contains(token));
                    hand_over.end != End::Sigterm
                        && lost
                        && sent <= hand_over.at
                        && hand_over.at <= sent + delay + PUBLISHING
                });
                let what = format!(
                    "{}: {sent} and {again}, after {gap:?}; {hand_overs:#?}",
                    account.id
                );
                let cause = cause.unwrap_or_else(|| panic!("two grants for one due time: {what}"));
                assert!(excused.insert(cause), "two more grants than needed: {what}");
                extra += 1;
            }
        }
        println!("{due_times} grants, {extra} of them more than needed");
    }
}

fn time(call: &Call) -> Timestamp {
    Timestamp::from_millisecond(i64::try_from(call.time_ms).unwrap()).unwrap()
}

/// Lets the operator's ServiceAccount elect in this world's namespace, by the Role that `deploy/` gives it in its own.
async fn allow_elections(world: &World) -> PathBuf {
    let role = std::fs::read_to_string(root().join("deploy/operator/role.yaml")).unwrap();
    let own = format!("  namespace: {OPERATOR}\n  labels:");
    assert!(role.contains(&own));
    let role = role.replace(&own, "  labels:");
    world.plane.apply_yaml(&world.namespace, &role).await.unwrap();
    world
        .plane
        .kubeconfig_for_service_account(OPERATOR, OPERATOR)
        .await
        .unwrap()
}

async fn replica(world: &World, kubeconfig: &std::path::Path) -> Program {
    let operator = world
        .start_as(kubeconfig, &world.namespace, &["--leader-elect"])
        .await;
    operator.wait_until_ready().await;
    operator
}

async fn is_leading(operator: &Program) {
    wait_for("this replica to lead", PATIENCE, || async {
        match operator.count("vendortoken_leader").await {
            1 => Ok(()),
            other => Err(format!("{other}: {}", operator.log())),
        }
    })
    .await
    .unwrap();
}

async fn lease(world: &World) -> Lease {
    let leases: Api<Lease> = Api::namespaced(world.admin.clone(), &world.namespace);
    leases.get(LEASE_NAME).await.unwrap()
}

/// Goes through these changes of leader; then no due time may have brought two grants, no token may have expired, and
/// each object must go on being refreshed. Gives what was measured.
async fn hand_overs(prefix: &str, plan: &[(End, Moment)]) -> Vec<HandOver> {
    let mut replicas = Replicas::start(prefix).await;
    let workload = Workload::start(&replicas.world);
    let mut measured = Vec::new();
    for (end, moment) in plan {
        measured.push(replicas.hand_over(*end, *moment).await);
    }
    replicas.refreshed_once_more().await;
    let read = workload.was_served(&replicas.world, &replicas.accounts).await;
    replicas.no_grant_is_made_twice(&measured, &read);
    assert_eq!(replicas.world.simulator.violations(), []);
    measured
}

#[tokio::test(flavor = "multi_thread")]
async fn at_sigterm_the_standby_leads_within_5_s() {
    let in_flight = Moment::InFlight(Duration::from_millis(1500));
    let plan = [
        (End::Sigterm, in_flight),
        (End::Sigterm, Moment::ByChance(10)),
        (End::Sigterm, in_flight),
        (End::Sigterm, Moment::ByChance(10)),
    ];
    for hand_over in hand_overs("term", &plan).await {
        assert!(hand_over.first_act < Duration::from_secs(5), "{hand_over:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_sigkill_the_standby_leads_within_25_s() {
    let in_flight = Moment::InFlight(Duration::from_secs(2));
    let plan = [
        (End::Sigkill, in_flight),
        (End::Sigkill, Moment::ByChance(10)),
        (End::Sigkill, in_flight),
        (End::Sigkill, Moment::ByChance(10)),
    ];
    for hand_over in hand_overs("kill", &plan).await {
        assert!(hand_over.first_act < Duration::from_secs(25), "{hand_over:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_frozen_makes_no_grant_a_second_time() {
    let plan = [
        (End::Frozen, Moment::InFlight(Duration::from_secs(2))),
        (End::Frozen, Moment::ByChance(10)),
    ];
    for hand_over in hand_overs("frozen", &plan).await {
        assert!(hand_over.first_act < Duration::from_secs(25), "{hand_over:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_hangs_does_not_hold_up_the_hand_over_at_sigterm() {
    let mut replicas = Replicas::start("hang").await;
    replicas.the_standby_looks_often().await;
    for vendor in Vendor::ALL {
        replicas
            .world
            .simulator
            .add_fault(Fault::new(vendor, Effect::Hang));
    }
    let sequence = replicas.world.simulator.sequence();
    wait_for("a request to a vendor", PATIENCE, || async {
        let sent = replicas.world.simulator.sequence();
        if sent > sequence { Ok(()) } else { Err(sent) }
    })
    .await
    .unwrap();
    let hand_over = replicas.hand_over(End::Sigterm, Moment::ByChance(1)).await;
    assert!(hand_over.first_act < Duration::from_secs(5), "{hand_over:?}");
}
