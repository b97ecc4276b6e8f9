//! Refusal of writes without leadership, in one place for all of them: a layer of kube's client.

use http::{Method, Request};
use kube::client::Body;
use tower::filter::FilterLayer;

use super::Leadership;

/// A write was not sent, since another process may lead by now.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not sent, because this process does not lead any more")]
pub struct NotLeading;

/// A layer that fails each write with [`NotLeading`] while this process does not lead. Reads pass.
pub fn writes_need_leadership(
    leadership: Leadership,
) -> FilterLayer<impl Fn(Request<Body>) -> Result<Request<Body>, NotLeading> + Clone> {
    FilterLayer::new(move |request: Request<Body>| {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if is_read || leadership.holds() {
            Ok(request)
        } else {
            Err(NotLeading)
        }
    })
}
