//! Lists the objects of one kind in one scope and follows their changes, for ever. Each watch is a task with a back-off
//! of its own: one that fails holds up no other.
//!
//! In the place of kube's `watcher` (see ADR 018), for two reasons. A watch that is refused or silent must be known,
//! because the objects that it brought are not to be trusted any longer; and a watch that the API server ends at once
//! must not be begun again without a pause.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::WatchParams;
use kube::core::Request;
use kube::runtime::utils::Backoff as _;
use kube::runtime::watcher::DefaultBackoff;
use tokio::time::Instant;

use crate::controller::cluster::monitor::WatchMonitor;
use crate::controller::cluster::object_json::FromJson;
use crate::controller::cluster::pages::Pages;
use crate::controller::cluster::watch_events::{WatchEvent, WatchEvents};
use crate::error_text::with_causes;

/// The time after which the API server is asked to end a watch. It sends a bookmark two seconds before.
const LONGEST_WATCH: Duration = Duration::from_secs(290);
/// The length of a watch where something on the way cuts connections that were idle for less than [`LONGEST_WATCH`].
const SHORTENED_WATCH: Duration = Duration::from_secs(20);
/// A watch that the API server has not ended by then is dead: its connection was lost without a word.
const DEAD_AFTER: Duration = Duration::from_secs(295);
/// The API server sends a bookmark to a quiet watch about every minute. A watch without any event for longer may be cut
/// off.
const LONGEST_SILENCE: Duration = Duration::from_secs(180);
/// A watch that ends sooner without any event has failed, even if it ended in order.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);
/// The objects of a watch that has failed for this long are not trusted any more.
const BLIND_AFTER: Duration = Duration::from_secs(60);
/// A task that waits shows that it is alive this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// Takes the objects of one kind in one scope: a namespace, or empty for all namespaces.
pub(crate) trait Sink: Send + Sync + 'static {
    /// An object, or what could be read of one.
    type Object: FromJson;
    /// The name of the watch in logs and metrics.
    const WATCH: &'static str;
    /// Only the metadata of the objects is asked for.
    const METADATA_ONLY: bool;
    /// A list of `scope` begins.
    fn list_begins(&self, scope: &str);
    /// An object of the list that has begun.
    fn listed(&self, scope: &str, object: Self::Object);
    /// An object was added or changed.
    fn applied(&self, object: Self::Object);
    /// An object was deleted.
    fn deleted(&self, object: Self::Object);
    /// The list of `scope` is complete.
    fn list_ends(&self, scope: &str);
    /// Changes in `scope` are not seen any more, until the next list ends.
    fn lost(&self, scope: &str);
}

/// The failure of a list or a watch, which is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error("failed to list")]
    List(#[source] Box<kube::Error>),
    #[error("failed to list: the API server gave no resource version")]
    NoVersion,
    #[error("failed to begin a watch")]
    Begin(#[source] Box<kube::Error>),
    #[error("failed to go on with a watch")]
    Broken(#[source] Box<kube::Error>),
    #[error("failed to go on with a watch: it ended as soon as it had begun")]
    EndedAtOnce,
    #[error("failed to hear from a watch for {} s", .0.as_secs())]
    Silent(Duration),
}

impl WatchError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::List(error) | Self::Begin(error) | Self::Broken(error) => match &**error {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }

    /// The known objects are not to be trusted any more: later changes of them are not seen.
    fn blinds(&self) -> bool {
        matches!(self.code(), Some(401 | 403)) || matches!(self, Self::Silent(_))
    }

    /// The watch cannot be taken up where it ended.
    fn needs_list(&self) -> bool {
        self.blinds() || self.code() == Some(410)
    }
}

/// Lists and watches the collection at `path` for ever, into `sink`.
pub(crate) async fn run<S: Sink>(
    client: Client,
    path: String,
    scope: String,
    sink: S,
    monitor: Arc<WatchMonitor>,
) {
    let mut watch = ListWatch {
        pages: Pages::new(client.clone(), path.clone(), S::METADATA_ONLY),
        client,
        path,
        scope,
        sink,
        monitor,
        backoff: DefaultBackoff::default(),
        failing_since: None,
        heard_at: Instant::now(),
        ends_after: LONGEST_WATCH,
    };
    let mut version = None;
    loop {
        let result = match &mut version {
            None => watch.list().await.map(|listed| version = Some(listed)),
            Some(version) => watch.follow(version).await,
        };
        if let Err(error) = result {
            if watch.failed(&error) {
                version = None;
            }
            let pause = watch.backoff.next().unwrap_or(SIGN_OF_LIFE);
            watch.alive_while(tokio::time::sleep(pause)).await;
        }
    }
}

struct ListWatch<S> {
    pages: Pages,
    client: Client,
    path: String,
    scope: String,
    sink: S,
    monitor: Arc<WatchMonitor>,
    backoff: DefaultBackoff,
    /// The time of the first failure since the last success.
    failing_since: Option<Instant>,
    /// The time of the last event of a watch, or of the last page of a list.
    heard_at: Instant,
    /// The time after which the API server is asked to end a watch.
    ends_after: Duration,
}

impl<S: Sink> ListWatch<S> {
    /// Lists all objects, and gives the version from which to watch.
    async fn list(&mut self) -> Result<String, WatchError> {
        self.sink.list_begins(&self.scope);
        let mut continue_token = None;
        loop {
            let (sink, scope) = (&self.sink, &self.scope);
            let page = self.pages.read(continue_token.as_deref(), |json| {
                sink.listed(scope, S::Object::from_json(json))
            });
            let list = alive_while::<S, _>(&self.monitor, scope, page).await;
            let list = list.map_err(|source| WatchError::List(Box::new(source)))?;
            self.heard();
            let Some(list) = list else {
                self.sink.list_begins(&self.scope);
                continue;
            };
            continue_token = list.continue_.filter(|token| !token.is_empty());
            if continue_token.is_none() {
                let version = list.resource_version.unwrap_or_default();
                if version.is_empty() {
                    return Err(WatchError::NoVersion);
                }
                self.sink.list_ends(&self.scope);
                self.monitor.list_ended();
                return Ok(version);
            }
        }
    }

    /// Follows changes from `version` on, and moves it forward, until the API server ends the watch in order.
    async fn follow(&mut self, version: &mut String) -> Result<(), WatchError> {
        let began = Instant::now();
        let request = self.request(version);
        let request =
            request.map_err(|source| WatchError::Begin(Box::new(kube::Error::BuildRequest(source))))?;
        let answer = self.alive_while(self.client.request_stream(request)).await;
        let answer = answer.map_err(|source| WatchError::Begin(Box::new(source)))?;
        futures::pin_mut!(answer);
        let mut events = WatchEvents::new(answer);
        let mut heard = began;
        loop {
            let next = tokio::time::timeout_at(heard + DEAD_AFTER, events.next());
            let (event, told) = match self.alive_while(next).await {
                Err(_) => return Err(WatchError::Silent(heard.elapsed())),
                Ok(Ok(None)) if heard != began => return Ok(()),
                Ok(Ok(None)) if began.elapsed() < SHORTEST_WATCH => return Err(WatchError::EndedAtOnce),
                Ok(Ok(None)) if self.heard_at.elapsed() >= LONGEST_SILENCE => {
                    return Err(WatchError::Silent(self.heard_at.elapsed()));
                }
                Ok(Ok(None)) => {
                    self.cut_after(heard.elapsed());
                    return Ok(());
                }
                Ok(Err(source)) => {
                    self.cut_after(heard.elapsed());
                    return Err(WatchError::Broken(Box::new(kube::Error::ReadEvents(source))));
                }
                Ok(Ok(Some((WatchEvent::Failed(status), _)))) => {
                    return Err(WatchError::Broken(Box::new(kube::Error::Api(status))));
                }
                Ok(Ok(Some(next))) => next,
            };
            heard = Instant::now();
            self.heard();
            self.well();
            if !told.is_empty() {
                *version = told;
            }
            match event {
                WatchEvent::Applied(object) => self.sink.applied(object),
                WatchEvent::Deleted(object) => self.sink.deleted(object),
                WatchEvent::Bookmark => {}
                WatchEvent::Unknown | WatchEvent::Failed(_) => {
                    tracing::warn!(
                        watch = S::WATCH,
                        "skipped an event of a watch that this version does not know"
                    );
                }
            }
        }
    }

    fn request(&self, version: &str) -> Result<http::Request<Vec<u8>>, kube::core::request::Error> {
        let ends_after = u32::try_from(self.ends_after.as_secs()).unwrap_or(u32::MAX);
        let parameters = WatchParams::default().timeout(ends_after);
        let request = Request::new(self.path.as_str());
        if S::METADATA_ONLY {
            request.watch_metadata(&parameters, version)
        } else {
            request.watch(&parameters, version)
        }
    }

    /// A watch ended before its time after it had been idle for so long. Where something on the way cuts idle connections,
    /// shorter watches have a bookmark before that.
    fn cut_after(&mut self, idle: Duration) {
        if idle >= SHORTENED_WATCH && idle < self.ends_after {
            self.ends_after = (idle / 2).max(SHORTENED_WATCH);
        }
    }

    async fn alive_while<T>(&self, work: impl Future<Output = T>) -> T {
        alive_while::<S, T>(&self.monitor, &self.scope, work).await
    }

    fn heard(&mut self) {
        self.heard_at = Instant::now();
        self.monitor.heard(S::WATCH, &self.scope);
    }

    /// The watch works.
    fn well(&mut self) {
        self.failing_since = None;
        self.backoff.reset();
    }

    /// Notes a failure. True where everything has to be listed anew.
    fn failed(&mut self, error: &WatchError) -> bool {
        tracing::warn!(
            watch = S::WATCH,
            namespace = if self.scope.is_empty() { "all" } else { &self.scope },
            error = with_causes(error),
            "a watch failed and is tried again"
        );
        self.monitor.failed(S::WATCH);
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let blind = error.blinds() || since.elapsed() >= BLIND_AFTER;
        if blind {
            self.sink.lost(&self.scope);
        }
        blind || error.needs_list()
    }
}

/// Shows that the task of a watch is alive, for as long as it waits.
async fn alive_while<S: Sink, T>(monitor: &WatchMonitor, scope: &str, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        monitor.alive(S::WATCH, scope);
        if let Ok(done) = tokio::time::timeout(SIGN_OF_LIFE, &mut work).await {
            return done;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures::stream;
    use http::{Request, Response};
    use http_body_util::combinators::UnsyncBoxBody;
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use hyper::body::Frame;
    use jiff::Timestamp;
    use kube::client::Body;
    use serde_json::json;
    use tower::service_fn;

    use super::*;
    use crate::clock::{Timeline, TokioClock};
    use crate::controller::cluster::object_json::ReadSecret;
    use crate::metrics::Metrics;
    use crate::server::Health;
    use crate::sync::lock;

    /// The number of lists, of losses and of watches, and the versions from which watches began.
    #[derive(Default)]
    struct Seen {
        /// The names of the objects of the last list.
        listed: Mutex<Vec<String>>,
        lists: AtomicUsize,
        losses: AtomicUsize,
        versions: Mutex<Vec<String>>,
    }

    impl Sink for Arc<Seen> {
        type Object = ReadSecret;
        const WATCH: &'static str = "secrets";
        const METADATA_ONLY: bool = true;
        fn list_begins(&self, _: &str) {
            self.lists.fetch_add(1, Ordering::SeqCst);
            lock(&self.listed).clear();
        }
        fn listed(&self, _: &str, object: ReadSecret) {
            lock(&self.listed).push(object.unwrap().0.name);
        }
        fn applied(&self, _: ReadSecret) {}
        fn deleted(&self, _: ReadSecret) {}
        fn list_ends(&self, _: &str) {}
        fn lost(&self, _: &str) {
            self.losses.fetch_add(1, Ordering::SeqCst);
        }
    }

    type Answer = UnsyncBoxBody<Bytes, std::io::Error>;

    /// The end of a connection that was idle for too long.
    #[derive(Clone, Copy, Debug)]
    enum Cut {
        Reset,
        /// The body ends before its last chunk.
        End,
    }

    /// A watch in a quiet cluster: a bookmark after a minute, or two seconds before its end, which comes after `timeout`.
    /// Something on the way cuts it when it is idle for `longest_idle`. Versions of bookmarks come from `versions`.
    fn watch(timeout: u64, longest_idle: u64, cut: Cut, versions: Arc<AtomicUsize>) -> Answer {
        let mut waits = VecDeque::new();
        let mut at = 0;
        while at < timeout {
            let next = (at + 60).min(timeout - 2).max(at + 1).min(timeout);
            waits.push_back((next - at, next < timeout));
            at = next;
        }
        let frames = stream::unfold(waits, move |mut waits| {
            let versions = Arc::clone(&versions);
            async move {
                let (wait, is_bookmark) = waits.pop_front()?;
                if wait > longest_idle {
                    tokio::time::sleep(Duration::from_secs(longest_idle)).await;
                    return match cut {
                        Cut::Reset => Some((
                            Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
                            VecDeque::new(),
                        )),
                        Cut::End => None,
                    };
                }
                tokio::time::sleep(Duration::from_secs(wait)).await;
                if !is_bookmark {
                    return None;
                }
                let version = versions.fetch_add(1, Ordering::SeqCst) + 1;
                let event = json!({ "type": "BOOKMARK", "object": { "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                    "metadata": { "resourceVersion": version.to_string() } } });
                Some((Ok(Frame::data(Bytes::from(format!("{event}\n")))), waits))
            }
        });
        StreamBody::new(frames).boxed_unsync()
    }

    fn query(request: &Request<Body>) -> std::collections::HashMap<String, String> {
        url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect()
    }

    /// Lists and watches Secrets for so many seconds.
    async fn follow(client: Client, seen: &Arc<Seen>, seconds: u64) {
        let clock = Arc::new(TokioClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        let timeline = Arc::new(Timeline::new(clock));
        let monitor = Arc::new(WatchMonitor::new(timeline, Health::new(&[]), Metrics::new()));
        let path = "/api/v1/secrets".to_owned();
        let following = run(client, path, String::new(), Arc::clone(seen), monitor);
        let ended = tokio::time::timeout(Duration::from_secs(seconds), following).await;
        assert!(ended.is_err(), "it goes on for ever");
    }

    /// Follows a quiet cluster for so long behind something that cuts connections which are idle for `longest_idle`.
    async fn quiet(seconds: u64, longest_idle: u64, cut: Cut) -> Arc<Seen> {
        let seen = Arc::new(Seen::default());
        let (noted, versions) = (Arc::clone(&seen), Arc::new(AtomicUsize::new(7)));
        let service = service_fn(move |request: Request<Body>| {
            let query = query(&request);
            let body = if query.contains_key("watch") {
                lock(&noted.versions).push(query["resourceVersion"].clone());
                watch(
                    query["timeoutSeconds"].parse().unwrap(),
                    longest_idle,
                    cut,
                    Arc::clone(&versions),
                )
            } else {
                let list = json!({ "metadata": { "resourceVersion": "7" }, "items": [] });
                Full::new(Bytes::from(list.to_string()))
                    .map_err(|never| match never {})
                    .boxed_unsync()
            };
            async move { Ok::<_, Infallible>(Response::new(body)) }
        });
        follow(Client::new(service, "default"), &seen, seconds).await;
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_goes_while_a_large_first_page_is_asked_for_again_is_not_listed() {
        let seen = Arc::new(Seen::default());
        let asked = Arc::new(AtomicUsize::new(0));
        let service = service_fn(move |request: Request<Body>| {
            let query = query(&request);
            let body = if query.contains_key("watch") {
                watch(290, 350, Cut::End, Arc::default())
            } else {
                // After the first question the first object is deleted.
                let first = usize::from(asked.fetch_add(1, Ordering::SeqCst) > 0);
                let from: usize = query
                    .get("continue")
                    .map_or(first, |token| token.parse().unwrap());
                let to = (from + query["limit"].parse::<usize>().unwrap()).min(10);
                let items = (from..to).map(|number| {
                    json!({ "metadata": { "name": number.to_string(), "namespace": "a", "uid": "u", "resourceVersion": "1",
                        "annotations": { "a": "x".repeat(1_200_000) } } })
                });
                let token = if to < 10 { to.to_string() } else { String::new() };
                let list = json!({ "metadata": { "resourceVersion": "7", "continue": token },
                    "items": items.collect::<Vec<_>>() });
                Full::new(Bytes::from(list.to_string()))
                    .map_err(|never| match never {})
                    .boxed_unsync()
            };
            async move { Ok::<_, Infallible>(Response::new(body)) }
        });
        follow(Client::new(service, "default"), &seen, 10).await;
        let expected: Vec<_> = (1..10).map(|number| number.to_string()).collect();
        assert_eq!(*lock(&seen.listed), expected);
        assert_eq!(seen.lists.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_goes_on_from_its_last_version_where_idle_connections_are_cut() {
        for cut in [Cut::Reset, Cut::End] {
            for longest_idle in [25, 40, 55, 60, 350] {
                let seen = quiet(7200, longest_idle, cut).await;
                let versions = lock(&seen.versions).clone();
                let what = format!("{cut:?} after {longest_idle} s: {} watches", versions.len());
                println!("{what}");
                assert_eq!(seen.lists.load(Ordering::SeqCst), 1, "{what}");
                assert_eq!(seen.losses.load(Ordering::SeqCst), 0, "{what}");
                let numbers: Vec<u64> = versions.iter().map(|version| version.parse().unwrap()).collect();
                assert!(
                    numbers.is_sorted() && numbers.last() > Some(&60),
                    "{what}: {numbers:?}"
                );
                assert!(versions.len() < 7200 / 15, "{what}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_cut_before_any_bookmark_can_come_is_lost() {
        for cut in [Cut::Reset, Cut::End] {
            let seen = quiet(3600, 10, cut).await;
            assert!(seen.losses.load(Ordering::SeqCst) > 0, "{cut:?}");
        }
    }
}
