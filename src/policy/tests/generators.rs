//! Scenes of any kind, for properties.

use proptest::option;
use proptest::prelude::*;

use super::*;

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
        any::<(bool, bool)>(),
    )
        .prop_map(
            |(issued, expires, inputs, credentials_version, refresh_handled, (is_in_place, is_read))| {
                Stored {
                    issued,
                    expires,
                    inputs,
                    credentials_version,
                    refresh_handled,
                    is_in_place,
                    is_readable: is_in_place && is_read,
                }
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
        (
            option::of(any_time()),
            option::of((any_time(), any::<bool>())),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
        ),
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
                (account_free_at, account_lock, under_way, has_account, is_in_doubt),
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
                account_lock: account_lock.map(|(until, only_from_status)| AccountLock {
                    until,
                    only_from_status,
                }),
                is_in_doubt,
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

/// A VendorToken in any situation, likely or not.
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

/// A scene in the middle of the range of times, in which the vendor may be asked.
pub(super) fn any_ordinary_scene() -> impl Strategy<Value = Scene> {
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

/// Answers of a vendor, in the form of `Simulation::answers`.
pub(super) fn any_answers() -> impl Strategy<Value = Vec<Result<i64, Option<i64>>>> {
    prop::collection::vec(
        prop_oneof![
            3 => (1..20_000_i64).prop_map(Ok),
            2 => option::weighted(0.8, 1..4000_i64).prop_map(Err),
        ],
        0..6,
    )
}
