//! Failures of the simulator itself.

use std::io;

/// A failure of the simulator itself, not one that it plays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A port could not be bound.
    #[error("failed to listen on 127.0.0.1:{port}")]
    Listen {
        /// The port asked for; 0 is any.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("failed to make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// TLS could not be set up.
    #[error("failed to set up TLS")]
    Tls(#[from] rustls::Error),
    /// The verifier of client certificates could not be set up.
    #[error("failed to set up client certificates")]
    ClientVerifier(#[from] rustls::server::VerifierBuilderError),
}
