//! A proxy in front of the API server that breaks some calls on purpose, as RBAC, an overloaded API server or a load
//! balancer does.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER, TRANSFER_ENCODING};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use kube::config::AuthInfo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::{ControlPlane, Error};

type AnyError = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, AnyError>>;

/// Which calls are broken.
#[derive(Clone, Debug)]
pub struct Calls {
    kind: Kind,
    namespace: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    All,
    ListsAndWatchesOf(&'static str),
    WatchesOf(&'static str),
    PatchesOf(&'static str),
    OfSingleObjects,
}

impl Calls {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            namespace: None,
        }
    }

    /// All calls: the API server is away.
    pub fn all() -> Self {
        Self::new(Kind::All)
    }

    /// Lists and watches of a resource (`secrets`), in one namespace or in all.
    pub fn lists_and_watches_of(resource: &'static str) -> Self {
        Self::new(Kind::ListsAndWatchesOf(resource))
    }

    /// Watches of a resource; it can still be listed.
    pub fn watches_of(resource: &'static str) -> Self {
        Self::new(Kind::WatchesOf(resource))
    }

    /// Patches of single objects of a resource (`secrets`); those of its subresources go through.
    pub fn patches_of(resource: &'static str) -> Self {
        Self::new(Kind::PatchesOf(resource))
    }

    /// Reads and writes of single objects in namespaces, and of their subresources. Lists and watches go through.
    pub fn of_single_objects() -> Self {
        Self::new(Kind::OfSingleObjects)
    }

    /// Of these calls those in one namespace.
    #[must_use]
    pub fn in_namespace(self, namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            ..self
        }
    }

    fn include(&self, call: &Call) -> bool {
        let path: Vec<&str> = call.path.split('/').collect();
        let in_namespace = path.iter().skip_while(|part| **part != "namespaces");
        let in_namespace: Vec<&str> = in_namespace.skip(1).copied().collect();
        let is_collection_of =
            |resource: &str| call.method == http::Method::GET && path.ends_with(&[resource]);
        let is_of_kind = match self.kind {
            Kind::All => true,
            Kind::ListsAndWatchesOf(resource) => is_collection_of(resource),
            Kind::WatchesOf(resource) => is_collection_of(resource) && call.is_watch,
            Kind::PatchesOf(resource) => {
                call.method == http::Method::PATCH && path.iter().rev().nth(1) == Some(&resource)
            }
            Kind::OfSingleObjects => in_namespace.len() >= 3,
        };
        let namespace = self.namespace.as_deref();
        is_of_kind && namespace.is_none_or(|namespace| in_namespace.first() == Some(&namespace))
    }
}

/// How they are broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breakage {
    /// Answered with this HTTP status, as an error of the API server.
    Status(u16),
    /// Answered with 429 and this `Retry-After`, in seconds.
    RetryAfter(u32),
    /// The connection is closed without an answer.
    Reset,
    /// Nothing is answered, and the connection stays open.
    Hang,
    /// A watch is accepted, and nothing comes, not even its end. A list goes through.
    Silence,
    /// A watch is accepted, tells an error of this code and ends. A list goes through.
    Told(u16),
    /// A watch is accepted and ends at once, in order. A list goes through.
    End,
    /// The call goes through after this time.
    Slow(Duration),
}

/// What was broken; see [`ApiProxy::break_calls`].
#[derive(Clone, Debug)]
pub struct Broken {
    calls: Calls,
    breakage: Breakage,
    met: Arc<Mutex<Vec<BrokenCall>>>,
}

impl Broken {
    /// Calls that were broken so far.
    pub fn count(&self) -> u64 {
        self.met().len() as u64
    }

    /// The calls that were broken so far, in the order in which they came.
    pub fn calls(&self) -> Vec<BrokenCall> {
        self.met().clone()
    }

    fn met(&self) -> MutexGuard<'_, Vec<BrokenCall>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that was broken.
#[derive(Clone, Debug)]
pub struct BrokenCall {
    /// Its HTTP method.
    pub method: http::Method,
    /// Its path, without the query.
    pub path: String,
    /// The moment at which it came.
    pub at: Instant,
}

/// One call, as far as a rule looks at it.
#[derive(Clone, Debug)]
struct Call {
    method: http::Method,
    path: String,
    is_watch: bool,
}

impl Call {
    fn of<B>(request: &Request<B>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        Self {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            is_watch: query
                .split('&')
                .any(|pair| matches!(pair, "watch=true" | "watch=1")),
        }
    }
}

#[derive(Clone)]
struct Shared {
    upstream: Client,
    broken: watch::Receiver<Option<Broken>>,
}

/// A proxy on loopback, plain HTTP, that passes the caller's own proof of who it is on. It stops when dropped.
#[derive(Debug)]
pub struct ApiProxy {
    address: SocketAddr,
    broken: watch::Sender<Option<Broken>>,
    task: JoinHandle<()>,
}

impl ApiProxy {
    /// Starts a proxy in front of a control plane's API server.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(plane: &ControlPlane) -> Result<Self, Error> {
        let mut config = plane.config.clone();
        config.auth_info = AuthInfo::default();
        let upstream = Client::try_from(config).map_err(Error::kube("make a client"))?;
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(Error::io("listen for a proxy"))?;
        let address = listener
            .local_addr()
            .map_err(Error::io("look up the proxy's address"))?;
        let (sender, broken) = watch::channel(None);
        let task = tokio::spawn(accept(listener, Shared { upstream, broken }));
        Ok(Self {
            address,
            broken: sender,
            task,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks these calls from now on, also watches that are open, until [`Self::mend`] or the next call of this.
    pub fn break_calls(&self, calls: Calls, breakage: Breakage) -> Broken {
        let broken = Broken {
            calls,
            breakage,
            met: Arc::default(),
        };
        self.broken.send_replace(Some(broken.clone()));
        broken
    }

    /// Lets all calls through again. What was kept silent is cut: nobody can tell any more what was missed.
    pub fn mend(&self) {
        self.broken.send_replace(None);
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Shared) {
    // Connections end with this task.
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream, shared.clone()));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, shared: Shared) {
    let answer = service_fn(move |request| {
        let shared = shared.clone();
        async move { shared.answer(request).await.map_err(io::Error::other) }
    });
    // An error is a client that went, or a call that was to be cut.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

impl Shared {
    /// The rule that breaks this call now.
    fn rule(&mut self, call: &Call) -> Option<Broken> {
        let broken = self.broken.borrow_and_update();
        let rule = broken.as_ref().filter(|rule| rule.calls.include(call))?;
        let of_watches = matches!(
            rule.breakage,
            Breakage::Silence | Breakage::Told(_) | Breakage::End
        );
        (call.is_watch || !of_watches).then(|| rule.clone())
    }

    async fn answer(mut self, request: Request<Incoming>) -> Result<Answer, AnyError> {
        let call = Call::of(&request);
        let Some(rule) = self.rule(&call) else {
            return self.pass_on(call, request).await;
        };
        rule.met().push(BrokenCall {
            method: call.method.clone(),
            path: call.path.clone(),
            at: Instant::now(),
        });
        if let Breakage::Slow(time) = rule.breakage {
            tokio::time::sleep(time).await;
            return self.pass_on(call, request).await;
        }
        let error = |code: u16| {
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
                "reason": if code == 410 { "Expired" } else { "Forbidden" }, "message": "broken on purpose" })
        };
        let (status, text) = match rule.breakage {
            Breakage::Status(code) => (code, error(code).to_string()),
            Breakage::RetryAfter(_) => (429, error(429).to_string()),
            Breakage::Told(code) => {
                let event = json!({ "type": "ERROR", "object": error(code) });
                (200, format!("{event}\n"))
            }
            Breakage::End => (200, String::new()),
            Breakage::Reset | Breakage::Slow(_) => return Err(cut()),
            Breakage::Hang => {
                let _ = self.broken.changed().await;
                return Err(cut());
            }
            Breakage::Silence => {
                let (frames, body) = channel();
                tokio::spawn(silent(frames, self.broken));
                return respond(200, body);
            }
        };
        let mut answer = respond(status, Full::from(text).map_err(never).boxed_unsync())?;
        if let Breakage::RetryAfter(seconds) = rule.breakage {
            answer.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        Ok(answer)
    }

    async fn pass_on(self, call: Call, request: Request<Incoming>) -> Result<Answer, AnyError> {
        let (mut parts, body) = request.into_parts();
        for header in [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
            parts.headers.remove(header);
        }
        let body = body.collect().await?.to_bytes();
        let response = self
            .upstream
            .send(Request::from_parts(parts, Body::from(body)))
            .await?;
        let (mut parts, body) = response.into_parts();
        for header in [CONNECTION, TRANSFER_ENCODING] {
            parts.headers.remove(header);
        }
        let (frames, passed) = channel();
        tokio::spawn(self.pump(call, body, frames));
        Ok(Response::from_parts(parts, passed))
    }

    /// Passes a body on, until its call is broken.
    async fn pump(mut self, call: Call, mut body: Body, frames: Frames) {
        loop {
            tokio::select! {
                frame = body.frame() => {
                    let Some(frame) = frame else { return };
                    let frame = frame.map_err(AnyError::from);
                    if frames.send(frame).await.is_err() {
                        return;
                    }
                }
                changed = self.broken.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    match self.rule(&call).map(|rule| rule.breakage) {
                        None | Some(Breakage::Slow(_)) => {}
                        Some(Breakage::Silence | Breakage::Hang) => return silent(frames, self.broken).await,
                        Some(_) => {
                            let _ = frames.send(Err(cut())).await;
                            return;
                        }
                    }
                }
                () = frames.closed() => return,
            }
        }
    }
}

/// Tells nothing, until the rules change; then cuts the connection.
async fn silent(frames: Frames, mut broken: watch::Receiver<Option<Broken>>) {
    tokio::select! {
        _ = broken.changed() => {}
        () = frames.closed() => return,
    }
    let _ = frames.send(Err(cut())).await;
}

type Frames = mpsc::Sender<Result<Frame<Bytes>, AnyError>>;

fn channel() -> (Frames, UnsyncBoxBody<Bytes, AnyError>) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

fn respond(status: u16, body: UnsyncBoxBody<Bytes, AnyError>) -> Result<Answer, AnyError> {
    Ok(Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json")
        .body(body)?)
}

fn cut() -> AnyError {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}

fn never(error: Infallible) -> AnyError {
    match error {}
}
