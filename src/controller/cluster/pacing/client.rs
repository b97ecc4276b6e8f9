//! A client of the API server whose calls go through the gates of a [`Pacer`].

use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, Request};
use kube::Client;
use kube::client::Body;
use tower::service_fn;

use crate::controller::cluster::pacing::{Call, CallKind, Outcome, Pacer};
use crate::election::NotLeading;

/// A client that sends through `client` what the gates let through. A call that they hold back fails with
/// [`super::Held`].
pub(crate) fn paced(client: Client, pacer: Arc<Pacer>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = service_fn(move |request: Request<Body>| {
        let (client, pacer) = (client.clone(), Arc::clone(&pacer));
        async move {
            let Some(call) = call(request.method(), request.uri().path()) else {
                let answer = client.send(request).await;
                if answer.is_ok() {
                    pacer.is_answered();
                }
                return answer;
            };
            let pass = pacer
                .enter(call)
                .map_err(|held| kube::Error::Service(Box::new(held)))?;
            let answer = client.send(request).await;
            pass.end(match &answer {
                Ok(answer) => outcome(answer.status().as_u16(), answer.headers()),
                Err(kube::Error::Service(error)) if error.is::<NotLeading>() => Outcome::Unknown,
                Err(_) => Outcome::Unanswered,
            });
            answer
        }
    });
    Client::new(service, namespace)
}

fn outcome(code: u16, headers: &HeaderMap) -> Outcome {
    let retry_after = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    match code {
        429 | 500..=599 => Outcome::Failed { code, retry_after },
        _ => Outcome::Answered,
    }
}

/// The call of this method and path, where it has gates: the reads and writes of one Secret, the read of one VendorToken,
/// and the write of its status. Lists and watches have pauses of their own.
fn call(method: &Method, path: &str) -> Option<Call> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let (kind, namespace) = match (method.as_str(), segments.as_slice()) {
        ("GET", ["api", "v1", "namespaces", namespace, "secrets", _]) => (CallKind::ReadSecret, *namespace),
        ("PATCH", ["api", "v1", "namespaces", namespace, "secrets", _]) => {
            (CallKind::WriteSecret, *namespace)
        }
        ("PATCH", ["apis", _, _, "namespaces", namespace, "vendortokens", _, "status"]) => {
            (CallKind::WriteStatus, *namespace)
        }
        ("GET", ["apis", _, _, "namespaces", namespace, "vendortokens", _]) => {
            (CallKind::ReadVendorToken, *namespace)
        }
        _ => return None,
    };
    Some(Call {
        kind,
        namespace: namespace.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("GET", "/api/v1/namespaces/a/secrets/s", Some(CallKind::ReadSecret))]
    #[case("PATCH", "/api/v1/namespaces/a/secrets/s", Some(CallKind::WriteSecret))]
    #[case(
        "PATCH",
        "/apis/vendortoken.io/v1alpha1/namespaces/a/vendortokens/t/status",
        Some(CallKind::WriteStatus)
    )]
    #[case(
        "GET",
        "/apis/vendortoken.io/v1alpha1/namespaces/a/vendortokens/t",
        Some(CallKind::ReadVendorToken)
    )]
    #[case("GET", "/apis/vendortoken.io/v1alpha1/namespaces/a/vendortokens", None)]
    #[case("GET", "/api/v1/namespaces/a/secrets", None)]
    #[case("GET", "/api/v1/secrets", None)]
    #[case("POST", "/apis/events.k8s.io/v1/namespaces/a/events", None)]
    #[case("GET", "/version", None)]
    fn calls_of_one_secret_or_one_status_have_gates(
        #[case] method: &str,
        #[case] path: &str,
        #[case] expected: Option<CallKind>,
    ) {
        let call = call(&method.parse().unwrap(), path);
        assert_eq!(call.as_ref().map(|call| call.kind), expected);
        assert!(call.is_none_or(|call| call.namespace == "a"));
    }

    #[rstest]
    #[case(200, Outcome::Answered)]
    #[case(403, Outcome::Answered)]
    #[case(409, Outcome::Answered)]
    #[case(500, Outcome::Failed { code: 500, retry_after: Some(Duration::from_secs(30)) })]
    #[case(429, Outcome::Failed { code: 429, retry_after: Some(Duration::from_secs(30)) })]
    fn a_refusal_is_an_answer_and_a_server_error_is_none(#[case] code: u16, #[case] expected: Outcome) {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "30".parse().unwrap());
        assert_eq!(outcome(code, &headers), expected);
    }
}
