//! The conditions of each situation, after the conventions of the Kubernetes API and of kstatus (`Ready`,
//! `Reconciling`, `Stalled`).

use jiff::Timestamp;

use super::observed::Problem;
use crate::api::names::{Reason, condition};

/// The facts that the conditions depend on.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub target_name: &'a str,
    /// The value of `spec.suspend`.
    pub suspended: bool,
    /// A problem that only a person can mend: `InvalidSpec`, `TargetNotOwned`, `TargetConflict`, `TargetInvalid` or
    /// `ApiDenied`.
    pub blocked: Option<Problem>,
    /// The token in the target.
    pub stored: Option<StoredFacts>,
    /// The failure of the last attempt, or the problem of credentials that cannot be used.
    pub failure: Option<Problem>,
    /// The progress towards a token that is missing.
    pub progress: Progress,
}

/// The token in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredFacts {
    /// Its expiry.
    pub expires: Timestamp,
    /// True when it has not expired.
    pub valid: bool,
    /// True where the Secret's data is as the spec wants it.
    pub in_place: bool,
    /// True when it was made from the grant part of the present spec.
    pub of_present_grant: bool,
}

/// The progress towards a token that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// None that is worth a condition.
    None,
    /// The vendor is being asked, or the request is queued.
    Asked,
    /// The vendor asked to wait until this time.
    Paused(Timestamp),
    /// No other attempt with a password of this user is made before this time: the account could be locked, or is so
    /// until then.
    Held { until: Timestamp, is_locked: bool },
}

/// One condition, without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionFacts {
    pub kind: &'static str,
    pub status: bool,
    pub reason: &'static str,
    pub message: String,
}

fn condition(kind: &'static str, status: bool, reason: Reason, message: &str) -> ConditionFacts {
    ConditionFacts {
        kind,
        status,
        reason: reason.as_str(),
        message: message.to_owned(),
    }
}

/// Gives `Ready`, and at most one of `Reconciling`, `Stalled`, `RefreshFailing` and `Suspended`.
///
/// `Stalled` and `Reconciling` never stand beside `Ready=True`, nor beside each other: tools such as kstatus read them
/// before `Ready`, and a rollout would fail over a token that is good for hours.
pub fn conditions(facts: &Facts<'_>) -> Vec<ConditionFacts> {
    let target = facts.target_name;
    let good = facts
        .stored
        .filter(|stored| stored.valid && stored.in_place && stored.of_present_grant);

    if facts.suspended {
        let message = match facts.stored {
            Some(stored) if stored.valid => {
                format!(
                    "suspended by spec.suspend; the token in Secret '{target}' is valid until {}",
                    stored.expires
                )
            }
            Some(stored) => format!(
                "suspended by spec.suspend; the token in Secret '{target}' expired at {}: set spec.suspend to false",
                stored.expires
            ),
            None => "suspended by spec.suspend, no token is published: set spec.suspend to false".to_owned(),
        };
        let valid = facts.stored.is_some_and(|stored| stored.valid);
        return vec![
            condition(condition::READY, valid, Reason::Suspended, &message),
            condition(condition::SUSPENDED, true, Reason::Suspended, &message),
        ];
    }
    if let Some(blocked) = &facts.blocked {
        return not_ready(condition::STALLED, blocked.reason, &blocked.message);
    }
    if let Some(stored) = good {
        return match &facts.failure {
            None => {
                let message = format!(
                    "the token is in Secret '{target}' and valid until {}",
                    stored.expires
                );
                vec![condition(condition::READY, true, Reason::Published, &message)]
            }
            Some(failure) => {
                let message = format!(
                    "{}; the token in Secret '{target}' stays valid until {}",
                    failure.message, stored.expires
                );
                vec![
                    condition(condition::READY, true, failure.reason, &message),
                    condition(condition::REFRESH_FAILING, true, failure.reason, &message),
                ]
            }
        };
    }
    if let Some(failure) = &facts.failure {
        let kind = match failure.reason {
            Reason::CredentialsRejected | Reason::CredentialsInvalid => condition::STALLED,
            _ => condition::RECONCILING,
        };
        return not_ready(kind, failure.reason, &failure.message);
    }
    if let Progress::Paused(until) = facts.progress {
        let message = format!("the vendor asked to wait; the next request is not sent before {until}");
        return not_ready(condition::RECONCILING, Reason::RateLimited, &message);
    }
    if let Progress::Held { until, is_locked } = facts.progress {
        return not_ready(
            condition::RECONCILING,
            Reason::Progressing,
            &held(until, is_locked),
        );
    }
    match facts.stored {
        Some(stored) if stored.of_present_grant && stored.valid => not_ready(
            condition::RECONCILING,
            Reason::Progressing,
            &format!("the data of Secret '{target}' is not as the spec wants it, and is written anew"),
        ),
        Some(stored) if stored.of_present_grant => {
            let message = format!(
                "the token in Secret '{target}' expired at {}; a new one is asked for",
                stored.expires
            );
            not_ready(condition::RECONCILING, Reason::TokenExpired, &message)
        }
        Some(_) => not_ready(
            condition::RECONCILING,
            Reason::Progressing,
            &format!(
                "the spec was changed; the token in Secret '{target}' is replaced when the vendor answers"
            ),
        ),
        None => not_ready(
            condition::RECONCILING,
            Reason::Progressing,
            "asking the vendor for the first token",
        ),
    }
}

/// The message for a password that is not sent before `until` because of its account, which the vendor has locked where
/// `is_locked`.
pub(super) fn held(until: Timestamp, is_locked: bool) -> String {
    if is_locked {
        return format!(
            "the vendor has locked the account of this user; nothing is sent for it before {until}: if this lasts, have the \
             account unlocked at the vendor"
        );
    }
    format!(
        "three attempts with passwords of this user were made within 15 minutes; the next is not made before {until}, so \
         that the vendor does not lock the account"
    )
}

fn not_ready(kind: &'static str, reason: Reason, message: &str) -> Vec<ConditionFacts> {
    vec![
        condition(condition::READY, false, reason, message),
        condition(kind, true, reason, message),
    ]
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const EXPIRES: &str = "2026-01-01T00:00:00Z";

    fn stored(valid: bool, of_present_grant: bool) -> Option<StoredFacts> {
        Some(StoredFacts {
            expires: EXPIRES.parse().unwrap(),
            valid,
            in_place: true,
            of_present_grant,
        })
    }

    /// A good token whose Secret has other data than the spec wants.
    fn not_in_place() -> Option<StoredFacts> {
        stored(true, true).map(|stored| StoredFacts {
            in_place: false,
            ..stored
        })
    }

    fn facts() -> Facts<'static> {
        Facts {
            target_name: "sca-token",
            suspended: false,
            blocked: None,
            stored: None,
            failure: None,
            progress: Progress::Asked,
        }
    }

    fn failed(reason: Reason) -> Option<Problem> {
        Some(Problem::new(reason, "why"))
    }

    /// `Ready` as "True Reason", then the other conditions that are True.
    fn summary(facts: &Facts<'_>) -> (String, Vec<&'static str>) {
        let all = conditions(facts);
        assert_eq!(all[0].kind, condition::READY);
        assert!(
            all.iter()
                .skip(1)
                .all(|other| other.status && other.reason == all[0].reason),
            "{all:?}"
        );
        (
            format!("{} {}", all[0].status, all[0].reason),
            all.iter().skip(1).map(|other| other.kind).collect(),
        )
    }

    #[rstest]
    #[case::the_present_token_is_published(Facts { stored: stored(true, true), ..facts() }, "true Published", &[])]
    #[case::a_refresh_failed_and_the_token_is_good(
        Facts { stored: stored(true, true), failure: failed(Reason::VendorUnavailable), ..facts() },
        "true VendorUnavailable", &["RefreshFailing"]
    )]
    #[case::a_refresh_was_rejected_and_the_token_is_good(
        Facts { stored: stored(true, true), failure: failed(Reason::CredentialsRejected), ..facts() },
        "true CredentialsRejected", &["RefreshFailing"]
    )]
    #[case::the_credentials_were_deleted_and_the_token_is_good(
        Facts { stored: stored(true, true), failure: failed(Reason::CredentialsNotFound), ..facts() },
        "true CredentialsNotFound", &["RefreshFailing"]
    )]
    #[case::rejected_without_a_token(
        Facts { failure: failed(Reason::CredentialsRejected), ..facts() }, "false CredentialsRejected", &["Stalled"]
    )]
    #[case::invalid_credentials_without_a_token(
        Facts { failure: failed(Reason::CredentialsInvalid), ..facts() }, "false CredentialsInvalid", &["Stalled"]
    )]
    #[case::rate_limited_without_a_token(
        Facts { failure: failed(Reason::RateLimited), ..facts() }, "false RateLimited", &["Reconciling"]
    )]
    #[case::unavailable_without_a_token(
        Facts { failure: failed(Reason::VendorUnavailable), ..facts() }, "false VendorUnavailable", &["Reconciling"]
    )]
    #[case::invalid_response_without_a_token(
        Facts { failure: failed(Reason::InvalidResponse), ..facts() }, "false InvalidResponse", &["Reconciling"]
    )]
    #[case::endpoint_refused_without_a_token(
        Facts { failure: failed(Reason::EndpointRefused), ..facts() }, "false EndpointRefused", &["Reconciling"]
    )]
    #[case::credentials_not_found_without_a_token(
        Facts { failure: failed(Reason::CredentialsNotFound), ..facts() }, "false CredentialsNotFound", &["Reconciling"]
    )]
    #[case::no_token_yet(facts(), "false Progressing", &["Reconciling"])]
    #[case::the_grant_part_was_edited(
        Facts { stored: stored(true, false), ..facts() }, "false Progressing", &["Reconciling"]
    )]
    #[case::no_token_yet_behind_a_pause(
        Facts { progress: Progress::Paused(EXPIRES.parse().unwrap()), ..facts() }, "false RateLimited", &["Reconciling"]
    )]
    #[case::the_data_is_not_as_the_spec_wants_it(
        Facts { stored: not_in_place(), ..facts() }, "false Progressing", &["Reconciling"]
    )]
    #[case::the_data_is_not_as_the_spec_wants_it_and_the_vendor_is_away(
        Facts { stored: not_in_place(), failure: failed(Reason::VendorUnavailable), ..facts() },
        "false VendorUnavailable", &["Reconciling"]
    )]
    #[case::expired_without_a_known_cause(
        Facts { stored: stored(false, true), ..facts() }, "false TokenExpired", &["Reconciling"]
    )]
    #[case::a_known_cause_beats_expired(
        Facts { stored: stored(false, true), failure: failed(Reason::RateLimited), ..facts() },
        "false RateLimited", &["Reconciling"]
    )]
    #[case::suspended_with_a_good_token(
        Facts { suspended: true, stored: stored(true, true), ..facts() }, "true Suspended", &["Suspended"]
    )]
    #[case::suspended_with_an_expired_token(
        Facts { suspended: true, stored: stored(false, true), ..facts() }, "false Suspended", &["Suspended"]
    )]
    #[case::suspended_without_a_token(Facts { suspended: true, ..facts() }, "false Suspended", &["Suspended"])]
    fn each_situation_has_its_conditions(
        #[case] facts: Facts<'_>,
        #[case] ready: &str,
        #[case] others: &[&str],
    ) {
        let (summary, also) = summary(&facts);
        assert_eq!(summary, ready);
        assert_eq!(also, others);
    }

    #[rstest]
    #[case(Reason::InvalidSpec)]
    #[case(Reason::TargetNotOwned)]
    #[case(Reason::TargetConflict)]
    #[case(Reason::TargetInvalid)]
    #[case(Reason::ApiDenied)]
    fn a_problem_for_a_person_stalls_even_with_a_valid_token(#[case] reason: Reason) {
        let facts = Facts {
            stored: stored(true, true),
            blocked: failed(reason),
            ..facts()
        };
        assert_eq!(summary(&facts), (format!("false {reason}"), vec!["Stalled"]));
    }

    #[test]
    fn a_failing_refresh_says_until_when_the_token_is_valid() {
        let facts = Facts {
            stored: stored(true, true),
            failure: failed(Reason::RateLimited),
            ..facts()
        };
        assert_eq!(
            conditions(&facts)[0].message,
            "why; the token in Secret 'sca-token' stays valid until 2026-01-01T00:00:00Z"
        );
    }
}
