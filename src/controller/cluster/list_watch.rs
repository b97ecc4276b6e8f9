//! Lists the objects of one kind in one scope and follows their changes, for ever. Each watch is a task with a back-off
//! of its own: one that fails holds up no other.
//!
//! In the place of kube's `watcher` (see ADR 018), for two reasons. A watch that is refused or silent must be known,
//! because the objects that it brought are not to be trusted any longer; and a watch that the API server ends at once
//! must not be begun again without a pause.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::api::{ListParams, WatchParams};
use kube::core::{Status, WatchEvent};
use kube::runtime::utils::Backoff as _;
use kube::runtime::watcher::DefaultBackoff;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::controller::cluster::monitor::WatchMonitor;
use crate::error_text::with_causes;

/// The objects in one page of a list.
const PAGE_SIZE: u32 = 500;
/// The time after which the API server is asked to end a watch, in seconds.
const WATCH_TIMEOUT_SECONDS: u32 = 290;
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
pub(crate) trait Sink<K>: Send + Sync + 'static {
    /// The name of the watch in logs and metrics.
    const WATCH: &'static str;
    /// A list of `scope` begins.
    fn list_begins(&self, scope: &str);
    /// An object of the list that has begun.
    fn listed(&self, scope: &str, object: K);
    /// An object was added or changed.
    fn applied(&self, object: K);
    /// An object was deleted.
    fn deleted(&self, object: K);
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

/// Lists and watches `api` for ever, into `sink`.
pub(crate) async fn run<K, S>(api: Api<K>, scope: String, sink: S, monitor: Arc<WatchMonitor>)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    S: Sink<K>,
{
    let mut watch = ListWatch {
        api,
        scope,
        sink,
        monitor,
        backoff: DefaultBackoff::default(),
        failing_since: None,
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

struct ListWatch<K, S> {
    api: Api<K>,
    scope: String,
    sink: S,
    monitor: Arc<WatchMonitor>,
    backoff: DefaultBackoff,
    /// The time of the first failure since the last success.
    failing_since: Option<Instant>,
}

impl<K, S> ListWatch<K, S>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    S: Sink<K>,
{
    /// Lists all objects, and gives the version from which to watch.
    async fn list(&mut self) -> Result<String, WatchError> {
        self.sink.list_begins(&self.scope);
        let mut parameters = ListParams::default().limit(PAGE_SIZE);
        loop {
            let list = self.alive_while(self.api.list(&parameters)).await;
            let list = list.map_err(|source| WatchError::List(Box::new(source)))?;
            self.heard();
            for object in list.items {
                self.sink.listed(&self.scope, object);
            }
            parameters.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            if parameters.continue_token.is_none() {
                let version = list.metadata.resource_version.unwrap_or_default();
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
        let parameters = WatchParams::default().timeout(WATCH_TIMEOUT_SECONDS);
        let began = Instant::now();
        let stream = self.alive_while(self.api.watch(&parameters, version)).await;
        let stream = stream.map_err(|source| WatchError::Begin(Box::new(source)))?;
        futures::pin_mut!(stream);
        let mut heard = began;
        loop {
            let next = tokio::time::timeout_at(heard + DEAD_AFTER, stream.next());
            let event = match self.alive_while(next).await {
                Err(_) => return Err(WatchError::Silent(heard.elapsed())),
                Ok(None) if heard != began => return Ok(()),
                Ok(None) if began.elapsed() < SHORTEST_WATCH => return Err(WatchError::EndedAtOnce),
                Ok(None) if began.elapsed() >= LONGEST_SILENCE => {
                    return Err(WatchError::Silent(began.elapsed()));
                }
                Ok(None) => return Ok(()),
                Ok(Some(Err(source))) => return Err(WatchError::Broken(Box::new(source))),
                Ok(Some(Ok(WatchEvent::Error(status)))) => return Err(broken(status)),
                Ok(Some(Ok(event))) => event,
            };
            heard = Instant::now();
            self.heard();
            self.well();
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    *version = object.resource_version().unwrap_or_default();
                    self.sink.applied(object);
                }
                WatchEvent::Deleted(object) => {
                    *version = object.resource_version().unwrap_or_default();
                    self.sink.deleted(object);
                }
                WatchEvent::Bookmark(bookmark) => *version = bookmark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(broken(status)),
            }
        }
    }

    /// Shows that the task is alive, for as long as it waits.
    async fn alive_while<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            self.monitor.alive(S::WATCH, &self.scope);
            if let Ok(done) = tokio::time::timeout(SIGN_OF_LIFE, &mut work).await {
                return done;
            }
        }
    }

    fn heard(&self) {
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

fn broken(status: Box<Status>) -> WatchError {
    WatchError::Broken(Box::new(kube::Error::Api(status)))
}
