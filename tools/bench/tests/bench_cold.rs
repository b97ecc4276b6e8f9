//! The child that simulates the vendors: its lines, its end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use vendor_simulator::Vendor;

struct Simulator {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    started: Value,
}

impl Simulator {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bench-cold"))
            .arg("simulator")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let started = line(&mut output);
        Self {
            child,
            input,
            output,
            started,
        }
    }

    fn ask(&mut self, request: &str) -> Value {
        writeln!(self.input.as_mut().unwrap(), "{request}").unwrap();
        line(&mut self.output)
    }

    /// Posts an empty body to Picus, which is against its rules.
    async fn break_a_rule(&self) {
        let authority = self.started["authority"].as_str().unwrap();
        let authority = reqwest::Certificate::from_pem(authority.as_bytes()).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([authority])
            .no_proxy()
            .build()
            .unwrap();
        let origin = self.started["endpoints"]["Picus"].as_str().unwrap();
        let url = format!("{origin}{}", Vendor::Picus.path());
        assert!(client.post(url).send().await.unwrap().status().is_client_error());
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(output: &mut BufReader<ChildStdout>) -> Value {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn the_first_line_names_an_endpoint_for_each_vendor() {
    let simulator = Simulator::start();
    for vendor in Vendor::ALL {
        let origin = simulator.started["endpoints"][vendor.name()].as_str().unwrap();
        assert!(origin.starts_with("https://localhost:"), "{origin}");
    }
}

#[tokio::test]
async fn calls_are_counted_until_they_are_cleared() {
    let mut simulator = Simulator::start();
    simulator.break_a_rule().await;
    assert_eq!(simulator.ask("counts"), json!({ "calls": 1, "violations": 1 }));
    assert_eq!(simulator.ask("clear"), json!({ "calls": 0, "violations": 0 }));
}

#[test]
fn the_simulator_ends_with_its_input() {
    let mut simulator = Simulator::start();
    drop(simulator.input.take());
    assert!(simulator.child.wait().unwrap().success());
}
