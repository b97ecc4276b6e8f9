//! Response bodies: whole, or sent as a script of pieces and waits.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

/// One step of a scripted body.
#[derive(Debug)]
pub(crate) enum Step {
    Send(Bytes),
    /// The same bytes this many times.
    Repeat(Bytes, u64),
    Wait(Duration),
}

/// A response body.
pub(crate) enum Body {
    /// Known length, one piece.
    Whole(Option<Bytes>),
    /// Length not announced by the body itself.
    Scripted {
        steps: VecDeque<Step>,
        wait: Option<Pin<Box<Sleep>>>,
    },
}

impl Body {
    pub(crate) fn scripted(steps: impl IntoIterator<Item = Step>) -> Self {
        Body::Scripted {
            steps: steps.into_iter().collect(),
            wait: None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Scripted { steps, wait } => loop {
                if let Some(sleep) = wait {
                    ready!(sleep.as_mut().poll(context));
                    *wait = None;
                }
                match steps.pop_front() {
                    None => return Poll::Ready(None),
                    Some(Step::Send(bytes)) if bytes.is_empty() => {}
                    Some(Step::Send(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Some(Step::Repeat(_, 0)) => {}
                    Some(Step::Repeat(bytes, times)) => {
                        steps.push_front(Step::Repeat(bytes.clone(), times - 1));
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                    Some(Step::Wait(duration)) => *wait = Some(Box::pin(sleep(duration))),
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Body::Scripted { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::Scripted { .. } => SizeHint::default(),
        }
    }
}
