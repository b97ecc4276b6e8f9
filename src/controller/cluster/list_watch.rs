//! Lists the objects of one kind in one scope and follows their changes, for ever. Each watch is a task with a back-off
//! of its own: one that fails holds up no other.
//!
//! In the place of kube's `watcher` (see ADR 018): a watch that is refused or heard no more must be told, for what it told
//! before is not to be trusted any longer; and one that the API server ends at once must not be asked for without a pause.

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

use crate::controller::cluster::watch::Sink;
use crate::controller::context::Context;

/// Objects of a list that are asked for at a time.
const PAGE: u32 = 500;
/// The API server is asked to end a watch after this long, in seconds.
const WATCH_LASTS: u32 = 290;
/// A watch that it has not ended by then is dead: nobody closed the connection.
const DEAD_AFTER: Duration = Duration::from_secs(295);
/// The API server tells a quiet watch every minute or so that it is there. One that heard nothing at all for longer may
/// be one that nothing is told to.
const QUIET_FOR_LONG: Duration = Duration::from_secs(180);
/// A watch that ends sooner and has told nothing has failed, however orderly it ended.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);
/// What a watch has told is not trusted any more when it has failed for this long.
const BLIND_AFTER: Duration = Duration::from_secs(60);
/// A task that waits shows that it is alive this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// Why a list or a watch is to be tried again.
#[derive(Debug, thiserror::Error)]
pub(in crate::controller) enum WatchError {
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

    /// What was known before is not known any more: nobody tells what became of it.
    fn blinds(&self) -> bool {
        matches!(self.code(), Some(401 | 403)) || matches!(self, Self::Silent(_))
    }

    /// The watch cannot be taken up where it ended.
    fn needs_list(&self) -> bool {
        self.blinds() || self.code() == Some(410)
    }
}

/// Lists and watches `api` for ever, and tells `sink`.
pub(in crate::controller) async fn run<K, S>(api: Api<K>, scope: String, sink: S, context: Arc<Context>)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    S: Sink<K>,
{
    let mut watch = ListWatch {
        api,
        scope,
        sink,
        context,
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
    context: Arc<Context>,
    backoff: DefaultBackoff,
    /// Since when nothing but failures came.
    failing_since: Option<Instant>,
}

impl<K, S> ListWatch<K, S>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    S: Sink<K>,
{
    /// Tells all objects that there are, and gives the version from which to watch.
    async fn list(&mut self) -> Result<String, WatchError> {
        self.sink.list_begins(&self.scope);
        let mut parameters = ListParams::default().limit(PAGE);
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
                self.context.initial_lists.notify_waiters();
                return Ok(version);
            }
        }
    }

    /// Tells changes from `version` on, and takes it along, until the API server ends the watch in order.
    async fn follow(&mut self, version: &mut String) -> Result<(), WatchError> {
        let parameters = WatchParams::default().timeout(WATCH_LASTS);
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
                Ok(None) if began.elapsed() >= QUIET_FOR_LONG => {
                    return Err(WatchError::Silent(began.elapsed()));
                }
                Ok(None) => return Ok(()),
                Ok(Some(Err(source))) => return Err(WatchError::Broken(Box::new(source))),
                Ok(Some(Ok(WatchEvent::Error(status)))) => return Err(told(status)),
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
                WatchEvent::Error(status) => return Err(told(status)),
            }
        }
    }

    /// Shows that the task is alive, for as long as it waits.
    async fn alive_while<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            self.context.watch_alive(S::WATCH, &self.scope);
            if let Ok(done) = tokio::time::timeout(SIGN_OF_LIFE, &mut work).await {
                return done;
            }
        }
    }

    fn heard(&self) {
        self.context.watch_heard(S::WATCH, &self.scope);
    }

    /// The watch works.
    fn well(&mut self) {
        self.failing_since = None;
        self.backoff.reset();
    }

    /// Notes a failure; true where everything has to be listed anew.
    fn failed(&mut self, error: &WatchError) -> bool {
        self.context.watch_failed(S::WATCH, &self.scope, error);
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let blind = error.blinds() || since.elapsed() >= BLIND_AFTER;
        if blind {
            self.sink.lost(&self.scope);
        }
        blind || error.needs_list()
    }
}

fn told(status: Box<Status>) -> WatchError {
    WatchError::Broken(Box::new(kube::Error::Api(status)))
}
