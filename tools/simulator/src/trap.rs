//! The second host of a redirect. Nothing may ever come here; whatever does is recorded, and gets a token that
//! gives the follower away.

use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;

use crate::core::{Core, now_ms};
use crate::dialect::JSON;
use crate::ledger::TrapRequest;

const BODY: &str = r#"{"access_token":"from-the-trap","token":"from-the-trap","accessToken":"from-the-trap","token_type":"Bearer","expires_in":3600}"#;

pub(crate) async fn serve(core: &Core, request: Request<Incoming>) -> Response<Full<&'static [u8]>> {
    let (head, incoming) = request.into_parts();
    let body = Limited::new(incoming, 64 * 1024).collect().await;
    core.ledger().trap_requested(TrapRequest {
        time_ms: now_ms(),
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        headers: head.headers.keys().map(ToString::to_string).collect(),
        body_length: body.map_or(0, |body| body.to_bytes().len() as u64),
    });
    let mut response = Response::new(Full::new(BODY.as_bytes()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(JSON));
    response
}
