//! The calls for Secrets that VendorTokens name. Each takes a checked name: no other text may become a part of a URL.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource as _;
use kube::api::{GetParams, Patch, PatchParams};
use kube::core::Request;
use serde_json::Value;

use crate::api::names;
use crate::controller::cluster::answers::{AnswerError, Answers, Place};
use crate::controller::cluster::object_json::secret_metadata;
use crate::controller::cluster::secret_data::{self, SecretData};
use crate::controller::cluster::secret_name::SecretName;
use crate::controller::cluster::secret_record;
use crate::policy::ownership::SecretRecord;

/// The Secrets of one namespace.
pub(crate) struct SecretCalls {
    answers: Answers,
    request: Request,
}

/// A Secret that was read, for as long as its answer is in memory.
pub(crate) struct SecretAnswer<'a> {
    /// The values that were asked for.
    pub(crate) data: SecretData,
    metadata: &'a [u8],
}

impl SecretAnswer<'_> {
    /// The metadata of the Secret.
    ///
    /// # Errors
    /// When the metadata cannot be read.
    pub(crate) fn metadata(&self) -> Result<ObjectMeta, AnswerError> {
        Ok(secret_metadata(self.metadata)?)
    }

    /// The record of its metadata; `None` where that has no UID or resource version.
    ///
    /// # Errors
    /// When the metadata cannot be read.
    pub(crate) fn record(&self) -> Result<Option<SecretRecord>, AnswerError> {
        Ok(secret_record::read(&self.metadata()?))
    }
}

fn found<T>(answer: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

impl SecretCalls {
    /// The Secrets of `namespace`, through `answers`.
    pub(crate) fn new(answers: &Answers, namespace: &str) -> Self {
        Self {
            answers: answers.clone(),
            request: Request::new(Secret::url_path(&(), Some(namespace))),
        }
    }

    /// Reads `keys` of a Secret, of each value at most `longest` bytes, and gives what `take` makes of it; `None` where there
    /// is no Secret.
    pub(crate) async fn read<T>(
        &self,
        name: &SecretName,
        keys: &BTreeSet<String>,
        longest: usize,
        take: impl FnOnce(SecretAnswer<'_>) -> T,
    ) -> Result<Option<T>, kube::Error> {
        let request = self.request.get(name, &GetParams::default());
        let read = |answer: &[u8]| {
            let data = secret_data::parse(answer, keys, longest)?;
            let metadata = answer;
            Ok(take(SecretAnswer { data, metadata }))
        };
        found(self.answers.ask(request, &mut Place::default(), read).await)
    }

    /// Reads the metadata of a Secret, and gives what `take` makes of it; `None` where there is no Secret.
    pub(crate) async fn read_metadata<T>(
        &self,
        name: &SecretName,
        take: impl FnOnce(&ObjectMeta) -> T,
    ) -> Result<Option<T>, kube::Error> {
        let request = self.request.get_metadata(name, &GetParams::default());
        let read = |answer: &[u8]| Ok(take(&secret_metadata(answer)?));
        found(self.answers.ask(request, &mut Place::default(), read).await)
    }

    /// The place for a write of so many bytes, of which several are in memory at a time: see [`Answers::take_place`].
    pub(crate) async fn place_for(&self, bytes: usize) -> Place {
        let mut place = Place::default();
        self.answers.take_place(&mut place, bytes).await;
        place
    }

    /// Applies `body` in its `place`, and gives the record that came of it; `None` where that has no UID or resource version.
    pub(crate) async fn apply(
        &self,
        name: &SecretName,
        body: &Value,
        place: &mut Place,
    ) -> Result<Option<SecretRecord>, kube::Error> {
        let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
        let request = self
            .request
            .patch_metadata(name, &parameters, &Patch::Apply(body));
        let read = |answer: &[u8]| Ok(secret_record::read(&secret_metadata(answer)?));
        self.answers.ask(request, place, read).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use futures::future::join_all;
    use futures::stream;
    use http::{Method, Response};
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use kube::Client;
    use kube::client::Body;
    use serde_json::json;
    use tower::service_fn;

    use super::*;
    use crate::controller::cluster::answers::LARGE_AT_A_TIME;
    use crate::controller::cluster::secret_data::SecretValue;

    /// As many reconciles run at a time.
    const AT_A_TIME: usize = 32;
    const PIECE: usize = 16 * 1024;
    /// An answer of which more was taken is in memory.
    const HELD: usize = 8 * PIECE;

    /// The number of answers that are in memory now, and the most of all times.
    #[derive(Debug, Default)]
    struct Held {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    /// The rest of an answer. It counts as held from its first [`HELD`] bytes until it is dropped.
    struct Rest {
        pieces: VecDeque<Bytes>,
        taken: usize,
        held: Arc<Held>,
    }

    impl Rest {
        fn piece(&mut self) -> Option<Bytes> {
            let piece = self.pieces.pop_front()?;
            let before = self.taken;
            self.taken += piece.len();
            if before <= HELD && self.taken > HELD {
                let now = self.held.now.fetch_add(1, Ordering::SeqCst) + 1;
                self.held.most.fetch_max(now, Ordering::SeqCst);
            }
            Some(piece)
        }
    }

    impl Drop for Rest {
        fn drop(&mut self) {
            if self.taken > HELD {
                self.held.now.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// The Secrets of an API server that answers each request with this text, and what is held of the answers.
    fn answering(text: String) -> (SecretCalls, Arc<Held>) {
        let held = Arc::new(Held::default());
        let (counted, text) = (Arc::clone(&held), Bytes::from(text));
        let service = service_fn(move |request: http::Request<Body>| {
            let rest = Rest {
                pieces: (0..text.len())
                    .step_by(PIECE)
                    .map(|from| text.slice(from..text.len().min(from + PIECE)))
                    .collect(),
                taken: 0,
                held: Arc::clone(&counted),
            };
            let code = if request.method() == Method::DELETE {
                500
            } else {
                200
            };
            let pieces = stream::unfold(rest, |mut rest| async move {
                tokio::task::yield_now().await;
                let piece = rest.piece()?;
                Some((Ok::<_, Infallible>(Frame::data(piece)), rest))
            });
            async move {
                Ok::<_, Infallible>(
                    Response::builder()
                        .status(code)
                        .body(StreamBody::new(pieces))
                        .unwrap(),
                )
            }
        });
        let answers = Answers::new(Client::new(service, "default"));
        (SecretCalls::new(&answers, "a"), held)
    }

    fn secret(annotations: usize, data: usize) -> String {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": { "name": "s", "uid": "u", "resourceVersion": "1", "annotations": { "a": "x".repeat(annotations) } },
            "data": { "token": "VDBL", "large": STANDARD.encode(vec![b'x'; data]) },
        })
        .to_string()
    }

    fn name() -> SecretName {
        SecretName::new("s").unwrap()
    }

    async fn read(calls: &SecretCalls) -> (Option<SecretRecord>, SecretData) {
        let (name, keys) = (name(), ["token".to_owned(), "large".to_owned()].into());
        let taken = calls.read(&name, &keys, 1024 * 1024, |secret| {
            (secret.record().unwrap(), secret.data)
        });
        taken.await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn of_many_large_answers_three_are_in_memory_at_a_time() {
        let (calls, held) = answering(secret(1_000_000, 1_000_000));
        join_all((0..AT_A_TIME).map(|_| read(&calls))).await;
        let name = name();
        join_all((0..AT_A_TIME).map(|_| calls.read_metadata(&name, secret_record::read))).await;
        let apply = async || {
            let mut place = Place::default();
            calls.apply(&name, &json!({}), &mut place).await.unwrap().unwrap()
        };
        join_all((0..AT_A_TIME).map(|_| apply())).await;
        assert_eq!(held.most.load(Ordering::SeqCst), LARGE_AT_A_TIME);
        assert_eq!(held.now.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_large_write_has_the_place_of_its_answer() {
        let (calls, held) = answering(secret(1_000_000, 0));
        let write = async || {
            let mut place = calls.place_for(1_000_000).await;
            calls.apply(&name(), &json!({}), &mut place).await.unwrap()
        };
        // As many as there are places: none waits for a second one.
        join_all((0..LARGE_AT_A_TIME).map(|_| write())).await;
        assert_eq!(held.most.load(Ordering::SeqCst), LARGE_AT_A_TIME);
    }

    #[tokio::test]
    async fn a_small_answer_waits_for_no_large_one() {
        let (calls, _) = answering(secret(10, 10));
        let mut places = Vec::new();
        for _ in 0..LARGE_AT_A_TIME {
            places.push(calls.place_for(1_000_000).await);
        }
        let (record, data) = read(&calls).await;
        assert_eq!(record.unwrap().version(), "u/1");
        assert!(matches!(data.get("token"), Some(SecretValue::Bytes(bytes)) if **bytes == *b"T0K"));
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_given_up() {
        let (calls, _) = answering("x".repeat(9 * 1024 * 1024));
        let error = calls.read_metadata(&name(), |_| ()).await.unwrap_err();
        let told = crate::error_text::with_causes(&error);
        assert!(told.contains("longer than 8 MiB"), "{told}");
    }
}
