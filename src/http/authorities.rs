//! The file of authorities that are trusted besides the system's, read again while the process runs.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{HttpTransport, TransportError};
use crate::error_text::with_causes;

/// A PEM file of certificate authorities (`--vendor-ca-file`). Kubernetes replaces the files of a mounted ConfigMap or
/// Secret by swapping a symbolic link, so that the content is compared, and no property of the file.
#[derive(Debug)]
pub struct AuthorityFile {
    path: PathBuf,
    /// The content at the last look; `Err` where it could not be read.
    seen: Result<Vec<u8>, io::ErrorKind>,
}

/// Error in a file of authorities that has changed.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error("failed to read '{path}'")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("failed to use '{path}'")]
    Use {
        path: String,
        #[source]
        source: TransportError,
    },
}

impl AuthorityFile {
    /// Reads the file.
    pub fn read(path: &Path) -> io::Result<Self> {
        let content = std::fs::read(path)?;
        Ok(Self {
            path: path.to_owned(),
            seen: Ok(content),
        })
    }

    /// The content at the last look; empty where it could not be read.
    pub fn content(&self) -> &[u8] {
        self.seen.as_deref().unwrap_or_default()
    }

    /// Looks at the file in this interval, for ever, and has `transport` trust what is new in it. A file that cannot be
    /// used is told in the log once, and the authorities before it stay in use.
    pub async fn follow(mut self, transport: HttpTransport, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            match self.look(&transport).await {
                None => {}
                Some(Ok(())) => {
                    tracing::info!(file = %self.path.display(), "the authorities for vendors were replaced");
                }
                Some(Err(error)) => {
                    tracing::warn!(
                        error = with_causes(&error),
                        "the new file of authorities for vendors cannot be used: those before it stay in use"
                    );
                }
            }
        }
    }

    /// Uses a content that is new; `None` where nothing has changed.
    async fn look(&mut self, transport: &HttpTransport) -> Option<Result<(), ChangeError>> {
        let path = self.path.display().to_string();
        let found = tokio::fs::read(&self.path).await;
        let (now, error) = match found {
            Ok(content) => (Ok(content), None),
            Err(error) => (Err(error.kind()), Some(error)),
        };
        if now == self.seen {
            return None;
        }
        self.seen = now;
        if let Some(source) = error {
            return Some(Err(ChangeError::Read { path, source }));
        }
        let replaced = transport.replace_authorities(self.content());
        Some(replaced.map_err(|source| ChangeError::Use { path, source }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::{SystemClock, Timeline};
    use crate::http::HttpTransportOptions;

    fn authority() -> String {
        rcgen::generate_simple_self_signed(vec!["ca.example".to_owned()])
            .unwrap()
            .cert
            .pem()
    }

    fn transport(file: &AuthorityFile) -> HttpTransport {
        let options = HttpTransportOptions {
            additional_authorities: Some(file.content().to_vec()),
            ..HttpTransportOptions::default()
        };
        HttpTransport::new(options, Arc::new(Timeline::new(Arc::new(SystemClock)))).unwrap()
    }

    #[tokio::test]
    async fn each_change_of_the_file_of_authorities_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, authority()).unwrap();
        let mut file = AuthorityFile::read(&path).unwrap();
        let transport = transport(&file);
        assert!(file.look(&transport).await.is_none(), "nothing has changed");
        for (content, usable) in [
            (Some("no certificate"), false),
            (Some(authority().as_str()), true),
            (None, false),
            (Some(authority().as_str()), true),
        ] {
            match content {
                Some(content) => std::fs::write(&path, content).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let told = file.look(&transport).await.expect("a change");
            assert_eq!(told.is_ok(), usable, "{content:?}: {told:?}");
            assert!(file.look(&transport).await.is_none(), "told twice");
        }
    }
}
