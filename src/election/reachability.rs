//! Reachability of the API server. No vendor is asked while it does not answer: the token could not be published, and a
//! credential that was changed or deleted meanwhile would still be used.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::Client;
use tokio::time::Instant;
use tower::BoxError;
use tower::util::MapResultLayer;

use crate::sync::lock;

/// An answer proves for this long that the API server can be reached.
const ANSWER_VALIDITY: Duration = Duration::from_secs(1);
/// A slow answer is one; later than this nothing is expected any more.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(20);
/// Interval at which the question is put once more, beside those without an answer: their connections may be dead.
const QUESTION_INTERVAL: Duration = Duration::from_secs(5);

/// Time of the API server's last answer; `None` since a call had none. Clones share the time.
#[derive(Clone, Debug, Default)]
pub struct LastAnswer(Arc<Mutex<Option<Instant>>>);

impl LastAnswer {
    /// A layer for kube's client that notes how each call ended. It belongs outside of the call deadline, which ends a
    /// call without an answer, and inside of [`super::writes_need_leadership`], which sends no call at all.
    pub fn layer<R>(
        &self,
    ) -> MapResultLayer<impl Fn(Result<R, BoxError>) -> Result<R, BoxError> + Clone + use<R>> {
        let last_answer = self.clone();
        MapResultLayer::new(move |result: Result<R, BoxError>| {
            let answered = result.is_ok().then(Instant::now);
            *lock(&last_answer.0) = answered;
            result
        })
    }
}

/// Reachability of the API server, from the answers to all calls of a client.
#[derive(Clone)]
pub struct ApiServerReachability {
    last_answer: LastAnswer,
    client: Client,
}

impl ApiServerReachability {
    /// `client` must have the layer of `last_answer`.
    pub fn new(last_answer: LastAnswer, client: Client) -> Self {
        Self { last_answer, client }
    }

    /// True when the API server answered a call within the last second and no later call went without an answer. A
    /// refusal is an answer.
    pub fn is_reachable(&self) -> bool {
        let answered = *lock(&self.last_answer.0);
        answered.is_some_and(|answered| answered.elapsed() < ANSWER_VALIDITY)
    }

    /// Asks the API server for its version. Returns after an answer, however slow, or when all questions have failed. A
    /// caller who repeats it must pause before.
    pub async fn ask(&self) {
        let mut questions = FuturesUnordered::new();
        questions.push(self.client.apiserver_version());
        let asking = async {
            loop {
                tokio::select! {
                    // The layer notes the outcome.
                    _ = questions.next() => if self.is_reachable() || questions.is_empty() {
                        return;
                    },
                    () = tokio::time::sleep(QUESTION_INTERVAL) => {
                        questions.push(self.client.apiserver_version());
                    }
                }
            }
        };
        // Without an answer nothing is noted.
        let _ = tokio::time::timeout(QUESTION_TIMEOUT, asking).await;
    }
}

impl std::fmt::Debug for ApiServerReachability {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_tuple("ApiServerReachability")
            .field(&self.last_answer)
            .finish()
    }
}

/// An API server of tests, which refuses each call, or answers none.
#[cfg(test)]
pub(crate) mod fake {
    use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

    use http::{Request, Response};
    use kube::client::{Body, ClientBuilder};
    use tower::service_fn;

    use super::*;

    #[derive(Debug, Default)]
    pub(crate) struct FakeApiServer {
        silent: AtomicBool,
        /// Time of each answer, in milliseconds; `u64::MAX` for none.
        answer_time: AtomicU64,
        calls: AtomicUsize,
    }

    impl FakeApiServer {
        pub(crate) fn set_silent(&self, silent: bool) {
            self.silent.store(silent, Ordering::Relaxed);
        }

        /// Has each later call answered after this time; `None` for no answer, on a connection that stays open.
        pub(crate) fn set_answer_time(&self, time: Option<Duration>) {
            let milliseconds = time.map_or(u64::MAX, |time| u64::try_from(time.as_millis()).unwrap());
            self.answer_time.store(milliseconds, Ordering::Relaxed);
        }

        /// Number of calls, with and without an answer.
        pub(crate) fn calls(&self) -> usize {
            self.calls.load(Ordering::Relaxed)
        }

        pub(crate) fn reachability(self: &Arc<Self>) -> ApiServerReachability {
            let server = Arc::clone(self);
            let service = service_fn(move |_: Request<Body>| {
                server.calls.fetch_add(1, Ordering::Relaxed);
                let silent = server.silent.load(Ordering::Relaxed);
                let answer_time = server.answer_time.load(Ordering::Relaxed);
                async move {
                    if answer_time == u64::MAX {
                        std::future::pending::<()>().await;
                    }
                    tokio::time::sleep(Duration::from_millis(answer_time)).await;
                    if silent {
                        return Err(BoxError::from("nobody is there"));
                    }
                    Ok(Response::builder().status(403).body(Body::empty())?)
                }
            });
            let last_answer = LastAnswer::default();
            let client = ClientBuilder::new(service, "default")
                .with_layer(&last_answer.layer())
                .build();
            ApiServerReachability::new(last_answer, client)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::FakeApiServer;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_api_server_is_reachable_once_it_has_refused_a_call() {
        let reachability = Arc::new(FakeApiServer::default()).reachability();
        assert!(!reachability.is_reachable(), "no call was made");
        reachability.ask().await;
        assert!(reachability.is_reachable());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_for_one_second() {
        let reachability = Arc::new(FakeApiServer::default()).reachability();
        reachability.ask().await;
        tokio::time::advance(Duration::from_millis(999)).await;
        assert!(reachability.is_reachable());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!reachability.is_reachable());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends_reachability_at_once() {
        let server = Arc::new(FakeApiServer::default());
        let reachability = server.reachability();
        reachability.ask().await;
        server.set_silent(true);
        assert!(reachability.client.apiserver_version().await.is_err());
        assert!(!reachability.is_reachable());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_is_an_answer() {
        for seconds in [6, 12] {
            let server = Arc::new(FakeApiServer::default());
            server.set_answer_time(Some(Duration::from_secs(seconds)));
            let (reachability, asked) = (server.reachability(), Instant::now());
            reachability.ask().await;
            assert!(reachability.is_reachable(), "{seconds} s");
            assert_eq!(asked.elapsed(), Duration::from_secs(seconds));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_connection_delays_the_answer_by_five_seconds() {
        let server = Arc::new(FakeApiServer::default());
        server.set_answer_time(None);
        let (reachability, asked) = (server.reachability(), Instant::now());
        let answering = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            server.set_answer_time(Some(Duration::ZERO));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = reachability.ask() => {}
            () = answering => {}
        }
        assert!(reachability.is_reachable());
        assert_eq!(asked.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_back_is_reachable_after_one_question() {
        let server = Arc::new(FakeApiServer::default());
        let reachability = server.reachability();
        server.set_silent(true);
        reachability.ask().await;
        server.set_silent(false);
        reachability.ask().await;
        assert!(reachability.is_reachable());
    }
}
