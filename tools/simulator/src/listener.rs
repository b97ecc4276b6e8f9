//! TLS listeners: accept, handshake, serve; pause, resume, change of certificate.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::core::{Core, lock};
use crate::digest::sha256;
use crate::endpoint;
use crate::error::Error;
use crate::trap;
use crate::vendor::Vendor;

/// The service behind a listener.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    Vendor(Vendor),
    Trap,
}

enum State {
    Accepting(JoinHandle<()>),
    /// Bound without listening: connections are refused, and nobody else gets the port.
    Paused(TcpSocket),
    Stopped,
}

/// A TLS listener on 127.0.0.1.
pub(crate) struct Listener {
    role: Role,
    core: Arc<Core>,
    address: SocketAddr,
    tls: Arc<Mutex<Arc<ServerConfig>>>,
    state: tokio::sync::Mutex<State>,
    /// A change, or its end, closes all connections.
    epoch: watch::Sender<u64>,
    /// Held by each connection of the present epoch.
    open: Arc<Mutex<Arc<()>>>,
}

/// Connections that wait to be accepted: a cold start opens many at once.
const BACKLOG: u32 = 4096;

fn bind(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket)
}

impl Listener {
    /// Listens on a free port.
    pub(crate) fn start(role: Role, core: Arc<Core>, tls: Arc<ServerConfig>) -> Result<Self, Error> {
        let failed = |source| Error::Listen { port: 0, source };
        let listener = bind(0)
            .and_then(|socket| socket.listen(BACKLOG))
            .map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let tls = Arc::new(Mutex::new(tls));
        let (epoch, closing) = watch::channel(0);
        let open = Arc::default();
        let task = accept(
            listener,
            role,
            Arc::clone(&core),
            Arc::clone(&tls),
            Arc::clone(&open),
            closing,
        );
        let task = tokio::spawn(task);
        let state = tokio::sync::Mutex::new(State::Accepting(task));
        Ok(Self {
            open,
            role,
            core,
            address,
            tls,
            state,
            epoch,
        })
    }

    pub(crate) fn origin(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Closes all open connections and waits until they are closed.
    pub(crate) async fn close_connections(&self) {
        let open = std::mem::take(&mut *lock(&self.open));
        self.epoch.send_modify(|epoch| *epoch += 1);
        while Arc::strong_count(&open) > 1 {
            sleep(Duration::from_millis(1)).await;
        }
        // A client on the same runtime needs a turn to see it, or it would still send on a pooled connection.
        sleep(Duration::from_millis(5)).await;
    }

    pub(crate) async fn set_tls(&self, config: Arc<ServerConfig>) {
        *lock(&self.tls) = config;
        self.close_connections().await;
    }

    /// Refuses connections from now on; open ones are closed.
    pub(crate) async fn pause(&self) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        if let State::Accepting(task) = &mut *state {
            task.abort();
            // Only once the task has ended is its listening socket closed.
            let _ = task.await;
            self.close_connections().await;
            let port = self.address.port();
            *state = State::Stopped;
            *state = State::Paused(bind(port).map_err(|source| Error::Listen { port, source })?);
        }
        Ok(())
    }

    /// Accepts connections again, on the same port.
    pub(crate) async fn resume(&self) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        if matches!(*state, State::Paused(_))
            && let State::Paused(socket) = std::mem::replace(&mut *state, State::Stopped)
        {
            let port = self.address.port();
            let listener = socket
                .listen(BACKLOG)
                .map_err(|source| Error::Listen { port, source })?;
            let closing = self.epoch.subscribe();
            let (core, tls, open) = (
                Arc::clone(&self.core),
                Arc::clone(&self.tls),
                Arc::clone(&self.open),
            );
            let task = tokio::spawn(accept(listener, self.role, core, tls, open, closing));
            *state = State::Accepting(task);
        }
        Ok(())
    }

    pub(crate) async fn stop(&self) {
        let mut state = self.state.lock().await;
        if let State::Accepting(task) = &mut *state {
            task.abort();
            let _ = task.await;
        }
        *state = State::Stopped;
        self.close_connections().await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let State::Accepting(task) = self.state.get_mut() {
            task.abort();
        }
    }
}

async fn accept(
    listener: TcpListener,
    role: Role,
    core: Arc<Core>,
    tls: Arc<Mutex<Arc<ServerConfig>>>,
    open: Arc<Mutex<Arc<()>>>,
    closing: watch::Receiver<u64>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: give connections a moment to end.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        match role {
            Role::Vendor(vendor) => core.ledger().connected(vendor),
            Role::Trap => core.ledger().trap_connected(),
        }
        let mut closing = closing.clone();
        closing.mark_unchanged();
        let open = Arc::clone(&lock(&open));
        // Last, so that a change of the certificate closes what still has the old one.
        let config = Arc::clone(&lock(&tls));
        let core = Arc::clone(&core);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = closing.changed() => {}
                () = connection(stream, config, role, core) => {}
            }
            drop(open);
        });
    }
}

async fn connection(stream: TcpStream, config: Arc<ServerConfig>, role: Role, core: Arc<Core>) {
    let _ = stream.set_nodelay(true);
    let handshake = timeout(Duration::from_secs(20), TlsAcceptor::from(config).accept(stream)).await;
    let Ok(Ok(stream)) = handshake else {
        if let Role::Vendor(vendor) = role {
            core.ledger().handshake_failed(vendor);
        }
        return;
    };
    let certificate: Option<Arc<str>> = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .map(|der| sha256(der).into());
    let io = TokioIo::new(stream);
    // An error here is the client's going away, or a fault that closes the connection: nothing to report.
    let _ = match role {
        Role::Vendor(vendor) => {
            let service = service_fn(move |request: Request<Incoming>| {
                endpoint::serve(Arc::clone(&core), vendor, certificate.clone(), request)
            });
            http1::Builder::new().serve_connection(io, service).await
        }
        Role::Trap => {
            let service = service_fn(move |request: Request<Incoming>| {
                let core = Arc::clone(&core);
                async move { Ok::<Response<_>, endpoint::Closed>(trap::serve(&core, request).await) }
            });
            http1::Builder::new().serve_connection(io, service).await
        }
    };
}
