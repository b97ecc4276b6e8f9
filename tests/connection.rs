//! The way to a real API server through a proxy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use serde_json::Value;
use test_support::ControlPlane;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use vendor_token_operator::connection::Cluster;
use vendor_token_operator::error_text::with_causes;
use vendor_token_operator::proxy::Proxy;

/// A proxy that opens tunnels, or refuses them.
struct HttpProxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl HttpProxy {
    async fn start(opens: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(tunnel(stream, opens, Arc::clone(&seen)));
            }
        });
        Self {
            address,
            heads,
            _tasks: tasks,
        }
    }

    fn url(&self) -> String {
        format!("http://user:marked-secret@{}", self.address)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn tunnel(mut stream: TcpStream, opens: bool, seen: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap() == 0 {
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    seen.lock().unwrap().push(head);
    if opens {
        let mut upstream = TcpStream::connect(target).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let _ = copy_bidirectional(&mut stream, &mut upstream).await;
    } else {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(refusal).await.unwrap();
    }
}

/// A kubeconfig of the administrator, with this `proxy-url`.
fn kubeconfig(plane: &ControlPlane, folder: &Path, proxy_url: &str) -> PathBuf {
    let text = std::fs::read_to_string(plane.admin_kubeconfig()).unwrap();
    let mut kubeconfig: Value = serde_json::from_str(&text).unwrap();
    kubeconfig["clusters"][0]["cluster"]["proxy-url"] = proxy_url.into();
    let path = folder.join("kubeconfig");
    std::fs::write(&path, kubeconfig.to_string()).unwrap();
    path
}

/// Reads something that only a client with a proof of who it is may read.
async fn read(cluster: &Cluster) -> kube::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    let client = cluster.client_builder().unwrap().build();
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.get("kube-system").await.map(drop)
}

#[tokio::test]
async fn an_api_server_is_asked_through_the_proxy_url_of_its_kubeconfig() {
    let plane = test_support::shared().await.unwrap();
    let (proxy, folder) = (HttpProxy::start(true).await, tempfile::tempdir().unwrap());
    let path = kubeconfig(plane, folder.path(), &proxy.url());
    let cluster = Cluster::find(Some(&path), None, None).await.unwrap();
    read(&cluster).await.unwrap();
    let head = proxy.heads().remove(0);
    let server = plane.server().strip_prefix("https://").unwrap();
    assert!(
        head.starts_with(&format!("CONNECT {server} HTTP/1.1\r\n")),
        "{head}"
    );
    assert!(
        head.contains("Proxy-Authorization: Basic dXNlcjptYXJrZWQtc2VjcmV0\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn an_api_server_is_asked_through_the_environments_proxy_unless_it_is_an_exception() {
    let plane = test_support::shared().await.unwrap();
    for (exceptions, used) in [
        ("", true),
        ("localhost,127.0.0.1,", false),
        ("127.0.0.0/8", false),
    ] {
        let proxy = HttpProxy::start(true).await;
        let environment = Proxy::parse("HTTPS_PROXY", &proxy.url(), exceptions).unwrap();
        let path = plane.admin_kubeconfig();
        let cluster = Cluster::find(Some(&path), None, Some(&environment))
            .await
            .unwrap();
        read(&cluster).await.unwrap();
        assert_eq!(!proxy.heads().is_empty(), used, "{exceptions}");
    }
}

#[tokio::test]
async fn the_error_of_a_proxy_that_refuses_shows_no_password() {
    let plane = test_support::shared().await.unwrap();
    let (proxy, folder) = (HttpProxy::start(false).await, tempfile::tempdir().unwrap());
    let path = kubeconfig(plane, folder.path(), &proxy.url());
    let cluster = Cluster::find(Some(&path), None, None).await.unwrap();
    let error = read(&cluster).await.unwrap_err();
    let text = format!("{} {error:?} {cluster:?}", with_causes(&error));
    assert!(text.contains("proxy authorization required"), "{text}");
    assert!(!text.contains("marked-secret"), "{text}");
}
