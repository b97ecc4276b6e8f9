//! Two small HTTP servers: `/metrics`, and `/livez` with `/readyz`. Limits on headers, on the age and on the number of
//! connections keep them answering under any behaviour of clients.
//!
//! May use: `metrics`, `sync`.

mod health;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

pub use health::Health;

use crate::metrics::{self, Metrics};

/// Limits of a client's use of the server.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Time limit for a request's head; an unused connection is closed after it.
    pub header_read_timeout: Duration,
    /// Age at which a connection is closed gracefully.
    pub connection_age: Duration,
    /// Time for a response under way, after that age and at shutdown, before its connection is cut.
    pub grace: Duration,
    /// Number of open connections; further ones wait unaccepted.
    pub connections: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            header_read_timeout: Duration::from_secs(10),
            connection_age: Duration::from_secs(120),
            grace: Duration::from_secs(3),
            connections: 64,
        }
    }
}

/// Error in starting a server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The port is taken, or the address belongs to another machine.
    #[error("failed to bind {purpose} address {address}: choose another with {flag}")]
    Bind {
        /// `metrics` or `health`.
        purpose: &'static str,
        /// The requested address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

/// A server with an open port: clients can connect, and get answers from [`Server::serve`].
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    limits: ServerLimits,
}

impl Server {
    /// Opens a server of `/metrics` as OpenMetrics text. Port 0 takes a free one.
    pub async fn metrics(address: SocketAddr, metrics: Metrics) -> Result<Self, ServerError> {
        let router = Router::new()
            .route("/metrics", get(show_metrics))
            .with_state(metrics);
        Self::bind("metrics", "--metrics-bind-address", address, router).await
    }

    /// Opens a server of `/livez` and `/readyz` as plain text: 200, or 503 with reasons. Port 0 takes a free one.
    pub async fn health(address: SocketAddr, health: Health) -> Result<Self, ServerError> {
        let router = Router::new()
            .route("/livez", get(show_live))
            .route("/readyz", get(show_ready))
            .with_state(health);
        Self::bind("health", "--health-probe-bind-address", address, router).await
    }

    async fn bind(
        purpose: &'static str,
        flag: &'static str,
        address: SocketAddr,
        router: Router,
    ) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Bind {
            purpose,
            address,
            flag,
            source,
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            router,
            limits: ServerLimits::default(),
        })
    }

    /// The address with the port in use.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// The same with other limits than the default.
    #[must_use]
    pub fn with_limits(self, limits: ServerLimits) -> Self {
        Self { limits, ..self }
    }

    /// Serves until `shutdown` completes; then responses under way may end within the grace period.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let Self {
            listener,
            router,
            limits,
            ..
        } = self;
        let (stop, stopped) = watch::channel(false);
        let slots = Arc::new(Semaphore::new(limits.connections));
        let mut connections = JoinSet::new();
        let accepting = async {
            loop {
                // The semaphore is never closed.
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                    return;
                };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let (router, stopped) = (router.clone(), stopped.clone());
                        connections.spawn(async move {
                            let _slot = slot;
                            serve_connection(stream, router, limits, stopped).await;
                        });
                    }
                    // File descriptors have run out, or the client is gone: no reason to spin or stop.
                    Err(error) => {
                        tracing::warn!(%error, "failed to accept a connection");
                        sleep(Duration::from_millis(100)).await;
                    }
                }
                while connections.try_join_next().is_some() {}
            }
        };
        tokio::select! {
            () = accepting => {}
            () = shutdown => {}
        }
        drop(listener);
        stop.send_replace(true);
        while connections.join_next().await.is_some() {}
    }
}

async fn serve_connection(
    stream: TcpStream,
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

async fn show_metrics(State(metrics): State<Metrics>) -> Response {
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "failed to encode the metrics\n",
        )
            .into_response(),
    }
}

async fn show_live(State(health): State<Health>) -> Response {
    show(health.live())
}

async fn show_ready(State(health): State<Health>) -> Response {
    show(health.ready())
}

fn show(report: Result<String, String>) -> Response {
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    match report {
        Ok(text) => (no_store, text).into_response(),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, no_store, text).into_response(),
    }
}
