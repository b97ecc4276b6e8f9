//! Many grants on one budget: the vendor never answers 429, and no token expires that an offline schedule saves, also
//! after an outage and beside a namespace full of junk.

mod driver;
mod limited_vendor;

use rstest::rstest;

use self::driver::{Driver, End};
use self::limited_vendor::MAPIQ;
use super::offline::{Need, Token, WAYS, Way, lost};
use super::*;

/// The cause of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    /// Nobody asks.
    OfTheProcess,
    /// The vendor throttles, and requests wait in the queue.
    OfTheVendor,
}

/// The second of a restart, the end of the process, and the seconds until the next one begins.
type Restart = (u64, End, u64);

/// Groups of grants: the second of their first request, their number, and the seconds that their tokens live.
fn needs(groups: &[(i64, usize, i64)]) -> Vec<Need> {
    let all = groups
        .iter()
        .flat_map(|(from, count, life)| std::iter::repeat_n((*from, *life), *count));
    all.enumerate()
        .map(|(number, (from, life))| Need {
            from,
            life,
            jitter: (number * 151 % 256) as u8,
        })
        .collect()
}

/// Runs a load, asserts that no request exceeded the limit, and gives the grants whose token expired.
async fn run(needs: &[Need], latency: u64, restarts: &[Restart], seconds: u64) -> Vec<usize> {
    let mut driver = Driver::new(needs, latency);
    for (at, end, away) in restarts {
        driver.work_until(*at).await;
        driver.restart(*end, *away).await;
    }
    driver.work_until(seconds).await;
    let state = driver.vendor.state.lock().unwrap();
    assert_eq!(state.refused, 0, "of {} requests", state.calls);
    assert!(state.calls >= needs.len());
    assert!(driver.stored.iter().all(Option::is_some), "all have a token");
    driver.lost.into_iter().collect()
}

const STOPPED: &[Restart] = &[(1500, End::Stopped, 2)];
const KILLED: &[Restart] = &[
    (100, End::Killed, 0),
    (1500, End::Killed, 1),
    (2222, End::Killed, 20),
];

#[rstest]
#[case::an_hour(&[(0, 100, 3600)], 9000)]
#[case::all_of_the_budget_when_each_is_asked_for_as_it_is_due(&[(0, 100, 420)], 3600)]
#[case::more_than_the_budget_unless_each_waits_nearly_to_the_last(&[(0, 100, 345)], 3600)]
#[case::lives_from_a_minute_to_an_hour(&[(0, 8, 60), (0, 20, 300), (0, 72, 3600)], 3600)]
#[case::short_lives_and_new_ones_by_the_dozen(&[(0, 3, 100), (0, 17, 3600), (900, 40, 3600), (1801, 40, 3600)], 3600)]
#[case::one_short_life_and_a_burst(&[(0, 1, 100), (607, 49, 3600), (1000, 50, 3600)], 3600)]
#[case::a_day(&[(0, 60, 86_400), (300, 40, 7200)], 10_000)]
#[tokio::test(start_paused = true)]
async fn no_token_expires_that_an_offline_schedule_saves(
    #[case] groups: &[(i64, usize, i64)],
    #[case] seconds: u64,
    #[values(0, 2000)] latency: u64,
    #[values(&[], STOPPED, KILLED)] restarts: &[Restart],
) {
    let needs = needs(groups);
    assert_eq!(needs.len(), 100);
    let known: Vec<_> = restarts
        .iter()
        .map(|(at, _, away)| (*at as i64, *away as i64))
        .collect();
    let saved = WAYS.map(|way| {
        lost(
            vec![None; needs.len()],
            &needs,
            MAPIQ,
            way,
            &known,
            seconds as i64,
        )
    });
    // Under a load beyond the limit, the schedule would save tokens by never serving a grant without one.
    let can_be_carried = saved.iter().any(Vec::is_empty);
    assert!(can_be_carried, "{saved:?}");
    let expired = run(&needs, latency, restarts, seconds).await;
    assert_eq!(expired, Vec::<usize>::new());
}

#[rstest]
#[case::all_end_just_after_it(&[(0, 100, 3600)], 2300, false)]
#[case::refreshed_while_it_begins(&[(0, 100, 3600)], 2800, false)]
#[case::half_an_hour(&[(0, 100, 1800)], 1500, false)]
#[case::lives_from_half_an_hour_to_two_hours(&[(0, 30, 1800), (200, 40, 3600), (400, 30, 7200)], 2500, false)]
#[case::more_end_just_after_it_than_the_budget_serves(&[(0, 100, 1270)], 310, true)]
#[tokio::test(start_paused = true)]
async fn after_an_outage_of_20_minutes_each_token_that_can_be_saved_is_saved(
    #[case] groups: &[(i64, usize, i64)],
    #[case] begins: u64,
    #[case] some_are_lost: bool,
    #[values(0, 2000)] latency: u64,
    #[values(Outage::OfTheProcess, Outage::OfTheVendor)] outage: Outage,
) {
    let needs = needs(groups);
    let mut driver = Driver::new(&needs, latency);
    driver.work_until(begins).await;
    let restarts: &[(i64, i64)] = match outage {
        Outage::OfTheProcess => {
            driver.restart(End::Killed, 1200).await;
            &[(0, 0)]
        }
        Outage::OfTheVendor => {
            let until = Instant::now() + Duration::from_secs(1200);
            driver.vendor.state.lock().unwrap().away_until = Some(until);
            driver.work_until(begins + 1200).await;
            driver.work_until_the_pause_ends().await;
            &[]
        }
    };
    let ended = u64::try_from(driver.clock.now().duration_since(start()).as_secs()).unwrap();
    let left = driver.tokens_left();
    let live = left.iter().flatten().count();
    driver.lost.clear();
    driver.work_until(ended + 3600).await;
    let already: Vec<_> = (0..needs.len())
        .filter(|number| left[*number].is_none())
        .collect();
    let expired: Vec<_> = driver
        .lost
        .iter()
        .copied()
        .filter(|number| !already.contains(number))
        .collect();
    // An answer that comes after the end of a token has not saved it.
    let in_time = |token: Token| Token {
        ends: token.ends - i64::try_from(latency.div_ceil(1000)).unwrap(),
        ..token
    };
    let left = left.into_iter().map(|token| token.map(in_time)).collect();
    let beyond_saving = lost(left, &needs, MAPIQ, Way::EveryFifth, restarts, 3600);
    println!("{live} of {} live, {beyond_saving:?} beyond saving", needs.len());
    // Where not all can be saved, the order in which two end that are due at once decides which: not more are lost.
    assert!(
        expired.len() <= beyond_saving.len(),
        "{expired:?} expired, {beyond_saving:?} beyond saving"
    );
    assert_eq!(!beyond_saving.is_empty(), some_are_lost);
}

#[rstest]
#[case::forged(true)]
#[case::plain(false)]
#[tokio::test(start_paused = true)]
async fn junk_of_one_namespace_ends_no_token_of_another(
    #[case] forged: bool,
    #[values(0, 2000)] latency: u64,
) {
    let needs = needs(&[(0, 15, 300), (100, 15, 3600)]);
    let mut driver = Driver::new(&needs, latency);
    for round in 0..60 {
        driver.send_junk(250, round, forged);
        driver.work_until(60 * (u64::from(round) + 1)).await;
    }
    assert!(driver.stored.iter().all(Option::is_some), "all have a token");
    assert_eq!(driver.lost, std::collections::BTreeSet::new());
    let state = driver.vendor.state.lock().unwrap();
    assert_eq!(state.refused, 0);
    assert!(state.calls > 1100, "all of the budget is used: {}", state.calls);
}

#[rstest]
#[case::all_of_the_budget(&[(0, 100, 420)])]
#[case::two_in_a_minute(&[(0, 9, 60), (0, 3, 100), (700, 12, 3600), (1500, 12, 3600)])]
#[case::bursts(&[(0, 40, 40)])]
#[tokio::test(start_paused = true)]
async fn a_killed_process_never_exceeds_the_limit(
    #[case] groups: &[(i64, usize, i64)],
    #[values(100, 2000, 8000)] latency: u64,
    #[values(61, 97, 150)] between: u64,
) {
    let restarts: Vec<Restart> = (1..30)
        .map(|number| (number * between + number * 7 % 10, End::Killed, number % 3))
        .collect();
    let mut driver = Driver::new(&needs(groups), latency);
    for (at, end, away) in restarts {
        driver.work_until(at).await;
        driver.restart(end, away).await;
    }
    let state = driver.vendor.state.lock().unwrap();
    assert!(state.calls > 100);
    assert_eq!(state.refused, 0, "of {} requests", state.calls);
}
