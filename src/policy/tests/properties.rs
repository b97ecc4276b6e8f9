//! Properties of decisions that hold for any observation.

use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::times::later;

/// Times around the scene, and the first and the last that there are.
fn any_time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        20 => (-7200..14_400_i64).prop_map(at),
        1 => Just(Timestamp::MIN),
        1 => Just(Timestamp::MAX),
        1 => any::<i64>().prop_map(|second| {
            Timestamp::from_second(second % 253_402_207_200).unwrap_or(Timestamp::MAX)
        }),
    ]
}

fn any_inputs() -> impl Strategy<Value = Inputs> {
    (
        prop_oneof![4 => Just(KEY), 1 => Just(OTHER_KEY)],
        prop_oneof![4 => Just(PARAMETERS), 1 => Just("99999999999999999999999999999999")],
        prop_oneof![4 => Just(SOURCES), 1 => Just("99999999")],
        prop_oneof![3 => Just('a'), 1 => Just('b')],
        any::<u8>(),
    )
        .prop_map(|(key_id, parameters, sources, credential, jitter)| Inputs {
            key_id: key_id.to_owned(),
            parameters: parameters.to_owned(),
            sources: sources.to_owned(),
            jitter,
            ..inputs(credential)
        })
}

fn any_request() -> impl Strategy<Value = Option<String>> {
    option::of(prop_oneof![Just("monday".to_owned()), Just("tuesday".to_owned())])
}

fn any_version() -> impl Strategy<Value = Option<String>> {
    option::of(prop_oneof![Just("uid/1".to_owned()), Just("uid/2".to_owned())])
}

fn any_reason() -> impl Strategy<Value = Reason> {
    prop::sample::select(Reason::ALL.to_vec())
}

fn any_problem(reasons: &'static [Reason]) -> impl Strategy<Value = Problem> {
    (prop::sample::select(reasons), "[a-zé ]{1,20}", 1..200_usize)
        .prop_map(|(reason, word, times)| Problem::new(reason, word.repeat(times)))
}

fn any_target() -> impl Strategy<Value = Target> {
    let stored = (
        any_time(),
        any_time(),
        any_inputs(),
        any_version(),
        any_request(),
        any::<bool>(),
    )
        .prop_map(
            |(issued, expires, inputs, credentials_version, refresh_handled, is_readable)| Stored {
                issued,
                expires,
                inputs,
                credentials_version,
                refresh_handled,
                is_readable,
            },
        );
    prop_oneof![
        1 => Just(Target::Free),
        1 => any_problem(&[Reason::TargetNotOwned, Reason::TargetConflict]).prop_map(Target::Blocked),
        6 => (option::weighted(0.9, stored), prop::bool::weighted(0.8)).prop_map(|(stored, as_desired)| {
            Target::Ours { as_desired: as_desired && stored.is_some(), stored }
        }),
    ]
}

fn any_credentials() -> impl Strategy<Value = Credentials> {
    prop_oneof![
        1 => any_problem(&[Reason::CredentialsNotFound, Reason::CredentialsInvalid, Reason::ApiDenied])
            .prop_map(Credentials::Unusable),
        2 => any_version().prop_map(|version| Credentials::Unread { version }),
        4 => any_inputs().prop_map(|inputs| Credentials::Known { inputs }),
    ]
}

fn any_grant() -> impl Strategy<Value = GrantFacts> {
    let token = (
        any_time(),
        any_time(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        option::weighted(0.2, any_time()),
    )
        .prop_map(
            |(issued, expires, expiry_assumed, clock_skew_suspected, unusually_long, not_before)| {
                GrantToken {
                    issued,
                    expires,
                    warnings: Warnings {
                        expiry_assumed,
                        clock_skew_suspected,
                        unusually_long,
                        not_before,
                    },
                }
            },
        );
    let failure = (
        any_reason(),
        ".{1,40}",
        0..=i32::MAX,
        any_time(),
        option::of(any_time()),
        any_inputs(),
        any::<bool>(),
    )
        .prop_map(
            |(reason, message, count, last_attempt, next_attempt, inputs, only_from_other_status)| {
                PastFailure {
                    reason,
                    message,
                    count,
                    last_attempt,
                    next_attempt,
                    inputs,
                    only_from_other_status,
                }
            },
        );
    (
        option::of(token),
        option::weighted(0.3, failure),
        option::of(any_time()),
        any_request(),
        option::of(any_time()),
        option::of(any_time()),
        any::<bool>(),
        option::of(any_time()),
        (option::of(any_time()), any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |(
                token,
                failure,
                succeeded,
                completed_request,
                gap_ends,
                gap_on_request_ends,
                may_override,
                paused_until,
                (account_free_at, under_way, has_account),
            )| GrantFacts {
                token,
                failure,
                succeeded,
                completed_request,
                gap_ends,
                gap_on_request_ends,
                may_override,
                paused_until,
                account_free_at,
                under_way,
                has_account,
                is_proven: false,
            },
        )
}

fn any_status() -> impl Strategy<Value = VendorTokenStatus> {
    let failure = (
        any_reason(),
        any::<i32>(),
        any_time(),
        option::of(any_time()),
        any_inputs(),
    )
        .prop_map(|(reason, count, last, next, inputs)| FailureStatus {
            reason: reason.as_str().to_owned(),
            message: "why".to_owned(),
            count,
            last_attempt_time: Time(last),
            next_attempt_time: next.map(Time),
            inputs: inputs.to_string(),
        });
    (option::weighted(0.4, failure), any_request()).prop_map(|(failure, handled)| VendorTokenStatus {
        failure,
        last_handled_refresh_request: handled,
        ..VendorTokenStatus::default()
    })
}

fn any_policy() -> impl Strategy<Value = RefreshPolicy> {
    prop_oneof![
        (10..=90_i64).prop_map(RefreshPolicy::AtLifetimePercent),
        (30..=86_400_i64).prop_map(RefreshPolicy::BeforeExpirySeconds),
    ]
}

pub(super) fn any_scene() -> impl Strategy<Value = Scene> {
    let flags = (
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.1),
        option::weighted(0.1, any_problem(&[Reason::InvalidSpec])),
        option::weighted(
            0.2,
            (
                any_problem(&[Reason::TargetInvalid, Reason::ApiDenied]),
                any_time(),
            )
                .prop_map(|(problem, next_attempt)| PublishBlock {
                    problem,
                    next_attempt,
                }),
        ),
        option::weighted(
            0.1,
            (any_time(), any_time(), any_time()).prop_map(|(issued, paused_until, over_at)| Contest {
                issued,
                paused_until,
                over_at,
                undone: contest::Undone::Deleted,
            }),
        ),
    );
    (
        any_time(),
        flags,
        any_policy(),
        any_request(),
        // On the heap: the tree of values that proptest keeps is too large for a test's stack.
        any_status().boxed(),
        any_target().boxed(),
        any_credentials().boxed(),
        any_grant().boxed(),
    )
        .prop_map(
            |(now, flags, refresh, request, status, target, credentials, grant)| {
                let (deleting, suspended, spec_problem, publish_block, contest) = flags;
                // The book has facts only where the credentials are known, and only of their grant.
                let mut grant = match credentials {
                    Credentials::Known { .. } => grant,
                    _ => GrantFacts::default(),
                };
                if let (Some(failure), Credentials::Known { inputs }) = (&mut grant.failure, &credentials) {
                    failure.inputs.clone_from(inputs);
                }
                Scene {
                    now,
                    deleting,
                    suspended,
                    spec_problem,
                    refresh,
                    request,
                    status,
                    target,
                    set_back: SignedDuration::ZERO,
                    key_id: KEY,
                    parameters: PARAMETERS,
                    sources: SOURCES,
                    credentials,
                    grant,
                    publish_block,
                    owners_stay: false,
                    contest,
                    api_trouble: None,
                }
            },
        )
}

/// A VendorToken whose decisions are carried out, as the controller and the book of grants do.
struct Simulation {
    scene: Scene,
    /// The answers of the vendor, the last one first: the life of a token in seconds, or the wait after a failure in
    /// seconds (`None`: a latch).
    answers: Vec<Result<i64, Option<i64>>>,
    /// The time of each request, and the earliest time of the one after it.
    asked: Vec<(Timestamp, Timestamp)>,
}

impl Simulation {
    /// Carries one decision out, and gives it; `None` when it is to wait.
    fn step(&mut self) -> Option<Decision> {
        let decision = decide(&self.scene.observed());
        let now = self.scene.now;
        match &decision {
            Decision::Nothing | Decision::Wait { .. } => return None,
            Decision::ReadCredentials => {
                self.scene.credentials = Credentials::Known { inputs: inputs('a') };
            }
            Decision::Publish => {
                let token = self.scene.grant.token.clone().unwrap();
                self.scene.target = Target::Ours {
                    stored: Some(Stored {
                        issued: token.issued,
                        expires: token.expires,
                        inputs: match &self.scene.credentials {
                            Credentials::Known { inputs } => inputs.clone(),
                            other => panic!("published with {other:?}"),
                        },
                        credentials_version: Some("uid/1".to_owned()),
                        refresh_handled: self.scene.grant.completed_request.clone(),
                        is_readable: true,
                    }),
                    as_desired: true,
                };
            }
            Decision::Repair => {
                let Target::Ours {
                    stored: Some(_),
                    as_desired,
                } = &mut self.scene.target
                else {
                    panic!("repaired without a token");
                };
                *as_desired = true;
            }
            Decision::Issue => {
                let answer = self.answers.pop().unwrap_or(Ok(3600));
                let Credentials::Known { inputs } = &self.scene.credentials else {
                    panic!("asked without credentials");
                };
                self.scene.grant.completed_request.clone_from(&self.scene.request);
                match answer {
                    Ok(life) => {
                        let issued = Timestamp::from_second(now.as_second()).unwrap();
                        let expires = later(issued, life);
                        self.scene.grant.token = Some(GrantToken {
                            issued,
                            expires,
                            warnings: Warnings::default(),
                        });
                        self.scene.grant.failure = None;
                        self.scene.grant.succeeded = Some(issued);
                        let gap = schedule::least_gap(issued, expires);
                        self.asked.push((now, seconds_later(now, gap.as_secs())));
                        self.scene.grant.gap_ends = Some(seconds_later(now, gap.as_secs()));
                        self.scene.grant.gap_on_request_ends =
                            Some(seconds_later(now, gap.as_secs().min(30)));
                    }
                    Err(next) => {
                        let not_before = next.map_or(Timestamp::MAX, |next| later(now, next));
                        self.asked.push((now, not_before));
                        self.scene.grant.succeeded = None;
                        self.scene.grant.failure = Some(PastFailure {
                            reason: Reason::VendorUnavailable,
                            message: "why".to_owned(),
                            count: 1,
                            last_attempt: now,
                            next_attempt: next.map(|next| later(now, next)),
                            inputs: inputs.clone(),
                            only_from_other_status: false,
                        });
                    }
                }
            }
        }
        Some(decision)
    }

    /// Carries decisions out until one is to wait, writes the status as a reconcile does, and gives the steps.
    fn reconcile(&mut self) -> Vec<Decision> {
        let mut steps = Vec::new();
        while let Some(step) = self.step() {
            steps.push(step);
            assert!(steps.len() <= 5, "it does not come to rest: {steps:?}");
        }
        let context = StatusContext {
            generation: 1,
            target_name: "t",
            endpoint: None,
            credential_expires: None,
            progress: Progress::None,
        };
        self.scene.status = status(&self.scene.observed(), &context);
        assert_eq!(status(&self.scene.observed(), &context), self.scene.status);
        steps
    }
}

/// A scene in the middle of the range of times, in which the vendor may be asked.
fn any_ordinary_scene() -> impl Strategy<Value = Scene> {
    (any_scene(), 0..7200_i64).prop_map(|(mut scene, now)| {
        scene.now = at(now);
        scene.deleting = false;
        scene.suspended = false;
        scene.spec_problem = None;
        scene.publish_block = None;
        scene.contest = None;
        if matches!(scene.target, Target::Blocked(_)) {
            scene.target = Target::Free;
        }
        // `ownership::judge` and the book of grants let no incredible times through.
        if let Target::Ours { stored, as_desired } = &mut scene.target {
            let keep = stored
                .as_ref()
                .is_some_and(|stored| stored.issued <= scene.now && stored.issued < stored.expires);
            if !keep {
                *stored = None;
                *as_desired = false;
            }
        }
        if scene
            .grant
            .token
            .as_ref()
            .is_some_and(|token| token.issued > scene.now || token.expires <= scene.now)
        {
            scene.grant.token = None;
        }
        scene.credentials = match scene.credentials {
            Credentials::Known { .. } => Credentials::Known { inputs: inputs('a') },
            _ => Credentials::Unread { version: None },
        };
        scene
    })
}

fn any_answers() -> impl Strategy<Value = Vec<Result<i64, Option<i64>>>> {
    prop::collection::vec(
        prop_oneof![
            3 => (1..20_000_i64).prop_map(Ok),
            2 => option::weighted(0.8, 1..4000_i64).prop_map(Err),
        ],
        0..6,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn equal_observations_give_equal_decisions(scene in any_scene()) {
        prop_assert_eq!(decide(&scene.observed()), decide(&scene.clone().observed()));
    }

    #[test]
    fn a_wait_ends_in_the_future(scene in any_scene()) {
        if let Decision::Wait { until: Some(until) } = decide(&scene.observed()) {
            prop_assert!(until > scene.now);
        }
    }

    #[test]
    fn a_suspended_or_blocked_object_only_waits(scene in any_scene(), which in 0..5_usize, later_by in 1..1000_i64) {
        let mut scene = scene;
        match which {
            0 => scene.suspended = true,
            1 => scene.spec_problem = Some(Problem::new(Reason::InvalidSpec, "why")),
            2 => scene = scene.target_blocked(),
            3 => scene = scene.unusable(Reason::CredentialsInvalid),
            _ => {
                prop_assume!(scene.now < at(100_000));
                scene.publish_block = Some(PublishBlock {
                    problem: Problem::new(Reason::TargetInvalid, "why"),
                    next_attempt: seconds_later(scene.now, later_by),
                });
            }
        }
        let decision = decide(&scene.observed());
        prop_assert!(matches!(decision, Decision::Wait { .. } | Decision::Nothing), "{decision:?}");
    }

    #[test]
    fn the_vendor_is_not_asked_before_a_deadline_of_the_same_inputs(scene in any_scene(), wait in option::of(1..4000_i64), in_status in any::<bool>()) {
        let mut scene = scene;
        prop_assume!(scene.now > at(-7200) && scene.now < at(14_400));
        scene.request = None;
        let Credentials::Known { inputs } = scene.credentials.clone() else { return Ok(()) };
        let next_attempt = wait.map(|wait| seconds_later(scene.now, wait));
        let failure = PastFailure {
            reason: Reason::RateLimited, message: "why".to_owned(), count: 1, last_attempt: scene.now, next_attempt, inputs,
            only_from_other_status: false,
        };
        if in_status {
            scene.grant.failure = None;
            scene.status.failure = Some(FailureStatus {
                reason: failure.reason.to_string(),
                message: failure.message,
                count: 1,
                last_attempt_time: Time(failure.last_attempt),
                next_attempt_time: next_attempt.map(Time),
                inputs: failure.inputs.to_string(),
            });
        } else {
            scene.grant.failure = Some(failure);
            scene.status.failure = None;
        }
        prop_assert_ne!(decide(&scene.observed()), Decision::Issue);
        // A refresh request does not bring the attempt forward.
        scene.request = Some("friday".to_owned());
        prop_assert_ne!(decide(&scene.observed()), Decision::Issue);
    }

    #[test]
    fn the_credentials_are_read_before_anything_is_published_or_asked(scene in any_scene()) {
        let decision = decide(&scene.observed());
        if matches!(decision, Decision::Publish | Decision::Issue) {
            prop_assert!(matches!(scene.credentials, Credentials::Known { .. }), "{decision:?}");
        }
        if decision == Decision::Publish {
            prop_assert!(scene.grant.token.is_some());
        }
        if decision == Decision::ReadCredentials {
            prop_assert!(matches!(scene.credentials, Credentials::Unread { .. }), "they would be read for ever");
        }
    }

    #[test]
    fn repeated_steps_come_to_rest(scene in any_ordinary_scene(), answers in any_answers()) {
        let mut simulation = Simulation { scene, answers, asked: Vec::new() };
        let steps = simulation.reconcile();
        prop_assert!(simulation.asked.len() <= 1, "{steps:?}");
        // A second reconcile has nothing to do, and after a publication the next time is known.
        prop_assert_eq!(simulation.reconcile(), []);
        if steps.contains(&Decision::Publish) {
            let Decision::Wait { until } = decide(&simulation.scene.observed()) else { unreachable!() };
            prop_assert!(until.is_some());
        }
    }

    #[test]
    fn restarts_bring_no_request_before_its_gap_or_its_deadline(
        scene in any_ordinary_scene(), answers in any_answers(), life in 30..20_000_i64,
        restarts in prop::collection::vec(prop::bool::weighted(0.3), 60)
    ) {
        let mut simulation = Simulation { scene, answers, asked: Vec::new() };
        simulation.answers.insert(0, Ok(life));
        let mut waits = 0;
        while waits < 60 {
            simulation.reconcile();
            let Decision::Wait { until } = decide(&simulation.scene.observed()) else { unreachable!() };
            let Some(until) = until else { break };
            prop_assume!(until < at(10_000_000));
            simulation.scene.now = until;
            if restarts[waits] {
                // A restart leaves only the target and the status.
                simulation.scene.grant = GrantFacts::default();
                simulation.scene.credentials = Credentials::Unread { version: None };
            }
            if simulation.scene.grant.token.as_ref().is_some_and(|token| token.expires <= until) {
                simulation.scene.grant.token = None;
            }
            waits += 1;
        }
        for pair in simulation.asked.windows(2) {
            let ((_, not_before), (again, _)) = (pair[0], pair[1]);
            prop_assert!(again >= not_before, "{:?}", simulation.asked);
        }
    }
}
