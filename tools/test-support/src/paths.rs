//! The repository and its programs.

use std::env;
use std::path::{Path, PathBuf};

use crate::Error;

/// The root of the repository.
pub fn workspace() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    folder.canonicalize().unwrap_or(folder)
}

/// The path of a binary of this workspace that was built with the running program's profile: it lies beside that one.
///
/// # Errors
/// When it is not there.
pub fn program(name: &str) -> Result<PathBuf, Error> {
    let ours = env::current_exe().map_err(Error::io("find this program's folder"))?;
    let path = ours.with_file_name(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(Error::Other(format!(
            "failed to find {}: start this program by `make demo` or `make bench-cold`, which build what is missing",
            path.display()
        )))
    }
}
