//! Random schedules of one account: passwords that are typed, shared, changed at the vendor and held up, in several
//! namespaces. In any 15 minutes three failed attempts reach the vendor at most, beside the rule for proven passwords.

use proptest::prelude::*;

use super::*;

const OBJECTS: u8 = 8;
/// An account counts in whole seconds.
const WINDOW: Duration = Duration::from_secs(15 * 60 - 1);

#[derive(Clone, Copy, Debug)]
enum Event {
    /// An object gets this password, and asks for these scopes with it.
    Edit {
        object: u8,
        password: u8,
        scopes: u8,
    },
    /// The vendor takes this password from now on, and no other.
    Rotate(u8),
    /// The vendor answers 429 for so many seconds.
    Throttle(u64),
    /// The vendor answers 503 for so many seconds.
    Fail(u64),
    Pass(u64),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..OBJECTS, 0..6_u8, 0..4_u8)
            .prop_map(|(object, password, scopes)| Event::Edit { object, password, scopes }),
        1 => (0..6_u8).prop_map(Event::Rotate),
        1 => (60..4000_u64).prop_map(Event::Throttle),
        1 => (1..600_u64).prop_map(Event::Fail),
        4 => (1..900_u64).prop_map(Event::Pass),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Token,
    Rejected,
    Trouble,
}

/// An attempt as the vendor met it.
#[derive(Clone, Copy, Debug)]
struct Met {
    sent: Duration,
    ended: Duration,
    grant: u8,
    outcome: Outcome,
}

impl Met {
    fn password(&self) -> u8 {
        self.grant / 4
    }
}

#[derive(Debug, Default)]
struct Script {
    right: u8,
    throttles_until: Duration,
    fails_until: Duration,
    latencies: Vec<u64>,
    met: Vec<Met>,
}

impl Script {
    fn answer(&mut self, call: &Call) -> Answer {
        let after = Duration::from_secs(self.latencies[call.index % self.latencies.len()]);
        let (outcome, answer) = if call.at < self.throttles_until {
            let left = (self.throttles_until - call.at).as_secs() + 1;
            (Outcome::Trouble, throttled(left as u32))
        } else if call.at < self.fails_until {
            (Outcome::Trouble, status(503, ""))
        } else if call.grant / 4 == self.right {
            (Outcome::Token, token("t", 1200))
        } else {
            (Outcome::Rejected, rejected())
        };
        self.met.push(Met {
            sent: call.at,
            ended: call.at + after,
            grant: call.grant,
            outcome,
        });
        answer.after(after)
    }
}

/// Runs a schedule, and gives what the vendor met.
async fn run(events: &[Event], per_minute: u32, latencies: Vec<u64>) -> Vec<Met> {
    let script = Arc::new(Mutex::new(Script {
        latencies,
        ..Script::default()
    }));
    let answers = Arc::clone(&script);
    let bench = bench_with(&[(Vendor::CheckmarxSca, per_minute)], 32, move |call| {
        answers.lock().unwrap().answer(call)
    });
    let mut grants = [None; OBJECTS as usize];
    for event in events.iter().chain(&[Event::Pass(900)]) {
        let now = bench.vendor.started.elapsed();
        let mut seconds = 1;
        match *event {
            Event::Edit {
                object,
                password,
                scopes,
            } => grants[usize::from(object)] = Some(password * 4 + scopes),
            Event::Rotate(password) => script.lock().unwrap().right = password,
            Event::Throttle(seconds) => {
                script.lock().unwrap().throttles_until = now + Duration::from_secs(seconds);
            }
            Event::Fail(seconds) => script.lock().unwrap().fails_until = now + Duration::from_secs(seconds),
            Event::Pass(time) => seconds = time,
        }
        while seconds > 0 {
            for (object, grant) in (0..).zip(&grants) {
                let Some(grant) = *grant else { continue };
                let namespace = ["a", "b", "c"][object % 3];
                bench.ask_as(Ask {
                    account: Some(Account::from_bytes([1; 16])),
                    password: grant / 4,
                    ..ask(
                        &format!("{namespace}/o{object}"),
                        grant,
                        grant_of(Vendor::CheckmarxSca),
                    )
                });
            }
            let step = seconds.min(20);
            bench.pass(step).await;
            seconds -= step;
        }
    }
    bench.running.abort();
    script.lock().unwrap().met.clone()
}

/// True where the operator knew of a token that this credential had brought, and of no rejection of its password since.
fn is_proven(met: &[Met], one: &Met) -> bool {
    let before = met.iter().filter(|other| other.ended < one.sent);
    let tokens = before
        .clone()
        .filter(|other| other.grant == one.grant && other.outcome == Outcome::Token);
    let Some(token) = tokens.max_by_key(|token| token.sent) else {
        return false;
    };
    let of_password = before.filter(|other| other.password() == one.password());
    let mut rejections = of_password
        .clone()
        .filter(|other| other.outcome == Outcome::Rejected);
    !rejections.any(|rejection| {
        let mut tokens = of_password
            .clone()
            .filter(|other| other.outcome == Outcome::Token);
        rejection.ended > token.sent && !tokens.any(|token| rejection.ended <= token.sent)
    })
}

/// The failed attempts of 15 minutes that reached the vendor before this one, and that no success separates from it.
fn failed_before(met: &[Met], place: usize) -> impl Iterator<Item = &Met> {
    let one = met[place];
    met[..place].iter().filter(move |other| {
        let is_separated = met.iter().any(|success| {
            success.outcome == Outcome::Token && other.ended <= success.sent && success.ended <= one.sent
        });
        let counts = match other.outcome {
            Outcome::Token => false,
            Outcome::Rejected => true,
            Outcome::Trouble => !is_proven(met, other),
        };
        counts && one.sent - other.sent < WINDOW && !is_separated
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_schedule_sends_more_than_three_failing_passwords_in_15_minutes(
        events in prop::collection::vec(any_event(), 1..60),
        per_minute in prop::sample::select(vec![1_u32, 3, 600]),
        latencies in prop::collection::vec(0..30_u64, 1..9),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let met = runtime.block_on(run(&events, per_minute, latencies));
        for (place, one) in met.iter().enumerate() {
            let before: Vec<_> = failed_before(&met, place).collect();
            if one.outcome == Outcome::Token || before.len() < 3 {
                continue;
            }
            // Beyond the bound: the first rejection of a password that was proven.
            prop_assert!(is_proven(&met, one), "{one:?} after {before:?}");
            let again = before
                .iter()
                .filter(|other| other.password() == one.password() && other.outcome == Outcome::Rejected)
                .find(|other| is_proven(&met, other));
            prop_assert!(
                one.outcome == Outcome::Trouble || again.is_none(), "{one:?} after {before:?}"
            );
        }
    }
}
