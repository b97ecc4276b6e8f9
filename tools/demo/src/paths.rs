//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

use crate::Error;

/// The root of the repository.
pub fn workspace() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    folder.canonicalize().unwrap_or(folder)
}

/// A binary of this workspace, built with the same profile as ours: it lies beside it.
///
/// # Errors
/// When it is not there.
pub fn binary(name: &str) -> Result<PathBuf, Error> {
    let ours = env::current_exe().map_err(Error::io("find this program's folder"))?;
    let path = ours.with_file_name(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(Error::Other(format!(
            "there is no {} beside this program: start it by `make demo` or `make bench-cold`, which build what is missing",
            path.display()
        )))
    }
}

/// kubectl, as a person would type it: from the `PATH`, else the one built with the control plane, else none.
pub fn kubectl() -> Option<String> {
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|folder| folder.join("kubectl").is_file()) {
        return Some("kubectl".to_owned());
    }
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let folders = [
        env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from),
        Some(workspace().join(target).join("control-plane")),
    ];
    folders
        .into_iter()
        .flatten()
        .map(|folder| folder.join("kubectl"))
        .find(|path| path.is_file())
        .map(|path| path.display().to_string())
}
