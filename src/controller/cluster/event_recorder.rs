//! Publishes events, a few at a time, and remembers the last ones only.

use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, Recorder, Reporter};
use tokio::sync::Semaphore;

use crate::error_text::with_causes;
use crate::sync::lock;

const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// The most events that are sent at the same time.
const AT_A_TIME: usize = 4;
/// The most events that are remembered, each with 2 KiB. An event that is repeated within some minutes is counted in the
/// one that is there, while that is remembered.
const MOST_REMEMBERED: usize = 256;

/// kube's recorder of events, which remembers all events of the last minutes, within bounds.
pub(crate) struct EventRecorder {
    client: Client,
    reporter: Reporter,
    places: Semaphore,
    remembering: Mutex<Remembering>,
}

/// A recorder, and the number of events that it may remember still.
struct Remembering {
    recorder: Recorder,
    room: usize,
}

impl EventRecorder {
    /// Publishes as `reporter` through `client`.
    pub(crate) fn new(client: Client, reporter: Reporter) -> Self {
        Self {
            places: Semaphore::new(AT_A_TIME),
            remembering: Mutex::new(Remembering {
                recorder: Recorder::new(client.clone(), reporter.clone()),
                room: MOST_REMEMBERED,
            }),
            client,
            reporter,
        }
    }

    /// Sends an event to the API server, after those that were published before. The log tells of a failure.
    pub(crate) async fn publish(&self, event: &Event, reference: &ObjectReference) {
        // It is never closed.
        let _place = self.places.acquire().await.ok();
        let recorder = self.recorder();
        match tokio::time::timeout(CALL_DEADLINE, recorder.publish(event, reference)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = with_causes(&error), "failed to publish an event"),
            Err(_) => tracing::warn!("failed to publish an event within 10 s"),
        }
    }

    /// The recorder for one more event: another one, that remembers nothing, where the last one is full.
    fn recorder(&self) -> Recorder {
        let mut remembering = lock(&self.remembering);
        if remembering.room == 0 {
            *remembering = Remembering {
                recorder: Recorder::new(self.client.clone(), self.reporter.clone()),
                room: MOST_REMEMBERED,
            };
        }
        remembering.room -= 1;
        remembering.recorder.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use http::{Method, Response};
    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use kube::runtime::events::EventType;
    use tower::service_fn;

    use super::*;

    /// The requests that an API server has received, and the most that were open at the same time.
    #[derive(Default)]
    struct Asked {
        methods: Mutex<Vec<Method>>,
        now: AtomicUsize,
        most: AtomicUsize,
    }

    /// A recorder at an API server that takes every event.
    fn recorder() -> (EventRecorder, Arc<Asked>) {
        let asked = Arc::new(Asked::default());
        let noted = Arc::clone(&asked);
        let service = service_fn(move |request: http::Request<Body>| {
            let noted = Arc::clone(&noted);
            async move {
                lock(&noted.methods).push(request.method().clone());
                let now = noted.now.fetch_add(1, Ordering::SeqCst) + 1;
                noted.most.fetch_max(now, Ordering::SeqCst);
                tokio::task::yield_now().await;
                noted.now.fetch_sub(1, Ordering::SeqCst);
                let sent = request.into_body().collect().await.unwrap().to_bytes();
                Ok::<_, Infallible>(Response::new(Body::from(sent)))
            }
        });
        (
            EventRecorder::new(Client::new(service, "default"), "operator".into()),
            asked,
        )
    }

    async fn publish(recorder: &EventRecorder, name: usize) {
        let event = Event {
            type_: EventType::Warning,
            reason: "RateLimited".to_owned(),
            note: Some("note".to_owned()),
            action: "Refresh".to_owned(),
            secondary: None,
        };
        let reference = ObjectReference {
            namespace: Some("a".to_owned()),
            name: Some(name.to_string()),
            ..ObjectReference::default()
        };
        recorder.publish(&event, &reference).await;
    }

    #[tokio::test]
    async fn an_event_that_is_repeated_is_counted_in_the_first_until_many_have_followed() {
        let (recorder, asked) = recorder();
        publish(&recorder, 0).await;
        publish(&recorder, 0).await;
        assert_eq!(*lock(&asked.methods), [Method::POST, Method::PATCH]);
        for name in 1..MOST_REMEMBERED {
            publish(&recorder, name).await;
        }
        publish(&recorder, 0).await;
        assert_eq!(lock(&asked.methods).last(), Some(&Method::POST));
    }

    #[tokio::test]
    async fn a_few_events_are_sent_at_the_same_time() {
        let (recorder, asked) = recorder();
        join_all((0..100).map(|name| publish(&recorder, name))).await;
        assert_eq!(lock(&asked.methods).len(), 100);
        assert_eq!(asked.most.load(Ordering::SeqCst), AT_A_TIME);
    }
}
