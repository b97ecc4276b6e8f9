//! Waiting for conditions instead of for time.

use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

use crate::Error;

/// A deadline for what normally takes a second or two: generous, as the tests may share two cores with a build.
pub const DEADLINE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Calls `condition` until it gives `Ok`, and gives that value.
///
/// `condition` gives `Err(state)` while it is not met, where `state` tells a person what was seen instead. It is called
/// about every 50 ms; a call that hangs is given up at the deadline.
///
/// # Errors
/// [`Error::Timeout`] with `description` and the last state, when `deadline` has passed.
pub async fn wait_for<T, E, F>(
    description: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> F,
) -> Result<T, Error>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let started = Instant::now();
    let mut last_state = None;
    loop {
        let left = deadline.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(state)) => last_state = Some(state.to_string()),
            Err(_) => {}
        }
        // A condition that answers at once is never cut off by the timeout.
        if started.elapsed() >= deadline {
            return Err(Error::Timeout {
                description: description.to_owned(),
                seconds: started.elapsed().as_secs_f64(),
                last_state: last_state.unwrap_or_else(|| "no answer at all".to_owned()),
            });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_comes_true_gives_its_value() {
        let mut calls = 0;
        let value = wait_for("the third call", Duration::from_secs(5), || {
            calls += 1;
            let calls = calls;
            async move {
                if calls == 3 {
                    Ok(calls)
                } else {
                    Err(format!("call {calls}"))
                }
            }
        })
        .await
        .unwrap();
        assert_eq!(value, 3);
    }

    #[tokio::test]
    async fn a_condition_that_stays_false_fails_with_its_description_and_last_state() {
        let error = wait_for("the Secret's token", Duration::from_millis(120), || async {
            Err::<(), _>("no Secret")
        })
        .await
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("the Secret's token") && text.contains("no Secret"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_condition_that_hangs_is_given_up_at_the_deadline() {
        let error = wait_for("an answer", Duration::from_millis(50), || async {
            std::future::pending::<Result<(), String>>().await
        })
        .await
        .unwrap_err();
        assert!(error.to_string().contains("no answer at all"), "{error}");
    }
}
