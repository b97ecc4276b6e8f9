//! The two HTTP servers on loopback, with clients that misbehave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells what it measured"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vendor_token_operator::metrics::{Metrics, ObjectLabels};
use vendor_token_operator::server::{Health, Server, ServerLimits};

const LOOPBACK: &str = "127.0.0.1:0";
/// Silent connections, many times as many as a port takes.
const FLOOD: usize = 1200;
/// VendorTokens whose metrics are a text of about 1 MB.
const OBJECTS: usize = 3000;

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

fn health_server(health: &Health, limits: ServerLimits) -> Running {
    run(Server::health(LOOPBACK.parse().unwrap(), health.clone())
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
    let server = run(Server::metrics(LOOPBACK.parse().unwrap(), metrics).unwrap());
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
    let server = health_server(&health, ServerLimits::default());
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
    let error = Server::metrics(address, Metrics::new()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("failed to bind metrics address {address}: choose another with --metrics-bind-address")
    );
    let error = Server::health(address, Health::new(&[])).unwrap_err().to_string();
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
    let server = health_server(&Health::new(&[]), limits);
    for start in ["", "GET /livez HTTP/1.1\r\nhost:"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        closed(&mut stream).await;
    }
}

#[tokio::test]
async fn a_client_that_is_silent_after_its_answer_loses_its_connection() {
    let limits = ServerLimits {
        header_read_timeout: Duration::from_millis(200),
        ..ServerLimits::default()
    };
    let server = health_server(&Health::new(&[]), limits);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    closed(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_is_answered_beside_1200_silent_connections() {
    let server = health_server(&Health::new(&[]), ServerLimits::default());
    let mut silent = Vec::new();
    for _ in 0..FLOOD {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    for _ in 0..10 {
        let started = Instant::now();
        let answer = tokio::time::timeout(Duration::from_secs(5), get(server.address, "/livez"));
        let answer = answer.await.expect("no answer in 5 s");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "{:?}",
            started.elapsed()
        );
    }
}

#[tokio::test]
async fn a_full_port_gives_up_the_connection_that_was_silent_for_longest() {
    let limits = ServerLimits {
        connections: 2,
        ..ServerLimits::default()
    };
    let server = health_server(&Health::new(&[]), limits);
    let mut oldest = TcpStream::connect(server.address).await.unwrap();
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    tokio::time::sleep(limits.shortest_stay).await;
    let mut answer = [0; 12];
    oldest
        .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    oldest.read_exact(&mut answer).await.unwrap();
    let started = Instant::now();
    assert!(get(server.address, "/livez").await.starts_with("HTTP/1.1 200 "));
    closed(&mut silent).await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "the time limit of a head has closed it"
    );
    // The rest of the first answer, and a second one.
    oldest
        .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut rest = String::new();
    oldest.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("HTTP/1.1 200 "), "{rest}");
}

/// Memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kibibytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_slow_readers_of_a_megabyte_hold_about_one_text() {
    let metrics = Metrics::new();
    for number in 0..OBJECTS {
        let labels = ObjectLabels {
            namespace: "appsec".to_owned(),
            name: format!("a-vendor-token-with-a-name-of-some-length-{number:06}"),
            vendor: "Picus",
        };
        let time = jiff::Timestamp::from_second(1_800_000_000).unwrap();
        metrics.object_observed(&labels, true, Some(time), Some(time), None);
    }
    let length = metrics.encode().unwrap().len();
    assert!(length > 1_000_000, "{length}");
    let server = run(Server::metrics(LOOPBACK.parse().unwrap(), metrics).unwrap());
    // The memory that one reader costs who reads the whole answer.
    get(server.address, "/metrics").await;
    let before = resident();
    let mut readers = Vec::new();
    for number in 0..64 {
        let mut reader = TcpStream::connect(server.address).await.unwrap();
        reader
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        reader.readable().await.unwrap();
        readers.push(reader);
        if number % 16 == 15 {
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
    }
    let growth = resident().saturating_sub(before);
    println!("64 slow readers of {length} bytes: {} KiB more", growth / 1024);
    assert!(growth < 8 * length, "{growth}");
}

#[tokio::test]
async fn both_families_of_addresses_reach_a_server_of_every_address() {
    let server = run(Server::health("[::]:0".parse().unwrap(), Health::new(&[])).unwrap());
    let port = server.address.port();
    // Without IPv6 the server has fallen back.
    let families = if server.address.is_ipv6() {
        &["127.0.0.1", "[::1]"][..]
    } else {
        &["127.0.0.1"]
    };
    for address in families {
        let address: SocketAddr = format!("{address}:{port}").parse().unwrap();
        assert!(
            get(address, "/livez").await.starts_with("HTTP/1.1 200 "),
            "{address}"
        );
    }
}

#[tokio::test]
async fn an_old_connection_is_closed() {
    let limits = ServerLimits {
        connection_age: Duration::from_millis(200),
        ..ServerLimits::default()
    };
    let server = health_server(&Health::new(&[]), limits);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    closed(&mut stream).await;
}

#[tokio::test]
async fn shutdown_closes_the_port_and_idle_connections() {
    let server = health_server(&Health::new(&[]), ServerLimits::default());
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
