//! A client of the API server, directly or through a proxy, whose connections hold little memory.

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

/// The longest buffer of a connection, in bytes. hyper's own grows to 408 KiB while a large answer is read and stays so,
/// and there are some 60 connections when many calls are made at a time.
const LONGEST_BUFFER: usize = 32 * 1024;

/// Begins a client whose connections go through a proxy, or directly.
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

/// The layers of kube's own client, over another connector.
fn service<C>(config: &Config, connector: C) -> kube::Result<ApiService>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let client: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .http1_max_buf_size(LONGEST_BUFFER)
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
