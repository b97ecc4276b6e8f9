//! One control plane for all tests of a process.

use tokio::sync::OnceCell;

use crate::{ControlPlane, Error, Options};

static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();

/// The control plane that all tests of this process share; the first caller starts it, and it stops when the process
/// ends. Each test should work in a [`ControlPlane::namespace`] of its own, and not stop or freeze this one.
///
/// # Errors
/// When it cannot be started; the next caller tries again.
pub async fn shared() -> Result<&'static ControlPlane, Error> {
    SHARED
        .get_or_try_init(|| ControlPlane::start(Options::default()))
        .await
}

/// [`shared`], with kube-controller-manager started (by the first caller of this function).
///
/// # Errors
/// As there.
pub async fn shared_with_garbage_collection() -> Result<&'static ControlPlane, Error> {
    static STARTED: OnceCell<()> = OnceCell::const_new();
    let control_plane = shared().await?;
    STARTED
        .get_or_try_init(|| control_plane.start_controller_manager())
        .await?;
    Ok(control_plane)
}
