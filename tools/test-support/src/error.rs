//! Failures of the control plane, of the operator's process, and of the programs that use them.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A failure of the control plane, of a process, or of a step of the demo or the benchmark.
///
/// Its `Debug` text is for people too (the message and its causes, with line breaks), as tests mostly `unwrap`.
#[derive(thiserror::Error)]
pub enum Error {
    /// A binary of the control plane is not there.
    #[error(
        "failed to find {binary} in {}: build it with `hack/build-control-plane {binary}`, or set KUBEBUILDER_ASSETS to a folder that has it",
        folder.display()
    )]
    BinaryMissing { binary: &'static str, folder: PathBuf },
    /// There is no kubectl to call.
    #[error("failed to find kubectl: build it with `hack/build-control-plane kubectl`")]
    KubectlMissing,
    /// A file, a folder or a process.
    #[error("failed to {action}")]
    Io { action: String, source: io::Error },
    /// A certificate or a key.
    #[error("failed to make the certificate of {subject}")]
    Certificate { subject: String, source: rcgen::Error },
    /// A part of the control plane ended, or was not ready in time.
    #[error("failed to start {program}: {reason}; the end of its log:\n{log}")]
    NotStarted {
        program: &'static str,
        reason: String,
        log: String,
    },
    /// Something was asked of a process that does not run.
    #[error("failed to {action}: {program} is not running")]
    NotRunning { program: &'static str, action: String },
    /// The API server refused a request or did not answer.
    #[error("failed to {action}")]
    Kube {
        action: String,
        source: Box<kube::Error>,
    },
    /// A kubeconfig that cannot be used.
    #[error("failed to use the kubeconfig {}", path.display())]
    Kubeconfig {
        path: PathBuf,
        source: Box<kube::config::KubeconfigError>,
    },
    /// A manifest that cannot be applied.
    #[error("failed to read {what}: {reason}")]
    Manifest { what: String, reason: String },
    /// A step that another library refused.
    #[error("failed to {action}")]
    Step {
        action: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another reason, as a sentence.
    #[error("{0}")]
    Other(String),
    /// A condition did not come true.
    #[error("failed to see \"{description}\" within {seconds:.1} s; the last state was: {last_state}")]
    Timeout {
        description: String,
        seconds: f64,
        last_state: String,
    },
}

impl Error {
    /// For `map_err` of any other error, as in `Error::step("read the kubeconfig")`.
    pub fn step<E>(action: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let action = action.into();
        move |source| Self::Step {
            action,
            source: source.into(),
        }
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    pub(crate) fn kube(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Kube {
            action,
            source: Box::new(source),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&with_causes(self))
    }
}

/// An error's message and those of its causes.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}
