//! Two layers for kube's client: a count of calls to the API server, and a deadline of each call.
//!
//! The count belongs outside of the deadline, so that it sees its error, and counts a call once that kube repeats:
//! `ClientBuilder::try_from(config)?.with_layer(&deadline).with_layer(&count).build()`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tower::{BoxError, Layer, Service};

use super::Metrics;

/// Counts calls as `vendortoken_api_requests_total{verb,resource,code}`.
#[derive(Clone, Debug)]
pub struct CountApiRequests(Metrics);

impl CountApiRequests {
    pub fn new(metrics: Metrics) -> Self {
        Self(metrics)
    }
}

impl<S> Layer<S> for CountApiRequests {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counting {
            inner,
            metrics: self.0.clone(),
        }
    }
}

/// See [`CountApiRequests`].
#[derive(Clone, Debug)]
pub struct Counting<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, A, B> Service<Request<A>> for Counting<S>
where
    S: Service<Request<A>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (verb, resource) = verb_and_resource(request.method(), request.uri());
        let (metrics, answer) = (self.metrics.clone(), self.inner.call(request));
        Box::pin(async move {
            let answer = answer.await;
            let code = match &answer {
                Ok(response) => response.status().as_str().to_owned(),
                Err(error) if error.is::<DeadlineExceeded>() => "timeout".to_owned(),
                Err(_) => "error".to_owned(),
            };
            metrics.api_request(verb, resource, code);
            answer
        })
    }
}

/// The verb (a method, `LIST`, or `WATCH`) and the resource with its subresource, as in `vendortokens/status`; `other`
/// for a path of no resource. Names of objects and namespaces are left out, since each would be a series.
fn verb_and_resource(method: &Method, uri: &Uri) -> (&'static str, String) {
    let mut segments = uri.path().split('/').filter(|segment| !segment.is_empty());
    let known = match segments.next() {
        Some("api") => segments.next().is_some(),
        Some("apis") => segments.next().is_some() && segments.next().is_some(),
        _ => false,
    };
    let mut rest: Vec<&str> = segments.collect();
    // `namespaces/<name>/<resource>…`, but neither a namespace nor its two subresources.
    if rest.first() == Some(&"namespaces") && rest.len() >= 3 && !matches!(rest[2], "status" | "finalize") {
        rest.drain(..2);
    }
    let resource = match rest.as_slice() {
        _ if !known => "other".to_owned(),
        [] => "other".to_owned(),
        [resource] | [resource, _] => (*resource).to_owned(),
        [resource, _, subresource, ..] => format!("{resource}/{subresource}"),
    };
    let verb = match *method {
        Method::GET if is_watch(uri) => "WATCH",
        Method::GET if known && rest.len() == 1 => "LIST",
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    };
    (verb, resource)
}

fn is_watch(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| {
        query
            .split('&')
            .any(|pair| matches!(pair, "watch=true" | "watch=1"))
    })
}

/// The time within which a call is answered, or has failed. A slow answer is one.
pub const LONGEST_CALL: Duration = Duration::from_secs(20);

/// Limits each call, with kube's retries, to a duration: [`LONGEST_CALL`] by default. Of a watch it limits the response's head
/// alone, since kube's watcher has an idle timeout for the body.
#[derive(Clone, Copy, Debug)]
pub struct CallDeadline(Duration);

impl Default for CallDeadline {
    fn default() -> Self {
        Self(LONGEST_CALL)
    }
}

/// Error of a call without an answer by its deadline.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("failed to get an answer from the API server within {} s", .0.as_secs_f64())]
pub struct DeadlineExceeded(Duration);

impl<S> Layer<S> for CallDeadline {
    type Service = WithDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithDeadline { inner, limit: self.0 }
    }
}

/// See [`CallDeadline`].
#[derive(Clone, Debug)]
pub struct WithDeadline<S> {
    inner: S,
    limit: Duration,
}

impl<S, A, B> Service<Request<A>> for WithDeadline<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<DeadlineBody<B>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (limit, watch) = (self.limit, is_watch(request.uri()));
        let deadline = Instant::now() + limit;
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = match tokio::time::timeout_at(deadline, answer).await {
                Ok(answer) => answer.map_err(Into::into)?,
                Err(_) => return Err(BoxError::from(DeadlineExceeded(limit))),
            };
            let deadline = (!watch).then(|| Box::pin(tokio::time::sleep_until(deadline)));
            Ok(response.map(|inner| DeadlineBody {
                inner: Box::pin(inner),
                deadline,
                limit,
            }))
        })
    }
}

/// A response body that fails at the deadline of its call.
pub struct DeadlineBody<B> {
    inner: Pin<Box<B>>,
    deadline: Option<Pin<Box<Sleep>>>,
    limit: Duration,
}

impl<B> fmt::Debug for DeadlineBody<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DeadlineBody")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<B> Body for DeadlineBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = self.inner.as_mut().poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let limit = self.limit;
        match self
            .deadline
            .as_mut()
            .map(|deadline| deadline.as_mut().poll(context))
        {
            Some(Poll::Ready(())) => Poll::Ready(Some(Err(DeadlineExceeded(limit).into()))),
            _ => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::StreamExt;
    use http_body_util::{BodyExt, Full, StreamBody};
    use kube::client::{Body as KubeBody, ClientBuilder};
    use tower::service_fn;

    use super::*;

    #[test]
    fn verbs_and_resources_are_read_from_method_and_path() {
        for (method, path, verb, resource) in [
            (Method::GET, "/api/v1/namespaces/a/secrets/s", "GET", "secrets"),
            (Method::GET, "/api/v1/secrets?limit=500", "LIST", "secrets"),
            (
                Method::GET,
                "/api/v1/secrets?allowWatchBookmarks=true&watch=true",
                "WATCH",
                "secrets",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a/secrets?watch=1",
                "WATCH",
                "secrets",
            ),
            (Method::GET, "/api/v1/namespaces", "LIST", "namespaces"),
            (Method::GET, "/api/v1/namespaces/a", "GET", "namespaces"),
            (
                Method::PUT,
                "/api/v1/namespaces/a/finalize",
                "PUT",
                "namespaces/finalize",
            ),
            (
                Method::PATCH,
                "/api/v1/namespaces/a/secrets/s?force=true",
                "PATCH",
                "secrets",
            ),
            (
                Method::PATCH,
                "/apis/vendortoken.io/v1alpha1/namespaces/a/vendortokens/t/status",
                "PATCH",
                "vendortokens/status",
            ),
            (
                Method::GET,
                "/apis/vendortoken.io/v1alpha1/vendortokens",
                "LIST",
                "vendortokens",
            ),
            (
                Method::POST,
                "/apis/events.k8s.io/v1/namespaces/a/events",
                "POST",
                "events",
            ),
            (
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/l",
                "PUT",
                "leases",
            ),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments/d",
                "DELETE",
                "deployments",
            ),
            (Method::GET, "/apis/vendortoken.io/v1alpha1", "GET", "other"),
            (Method::GET, "/version", "GET", "other"),
            (Method::GET, "/", "GET", "other"),
        ] {
            let found = verb_and_resource(&method, &path.parse().unwrap());
            assert_eq!(found, (verb, resource.to_owned()), "{method} {path}");
        }
    }

    fn get(path: &str) -> Request<()> {
        Request::get(path).body(()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_is_counted_as_a_timeout_after_twenty_seconds() {
        let metrics = Metrics::new();
        let silent = service_fn(|_: Request<()>| {
            futures::future::pending::<Result<Response<Full<Bytes>>, BoxError>>()
        });
        let mut service = CountApiRequests::new(metrics.clone()).layer(CallDeadline::default().layer(silent));
        for path in ["/api/v1/secrets", "/api/v1/secrets?watch=true"] {
            let started = Instant::now();
            let error = service.call(get(path)).await.map(drop).unwrap_err();
            assert!(error.is::<DeadlineExceeded>());
            assert_eq!(started.elapsed(), Duration::from_secs(20));
        }
        let text = metrics.encode().unwrap();
        for verb in ["LIST", "WATCH"] {
            let line = format!(
                r#"vendortoken_api_requests_total{{verb="{verb}",resource="secrets",code="timeout"}} 1"#
            );
            assert!(text.contains(&line), "{text}");
        }
    }

    /// Reads the body of a response that comes a minute after its head.
    async fn body_of_a_stalled_call(path: &str) -> Result<Bytes, BoxError> {
        let stalling = service_fn(|_: Request<()>| async {
            let late = futures::stream::once(async {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"late")))
            });
            Ok::<_, BoxError>(Response::new(StreamBody::new(late.boxed())))
        });
        let mut service = CallDeadline::default().layer(stalling);
        let body = service.call(get(path)).await?.into_body();
        Ok(body.collect().await?.to_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_body_ends_at_the_deadline_of_its_call() {
        let started = Instant::now();
        let error = body_of_a_stalled_call("/api/v1/secrets").await.unwrap_err();
        assert!(error.is::<DeadlineExceeded>());
        assert_eq!(started.elapsed(), Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn the_body_of_a_watch_has_no_deadline() {
        let body = body_of_a_stalled_call("/api/v1/secrets?watch=true").await;
        assert_eq!(body.unwrap(), "late");
    }

    #[tokio::test]
    async fn both_layers_fit_a_kube_client() {
        let metrics = Metrics::new();
        let server = service_fn(|_: Request<KubeBody>| async {
            let status =
                r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}"#;
            let response = Response::builder()
                .status(404)
                .body(Full::new(Bytes::from(status)));
            response.map_err(BoxError::from)
        });
        let client = ClientBuilder::new(server, "default")
            .with_layer(&CallDeadline::default())
            .with_layer(&CountApiRequests::new(metrics.clone()))
            .build();
        let secrets: kube::Api<k8s_openapi::api::core::v1::Secret> = kube::Api::namespaced(client, "a");
        assert!(secrets.get_opt("s").await.unwrap().is_none());
        let line = r#"vendortoken_api_requests_total{verb="GET",resource="secrets",code="404"} 1"#;
        assert!(metrics.encode().unwrap().contains(line));
    }
}
