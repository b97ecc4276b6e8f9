//! Answers of the API server to requests for one Secret. Anybody who may edit a Secret decides how long they are: so each
//! has a cap, few large ones are in memory at a time, and of each only the small part stays that was asked for.

use std::fmt;
use std::sync::Arc;

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use kube::core::request::Error as RequestError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use crate::controller::cluster::object_json::ObjectError;
use crate::text::first_characters;

/// The longest answer, in bytes. A Secret has at most 1 MiB of data, which base64 makes a third longer, and metadata.
const LONGEST_ANSWER: usize = 8 * 1024 * 1024;
/// An answer or a write that is longer takes one of [`LARGE_AT_A_TIME`] places, so that many large Secrets do not fill the
/// memory.
const LARGE: usize = 64 * 1024;
pub(crate) const LARGE_AT_A_TIME: usize = 3;
/// The longest text of a refusal that is kept, in characters. An admission webhook may quote a whole Secret.
const LONGEST_REFUSAL: usize = 8 * 1024;

/// The failure to understand an answer. It quotes nothing of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("failed to read the API server's answer: it is no Secret in JSON")]
    NotASecret,
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("failed to read the API server's answer: it is longer than {} MiB", LONGEST_ANSWER / 1024 / 1024)]
    TooLong,
    #[error("failed to receive the API server's answer")]
    Broken(#[source] Box<kube::Error>),
}

impl From<AnswerError> for kube::Error {
    fn from(error: AnswerError) -> Self {
        Self::Service(Box::new(error))
    }
}

/// One of the places for large answers and large writes, or none as long as nothing large is in memory.
#[derive(Debug, Default)]
pub(crate) struct Place(Option<OwnedSemaphorePermit>);

/// Sends requests for one Secret, and reads what comes of them.
#[derive(Clone)]
pub(crate) struct Answers {
    client: Client,
    large: Arc<Semaphore>,
}

impl fmt::Debug for Answers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Answers").finish_non_exhaustive()
    }
}

impl Answers {
    /// Sends through `client`.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            large: Arc::new(Semaphore::new(LARGE_AT_A_TIME)),
        }
    }

    /// Has `place` be one of the places, where something of so many bytes needs one. Who holds a place asks for no other.
    pub(crate) async fn take_place(&self, place: &mut Place, bytes: usize) {
        if bytes > LARGE && place.0.is_none() {
            // It is never closed.
            place.0 = Arc::clone(&self.large).acquire_owned().await.ok();
        }
    }

    /// Sends `request`, and gives what `read` makes of the answer. A large answer is in memory with `place` only, which is
    /// taken where that is none yet.
    ///
    /// # Errors
    /// When the API server refuses, does not answer, or answers with what `read` does not take.
    pub(crate) async fn ask<T>(
        &self,
        request: Result<Request<Vec<u8>>, RequestError>,
        place: &mut Place,
        read: impl FnOnce(&[u8]) -> Result<T, AnswerError>,
    ) -> Result<T, kube::Error> {
        let request = request.map_err(kube::Error::BuildRequest)?;
        let response = self.client.send(request.map(Body::from)).await?;
        let code = response.status();
        let mut body = response.into_body();
        let mut answer = Answer::default();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| AnswerError::Broken(Box::new(error)))?;
            let Some(piece) = frame.data_ref() else { continue };
            if answer.0.len() + piece.len() > LONGEST_ANSWER {
                return Err(AnswerError::TooLong.into());
            }
            answer.take(piece);
            self.take_place(place, answer.0.len()).await;
        }
        if code.is_client_error() || code.is_server_error() {
            return Err(refusal(code, &answer.0));
        }
        Ok(read(&answer.0)?)
    }
}

/// The refusal that an answer tells of, as kube reads it, and of its text the beginning.
fn refusal(code: StatusCode, answer: &[u8]) -> kube::Error {
    let mut status = serde_json::from_slice(answer).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(answer);
        Status::failure(text.trim(), "Failed to parse error data").with_code(code.as_u16())
    });
    status.message = first_characters(&status.message, LONGEST_REFUSAL).to_owned();
    status.reason = first_characters(&status.reason, LONGEST_REFUSAL).to_owned();
    status.details = None;
    kube::Error::Api(Box::new(status))
}

/// An answer as it comes in. What it leaves behind when it grows is wiped too.
struct Answer(Zeroizing<Vec<u8>>);

impl Default for Answer {
    fn default() -> Self {
        Self(Zeroizing::new(Vec::with_capacity(8 * 1024)))
    }
}

impl Answer {
    fn take(&mut self, piece: &[u8]) {
        let length = self.0.len() + piece.len();
        if length > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(length.max(self.0.capacity() * 2)));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;
    use serde_json::json;
    use tower::service_fn;

    use super::*;

    async fn refused(code: u16, answer: String) -> Box<Status> {
        let service = service_fn(move |_: Request<Body>| {
            let response = Response::builder()
                .status(code)
                .body(Body::from(answer.clone().into_bytes()));
            async move { Ok::<_, Infallible>(response.unwrap()) }
        });
        let answers = Answers::new(Client::new(service, "default"));
        let request = Ok(Request::get("/api").body(Vec::new()).unwrap());
        match answers.ask(request, &mut Place::default(), |_| Ok(())).await {
            Err(kube::Error::Api(status)) => status,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_refusal_is_read_as_kube_reads_it_and_no_long_text_of_it_is_kept() {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409, "reason": "Conflict",
            "message": "x".repeat(1_000_000), "details": { "causes": [{ "message": "x".repeat(1_000_000) }] } });
        let conflict = refused(409, status.to_string()).await;
        assert!(conflict.is_conflict());
        assert_eq!(
            (conflict.message.len(), &conflict.details),
            (LONGEST_REFUSAL, &None)
        );
        let page = refused(502, "<html>bad gateway</html>\n".to_owned()).await;
        assert_eq!(
            (page.code, page.message.as_str()),
            (502, "<html>bad gateway</html>")
        );
    }
}
