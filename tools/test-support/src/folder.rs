//! The control plane's temporary folder, which goes with our process, however that ends.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::Error;

/// Set to anything, it keeps the folder (logs, audit log, etcd's data) for a look at it.
const KEEP: &str = "TEST_CONTROL_PLANE_KEEP";

/// Waits for the end of its input, which comes also when our process is killed, then removes the folder; again, as
/// programs that are just being killed may still write into it.
const REMOVE_AT_THE_END: &str = r#"
read -r _
attempt=0
while [ -e "$1" ] && [ "$attempt" -lt 100 ]; do
    rm -rf -- "$1" 2>/dev/null || sleep 0.1
    attempt=$((attempt + 1))
done
"#;

#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    remover: Option<Child>,
}

impl Folder {
    pub(crate) fn new() -> Result<Self, Error> {
        let failed = || Error::io("make a temporary folder");
        let path = tempfile::Builder::new()
            .prefix("control-plane-")
            .tempdir()
            .map_err(failed())?
            .keep();
        if std::env::var_os(KEEP).is_some() {
            return Ok(Self { path, remover: None });
        }
        let remover = Command::new("sh")
            .args(["-c", REMOVE_AT_THE_END, "remove"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(failed())?;
        Ok(Self {
            path,
            remover: Some(remover),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(remover) = self.remover.as_mut() {
            // Closes its input and waits until it has done its work.
            let _ = remover.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_folder_is_removed_with_its_content() {
        let folder = Folder::new().unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("file"), "content").unwrap();
        drop(folder);
        assert!(!path.exists());
    }
}
