//! What the program answers to a person at a terminal: results, errors and exit codes.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::world::installation::everywhere;
use crate::world::process::PROGRAM;
use crate::world::{OPERATOR, root};

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .env_clear()
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The last line on standard error, of a program that ended with `code`.
#[track_caller]
fn complaint(output: &Output, code: i32) -> String {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert_eq!(text(&output.stdout), "", "results only belong on standard output");
    assert!(!errors.contains("panicked"), "{errors}");
    errors.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn crd_prints_the_file_that_is_installed() {
    let output = run(&["crd"]);
    assert_eq!(output.status.code(), Some(0));
    let kept = std::fs::read_to_string(root().join("crds/vendortokens.yaml")).unwrap();
    assert!(
        text(&output.stdout) == kept,
        "crds/vendortokens.yaml differs from what `crd` prints: run `make generate`"
    );
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["--endpoint=Mapiq=http://mapiq.example"],
        &["--endpoint=Nobody=https://nobody.example"],
        &[
            "--endpoint=Mapiq=https://a.example",
            "--endpoint=Mapiq=https://b.example",
        ],
        &["--rate-limit=Mapiq=many"],
        &["--max-concurrent-requests=0"],
        &["--metrics-bind-address=somewhere"],
        &["--log-level=loud"],
        &["--watch-namespace=Not_A_Name"],
        &["crd", "more"],
    ] {
        let output = run(arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains("error:"), "{arguments:?}: {errors}");
        assert!(
            errors.contains("--help") || errors.contains("Usage"),
            "{arguments:?}: {errors}"
        );
    }
}

#[test]
fn a_host_of_another_service_of_the_vendor_ends_with_2_and_the_right_host() {
    let output = run(&["--endpoint=CheckmarxSCA=https://eu.sca.checkmarx.net"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("https://eu.platform.checkmarx.net"), "{errors}");
}

/// A kubeconfig of a cluster that does not exist, with this `proxy-url`.
fn kubeconfig_with_proxy(folder: &Path, proxy_url: &str) -> PathBuf {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": "https://127.0.0.1:1", "proxy-url": proxy_url } }],
        "users": [{ "name": "u", "user": { "token": "t" } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
    });
    let path = folder.join("kubeconfig");
    std::fs::write(&path, kubeconfig.to_string()).unwrap();
    path
}

#[test]
fn a_proxy_that_cannot_be_used_ends_with_2_and_is_named_without_its_password() {
    let folder = tempfile_folder("proxy");
    for proxy in [
        "socks5://u:marked-secret@127.0.0.1:1080",
        "ftp://u:marked-secret@127.0.0.1",
        "http://u:marked-secret#1@127.0.0.1:3128",
        "marked-secret of the proxy",
    ] {
        for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
            let output = Command::new(PROGRAM)
                .env_clear()
                .env(variable, proxy)
                .arg("--log-level=trace,hyper=trace")
                .output()
                .unwrap();
            let said = complaint(&output, 2);
            assert!(said.contains(variable), "{said}");
            assert!(!text(&output.stderr).contains("marked-secret"), "{output:?}");
        }
        let kubeconfig = kubeconfig_with_proxy(&folder, proxy);
        let output = run(&[
            &format!("--kubeconfig={}", kubeconfig.display()),
            "--log-level=trace,hyper=trace",
        ]);
        let said = complaint(&output, 2);
        assert!(said.contains("proxy-url"), "{said}");
        assert!(!text(&output.stderr).contains("marked-secret"), "{output:?}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_certificate_is_about_to_end_ends_by_itself() {
    let plane = everywhere().await;
    let namespace = plane.namespace("exec").await.unwrap();
    let folder = tempfile_folder("exec");
    let admin = std::fs::read_to_string(plane.admin_kubeconfig()).unwrap();
    let mut kubeconfig: Value = serde_json::from_str(&admin).unwrap();
    let user = kubeconfig["users"][0]["user"].take();
    let pem = |member: &str| -> String {
        String::from_utf8(STANDARD.decode(user[member].as_str().unwrap()).unwrap()).unwrap()
    };
    let valid_until = Timestamp::now() + SignedDuration::from_secs(16);
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {
            "clientCertificateData": pem("client-certificate-data"),
            "clientKeyData": pem("client-key-data"),
            "expirationTimestamp": valid_until.to_string(),
        },
    });
    std::fs::write(folder.join("credential"), credential.to_string()).unwrap();
    kubeconfig["users"][0]["user"] = json!({ "exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
        "command": "/bin/cat", "args": [folder.join("credential")],
    }});
    std::fs::write(folder.join("kubeconfig"), kubeconfig.to_string()).unwrap();
    let output = run(&[
        &format!("--kubeconfig={}", folder.join("kubeconfig").display()),
        &format!("--operator-namespace={namespace}"),
        &format!("--watch-namespace={namespace}"),
        "--metrics-bind-address=127.0.0.1:0",
        "--health-probe-bind-address=127.0.0.1:0",
    ]);
    assert!(Timestamp::now() < valid_until + SignedDuration::from_secs(10));
    let said = complaint(&output, 1);
    assert!(
        said.contains("about to end") && said.contains("exec plugin"),
        "{said}"
    );
    let log = text(&output.stderr);
    assert!(log.contains("the Lease is given back"), "it ends in order: {log}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn help_and_version_are_results() {
    for flag in ["--help", "--version"] {
        let output = run(&[flag]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains(OPERATOR));
        assert_eq!(text(&output.stderr), "");
    }
}

#[test]
fn without_a_cluster_it_says_how_to_name_one() {
    let said = complaint(&run(&[]), 1);
    assert!(
        said.contains("--kubeconfig") && said.contains("ServiceAccount"),
        "{said}"
    );
}

#[test]
fn a_kubeconfig_that_is_missing_is_named() {
    let said = complaint(&run(&["--kubeconfig=/nowhere/kubeconfig"]), 1);
    assert!(
        said.contains("/nowhere/kubeconfig")
            && said.contains("No such file")
            && said.contains("--kubeconfig"),
        "{said}"
    );
}

#[test]
fn a_kubeconfig_that_is_none_is_named_without_its_text() {
    let folder = tempfile_folder("kubeconfig");
    let path = folder.join("kubeconfig");
    std::fs::write(
        &path,
        "users: [{ name: a, user: { token: marked-secret } }\nnot yaml: [",
    )
    .unwrap();
    let flag = format!("--kubeconfig={}", path.display());
    let output = run(&[&flag, "--log-level=trace,hyper=trace"]);
    let said = complaint(&output, 1);
    assert!(
        said.contains(path.to_str().unwrap()) && said.contains("line 2"),
        "{said}"
    );
    assert!(!text(&output.stderr).contains("marked-secret"), "{output:?}");
    // The same file, found in other ways.
    for arguments in [&["--context=a"][..], &[]] {
        let output = Command::new(PROGRAM)
            .env_clear()
            .env("KUBECONFIG", &path)
            .args(arguments)
            .arg("--log-level=trace,hyper=trace")
            .output()
            .unwrap();
        complaint(&output, 1);
        assert!(!text(&output.stderr).contains("marked-secret"), "{output:?}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

fn tempfile_folder(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("vendor-token-operator-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_the_kubeconfig_lacks_is_named() {
    let kubeconfig = everywhere().await.admin_kubeconfig();
    let output = run(&[
        &format!("--kubeconfig={}", kubeconfig.display()),
        "--context=elsewhere",
    ]);
    let said = complaint(&output, 1);
    assert!(said.contains("elsewhere") && said.contains("--context"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named_with_its_flag() {
    let kubeconfig = format!("--kubeconfig={}", everywhere().await.admin_kubeconfig().display());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--metrics-bind-address", "--health-probe-bind-address"] {
        let other = if flag.starts_with("--m") {
            "--health-probe-bind-address=127.0.0.1:0"
        } else {
            "--metrics-bind-address=127.0.0.1:0"
        };
        let said = complaint(&run(&[&kubeconfig, other, &format!("{flag}={address}")]), 1);
        assert!(said.contains(&address) && said.contains(flag), "{said}");
        assert!(said.contains("in use"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_file_that_cannot_be_used_is_named() {
    let kubeconfig = format!("--kubeconfig={}", everywhere().await.admin_kubeconfig().display());
    let said = complaint(&run(&[&kubeconfig, "--vendor-ca-file=/nowhere/ca.pem"]), 1);
    assert!(
        said.contains("--vendor-ca-file")
            && said.contains("/nowhere/ca.pem")
            && said.contains("No such file"),
        "{said}"
    );

    let folder = tempfile_folder("authorities");
    let path = folder.join("ca.pem");
    for content in ["", "not a certificate", "\u{0}\u{1}"] {
        std::fs::write(&path, content).unwrap();
        let flag = format!("--vendor-ca-file={}", path.display());
        let said = complaint(&run(&[&kubeconfig, &flag]), 1);
        assert!(
            said.contains("--vendor-ca-file") && said.contains("BEGIN CERTIFICATE"),
            "{said}"
        );
    }
    std::fs::remove_dir_all(folder).unwrap();
}
