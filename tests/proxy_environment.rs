//! Whether the environment's proxy is used is a setting. The environment is a process's own, so each case is one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rstest::rstest;
use vendor_token_operator::clock::{SystemClock, Timeline};
use vendor_token_operator::http::{HttpTransport, HttpTransportOptions, ProxySetting, Transport};
use vendor_token_operator::providers::TokenRequest;
use vendor_token_operator::proxy::Proxy;
use vendor_token_operator::token::SecretString;

/// The host that is asked. Nothing resolves it, so that without a proxy no connection is made at all.
const HOST: &str = "vendor.invalid";

/// Run by the next test in a process of its own, which has the variables.
#[tokio::test]
#[ignore = "helper of the_environments_proxy_is_used_unless_a_setting_or_no_proxy_says_otherwise"]
async fn helper_send() {
    let proxy = match std::env::var("SETTING").as_deref() {
        Ok("off") => ProxySetting::Off,
        _ => Proxy::from_environment()
            .unwrap()
            .map_or(ProxySetting::Off, ProxySetting::Through),
    };
    let options = HttpTransportOptions {
        proxy,
        ..HttpTransportOptions::default()
    };
    let transport = HttpTransport::new(options, Arc::new(Timeline::new(Arc::new(SystemClock)))).unwrap();
    let request = TokenRequest {
        url: format!("https://{HOST}/oauth/token"),
        headers: Vec::new(),
        body: SecretString::from("a=b"),
        client_certificate: None,
    };
    println!("outcome: {}", transport.send(request).await.unwrap_err().message);
}

#[rstest]
#[case::set("HTTPS_PROXY", "", "", true)]
#[case::set_in_lower_case("https_proxy", "", "", true)]
#[case::set_for_all("ALL_PROXY", "", "", true)]
#[case::not_for_this_host("HTTPS_PROXY", "other.example,vendor.invalid", "", false)]
#[case::not_for_this_host_in_a_list_with_a_trailing_comma("HTTPS_PROXY", "vendor.invalid,", "", false)]
#[case::for_another_protocol("HTTP_PROXY", "", "", false)]
#[case::switched_off("HTTPS_PROXY", "", "off", false)]
fn the_environments_proxy_is_used_unless_a_setting_or_no_proxy_says_otherwise(
    #[case] variable: &str,
    #[case] no_proxy: &str,
    #[case] setting: &str,
    #[case] used: bool,
) {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let answering = proxy.try_clone().unwrap();
    // Refuses the tunnel, so that the request ends at once; a proxy that nobody asks is not waited for.
    let refusing = std::thread::spawn(move || {
        let (mut stream, _) = answering.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut head = [0; 512];
        let read = stream.read(&mut head).unwrap();
        if read > 0 {
            stream
                .write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
                .unwrap();
        }
        let text = String::from_utf8_lossy(&head[..read]).into_owned();
        text.lines().next().map(str::to_owned)
    });
    let mut command = Command::new(std::env::current_exe().unwrap());
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    let output = command
        .args(["--ignored", "--exact", "--nocapture", "helper_send"])
        .env(variable, &address)
        .env("NO_PROXY", no_proxy)
        .env("SETTING", setting)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Ends the thread, where nobody came.
    drop(std::net::TcpStream::connect(proxy.local_addr().unwrap()));
    let asked = refusing.join().unwrap();
    let expected = used.then(|| format!("CONNECT {HOST}:443 HTTP/1.1"));
    assert_eq!(asked, expected, "{text}");
    let outcome = if used {
        "refused a tunnel"
    } else {
        "failed to resolve"
    };
    assert!(text.contains(outcome), "{text}");
}
