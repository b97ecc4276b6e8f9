//! What can go wrong, told to a person.

use std::io;

/// Why the demo or the benchmark failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control plane, or a process.
    #[error(transparent)]
    Support(#[from] test_support::Error),
    /// The simulator.
    #[error("failed to start the vendor simulator")]
    Simulator(#[from] vendor_simulator::Error),
    /// The API server refused a request or did not answer.
    #[error("failed to {action}")]
    Kube {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: Box<kube::Error>,
    },
    /// A file or a process.
    #[error("failed to {action}")]
    Io {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Anything else, in a sentence.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// For `map_err` of calls to the API server.
    pub fn kube(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Kube {
            action,
            source: Box::new(source),
        }
    }

    /// For `map_err` of input and output.
    pub fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

/// An error with its causes, in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}
