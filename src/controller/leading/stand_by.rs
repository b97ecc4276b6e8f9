//! The wait of a process that does not lead.

use std::future::Future;
use std::time::Duration;

use crate::controller::context::Context;
use crate::election::Leadership;

/// The interval of the process's sign of life.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);

/// The next state of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    StandBy,
    Lead,
    Stop,
}

/// Waits until this process leads or `shutdown` completes. A standby is ready and alive.
pub(crate) async fn stand_by(
    context: &Context,
    leadership: &mut Leadership,
    shutdown: impl Future<Output = ()> + Send,
) -> Next {
    context.metrics.leader(false);
    context.health.set_ready("watches", Ok(()));
    tokio::pin!(shutdown);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            () = leadership.becomes(true) => return Next::Lead,
            () = &mut shutdown => return Next::Stop,
            _ = heartbeat.tick() => context.health.tick(),
        }
    }
}
