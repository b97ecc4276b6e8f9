//! Whether the API server answers: no vendor is asked while it does not. What a vendor gave could not be published then,
//! and a credential that was changed or deleted meanwhile would be used.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use kube::Client;
use tokio::sync::Notify;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

/// An answer counts for this long.
const FRESH: Duration = Duration::from_secs(1);
/// A question that is not answered is put again after this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time between two questions.
const PAUSE: Duration = Duration::from_secs(1);

/// Knows when the API server has answered last. Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct Contact(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// `None` since a call got no answer.
    answered: Mutex<Option<Instant>>,
    wanted: Notify,
    told: Notify,
}

impl Contact {
    /// Whether the API server has answered a moment ago, whatever the answer was. Otherwise it is asked: see
    /// [`Self::told`].
    pub fn is_fresh(&self) -> bool {
        let is_fresh = self.has_answered_lately();
        if !is_fresh {
            self.0.wanted.notify_one();
        }
        is_fresh
    }

    fn has_answered_lately(&self) -> bool {
        let answered = *self.0.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.is_some_and(|answered| answered.elapsed() < FRESH)
    }

    /// Waits for the answer to a question.
    pub async fn told(&self) {
        self.0.told.notified().await;
    }

    /// Asks the API server, by `client`, whenever somebody wants to know; for ever. `client` must have the layer
    /// [`NoteAnswers`].
    pub async fn ask_when_wanted(self, client: Client) {
        loop {
            self.0.wanted.notified().await;
            // What came of it is noted by the layer; a refusal is an answer too.
            let _ = tokio::time::timeout(PATIENCE, client.apiserver_version()).await;
            self.0.told.notify_one();
            if !self.has_answered_lately() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn note(&self, answered: bool) {
        let answered = answered.then(Instant::now);
        *self.0.answered.lock().unwrap_or_else(PoisonError::into_inner) = answered;
    }
}

/// A layer for kube's client that tells a [`Contact`] which calls were answered. It must see a deadline's error, and must
/// not see calls that were never sent.
#[derive(Clone, Debug)]
pub struct NoteAnswers(Contact);

impl NoteAnswers {
    /// Tells `contact`.
    pub fn new(contact: Contact) -> Self {
        Self(contact)
    }
}

impl<S> Layer<S> for NoteAnswers {
    type Service = Noting<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Noting {
            inner,
            contact: self.0.clone(),
        }
    }
}

/// See [`NoteAnswers`].
#[derive(Clone, Debug)]
pub struct Noting<S> {
    inner: S,
    contact: Contact,
}

impl<S, A, B> Service<Request<A>> for Noting<S>
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
        let contact = self.contact.clone();
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await;
            contact.note(answer.is_ok());
            answer
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use kube::client::{Body, ClientBuilder};
    use tower::service_fn;

    use super::*;

    fn client(contact: &Contact, answers: &'static Mutex<bool>) -> Client {
        let service = service_fn(move |_: Request<Body>| async move {
            if *answers.lock().unwrap() {
                let refused = Response::builder().status(403).body(Body::empty()).unwrap();
                Ok(refused)
            } else {
                Err(BoxError::from("nobody is there"))
            }
        });
        ClientBuilder::new(service, "default")
            .with_layer(&NoteAnswers::new(contact.clone()))
            .build()
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_answers_is_asked_when_it_was_not_heard_for_a_moment() {
        static ANSWERS: Mutex<bool> = Mutex::new(true);
        let contact = Contact::default();
        let asking = tokio::spawn(contact.clone().ask_when_wanted(client(&contact, &ANSWERS)));
        assert!(!contact.is_fresh(), "nobody has asked it yet");
        contact.told().await;
        assert!(contact.is_fresh(), "a refusal is an answer");
        tokio::time::advance(FRESH).await;
        assert!(!contact.is_fresh());

        contact.told().await;
        assert!(contact.is_fresh());
        *ANSWERS.lock().unwrap() = false;
        let unanswered = client(&contact, &ANSWERS).apiserver_version().await;
        assert!(unanswered.is_err());
        assert!(!contact.is_fresh(), "no answer came just now");
        contact.told().await;
        assert!(!contact.is_fresh(), "nor then");
        *ANSWERS.lock().unwrap() = true;
        contact.told().await;
        assert!(contact.is_fresh(), "it is back");
        asking.abort();
    }
}
