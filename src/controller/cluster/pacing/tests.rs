use std::collections::BTreeSet;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::clock::TokioClock;

const KIND: CallKind = CallKind::WriteSecret;

fn pacer() -> (Arc<Pacer>, mpsc::UnboundedReceiver<ObjectKey>) {
    let clock = TokioClock::new(Timestamp::from_second(1_800_000_000).unwrap());
    let (queue, woken) = mpsc::unbounded_channel();
    (Pacer::new(Arc::new(Timeline::new(Arc::new(clock))), queue), woken)
}

fn call(kind: CallKind, namespace: &str) -> Call {
    Call {
        kind,
        namespace: namespace.to_owned(),
    }
}

const FAILED: Outcome = Outcome::Failed {
    code: 500,
    retry_after: None,
};

/// Sends a call that ends so. False where it was held back.
fn send(pacer: &Arc<Pacer>, namespace: &str, outcome: Outcome) -> bool {
    match pacer.enter(call(KIND, namespace)) {
        Ok(pass) => {
            pass.end(outcome);
            true
        }
        Err(_) => false,
    }
}

async fn pass_time(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

/// The calls and the looks of a minute of outage, where as many objects of this many namespaces come back as the pacer
/// says.
async fn calls_in_a_minute(objects: u32, namespaces: u32, outcome: Outcome) -> (u32, u32) {
    let (pacer, _woken) = pacer();
    let mut next: Vec<_> = (0..objects)
        .map(|number| {
            let namespace = format!("n{}", number % namespaces);
            let name = format!("t{number}");
            (Duration::ZERO, ObjectKey { namespace, name })
        })
        .collect();
    let (mut calls, mut looks) = (0, 0);
    let started = tokio::time::Instant::now();
    while started.elapsed() < Duration::from_secs(60) {
        // At most 32 reconciles are under way.
        let mut passes = Vec::new();
        let mut failing = Vec::new();
        for (due, object) in &mut next {
            if *due > started.elapsed() || passes.len() == 32 {
                continue;
            }
            looks += 1;
            let call = call(KIND, &object.namespace);
            match pacer.enter(call.clone()) {
                Ok(pass) => {
                    calls += 1;
                    passes.push(pass);
                    failing.push((due, object, call));
                }
                Err(held) => *due = started.elapsed() + pacer.wait_at(&held, object),
            }
        }
        tokio::time::advance(Duration::from_millis(10)).await;
        for pass in passes {
            pass.end(outcome);
        }
        for (due, object, call) in failing {
            pacer.wake_at_opening(&call, object);
            *due = started.elapsed() + pacer.wait_after(&call).unwrap();
        }
    }
    (calls, looks)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_objects_at_a_failing_api_server_cost_what_ten_do() {
    for namespaces in [1, 10] {
        for outcome in [FAILED, Outcome::Unanswered] {
            let (ten, _) = calls_in_a_minute(10, namespaces, outcome).await;
            let (many, looks) = calls_in_a_minute(1000, namespaces, outcome).await;
            assert!(looks <= 3000, "{looks} looks");
            // Those in flight at the first failure, then one at a time: after 1, 2, 4 and then each 5 seconds.
            assert!(
                ten <= 10 + 16,
                "{ten} calls for ten objects in {namespaces} namespaces"
            );
            assert!(
                many <= 32 + 16,
                "{many} calls for 1000 objects in {namespaces} namespaces"
            );
            assert!(ten > 10, "{ten}: the API server is tried again");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_the_time_that_the_api_server_asks_for() {
    let throttled = Outcome::Failed {
        code: 429,
        retry_after: Some(Duration::from_secs(30)),
    };
    assert_eq!(calls_in_a_minute(1, 1, throttled).await.0, 2);
    let for_ever = Outcome::Failed {
        code: 429,
        retry_after: Some(Duration::from_secs(86_400)),
    };
    let (pacer, _woken) = pacer();
    assert!(send(&pacer, "a", for_ever));
    pass_time(59).await;
    assert!(!send(&pacer, "a", FAILED));
    pass_time(1).await;
    assert!(send(&pacer, "a", FAILED), "no longer than a minute");
}

#[tokio::test(start_paused = true)]
async fn one_call_at_a_time_tries_the_api_server_again() {
    let (pacer, _woken) = pacer();
    assert!(send(&pacer, "a", FAILED));
    pass_time(1).await;
    let trying = pacer.enter(call(KIND, "a")).unwrap();
    assert!(pacer.enter(call(KIND, "a")).is_err());
    // A reconcile that is cancelled gives its turn back.
    drop(trying);
    let trying = pacer.enter(call(KIND, "a")).unwrap();
    trying.end(Outcome::Answered);
    assert!(pacer.enter(call(KIND, "a")).is_ok());
    assert!(pacer.enter(call(KIND, "a")).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_fails_holds_up_no_other() {
    let (pacer, _woken) = pacer();
    for _ in 0..20 {
        assert!(send(&pacer, "good", Outcome::Answered));
        send(&pacer, "bad", FAILED);
        assert!(send(&pacer, "good", Outcome::Answered));
        pass_time(2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_namespaces_that_fail_hold_up_a_third_for_a_second_at_most() {
    let (pacer, _woken) = pacer();
    for _ in 0..20 {
        for namespace in ["bad", "worse"] {
            send(&pacer, namespace, FAILED);
        }
        let sent = send(&pacer, "good", Outcome::Answered);
        pass_time(1).await;
        assert!(sent || send(&pacer, "good", Outcome::Answered));
        pass_time(4).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_tried_with_one_call_for_all() {
    let (pacer, mut woken) = pacer();
    assert!(send(&pacer, "a", Outcome::Unanswered));
    for (kind, namespace) in [
        (KIND, "b"),
        (CallKind::ReadSecret, "a"),
        (CallKind::WriteStatus, "c"),
    ] {
        let held = pacer.enter(call(kind, namespace)).unwrap_err();
        let (namespace, name) = (namespace.to_owned(), "t".to_owned());
        pacer.wait_at(&held, &ObjectKey { namespace, name });
    }
    pass_time(1).await;
    assert!(send(&pacer, "b", Outcome::Unanswered));
    pass_time(1).await;
    assert!(!send(&pacer, "a", Outcome::Answered), "the pause grows");
    pass_time(1).await;
    // A refusal or a server error is an answer.
    assert!(send(&pacer, "d", FAILED));
    assert!(send(&pacer, "a", Outcome::Answered));
    let woken: Vec<_> = std::iter::from_fn(|| woken.try_recv().ok()).collect();
    assert_eq!(woken.len(), 3, "{woken:?}");
}

#[tokio::test(start_paused = true)]
async fn of_failing_namespaces_another_than_the_last_one_is_tried_first() {
    let (pacer, _woken) = pacer();
    assert!(send(&pacer, "a", FAILED));
    assert!(send(&pacer, "b", FAILED));
    pass_time(1).await;
    assert!(!send(&pacer, "a", Outcome::Answered));
    assert!(send(&pacer, "c", Outcome::Answered));
    assert!(send(&pacer, "a", Outcome::Answered));
}

#[tokio::test(start_paused = true)]
async fn kinds_of_calls_fail_apart() {
    let (pacer, _woken) = pacer();
    assert!(send(&pacer, "a", FAILED));
    for kind in CallKind::ALL {
        assert_eq!(pacer.check(kind, "a").is_ok(), kind != KIND, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_that_wait_go_on_at_the_first_answer() {
    let (pacer, mut woken) = pacer();
    assert!(send(&pacer, "a", Outcome::Unanswered));
    let mut waiting = BTreeSet::new();
    for (namespace, name) in [("a", "1"), ("a", "2"), ("b", "3")] {
        let object = ObjectKey {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let held = pacer.enter(call(KIND, namespace)).unwrap_err();
        assert!(pacer.wait_at(&held, &object) >= Duration::from_secs(1));
        waiting.insert((object.namespace, object.name));
    }
    pass_time(2).await;
    assert!(send(&pacer, "a", Outcome::Answered));
    let woken: BTreeSet<_> = std::iter::from_fn(|| woken.try_recv().ok())
        .map(|object| (object.namespace, object.name))
        .collect();
    assert_eq!(woken, waiting);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_at_once_and_then_once_a_minute() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || Lines(Arc::clone(&sink)))
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (pacer, _woken) = pacer();
    for _ in 0..300 {
        send(&pacer, "a", FAILED);
        pass_time(1).await;
    }
    let told = String::from_utf8(lock(&told).clone()).unwrap();
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 5, "{told}");
    assert!(
        lines[0].contains("writes of Secrets") && lines[0].contains("code=500"),
        "{told}"
    );
    assert!(lines.iter().all(|line| line.contains("WARN")), "{told}");
}

struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

proptest! {
    /// An API server that is back is found within seconds, whatever came before.
    #[test]
    fn an_answer_is_never_more_than_seven_seconds_away(
        events in prop::collection::vec((0_usize..3, 0_u64..9, 0_u32..4), 0..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (pacer, _woken) = pacer();
            let namespaces = ["a", "b", "c"];
            for (namespace, seconds, outcome) in events {
                let outcome = [FAILED, Outcome::Unanswered, Outcome::Unknown, Outcome::Answered][outcome as usize];
                send(&pacer, namespaces[namespace], outcome);
                pass_time(seconds).await;
            }
            for namespace in namespaces {
                let mut waited = 0;
                while !send(&pacer, namespace, Outcome::Answered) {
                    waited += 1;
                    pass_time(1).await;
                }
                prop_assert!(waited <= 7, "{waited}");
            }
            Ok(())
        })?;
    }
}
