//! The two HTTP servers on loopback, with clients that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is a failed test

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vendor_token_operator::metrics::Metrics;
use vendor_token_operator::server::{Health, Server, ServerLimits};

const LOOPBACK: &str = "127.0.0.1:0";

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn run(server: Server) -> Running {
    let (address, (stop, stopped)) = (server.local_address(), oneshot::channel());
    let task = tokio::spawn(server.serve(async { drop(stopped.await) }));
    Running { address, stop, task }
}

async fn health_server(health: &Health, limits: ServerLimits) -> Running {
    run(Server::health(LOOPBACK.parse().unwrap(), health.clone())
        .await
        .unwrap()
        .with_limits(limits))
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn metrics_are_served_as_openmetrics() {
    let metrics = Metrics::new();
    metrics.leader(true);
    let server = run(Server::metrics(LOOPBACK.parse().unwrap(), metrics).await.unwrap());
    assert_ne!(server.address.port(), 0);
    let answer = get(server.address, "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("\nvendortoken_leader 1\n") && answer.ends_with("# EOF\n"),
        "{answer}"
    );
    assert!(get(server.address, "/livez").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn probes_answer_with_reasons() {
    let health = Health::new(&["key"]);
    let server = health_server(&health, ServerLimits::default()).await;
    let answer = get(server.address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("content-type: text/plain"), "{answer}");
    assert!(
        answer.ends_with("[-]key failed: starting\nreadyz check failed\n"),
        "{answer}"
    );
    health.set_ready("key", Ok(()));
    assert!(get(server.address, "/readyz").await.starts_with("HTTP/1.1 200 "));
    assert!(
        get(server.address, "/livez")
            .await
            .ends_with("[+]scheduler ok\nlivez check passed\n")
    );
    assert!(get(server.address, "/metrics").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_taken_port_is_refused_with_the_flag_that_changes_it() {
    let taken = std::net::TcpListener::bind(LOOPBACK).unwrap();
    let address = taken.local_addr().unwrap();
    let error = Server::metrics(address, Metrics::new())
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        format!("failed to bind metrics address {address}: choose another with --metrics-bind-address")
    );
    let error = Server::health(address, Health::new(&[]))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("choose another with --health-probe-bind-address"),
        "{error}"
    );
}

/// Reads to the end of the connection.
async fn closed(stream: &mut TcpStream) {
    let mut sink = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut sink));
    let _ = end.await.expect("the connection stays open");
}

#[tokio::test]
async fn a_client_that_never_ends_its_request_loses_its_connection() {
    let limits = ServerLimits {
        header_read_timeout: Duration::from_millis(200),
        ..ServerLimits::default()
    };
    let server = health_server(&Health::new(&[]), limits).await;
    for start in ["", "GET /livez HTTP/1.1\r\nhost:"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        closed(&mut stream).await;
    }
}

#[tokio::test]
async fn silent_connections_beyond_the_bound_do_not_keep_a_probe_from_its_answer() {
    let limits = ServerLimits {
        header_read_timeout: Duration::from_millis(300),
        connections: 2,
        ..ServerLimits::default()
    };
    let server = health_server(&Health::new(&[]), limits).await;
    let started = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert!(get(server.address, "/livez").await.starts_with("HTTP/1.1 200 "));
    assert!(
        started.elapsed() >= Duration::from_millis(250),
        "answered although both slots were taken"
    );
}

#[tokio::test]
async fn an_old_connection_is_closed() {
    let limits = ServerLimits {
        connection_age: Duration::from_millis(200),
        ..ServerLimits::default()
    };
    let server = health_server(&Health::new(&[]), limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    closed(&mut stream).await;
}

#[tokio::test]
async fn shutdown_closes_the_port_and_idle_connections() {
    let server = health_server(&Health::new(&[]), ServerLimits::default()).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    server.stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(2), server.task)
        .await
        .expect("an idle connection delays it")
        .unwrap();
    closed(&mut idle).await;
    assert!(TcpStream::connect(server.address).await.is_err());
}
