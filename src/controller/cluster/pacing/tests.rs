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
async fn a_gate_is_tried_as_soon_as_it_may_be_whatever_becomes_of_the_last_trier() {
    const PAUSE: Duration = Duration::from_secs(20);
    let throttled = Outcome::Failed {
        code: 429,
        retry_after: Some(PAUSE),
    };
    for deleted in [true, false] {
        let (pacer, _woken) = pacer();
        let started = tokio::time::Instant::now();
        let mut next: Vec<_> = (0..1000).map(|number| (Duration::ZERO, number)).collect();
        let mut tries = Vec::new();
        while started.elapsed() < Duration::from_secs(400) {
            let elapsed = started.elapsed();
            for (due, number) in next.iter_mut().filter(|(due, _)| *due <= elapsed) {
                let name = object("a", &format!("t{number}"));
                let wait = match pacer.enter(call(KIND, "a")) {
                    Ok(pass) => {
                        pass.end(throttled);
                        tries.push(elapsed);
                        pacer.wake_at_opening(&call(KIND, "a"), &name);
                        if deleted {
                            pacer.forget(&name);
                            Duration::from_secs(3600)
                        } else {
                            // Something about it changes, so it is looked at sooner.
                            Duration::from_millis(500)
                        }
                    }
                    Err(held) => pacer.wait_at(&held, &name),
                };
                *due = elapsed + wait;
            }
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        let longest = tries.windows(2).map(|two| two[1] - two[0]).max().unwrap();
        // Where the trier is deleted, the next look makes another one.
        assert!(
            longest <= PAUSE + Duration::from_secs(1),
            "{longest:?}, deleted: {deleted}: {tries:?}"
        );
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

fn object(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// The objects that went on since this was last asked.
fn taken(woken: &mut mpsc::UnboundedReceiver<ObjectKey>) -> Vec<String> {
    let mut taken: Vec<_> = std::iter::from_fn(|| woken.try_recv().ok())
        .map(|object| object.to_string())
        .collect();
    taken.sort();
    taken
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_tried_with_one_call_for_all() {
    let (pacer, mut woken) = pacer();
    assert!(send(&pacer, "a", Outcome::Unanswered));
    assert!(send(&pacer, "b", Outcome::Unanswered), "one namespace is not all");
    for (kind, namespace) in [
        (KIND, "e"),
        (CallKind::ReadSecret, "a"),
        (CallKind::WriteStatus, "c"),
    ] {
        let held = pacer.enter(call(kind, namespace)).unwrap_err();
        pacer.wait_at(&held, &object(namespace, "t"));
    }
    pass_time(1).await;
    assert!(!send(&pacer, "a", Outcome::Answered), "others go first");
    assert!(send(&pacer, "c", Outcome::Unanswered));
    pass_time(1).await;
    assert!(!send(&pacer, "e", Outcome::Answered), "the pause grows");
    pass_time(1).await;
    // A refusal or a server error is an answer, and ends the silence for other kinds of calls.
    assert!(send(&pacer, "d", FAILED));
    assert_eq!(taken(&mut woken), ["a/t", "c/t"]);
    for kind in CallKind::ALL {
        assert_eq!(pacer.check(kind, "e").is_ok(), kind != KIND, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_namespace_that_hang_hold_up_no_other() {
    for answers_in_between in [true, false] {
        let (pacer, _woken) = pacer();
        for round in 0..10 {
            let hanging = loop {
                match pacer.enter(call(KIND, "bad")) {
                    Ok(pass) => break pass,
                    Err(_) => pass_time(1).await,
                }
            };
            for _ in 0..20 {
                if answers_in_between {
                    assert!(send(&pacer, "good", Outcome::Answered), "round {round}");
                }
                pass_time(1).await;
            }
            hanging.end(Outcome::Unanswered);
            assert!(
                !send(&pacer, "bad", Outcome::Unanswered),
                "its own gate is closed"
            );
            for kind in CallKind::ALL {
                assert_eq!(pacer.check(kind, "good"), Ok(()), "round {round}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_tells_nothing_of_the_time_after_an_answer_to_another() {
    let of_another_kind = Call {
        kind: CallKind::ReadSecret,
        namespace: "good".to_owned(),
    };
    for (answered_after, closed) in [(None, true), (Some(&of_another_kind), false)] {
        let (pacer, _woken) = pacer();
        assert!(send(&pacer, "good", Outcome::Answered));
        pass_time(1).await;
        let hanging = ["bad", "worse"].map(|namespace| pacer.enter(call(KIND, namespace)).unwrap());
        pass_time(10).await;
        if let Some(call) = answered_after {
            pacer.enter(call.clone()).unwrap().end(Outcome::Answered);
        }
        pass_time(10).await;
        for pass in hanging {
            pass.end(Outcome::Unanswered);
        }
        let others = pacer.check(CallKind::WriteStatus, "good");
        assert_eq!(others.is_err(), closed, "answered: {answered_after:?}");
        // Such calls hang in two namespaces, with no answer to one of them.
        assert!(pacer.check(KIND, "good").is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_call_without_gates_shows_that_the_api_server_is_there() {
    let (pacer, mut woken) = pacer();
    assert!(send(&pacer, "a", Outcome::Unanswered));
    pacer.is_answered();
    assert!(send(&pacer, "b", Outcome::Unanswered));
    assert_eq!(pacer.check(CallKind::ReadSecret, "c"), Ok(()));
    pass_time(1).await;
    assert!(send(&pacer, "c", Outcome::Unanswered));
    let held = pacer.enter(call(CallKind::ReadSecret, "c")).unwrap_err();
    pacer.wait_at(&held, &object("c", "t"));
    pacer.is_answered();
    assert_eq!(taken(&mut woken), ["c/t"]);
    assert_eq!(pacer.check(CallKind::ReadSecret, "c"), Ok(()));
}

/// The most calls under way in the third and later half minutes of an API server that answers nothing, where as many
/// objects of this many namespaces try it each second, 32 of them at a time.
async fn calls_that_hang(objects: u32, namespaces: u32) -> usize {
    let (pacer, _woken) = pacer();
    let mut under_way: Vec<(u64, Pass)> = Vec::new();
    let mut most = 0;
    for second in 0..300 {
        let ended = under_way.extract_if(.., |(begun, _)| *begun + 20 == second);
        ended.for_each(|(_, pass)| pass.end(Outcome::Unanswered));
        for number in 0..objects {
            if under_way.len() < 32
                && let Ok(pass) = pacer.enter(call(KIND, &format!("n{}", number % namespaces)))
            {
                under_way.push((second, pass));
            }
        }
        if second >= 60 {
            most = most.max(under_way.len());
        }
        pass_time(1).await;
    }
    most
}

#[tokio::test(start_paused = true)]
async fn of_calls_that_hang_two_are_under_way_however_many_wait() {
    for namespaces in [1, 10, 100] {
        assert_eq!(
            calls_that_hang(1000, namespaces).await,
            2,
            "{namespaces} namespaces"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_waits_at_no_gate() {
    let (pacer, mut woken) = pacer();
    assert!(send(&pacer, "a", FAILED));
    for name in ["kept", "deleted", "deleted-unseen"] {
        let held = pacer.enter(call(KIND, "a")).unwrap_err();
        pacer.wait_at(&held, &object("a", name));
    }
    pacer.forget(&object("a", "deleted"));
    pacer.forget_unless(|object| object.name != "deleted-unseen");
    pass_time(1).await;
    assert!(send(&pacer, "a", Outcome::Answered));
    assert_eq!(taken(&mut woken), ["a/kept"]);
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
async fn of_namespaces_without_an_answer_another_than_the_last_one_is_tried_first() {
    let (pacer, _woken) = pacer();
    let kinds = [(CallKind::ReadSecret, "a"), (CallKind::WriteSecret, "b")];
    for (kind, namespace) in kinds {
        let pass = pacer.enter(call(kind, namespace)).unwrap();
        pass.end(Outcome::Unanswered);
    }
    pass_time(1).await;
    for (kind, namespace) in kinds {
        assert!(pacer.check(kind, namespace).is_err());
    }
    assert_eq!(pacer.check(CallKind::ReadSecret, "c"), Ok(()));
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
    assert!(send(&pacer, "b", Outcome::Unanswered));
    for (namespace, name) in [("a", "1"), ("a", "2"), ("b", "3")] {
        let held = pacer.enter(call(KIND, namespace)).unwrap_err();
        assert!(pacer.wait_at(&held, &object(namespace, name)) >= Duration::from_secs(1));
    }
    pass_time(2).await;
    assert!(send(&pacer, "a", Outcome::Answered));
    assert_eq!(taken(&mut woken), ["a/1", "a/2", "b/3"]);
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
