//! What counts against an account that the vendor could lock: every attempt with a password that is not proven, also one
//! that a crash has cut short, one without a verdict, and those of several VendorTokens together.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use serde_json::json;
use tokio::sync::mpsc;
use vendor_simulator::{Effect, Fault, Vendor};
use vendor_token_operator::failure::Failure;
use vendor_token_operator::http::Transport;
use vendor_token_operator::providers::{TokenRequest, TokenResponse};

use crate::world::vendors;
use crate::world::{Running as _, World};

const REJECTED: &str = "False CredentialsRejected +Stalled";
const VENDOR: Vendor = Vendor::CheckmarxSca;
const DAY: i64 = 24 * 3600;

/// Tells that a request has come, and never sends it.
struct NeverSends(mpsc::UnboundedSender<()>);

impl Transport for NeverSends {
    fn send(&self, _: TokenRequest) -> BoxFuture<'static, Result<TokenResponse, Failure>> {
        let _ = self.0.send(());
        std::future::pending().boxed()
    }
}

impl World {
    async fn until_calls(&self, calls: u64) {
        self.until(&format!("{calls} calls"), async || match self.calls(VENDOR) {
            now if now >= calls => Ok(()),
            now => Err(now.to_string()),
        })
        .await;
    }

    /// The reason, the count and the message of `status.failure`.
    async fn failure(&self, name: &str) -> (String, i32, String) {
        let failure = self.token(name).await.status.unwrap().failure.unwrap();
        (failure.reason, failure.count, failure.message)
    }

    /// Starts the operator three times more, over a day, and shows that it asks no more than it has.
    async fn asks_nothing_over_three_restarts_and_a_day(&self, name: &str) {
        let calls = self.calls(VENDOR);
        for _ in 0..3 {
            self.clock.pass(DAY / 3);
            let operator = self.operator().await;
            self.settle(name, &operator).await;
            operator.stop().await;
        }
        assert_eq!(self.calls(VENDOR), calls);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_the_record_and_the_call_costs_no_call() {
    let world = World::new("kill-before").await;
    let (told, mut reached) = mpsc::unbounded_channel();
    let operator = world
        .operator_through(|_| {}, |_| Arc::new(NeverSends(told)) as Arc<dyn Transport>)
        .await;
    world.store(VENDOR, "user", "mistyped").await;
    world.apply("sca", vendors::spec(VENDOR, "user")).await;
    tokio::time::timeout(crate::world::PATIENCE, reached.recv())
        .await
        .unwrap();
    // At this moment the attempt is on record, and nothing is sent.
    let (reason, count, message) = world.failure("sca").await;
    assert_eq!((reason.as_str(), count), ("VendorUnavailable", 1));
    assert!(message.contains("no answer recorded"), "{message}");
    let failure = world.token("sca").await.status.unwrap().failure.unwrap();
    assert!(failure.next_attempt_time.is_some());
    assert_eq!(world.calls(VENDOR), 0);

    drop(operator);
    let operator = world.operator().await;
    world.clock.pass(60);
    world.settle("sca", &operator).await;
    world.ready("sca", REJECTED).await;
    assert_eq!(world.calls(VENDOR), 1);
    let (reason, count, _) = world.failure("sca").await;
    assert_eq!((reason.as_str(), count), ("CredentialsRejected", 2));
    operator.stop().await;
    world.asks_nothing_over_three_restarts_and_a_day("sca").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_the_call_and_the_answer_costs_one_call_more() {
    let world = World::new("kill-after").await;
    // The vendor judges the password, and counts it, before it answers.
    let late = Effect::DelayHead {
        milliseconds: 600_000,
    };
    world.simulator.add_fault(Fault::new(VENDOR, late).times(1));
    world
        .simulator
        .put_credential(VENDOR, vendors::credential(VENDOR, "user", "right"));
    let operator = world.operator().await;
    world.store(VENDOR, "user", "mistyped").await;
    world.apply("sca", vendors::spec(VENDOR, "user")).await;
    world.until_calls(1).await;
    drop(operator);

    let operator = world.operator().await;
    world.clock.pass(60);
    world.settle("sca", &operator).await;
    world.ready("sca", REJECTED).await;
    operator.stop().await;
    world.asks_nothing_over_three_restarts_and_a_day("sca").await;
    assert_eq!(world.calls(VENDOR), 2);
    let account = &world.simulator.accounts()[0];
    assert_eq!((account.failures, account.lockouts), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_at_each_attempt_makes_three_in_a_quarter_of_an_hour() {
    let world = World::new("crash-loop").await;
    world.simulator.add_fault(Fault::new(VENDOR, Effect::Hang));
    world.store(VENDOR, "user", "mistyped").await;
    world.apply("sca", vendors::spec(VENDOR, "user")).await;
    for attempt in 1..=3 {
        let operator = world.operator().await;
        world.until_calls(attempt).await;
        drop(operator);
        world.clock.pass(60);
    }
    for _ in 0..4 {
        let operator = world.operator().await;
        world.settle("sca", &operator).await;
        assert_eq!(world.calls(VENDOR), 3);
        drop(operator);
        world.clock.pass(60);
    }
    // As early as the first of them has been a quarter of an hour ago, or the last: which of them is not recorded.
    world.clock.pass(15 * 60);
    let _operator = world.operator().await;
    world.until_calls(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_cannot_be_recorded_is_not_sent() {
    let world = World::new("unrecorded").await;
    let operator = world.operator().await;
    let policy = world.refuse_statuses().await;
    world.register(VENDOR, "user").await;
    world.apply("sca", vendors::spec(VENDOR, "user")).await;
    // No account is at stake here: it gets its token, whatever becomes of its status.
    world.create(Vendor::Mapiq, "mapiq").await;
    world.until_data("mapiq", "token", |_| true).await;
    world
        .until("two reconciles that failed", async || {
            let failed = operator.metric(r#"vendortoken_reconcile_total{result="error"}"#);
            if failed >= 2.0 {
                Ok(())
            } else {
                Err(failed.to_string())
            }
        })
        .await;
    operator.quiet().await;
    assert!(world.token("sca").await.status.unwrap().failure.is_none());
    assert_eq!(world.calls(VENDOR), 0);

    world.allow_statuses(&policy).await;
    world.ready("sca", "True Published").await;
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_wrong_passwords_of_one_user_at_once_make_three_attempts() {
    let world = World::new("five-at-once").await;
    world
        .simulator
        .put_credential(VENDOR, vendors::credential(VENDOR, "user", "right"));
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        // A user's name is the same in any case.
        let user = if name == "b" { "USER" } else { "user" };
        let data = [("username", user), ("password", &format!("mistyped-{name}"))];
        world.credentials(&vendors::credentials_of(name), &data).await;
        world.apply(name, vendors::spec(VENDOR, name)).await;
    }
    let mut operator = world.operator().await;
    world.until_calls(3).await;
    for _ in 0..2 {
        for name in names {
            world.settle(name, &operator).await;
        }
        let mut reasons = Vec::new();
        for name in names {
            let status = world.token(name).await.status.unwrap();
            reasons.push(status.conditions[0].reason.clone());
        }
        reasons.sort();
        let rejected = "CredentialsRejected";
        assert_eq!(
            reasons,
            [rejected, rejected, rejected, "Progressing", "Progressing"]
        );
        assert_eq!(world.calls(VENDOR), 3);
        operator.stop().await;
        world.clock.pass(120);
        operator = world.operator().await;
    }
    // Another tenant's user of that name is another account.
    let data = [("username", "user"), ("password", "mistyped")];
    world.credentials(&vendors::credentials_of("other"), &data).await;
    let mut spec = vendors::spec(VENDOR, "other");
    spec["checkmarxSCA"]["tenant"] = json!("other");
    world.apply("other", spec).await;
    world.ready("other", REJECTED).await;
    assert_eq!(world.calls(VENDOR), 4);

    world.clock.pass(15 * 60);
    for name in names {
        world.settle(name, &operator).await;
        world.ready(name, REJECTED).await;
    }
    assert_eq!(world.calls(VENDOR), 6);
    let lockouts: u32 = world
        .simulator
        .accounts()
        .iter()
        .map(|account| account.lockouts)
        .sum();
    assert_eq!(lockouts, 0);
}

fn answer(status: u16, media_type: &str, body: &str) -> Effect {
    Effect::Answer {
        status,
        headers: vec![("content-type".to_owned(), media_type.to_owned())],
        body: body.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unproven_password_without_a_verdict_is_sent_three_times_at_most() {
    let world = &World::new("ambiguous").await;
    let page = "<!doctype html><title>Request blocked</title>";
    let cases = [
        ("trouble", answer(500, "application/json", "{}")),
        ("page", answer(403, "text/html", page)),
        ("closed", Effect::Close),
        ("cut", Effect::Truncate),
        ("portal", answer(200, "text/html", page)),
    ];
    let proven = "proven";
    let operator = &world.operator().await;
    let fail = |name: &str, effect: &Effect| {
        let ledger_id = vendors::credential(VENDOR, name, "").ledger_id();
        world
            .simulator
            .add_fault(Fault::new(VENDOR, effect.clone()).credential(ledger_id))
    };
    let calls = |name: &str| {
        let ledger_id = vendors::credential(VENDOR, name, "").ledger_id();
        world.simulator.credential_counts(VENDOR, &ledger_id).calls
    };
    world.published(VENDOR, proven).await;
    // Its token is due, and valid for some minutes more.
    world.clock.pass(2900);
    fail(proven, &cases[0].1);
    for (name, effect) in &cases {
        world.register(VENDOR, name).await;
        fail(name, effect);
        world.apply(name, vendors::spec(VENDOR, name)).await;
    }
    for _ in 0..10 {
        join_all(
            cases
                .iter()
                .map(|(name, _)| *name)
                .chain([proven])
                .map(|name| world.settle(name, operator)),
        )
        .await;
        world.clock.pass(60);
    }
    for (name, _) in &cases {
        assert_eq!(calls(name), 3, "{name}");
    }
    assert!(
        calls(proven) > 4,
        "a password that is known to be right is no danger: {}",
        calls(proven)
    );

    world.simulator.clear_faults();
    world.clock.pass(15 * 60);
    for (name, _) in &cases {
        world.settle(name, operator).await;
        world.ready(name, "True Published +ClockSkewSuspected").await;
        assert_eq!(calls(name), 4, "{name}");
    }
}

impl World {
    /// Has the API server refuse each write of a status in this world's namespace, and waits until it does. Gives the policy.
    async fn refuse_statuses(&self) -> String {
        let rule = json!({
            "apiGroups": ["vendortoken.io"], "apiVersions": ["*"], "operations": ["UPDATE"],
            "resources": ["vendortokens/status"],
        });
        let validation = json!({ "expression": "false", "message": "not now" });
        let policy = self.refuse("no-status", rule, validation).await;
        let mut probe = vendors::spec(Vendor::Picus, "probe");
        probe["suspend"] = json!(true);
        self.apply("probe", probe).await;
        self.until("the policy to be in force", async || {
            match self.try_status("probe").await {
                Err(kube::Error::Api(status)) if status.message.contains("not now") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        policy
    }

    async fn allow_statuses(&self, policy: &str) {
        use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding as Binding;
        let bindings: kube::Api<Binding> = kube::Api::all(self.admin.clone());
        bindings.delete(policy, &Default::default()).await.unwrap();
    }

    async fn try_status(&self, name: &str) -> Result<(), kube::Error> {
        let endpoint = jiff::Timestamp::now().to_string();
        let patch = kube::api::Patch::Merge(json!({ "status": { "endpoint": endpoint } }));
        let parameters = kube::api::PatchParams::default();
        self.tokens()
            .patch_status(name, &parameters, &patch)
            .await
            .map(|_| ())
    }
}
