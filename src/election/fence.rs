//! A layer for kube's client that sends no write of a process that does not lead: one place for all of them.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::future::Either;
use http::{Method, Request, Response};
use tower::{BoxError, Layer, Service};

use super::Leadership;

/// The write was not sent: another may be leading by now.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not sent, because this process does not lead any more")]
pub struct NotLeading;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct WritesNeedLeadership(Leadership);

impl WritesNeedLeadership {
    /// Asks `leadership` before each write.
    pub fn new(leadership: Leadership) -> Self {
        Self(leadership)
    }
}

impl<S> Layer<S> for WritesNeedLeadership {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Fenced {
            inner,
            leadership: self.0.clone(),
        }
    }
}

/// See [`WritesNeedLeadership`].
#[derive(Clone, Debug)]
pub struct Fenced<S> {
    inner: S,
    leadership: Leadership,
}

impl<S, A, B> Service<Request<A>> for Fenced<S>
where
    S: Service<Request<A>, Response = Response<B>, Error = BoxError>,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<Response<B>, BoxError>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if is_read || self.leadership.holds() {
            Either::Left(self.inner.call(request))
        } else {
            Either::Right(ready(Err(NotLeading.into())))
        }
    }
}
