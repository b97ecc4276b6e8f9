//! The open connections of a server. A full port gives up the connection that was inactive for longest, so that a new
//! client is always answered.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::ServerLimits;
use crate::sync::lock;

/// The open connections, each served by a task of its own.
pub(super) struct Connections {
    limits: ServerLimits,
    tasks: JoinSet<()>,
    open: HashMap<Id, Open>,
}

struct Open {
    task: AbortHandle,
    last_activity: LastActivity,
}

/// The time at which a connection was accepted, or last carried a byte. Clones share it.
#[derive(Clone)]
struct LastActivity(Arc<Mutex<Instant>>);

impl LastActivity {
    fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn note(&self) {
        *lock(&self.0) = Instant::now();
    }

    fn get(&self) -> Instant {
        *lock(&self.0)
    }
}

impl Connections {
    pub(super) fn new(limits: ServerLimits) -> Self {
        Self {
            limits,
            tasks: JoinSet::new(),
            open: HashMap::new(),
        }
    }

    /// Serves a new connection. At the bound, the one that was inactive for longest is cut, after
    /// [`ServerLimits::shortest_stay`]: a client that has just connected has not been heard yet.
    pub(super) async fn add(&mut self, stream: TcpStream, router: Router, stopped: watch::Receiver<bool>) {
        self.forget_ended();
        if let Some((_, last_activity)) = self.least_active_of_full_port() {
            sleep_until(last_activity + self.limits.shortest_stay).await;
            self.forget_ended();
        }
        if let Some((least_active, _)) = self.least_active_of_full_port()
            && let Some(given_up) = self.open.remove(&least_active)
        {
            given_up.task.abort();
        }
        let last_activity = LastActivity::now();
        let stream = ActiveStream {
            stream,
            last_activity: last_activity.clone(),
        };
        let task = self
            .tasks
            .spawn(serve_connection(stream, router, self.limits, stopped));
        self.open.insert(task.id(), Open { task, last_activity });
    }

    /// Waits until all connections have ended.
    pub(super) async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    /// The connection that was inactive for longest, where there is no room for another.
    fn least_active_of_full_port(&self) -> Option<(Id, Instant)> {
        if self.open.len() < self.limits.connections.max(1) {
            return None;
        }
        let open = self.open.iter();
        open.map(|(id, open)| (*id, open.last_activity.get()))
            .min_by_key(|(_, last_activity)| *last_activity)
    }

    fn forget_ended(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            let id = match ended {
                Ok((id, ())) => id,
                Err(error) => error.id(),
            };
            self.open.remove(&id);
        }
    }
}

async fn serve_connection(
    stream: ActiveStream,
    router: Router,
    limits: ServerLimits,
    mut stopped: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let close_at = Instant::now() + limits.connection_age;
    tokio::select! {
        // An error here is the client's.
        _ = connection.as_mut() => return,
        () = sleep_until(close_at) => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    // After the grace period the connection is dropped and thereby cut.
    let _ = tokio::time::timeout(limits.grace, connection).await;
}

/// A stream that notes each time at which it carries bytes.
struct ActiveStream {
    stream: TcpStream,
    last_activity: LastActivity,
}

impl ActiveStream {
    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(result, Poll::Ready(Ok(_))) {
            self.last_activity.note();
        }
        result
    }
}

impl AsyncRead for ActiveStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.last_activity.note();
        }
        result
    }
}

impl AsyncWrite for ActiveStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(result)
    }

    /// True as for TCP, so that hyper writes a body from its place in memory and copies nothing.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
