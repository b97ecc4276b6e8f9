//! The end of the operator's own credentials. They are read at the start, and cannot be renewed by this process where an
//! exec plugin or a person has made them; a process that is started anew reads them again.

use std::time::Duration;

use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;
use tower::BoxError;
use tower::util::MapResultLayer;

/// The time before the end of the credentials at which the process ends, unless they live for less than four times as
/// long.
const LONGEST_MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// The result of a call to the API server: a response, or the error of a layer below HTTP.
type Answer<B> = Result<Response<B>, BoxError>;

/// The time from `now` until the process should end, for credentials that are valid until `valid_until`.
pub fn time_to_end(valid_until: Timestamp, now: Timestamp) -> Duration {
    let life = valid_until.duration_since(now);
    let margin = LONGEST_MARGIN.min(life / 4);
    Duration::try_from(life - margin).unwrap_or_default()
}

/// Acceptance of the operator's credentials by the API server, from the answers to all calls. Clones share it.
#[derive(Clone, Debug)]
pub struct Acceptance {
    /// The time of the first answer 401 after the last answer of another kind; `None` while no credentials are refused.
    refused_since: watch::Sender<Option<Instant>>,
}

impl Default for Acceptance {
    fn default() -> Self {
        Self {
            refused_since: watch::Sender::new(None),
        }
    }
}

impl Acceptance {
    /// A layer for kube's client that notes each answer.
    pub fn layer<B>(&self) -> MapResultLayer<impl Fn(Answer<B>) -> Answer<B> + Clone + use<B>> {
        let acceptance = self.clone();
        MapResultLayer::new(move |result: Answer<B>| {
            if let Ok(response) = &result {
                acceptance.note(response.status());
            }
            result
        })
    }

    fn note(&self, status: StatusCode) {
        let is_refusal = status == StatusCode::UNAUTHORIZED;
        let changed = self.refused_since.send_if_modified(|since| {
            let changed = since.is_some() != is_refusal;
            if changed {
                *since = is_refusal.then(Instant::now);
            }
            changed
        });
        match (changed, is_refusal) {
            (true, true) => tracing::warn!("the API server refuses the operator's own credentials (401)"),
            (true, false) => tracing::info!("the API server accepts the operator's own credentials again"),
            (false, _) => {}
        }
    }

    /// Waits until the API server has answered nothing but 401 for this long. Silence does not count.
    pub async fn refused_for(&self, limit: Duration) {
        let mut refused_since = self.refused_since.subscribe();
        loop {
            let since = *refused_since.borrow_and_update();
            let limit_reached = async {
                match since {
                    Some(since) => tokio::time::sleep_until(since + limit).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = limit_reached => return,
                // An error would mean that the sender is gone, and `self` has it.
                _ = refused_since.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tower::{Layer as _, Service as _, service_fn};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);

    /// The seconds until refused credentials end the process, where the API server answers each second with the next
    /// of these.
    async fn ends_after(answers: impl IntoIterator<Item = u16>) -> Option<u64> {
        let acceptance = Acceptance::default();
        let api_server = service_fn(|answer: u16| async move {
            Ok::<_, BoxError>(Response::builder().status(answer).body(())?)
        });
        let mut calls = acceptance.layer().layer(api_server);
        let started = Instant::now();
        let answering = async {
            for answer in answers {
                calls.call(answer).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = acceptance.refused_for(LIMIT) => Some(started.elapsed().as_secs()),
            () = answering => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_that_are_refused_for_five_minutes_end_the_process() {
        let answers = std::iter::repeat_n(200, 100).chain(std::iter::repeat_n(401, 400));
        assert_eq!(ends_after(answers).await, Some(400));
    }

    #[rstest]
    #[case::accepted(200)]
    #[case::without_rights(403)]
    #[case::trouble(500)]
    #[tokio::test(start_paused = true)]
    async fn another_answer_than_401_keeps_the_process(#[case] answer: u16) {
        let answers = (0..2000).map(|second| if second % 299 == 0 { answer } else { 401 });
        assert_eq!(ends_after(answers).await, None);
    }

    #[rstest]
    #[case::long(3600, 3540)]
    #[case::short(90, 68)]
    #[case::ended(-5, 0)]
    fn the_process_ends_before_its_credentials(#[case] life: i64, #[case] wait: u64) {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let until = now + SignedDuration::from_secs(life);
        let found = time_to_end(until, now);
        assert!(
            found.abs_diff(Duration::from_secs(wait)) < Duration::from_secs(1),
            "{found:?}"
        );
    }
}
