//! Two small HTTP servers: `/metrics`, and `/livez` with `/readyz`. Limits on headers, on the age and on the number of
//! connections keep them answering under any behaviour of clients.
//!
//! May use: `metrics`, `sync`.

mod connections;
mod health;
mod listen;
mod page;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

pub use health::Health;

use self::connections::Connections;
use self::page::MetricsPage;
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
    /// Number of open connections; for a further one, the one that was inactive for longest is cut.
    pub connections: usize,
    /// Time that a connection has after its last activity before it is cut for another.
    pub shortest_stay: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            header_read_timeout: Duration::from_secs(10),
            // Also the longest time for which a slow reader holds a text of metrics.
            connection_age: Duration::from_secs(20),
            grace: Duration::from_secs(3),
            connections: 64,
            shortest_stay: Duration::from_millis(20),
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
    /// Opens a server of `/metrics` as OpenMetrics text. Port 0 takes a free one; `[::]` takes both families of
    /// addresses, or `0.0.0.0` where the machine has no IPv6.
    pub fn metrics(address: SocketAddr, metrics: Metrics) -> Result<Self, ServerError> {
        let router = Router::new()
            .route("/metrics", get(show_metrics))
            .with_state(MetricsPage::new(metrics));
        Self::bind("metrics", "--metrics-bind-address", address, router)
    }

    /// Opens a server of `/livez` and `/readyz` as plain text: 200, or 503 with reasons. Addresses are as in
    /// [`Self::metrics`].
    pub fn health(address: SocketAddr, health: Health) -> Result<Self, ServerError> {
        let router = Router::new()
            .route("/livez", get(show_live))
            .route("/readyz", get(show_ready))
            .with_state(health);
        Self::bind("health", "--health-probe-bind-address", address, router)
    }

    fn bind(
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
        let listener = listen::listen(address).map_err(failed)?;
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

    /// Replaces the default limits.
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
        let mut connections = Connections::new(limits);
        let accepting = async {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => connections.add(stream, router.clone(), stopped.clone()).await,
                    // File descriptors have run out, or the client is gone: no reason to spin or stop.
                    Err(error) => {
                        tracing::warn!(%error, "failed to accept a connection");
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = shutdown => {}
        }
        drop(listener);
        stop.send_replace(true);
        connections.ended().await;
    }
}

async fn show_metrics(State(page): State<MetricsPage>) -> Response {
    match page.text().await {
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
