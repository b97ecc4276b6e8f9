//! The client of the API server. Its connections keep little memory, however long the answers are that came over them.

use http::uri::Uri;
use http_body_util::BodyExt;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::proxy::Tunnel as TunnelConnector;
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::Config;
use kube::client::{Body, ClientBuilder, ConfigExt, DynBody};
use tower::util::BoxService;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

use super::ApiService;
use crate::proxy::Tunnel;

/// The bytes that a connection reads at a time: a record of TLS. Left to itself, hyper lets the buffer of a connection
/// grow with its answers, to 400 KiB, and keeps it while the connection is idle. The head of an answer is no longer
/// either.
const READ_BUFFER: usize = 16 * 1024;
/// The most connections that are kept while idle: one for each reconcile that may run.
const MOST_IDLE: usize = 42;

/// Begins a client whose connections go directly, or through a proxy.
pub(super) fn client_builder(
    config: &Config,
    tunnel: Option<&Tunnel>,
) -> kube::Result<ClientBuilder<ApiService>> {
    // Of a client that is not used: no other function of kube tells when the certificate of an exec plugin ends.
    let valid_until = match config.auth_info.exec {
        Some(_) => *ClientBuilder::try_from(config.clone())?.build().valid_until(),
        None => None,
    };
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(config.connect_timeout);
    let service = match tunnel {
        None => service(config, connector)?,
        Some(tunnel) if tunnel.proxy().scheme_str() == Some("https") => {
            let connector = config.rustls_https_connector_with_connector(connector)?;
            service(config, through(tunnel, connector))?
        }
        Some(tunnel) => service(config, through(tunnel, connector))?,
    };
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).with_valid_until(valid_until))
}

fn through<C>(tunnel: &Tunnel, connector: C) -> TunnelConnector<C> {
    let connector = TunnelConnector::new(tunnel.proxy().clone(), connector);
    match tunnel.authorization() {
        Some(login) => connector.with_auth(login.clone()),
        None => connector,
    }
}

/// The layers of kube's own client, over another HTTP client. The timeouts of kube's connections are left out: each call
/// has a deadline, and a watch one for its silence.
fn service<C>(config: &Config, connector: C) -> kube::Result<ApiService>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let client: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .pool_max_idle_per_host(MOST_IDLE)
        .http1_read_buf_exact_size(READ_BUFFER)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(client);
    let boxed = service
        .map_response(|response| response.map(|body| Box::new(body.map_err(BoxError::from)) as Box<DynBody>));
    Ok(BoxService::new(boxed.map_err(BoxError::from)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::future::join_all;
    use kube::Client;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Barrier;

    use super::*;

    /// Answers each request with a body of so many bytes, as soon as so many requests are there. Gives a client, and the
    /// number of connections that are open.
    async fn server(body: usize, together: usize) -> (Client, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (open, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(together)));
        let counted = Arc::clone(&open);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (counted, all) = (Arc::clone(&counted), Arc::clone(&all));
                tokio::spawn(async move {
                    let _ = answer(stream, body, &all).await;
                    counted.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        let config = Config::new(url.parse().unwrap());
        let client = client_builder(&config, None).unwrap().build();
        (client, open)
    }

    async fn answer(mut stream: TcpStream, body: usize, all: &Barrier) -> std::io::Result<()> {
        let mut request = Vec::new();
        loop {
            request.clear();
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut request).await? == 0 {
                    return Ok(());
                }
            }
            all.wait().await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {body}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&vec![b'x'; body]).await?;
        }
    }

    /// The longest piece of the answer to a request, and the length of all of them.
    async fn ask(client: &Client) -> (usize, usize) {
        let request = http::Request::get("/api").body(Body::empty()).unwrap();
        let mut body = client.send(request).await.unwrap().into_body();
        let (mut longest, mut length) = (0, 0);
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap().len();
            longest = longest.max(piece);
            length += piece;
            // The next piece grows meanwhile.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        (longest, length)
    }

    #[tokio::test]
    async fn a_connection_keeps_a_small_buffer_however_long_an_answer_is() {
        let (client, _) = server(4_000_000, 1).await;
        let (longest, length) = ask(&client).await;
        assert_eq!(length, 4_000_000);
        assert!(longest <= READ_BUFFER, "a piece of {longest} bytes was buffered");
    }

    #[tokio::test]
    async fn a_bounded_number_of_connections_is_kept_after_many_calls_at_a_time() {
        let (client, open) = server(10, 100).await;
        join_all((0..100).map(|_| ask(&client))).await;
        let mut kept = 100;
        for _ in 0..500 {
            kept = open.load(Ordering::SeqCst);
            if kept <= MOST_IDLE {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(kept, MOST_IDLE);
    }
}
