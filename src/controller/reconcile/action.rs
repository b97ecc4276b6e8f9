//! The next look at an object.

use std::time::Duration;

/// The time of the next look at an object, which may come sooner by a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    /// The wait until then; `None` where only a change brings it.
    pub(crate) after: Option<Duration>,
}

impl Action {
    /// Another look after `wait`.
    pub(crate) fn requeue(wait: Duration) -> Self {
        Self { after: Some(wait) }
    }

    /// Another look at a change only.
    pub(crate) fn await_change() -> Self {
        Self { after: None }
    }
}
