//! What libraries log.

use std::sync::{Arc, Mutex};
use vendor_token_operator::failure::FailureClass;
use vendor_token_operator::http::Transport;

use crate::servers::*;

/// Everything that any crate logs in this process, at every level.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_library_logs_a_header_a_body_or_a_token_even_at_trace() {
    use tracing_subscriber::util::SubscriberInitExt;
    let logs = Logs::default();
    let writer = logs.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::level_filters::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish()
        .try_init()
        .unwrap();

    let (authority, clients) = (Authority::new(), Authority::new());
    let answer = "HTTP/1.1 200 OK\r\nx-echo: marked-answer\r\ncontent-length: 12\r\n\r\nmarked-token";
    let config = authority.server("127.0.0.1", 2100, Some(&clients), rustls::ALL_VERSIONS);
    let server = Server::answering(config, answer).await;
    let certificate = clients.client_certificate();
    let with = request_with(&server.url(), certificate.clone());
    let transport = transport(options(&authority));
    let response = transport.send(with).await.unwrap();
    assert_eq!(*response.body, b"marked-token");
    fails(
        transport,
        request(&server.url()),
        FailureClass::Refused,
        "client certificate",
    )
    .await;
    let cut = Server::closing(
        authority.good(),
        "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nmarked-token",
    )
    .await;
    send(&authority, &cut.url()).await.map(drop).unwrap_err();

    let text = String::from_utf8_lossy(&logs.0.lock().unwrap()).into_owned();
    for library in ["hyper_util::", "reqwest::", "rustls::"] {
        assert!(
            text.contains(library),
            "nothing of {library}: the logs are not collected"
        );
    }
    let key = secrecy::ExposeSecret::expose_secret(&certificate.private_key)
        .lines()
        .nth(1)
        .unwrap()
        .to_owned();
    for secret in [
        "marked",
        "6d61726b6564",
        "6d, 61, 72, 6b",
        "109, 97, 114, 107",
        &key,
    ] {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{line:?}");
    }
}
