//! kubectl, for the person at the terminal.

use std::env;
use std::process::Command;

use test_support::workspace;

/// The command as a person would type it: from the `PATH`, else the path of the one built with the control plane, else
/// none.
pub(crate) fn as_typed() -> Option<String> {
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|folder| folder.join("kubectl").is_file()) {
        return Some("kubectl".to_owned());
    }
    let built = test_support::kubectl().ok()?;
    Some(built.display().to_string())
}

/// The command that installs kubectl.
pub(crate) fn how_to_get() -> String {
    let output = Command::new(workspace().join("hack/require"))
        .args(["--how", "kubectl"])
        .output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "hack/build-control-plane kubectl".to_owned(),
    }
}
