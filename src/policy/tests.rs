//! Decisions and statuses over scenes: one VendorToken as it was observed, with a token that was issued at second 0.

mod decisions;
mod generators;
mod properties;
mod statuses;
mod times;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::contest::Contest;
use super::schedule::RefreshPolicy;
use super::*;
use crate::api::names::{Reason, condition};
use crate::api::{FailureStatus, VendorTokenStatus};
use crate::inputs::Inputs;

/// The issue time of the stored token.
const ISSUED: i64 = 1_800_000_000;
/// The seconds at which it is due, and at which it expires.
const DUE: i64 = 2880;
const EXPIRES: i64 = 3600;

const KEY: &str = "00000000";
const OTHER_KEY: &str = "ffffffff";
const PARAMETERS: &str = "11111111111111111111111111111111";
const SOURCES: &str = "22222222";

/// The time this many seconds after the stored token was issued.
fn at(second: i64) -> Timestamp {
    Timestamp::from_second(ISSUED + second).unwrap()
}

/// The published inputs of the grant with the credential of this letter (`a` to `f`).
fn inputs(credential: char) -> Inputs {
    Inputs {
        key_id: KEY.to_owned(),
        parameters: PARAMETERS.to_owned(),
        sources: SOURCES.to_owned(),
        fingerprint: credential.to_string().repeat(32),
        jitter: 0,
    }
}

fn memory_token(issued: i64, expires: i64) -> GrantToken {
    GrantToken {
        issued: at(issued),
        expires: at(expires),
        warnings: Warnings::default(),
    }
}

/// One VendorToken; by default as it is found after a restart, with a fresh token of credential `a`.
#[derive(Clone, Debug)]
struct Scene {
    now: Timestamp,
    deleting: bool,
    suspended: bool,
    spec_problem: Option<Problem>,
    refresh: RefreshPolicy,
    request: Option<String>,
    status: VendorTokenStatus,
    target: Target,
    set_back: SignedDuration,
    key_id: &'static str,
    parameters: &'static str,
    sources: &'static str,
    credentials: Credentials,
    grant: GrantFacts,
    publish_block: Option<PublishBlock>,
    owners_stay: bool,
    contest: Option<Contest>,
    api_trouble: Option<Problem>,
}

impl Scene {
    fn new() -> Self {
        Self {
            now: at(100),
            deleting: false,
            suspended: false,
            spec_problem: None,
            refresh: RefreshPolicy::AtLifetimePercent(80),
            request: None,
            status: VendorTokenStatus::default(),
            target: Target::Ours {
                stored: Some(Stored {
                    issued: at(0),
                    expires: at(EXPIRES),
                    inputs: inputs('a'),
                    credentials_version: Some("uid/1".to_owned()),
                    refresh_handled: None,
                    is_in_place: true,
                    is_readable: false,
                }),
                as_desired: true,
            },
            set_back: SignedDuration::ZERO,
            key_id: KEY,
            parameters: PARAMETERS,
            sources: SOURCES,
            credentials: Credentials::Unread {
                version: Some("uid/1".to_owned()),
            },
            grant: GrantFacts::default(),
            publish_block: None,
            owners_stay: false,
            contest: None,
            api_trouble: None,
        }
    }

    fn observed(&self) -> Observed<'_> {
        Observed {
            now: self.now,
            deleting: self.deleting,
            suspended: self.suspended,
            spec_problem: self.spec_problem.clone(),
            refresh: self.refresh,
            refresh_request: self.request.as_deref(),
            status: &self.status,
            target: self.target.clone(),
            set_back: self.set_back,
            key_id: self.key_id,
            parameters: self.parameters,
            sources: self.sources,
            credentials: self.credentials.clone(),
            standing: self.standing(),
            publish_block: self.publish_block.clone(),
            owners_stay: self.owners_stay,
            contest: self.contest.clone(),
            api_trouble: self.api_trouble.clone(),
        }
    }

    /// The standing that the book of grants gives; without evidence while the credentials are not known.
    fn standing(&self) -> Standing {
        let Credentials::Known { inputs } = &self.credentials else {
            return Standing::new(self.grant.clone(), &Evidence::default(), self.now);
        };
        let stored = match &self.target {
            Target::Ours { stored, .. } => stored.as_ref(),
            Target::Free | Target::Blocked(_) => None,
        };
        let evidence = Evidence::new(&self.status, stored, inputs, self.now);
        Standing::new(self.grant.clone(), &evidence, self.now)
    }

    fn at(mut self, second: i64) -> Self {
        self.now = at(second);
        self
    }

    /// The clock was set back by these seconds since the stored token was issued.
    fn set_back(mut self, seconds: i64) -> Self {
        self.set_back = SignedDuration::from_secs(seconds);
        self
    }

    fn deleting(mut self) -> Self {
        self.deleting = true;
        self
    }

    fn suspended(mut self) -> Self {
        self.suspended = true;
        self
    }

    fn spec_problem(mut self) -> Self {
        self.spec_problem = Some(Problem::new(Reason::InvalidSpec, "why"));
        self
    }

    fn requested(mut self) -> Self {
        self.request = Some("monday".to_owned());
        self
    }

    fn free(mut self) -> Self {
        self.target = Target::Free;
        self
    }

    fn target_blocked(mut self) -> Self {
        self.target = Target::Blocked(Problem::new(Reason::TargetNotOwned, "why"));
        self
    }

    fn stored(mut self, change: impl FnOnce(&mut Stored)) -> Self {
        if let Target::Ours {
            stored: Some(stored), ..
        } = &mut self.target
        {
            change(stored);
        }
        self
    }

    /// Our keys were edited by others, or the templates by the user.
    fn not_as_desired(mut self) -> Self {
        if let Target::Ours { as_desired, .. } = &mut self.target {
            *as_desired = false;
        }
        self
    }

    /// The data was edited by others, or its templates by the user.
    fn not_in_place(self) -> Self {
        self.stored(|stored| stored.is_in_place = false).not_as_desired()
    }

    /// The data is as the last apply left it.
    fn readable(self) -> Self {
        self.stored(|stored| stored.is_readable = true)
    }

    /// Our annotations were edited by others, so that the token in the Secret is not known.
    fn facts_lost(mut self) -> Self {
        self.target = Target::Ours {
            stored: None,
            as_desired: false,
        };
        self
    }

    /// This process has read the credential of this letter.
    fn known(mut self, credential: char) -> Self {
        self.credentials = Credentials::Known {
            inputs: Inputs {
                key_id: self.key_id.to_owned(),
                parameters: self.parameters.to_owned(),
                sources: self.sources.to_owned(),
                ..inputs(credential)
            },
        };
        self
    }

    fn unread(mut self, version: Option<&str>) -> Self {
        self.credentials = Credentials::Unread {
            version: version.map(str::to_owned),
        };
        self
    }

    fn unusable(mut self, reason: Reason) -> Self {
        self.credentials = Credentials::Unusable(Problem::new(reason, "why"));
        self
    }

    /// The grant part of the spec was edited.
    fn grant_edited(mut self) -> Self {
        self.parameters = "99999999999999999999999999999999";
        self
    }

    /// The spec names another Secret, or other keys in it.
    fn sources_edited(mut self) -> Self {
        self.sources = "99999999";
        self
    }

    /// The stored token was made under a key that is gone.
    fn key_lost(mut self) -> Self {
        self.key_id = OTHER_KEY;
        self
    }

    fn memory(mut self, issued: i64, expires: i64) -> Self {
        self.grant.token = Some(memory_token(issued, expires));
        self
    }

    /// The token in memory is not usable before this second.
    fn not_before(mut self, second: i64) -> Self {
        if let Some(token) = &mut self.grant.token {
            token.warnings.not_before = Some(at(second));
        }
        self
    }

    /// The attempt that this process made at `second` failed.
    fn failed(mut self, reason: Reason, second: i64, next: Option<i64>) -> Self {
        let inputs = match &self.credentials {
            Credentials::Known { inputs } => inputs.clone(),
            _ => inputs('a'),
        };
        self.grant.failure = Some(PastFailure {
            reason,
            message: "why".to_owned(),
            count: 2,
            last_attempt: at(second),
            next_attempt: next.map(at),
            inputs,
            only_from_other_status: false,
        });
        self
    }

    /// The status shows that the attempt at `second` failed.
    fn failed_in_status(mut self, reason: Reason, second: i64, next: Option<i64>, inputs: &Inputs) -> Self {
        self.status.failure = Some(FailureStatus {
            reason: reason.as_str().to_owned(),
            message: "why".to_owned(),
            count: 2,
            last_attempt_time: Time(at(second)),
            next_attempt_time: next.map(|next| Time(at(next))),
            inputs: inputs.to_string(),
        });
        self
    }

    /// No unproven password of this user is sent before this second.
    fn held(mut self, until: i64) -> Self {
        self.grant.account_free_at = Some(at(until));
        self
    }

    /// The status has shown since this second that the API server denies a Secret.
    fn denied_in_status(mut self, since: i64) -> Self {
        self.status.conditions = vec![Condition {
            type_: condition::READY.to_owned(),
            status: "False".to_owned(),
            reason: Reason::ApiDenied.as_str().to_owned(),
            message: "why".to_owned(),
            last_transition_time: Time(at(since)),
            observed_generation: None,
        }];
        self
    }

    /// A refresh request overrides nothing now.
    fn may_not_override(mut self) -> Self {
        self.grant.may_override = false;
        self
    }

    /// The least gap after the last token ends at `next`, and on request at `on_request`.
    fn gap(mut self, next: i64, on_request: i64) -> Self {
        self.grant.gap_ends = Some(at(next));
        self.grant.gap_on_request_ends = Some(at(on_request));
        self
    }

    /// Somebody else keeps undoing writes of the token that was issued at `issued`: it is not written before `until`, and
    /// the contest is over a minute later.
    fn contested(mut self, issued: i64, until: i64) -> Self {
        self.contest = Some(Contest {
            issued: at(issued),
            paused_until: at(until),
            over_at: at(until + 60),
            undone: contest::Undone::ChangedBy("kubectl-edit".into()),
        });
        self
    }

    /// Kubernetes calls have failed for a while.
    fn api_trouble(mut self) -> Self {
        self.api_trouble = Some(Problem::new(Reason::ApiDenied, "why"));
        self
    }

    fn publish_blocked(mut self, next: i64) -> Self {
        self.publish_block = Some(PublishBlock {
            problem: Problem::new(Reason::TargetInvalid, "why"),
            next_attempt: at(next),
        });
        self
    }
}

fn seconds_later(time: Timestamp, seconds: i64) -> Timestamp {
    time.saturating_add(SignedDuration::from_secs(seconds)).unwrap()
}
