//! The state of health that the probes report.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::lock;

/// A scheduler without a tick for this long is stuck.
const TICK_LIMIT: Duration = Duration::from_secs(60);
/// A watch task without a sign of life for this long is stuck. A healthy one shows a sign at least after a silent watch
/// of 290 s and its retry.
const WATCH_LIMIT: Duration = Duration::from_secs(330);

/// The health of the process. Clones share the state.
///
/// *Ready*: all named checks are `Ok`, as on a standby. *Live*: the scheduler and the watch tasks show signs of life,
/// with or without success, so that an outage of the API server causes no restarts.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    checks: BTreeMap<&'static str, Result<(), String>>,
    ticked: Instant,
    /// Time of the last sign of life, by watch and scope.
    watches: BTreeMap<(&'static str, String), Instant>,
}

impl Health {
    /// Makes a state with these readiness checks, none of them ready ("starting"), and a scheduler that has just
    /// ticked.
    pub fn new(checks: &[&'static str]) -> Self {
        let starting = |check: &&'static str| (*check, Err("starting".to_owned()));
        let checks = checks.iter().map(starting).collect();
        let state = State {
            checks,
            ticked: Instant::now(),
            watches: BTreeMap::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Sets or adds a readiness check. The text of an `Err` names the missing part, and holds no secret.
    pub fn set_ready(&self, check: &'static str, state: Result<(), String>) {
        self.lock().checks.insert(check, state);
    }

    /// Notes a tick of the scheduler; a standby calls it too.
    pub fn tick(&self) {
        self.lock().ticked = Instant::now();
    }

    /// Notes a sign of life (an event, a wait, a retry) of the task of this watch in this scope: a namespace, or empty
    /// for all. The first call adds the task.
    pub fn watch_alive(&self, watch: &'static str, scope: &str) {
        let watch = (watch, scope.to_owned());
        self.lock().watches.insert(watch, Instant::now());
    }

    /// Removes all watch tasks after they have ended on purpose.
    pub fn watches_ended(&self) {
        self.lock().watches.clear();
    }

    /// The report of `/readyz`.
    pub fn ready(&self) -> Result<String, String> {
        report(
            "readyz",
            self.lock()
                .checks
                .iter()
                .map(|(check, state)| ((*check).to_owned(), state.clone())),
        )
    }

    /// The report of `/livez`.
    pub fn live(&self) -> Result<String, String> {
        let state = self.lock();
        let within = |since: &Instant, limit: Duration| {
            let age = since.elapsed();
            if age < limit {
                Ok(())
            } else {
                Err(format!("no sign of life for {} s", age.as_secs()))
            }
        };
        let scheduler = ("scheduler".to_owned(), within(&state.ticked, TICK_LIMIT));
        let watches = state.watches.iter().map(|((watch, scope), since)| {
            let name = if scope.is_empty() {
                (*watch).to_owned()
            } else {
                format!("{watch} in {scope}")
            };
            (name, within(since, WATCH_LIMIT))
        });
        report("livez", std::iter::once(scheduler).chain(watches))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Writes a report in the form of the API server's own probes: a line a check, the verdict last.
fn report(probe: &str, checks: impl Iterator<Item = (String, Result<(), String>)>) -> Result<String, String> {
    let (mut text, mut failed) = (String::new(), false);
    for (check, state) in checks {
        // Writing to a String cannot fail.
        let _ = match state {
            Ok(()) => writeln!(text, "[+]{check} ok"),
            Err(reason) => {
                failed = true;
                writeln!(text, "[-]{check} failed: {reason}")
            }
        };
    }
    let _ = writeln!(text, "{probe} check {}", if failed { "failed" } else { "passed" });
    if failed { Err(text) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_process_is_ready_when_every_check_is() {
        let health = Health::new(&["key", "watches"]);
        assert_eq!(
            health.ready().unwrap_err(),
            "[-]key failed: starting\n[-]watches failed: starting\nreadyz check failed\n"
        );
        health.set_ready("key", Ok(()));
        health.set_ready("watches", Err("secrets: forbidden".to_owned()));
        assert_eq!(
            health.ready().unwrap_err(),
            "[+]key ok\n[-]watches failed: secrets: forbidden\nreadyz check failed\n"
        );
        health.set_ready("watches", Ok(()));
        assert_eq!(
            health.ready().unwrap(),
            "[+]key ok\n[+]watches ok\nreadyz check passed\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_scheduler_that_has_not_ticked_for_60_s_is_dead() {
        let health = Health::new(&["key"]);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(health.live().is_ok(), "not ready, but alive");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            health.live().unwrap_err(),
            "[-]scheduler failed: no sign of life for 60 s\nlivez check failed\n"
        );
        health.tick();
        assert!(health.live().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_without_a_sign_of_life_for_330_s_is_dead() {
        let health = Health::new(&[]);
        health.watch_alive("secrets", "");
        tokio::time::advance(Duration::from_secs(329)).await;
        health.tick();
        assert!(health.live().is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(
            health
                .live()
                .unwrap_err()
                .contains("[-]secrets failed: no sign of life for 330 s")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_has_ended_is_not_dead() {
        let health = Health::new(&[]);
        health.watch_alive("secrets", "");
        tokio::time::advance(Duration::from_secs(330)).await;
        health.tick();
        health.watches_ended();
        assert!(health.live().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_live_watch_hides_no_dead_one_in_another_namespace() {
        let health = Health::new(&[]);
        health.watch_alive("secrets", "a");
        health.watch_alive("secrets", "b");
        tokio::time::advance(Duration::from_secs(330)).await;
        health.tick();
        health.watch_alive("secrets", "b");
        assert_eq!(
            health.live().unwrap_err(),
            "[+]scheduler ok\n[-]secrets in a failed: no sign of life for 330 s\n[+]secrets in b ok\nlivez check \
             failed\n"
        );
    }
}
