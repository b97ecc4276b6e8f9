//! Properties of decisions that hold for any observation.

use proptest::option;
use proptest::prelude::*;

use super::generators::{any_answers, any_ordinary_scene, any_scene};
use super::*;
use crate::times::later;

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
                        is_in_place: true,
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
