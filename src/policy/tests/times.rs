//! Time: tokens of any life, clocks that are stepped, machines that sleep, and deadlines made at any moment.

use proptest::option;
use proptest::prelude::*;

use super::super::backoff::{Rejections, after_transient, holds, lock_holds, next_attempt};
use super::super::schedule::{self, due, least_gap};
use super::*;
use crate::failure::{Failure, FailureClass};
use crate::times::later;

/// The shortest and the longest life that is supported, in seconds.
const SHORTEST: i64 = 40;
const LONGEST: i64 = 400 * 86_400;
/// The longest wait of a reconcile, in seconds that the machine is awake.
const LONGEST_WAIT: i64 = 300;

fn any_policy() -> impl Strategy<Value = RefreshPolicy> {
    prop_oneof![
        (10..=90_i64).prop_map(RefreshPolicy::AtLifetimePercent),
        (30..=86_400_i64).prop_map(RefreshPolicy::BeforeExpirySeconds),
    ]
}

/// Lives of all orders of magnitude alike, so that most are not months.
fn any_life(shortest: i64) -> impl Strategy<Value = i64> {
    let (low, high) = ((shortest.max(1) as f64).ln(), (LONGEST as f64).ln());
    prop_oneof![
        1 => Just(shortest),
        1 => Just(LONGEST),
        8 => (low..high).prop_map(move |power| (power.exp() as i64).clamp(shortest, LONGEST)),
    ]
}

fn seconds_to_due(policy: RefreshPolicy, life: i64, jitter: u8) -> i64 {
    due(policy, at(0), at(life), jitter).as_second() - at(0).as_second()
}

/// The seconds from issue to due time by the formula, with fractions.
fn formula(policy: RefreshPolicy, life: f64, jitter: f64) -> f64 {
    let nominal = match policy {
        RefreshPolicy::AtLifetimePercent(percent) => percent as f64 / 100.0 * life,
        RefreshPolicy::BeforeExpirySeconds(seconds) => life - seconds as f64,
    };
    let reserve = f64::max(f64::min(120.0, life / 2.0), life / 10.0);
    let soonest = f64::max(life / 10.0, f64::min(30.0, life / 2.0)).max(5.0);
    f64::min(nominal - jitter * 0.05 * life, life - reserve).max(soonest)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_token_of_any_life_is_due_when_the_formula_says(
        policy in any_policy(), life in any_life(0), jitter in any::<u8>()
    ) {
        let expected = formula(policy, life as f64, f64::from(jitter) / 255.0);
        let found = seconds_to_due(policy, life, jitter);
        prop_assert!((found as f64 - expected).abs() < 2.0, "{found} and not {expected}");
        prop_assert!(found >= 5, "no setting asks again at once");
        if life > 5 {
            prop_assert!(found < life, "due {found} of {life}");
        }
    }

    #[test]
    fn jitter_brings_the_due_time_forward_by_a_twentieth_at_most(
        policy in any_policy(), life in any_life(0), one in any::<u8>(), other in any::<u8>()
    ) {
        let (less, more) = (one.min(other), one.max(other));
        let (late, soon) = (seconds_to_due(policy, life, less), seconds_to_due(policy, life, more));
        prop_assert!(soon <= late);
        prop_assert!(late - soon <= life / 20 + 1);
    }

    #[test]
    fn a_life_costs_two_requests_at_most_by_default(life in any_life(10), jitter in any::<u8>()) {
        let default = RefreshPolicy::from_spec(None);
        let requests = life as f64 / seconds_to_due(default, life, jitter) as f64;
        let most = if life >= 600 { 1.4 } else { 2.0 };
        prop_assert!(requests <= most, "{requests} requests in a life of {life} s");
    }

    #[test]
    fn the_least_gap_never_delays_a_due_refresh(policy in any_policy(), life in any_life(0), jitter in any::<u8>()) {
        let gap = least_gap(at(0), at(life)).as_secs();
        prop_assert!(gap <= seconds_to_due(policy, life, jitter));
        prop_assert!(gap >= 5);
    }
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        6 => (-100_000..100_000_i64).prop_map(at),
        1 => Just(Timestamp::MIN),
        1 => Just(Timestamp::MAX),
        4 => any::<i64>().prop_map(|second| {
            Timestamp::from_second(second % 253_402_207_200).unwrap_or(Timestamp::MAX)
        }),
    ]
}

fn any_class() -> impl Strategy<Value = FailureClass> {
    prop::sample::select(vec![
        FailureClass::Rejected,
        FailureClass::Refused,
        FailureClass::Throttled,
        FailureClass::Transient,
        FailureClass::Malformed,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_deadline_lies_ahead_and_holds(
        class in any_class(), deadline in option::of(any_time()), count in any::<i32>(), jitter in any::<u8>(),
        (rejections, locks_accounts, is_proven, is_replacement) in any::<(i32, bool, bool, bool)>(), now in any_time()
    ) {
        let failure = Failure::new(class, "").with_deadline(deadline);
        let is_lock = class == FailureClass::Rejected && deadline.is_some();
        let rejections = Rejections { count: rejections, locks_accounts, is_proven, is_replacement };
        let next = next_attempt(&failure, count, rejections, jitter, now);
        let is_confirmed = !is_proven || rejections.count > 1;
        prop_assert_eq!(
            next.is_none(), class == FailureClass::Rejected && !is_lock && locks_accounts && is_confirmed
        );
        for (next, is_lock) in [(next, is_lock), (after_transient(count, jitter, now), false)] {
            let Some(next) = next else { continue };
            // No time is later than the last one.
            prop_assert!(next > now || now >= later(Timestamp::MAX, -1), "{next} at {now}");
            let holds = if is_lock { lock_holds(next, now) } else { holds(next, now) };
            prop_assert!(holds || now >= later(Timestamp::MAX, -1), "{next} at {now}");
            let lock_end = deadline.filter(|_| is_lock).map(|end| end.min(later(now, 86_400)));
            prop_assert!(
                lock_end.is_none_or(|end| next >= end) || now >= later(Timestamp::MAX, -1), "{next} at {now}"
            );
        }
    }

    #[test]
    fn a_failure_of_any_class_holds_until_its_deadline(
        reason in prop::sample::select(vec![
            Reason::CredentialsRejected, Reason::EndpointRefused, Reason::RateLimited, Reason::VendorUnavailable,
            Reason::InvalidResponse,
        ]),
        wait in 1..7200_i64, in_status in any::<bool>(), asks in any::<bool>(), may_override in any::<bool>(), free in any::<bool>()
    ) {
        let mut scene = Scene::new().known('a').at(DUE);
        scene = if free { scene.free() } else { scene };
        scene.request = asks.then(|| "friday".to_owned());
        scene.grant.may_override = may_override;
        scene = if in_status {
            scene.failed_in_status(reason, DUE, Some(DUE + wait), &inputs('a'))
        } else {
            scene.failed(reason, DUE, Some(DUE + wait))
        };
        let passes = asks && may_override && reason != Reason::RateLimited;
        for (second, issues) in [(DUE, passes), (DUE + wait - 1, passes), (DUE + wait, true)] {
            let decision = decide(&scene.clone().at(second).observed());
            prop_assert_eq!(decision == Decision::Issue, issues, "at {}", second - DUE);
        }
    }

    #[test]
    fn after_a_new_token_the_wait_ends_by_its_expiry(
        policy in any_policy(), life in any_life(1), now in 0..400_000_i64, jitter in any::<u8>(),
        asks in any::<bool>(), free in any::<bool>(), not_before in option::weighted(0.2, 0..2000_i64)
    ) {
        let mut scene = Scene::new().known('a').at(now);
        scene = if free { scene.free() } else { scene };
        scene.refresh = policy;
        scene.request = asks.then(|| "friday".to_owned());
        prop_assume!(decide(&scene.observed()) == Decision::Issue);
        let (issued, expires) = (now, now + life);
        scene = scene.memory(issued, expires);
        if let Some(not_before) = not_before.filter(|seconds| *seconds < life) {
            scene = scene.not_before(now + not_before);
        }
        scene.grant.succeeded = Some(at(issued));
        scene.grant.completed_request.clone_from(&scene.request);
        scene.grant.gap_ends = Some(later(at(now), least_gap(at(issued), at(expires)).as_secs()));
        scene.grant.gap_on_request_ends = scene.grant.gap_ends;
        for step in 0..3 {
            match decide(&scene.observed()) {
                Decision::Publish => scene.target = Target::Ours {
                    stored: Some(Stored {
                        issued: at(issued), expires: at(expires), inputs: Inputs { jitter, ..inputs('a') },
                        credentials_version: Some("uid/1".to_owned()), refresh_handled: scene.request.clone(),
                        is_in_place: true,
is_readable: true,
                    }),
                    as_desired: true,
                },
                Decision::Wait { until: Some(until) } => {
                    prop_assert!(until > scene.now && until <= at(expires).max(at(EXPIRES)).max(at(now + 5)));
                    return Ok(());
                }
                other => prop_assert!(false, "{other:?} in step {step}"),
            }
        }
        prop_assert!(false, "it did not come to rest");
    }
}

/// An event on a machine while it waits.
#[derive(Clone, Copy, Debug)]
enum Event {
    Nothing,
    /// Its clock is set ahead, or back.
    Step(i64),
    /// It sleeps: the clock goes on, timers do not.
    Sleep(i64),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Nothing),
        2 => prop::sample::select(vec![-3600, -600, -240, -60, 60, 240, 600, 3600]).prop_map(Event::Step),
        1 => prop::sample::select(vec![600, 86_400]).prop_map(Event::Sleep),
    ]
}

/// A machine with a clock that may be wrong, timers that stand still while it sleeps, and the true time.
struct Machine {
    scene: Scene,
    life: i64,
    jitter: u8,
    truth: i64,
    timer: i64,
    ahead: i64,
    /// The timer and the clock at the last look at the token in the target.
    seen: Option<(i64, i64)>,
    /// The timer and the clock when the last token came.
    token_came: Option<(i64, i64)>,
    /// The true end of the token in the target, and of the one in memory.
    ends: Option<i64>,
    ends_in_memory: i64,
    requests: usize,
}

impl Machine {
    fn clock(&self) -> i64 {
        self.truth + self.ahead
    }

    /// Takes what the controller and the book of grants observe, from both clocks.
    fn look(&mut self) {
        let (clock, timer) = (self.clock(), self.timer);
        let now = at(clock);
        self.scene.now = now;
        if let Target::Ours { stored, as_desired } = &mut self.scene.target
            && stored
                .as_ref()
                .is_some_and(|stored| !schedule::is_credible_issue(stored.issued, now))
        {
            (*stored, *as_desired) = (None, false);
        }
        let in_memory = self.scene.grant.token.take();
        self.scene.grant.token =
            in_memory.filter(|token| now < token.expires && schedule::is_credible_issue(token.issued, now));
        if let Target::Ours {
            stored: Some(stored), ..
        } = &self.scene.target
        {
            let lost = match self.seen {
                Some((seen_timer, seen_clock)) => (timer - seen_timer) - (clock - seen_clock),
                None => stored.issued.as_second() - now.as_second(),
            };
            self.seen = Some((timer, clock));
            self.scene.set_back += SignedDuration::from_secs(lost.max(0));
        }
        let gap = least_gap(at(0), at(self.life)).as_secs();
        self.scene.grant.gap_ends = self.token_came.and_then(|(came_timer, came_clock)| {
            let left = gap - (timer - came_timer).max(clock - came_clock);
            (left > 0 && self.scene.grant.token.is_some()).then(|| at(clock + left))
        });
    }

    /// Carries decisions out until one is to wait, and gives the seconds of the wait.
    fn act(&mut self) -> i64 {
        for _ in 0..5 {
            self.look();
            match decide(&self.scene.observed()) {
                Decision::Issue => {
                    self.requests += 1;
                    self.token_came = Some((self.timer, self.clock()));
                    self.ends_in_memory = self.truth + self.life;
                    let clock = self.clock();
                    self.scene.grant.token = Some(memory_token(clock, clock + self.life));
                    self.scene.grant.succeeded = Some(at(clock));
                }
                Decision::Publish => {
                    let token = self.scene.grant.token.clone().unwrap();
                    self.ends = Some(self.ends_in_memory);
                    self.seen = None;
                    self.scene.set_back = SignedDuration::ZERO;
                    self.scene.target = Target::Ours {
                        stored: Some(Stored {
                            issued: token.issued,
                            expires: token.expires,
                            inputs: Inputs {
                                jitter: self.jitter,
                                ..inputs('a')
                            },
                            credentials_version: Some("uid/1".to_owned()),
                            refresh_handled: None,
                            is_in_place: true,
                            is_readable: true,
                        }),
                        as_desired: true,
                    };
                }
                Decision::Wait { until } => {
                    let clock = at(self.clock());
                    let wait = until.map_or(LONGEST_WAIT, |until| until.as_second() - clock.as_second());
                    return wait.clamp(1, LONGEST_WAIT);
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("it does not come to rest: {:?}", self.scene);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn steps_and_sleeps_leave_no_expired_token_for_longer_than_a_wait(
        policy in any_policy(), life in any_life(SHORTEST), jitter in any::<u8>(),
        events in prop::collection::vec((any_event(), 0..=100_i64), 1..40)
    ) {
        let mut scene = Scene::new().free().known('a');
        scene.refresh = policy;
        let mut machine = Machine {
            scene, life, jitter, truth: 0, timer: 0, ahead: 0, seen: None, token_came: None, ends: None, ends_in_memory: 0,
            requests: 0,
        };
        let disturbances = events.iter().filter(|(event, _)| !matches!(event, Event::Nothing)).count();
        // Long enough for some lives, with the events spread over them.
        let rests = 3 * life / LONGEST_WAIT + 40;
        let mut events = events.into_iter();
        let mut woke = i64::MIN;
        for rest in 0..rests.min(600) {
            let wait = machine.act();
            let (event, part) = match rest % (rests / 40).clamp(1, 30) {
                0 => events.next().unwrap_or((Event::Nothing, 0)),
                _ => (Event::Nothing, 0),
            };
            let before = wait * part / 100;
            for passes in [before, wait - before] {
                machine.truth += passes;
                machine.timer += passes;
                let left = machine.ends.unwrap_or(i64::MAX) - machine.truth;
                prop_assert!(
                    left > 0 || machine.truth - woke <= LONGEST_WAIT,
                    "expired {} s ago, awake for {} s, clock {} s ahead, life {life}", -left, machine.truth - woke, machine.ahead
                );
                if passes == before {
                    match event {
                        Event::Nothing => {}
                        Event::Step(step) => machine.ahead += step,
                        Event::Sleep(sleep) => {
                            machine.truth += sleep;
                            woke = machine.truth;
                        }
                    }
                }
            }
        }
        let gap = least_gap(at(0), at(life)).as_secs();
        let most = machine.truth / gap + 1 + i64::try_from(disturbances).unwrap();
        prop_assert!(
            i64::try_from(machine.requests).unwrap() <= most,
            "{} requests in {} s, with {disturbances} disturbances", machine.requests, machine.truth
        );
    }
}
