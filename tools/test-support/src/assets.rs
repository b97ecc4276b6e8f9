//! The binaries of the control plane.

use std::env;
use std::path::PathBuf;

use crate::{Error, paths};

/// The folder named by `KUBEBUILDER_ASSETS`, or the one that `hack/build-control-plane` fills.
fn folder() -> PathBuf {
    if let Some(folder) = env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()) {
        return folder.into();
    }
    let target = env::var_os("CARGO_TARGET_DIR")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    // From the root: Cargo gives tests their own package as the working folder. An absolute folder replaces the root.
    paths::workspace()
        .join(target.unwrap_or_else(|| "target".into()))
        .join("control-plane")
}

/// The path of one of the control plane's binaries.
pub(crate) fn binary(name: &'static str) -> Result<PathBuf, Error> {
    let folder = folder();
    let path = folder.join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(Error::BinaryMissing { binary: name, folder })
    }
}

/// The path of kubectl: the one built with the control plane, else the one on the `PATH`.
///
/// # Errors
/// When there is neither.
pub fn kubectl() -> Result<PathBuf, Error> {
    if let Ok(path) = binary("kubectl") {
        return Ok(path);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join("kubectl"))
        .find(|candidate| candidate.is_file())
        .ok_or(Error::KubectlMissing)
}
