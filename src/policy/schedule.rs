//! The due time of a token, and the least gap between two tokens of one grant. All times are whole seconds.

use jiff::{SignedDuration, Timestamp};

use crate::api::RefreshSpec;
use crate::times::later;

/// The part of its life, in percent, after which a token is due where the spec sets nothing.
pub const DEFAULT_LIFETIME_PERCENT: i64 = 80;
/// An issue time farther ahead than this is not credible: the clock was set back since.
const ISSUED_AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// Jitter brings a due time forward by this part of the token's life at most, so that tokens of one age are not all due
/// at once.
const JITTER_PERCENT: i64 = 5;

/// The refresh setting of a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshPolicy {
    /// After this percentage of the token's life, 10 to 90.
    AtLifetimePercent(i64),
    /// This many seconds before the expiry, 30 to 86 400.
    BeforeExpirySeconds(i64),
}

impl RefreshPolicy {
    /// Takes the setting of a spec. Values beyond the bounds of the schema are clamped, so that no stored object makes
    /// refreshes loop; `None` and an empty setting give the default.
    pub fn from_spec(refresh: Option<&RefreshSpec>) -> Self {
        match refresh {
            Some(RefreshSpec {
                before_expiry_seconds: Some(seconds),
                ..
            }) => Self::BeforeExpirySeconds(i64::from(*seconds).clamp(30, 86_400)),
            Some(RefreshSpec {
                at_lifetime_percent: Some(percent),
                ..
            }) => Self::AtLifetimePercent(i64::from(*percent).clamp(10, 90)),
            _ => Self::AtLifetimePercent(DEFAULT_LIFETIME_PERCENT),
        }
    }
}

/// The time at which a token that lives from `issued` to `expires` is due for a refresh.
///
/// `jitter` (0 to 255) brings the time forward by 0 to 5 % of the life. The time is never sooner after the issue than
/// [`least_gap`], whatever the setting.
pub fn due(policy: RefreshPolicy, issued: Timestamp, expires: Timestamp, jitter: u8) -> Timestamp {
    let life = life_seconds(issued, expires);
    let nominal = match policy {
        RefreshPolicy::AtLifetimePercent(percent) => life.saturating_mul(percent) / 100,
        RefreshPolicy::BeforeExpirySeconds(seconds) => life - seconds,
    };
    let jitter = life
        .saturating_mul(JITTER_PERCENT)
        .saturating_mul(i64::from(jitter))
        / (100 * 255);
    let reserve = 120.min(life / 2).max(life / 10);
    let after = (nominal - jitter)
        .min(life - reserve)
        .max(least_gap_seconds(life));
    later(issued, after)
}

/// The least time between two tokens of one grant, for a token of this life: a tenth of it, but not less than 30 s or,
/// where that is shorter, half of the life, and never less than 5 s.
pub fn least_gap(issued: Timestamp, expires: Timestamp) -> SignedDuration {
    SignedDuration::from_secs(least_gap_seconds(life_seconds(issued, expires)))
}

fn least_gap_seconds(life: i64) -> i64 {
    (life / 10).max(30.min(life / 2)).max(5)
}

fn life_seconds(issued: Timestamp, expires: Timestamp) -> i64 {
    expires.as_second().saturating_sub(issued.as_second()).max(0)
}

/// True when a token can have been issued at `issued`: at most five minutes ahead of `now`. One farther ahead comes
/// from before a step back of the clock, and its expiry is too late by the same step.
pub fn is_credible_issue(issued: Timestamp, now: Timestamp) -> bool {
    issued <= now.checked_add(ISSUED_AHEAD).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn after(policy: RefreshPolicy, life: i64, jitter: u8) -> i64 {
        let issued = Timestamp::from_second(1_800_000_000).unwrap();
        due(policy, issued, later(issued, life), jitter).as_second() - issued.as_second()
    }

    #[rstest]
    #[case::an_hour_at_the_default(RefreshPolicy::AtLifetimePercent(80), 3600, 0, 2880)]
    #[case::an_hour_with_the_most_jitter(RefreshPolicy::AtLifetimePercent(80), 3600, 255, 2700)]
    #[case::ninety_percent_leaves_a_tenth(RefreshPolicy::AtLifetimePercent(90), 3600, 0, 3240)]
    #[case::ninety_percent_of_ten_minutes_leaves_two(RefreshPolicy::AtLifetimePercent(90), 600, 0, 480)]
    #[case::a_minute_is_refreshed_at_its_half(RefreshPolicy::AtLifetimePercent(80), 60, 0, 30)]
    #[case::before_expiry(RefreshPolicy::BeforeExpirySeconds(900), 3600, 0, 2700)]
    #[case::before_expiry_longer_than_the_life_is_held_by_the_least_gap(
        RefreshPolicy::BeforeExpirySeconds(86_400),
        3600,
        0,
        360
    )]
    #[case::ten_percent_of_a_short_life(RefreshPolicy::AtLifetimePercent(10), 60, 255, 30)]
    #[case::a_day_at_80_percent(RefreshPolicy::AtLifetimePercent(80), 86_400, 0, 69_120)]
    fn a_token_is_due_when_the_formula_says(
        #[case] policy: RefreshPolicy,
        #[case] life: i64,
        #[case] jitter: u8,
        #[case] expected: i64,
    ) {
        assert_eq!(after(policy, life, jitter), expected);
    }

    fn any_policy() -> impl Strategy<Value = RefreshPolicy> {
        prop_oneof![
            (10..=90_i64).prop_map(RefreshPolicy::AtLifetimePercent),
            (30..=86_400_i64).prop_map(RefreshPolicy::BeforeExpirySeconds),
        ]
    }

    proptest! {
        #[test]
        fn a_life_of_40_s_or_more_is_refreshed_between_a_tenth_and_nine_tenths(
            policy in any_policy(), life in 40..400 * 86_400_i64, jitter in any::<u8>()
        ) {
            let after = after(policy, life, jitter);
            prop_assert!(after >= 5);
            prop_assert!(after >= life / 10);
            prop_assert!(after <= life - life / 10, "due {after} of {life}");
        }

        #[test]
        fn no_timestamps_make_the_due_time_panic(issued in any::<i64>(), expires in any::<i64>(), jitter in any::<u8>(), policy in any_policy()) {
            let time = |second: i64| Timestamp::from_second(second % 253_402_207_200).unwrap_or(Timestamp::MAX);
            due(policy, time(issued), time(expires), jitter);
        }
    }
}
