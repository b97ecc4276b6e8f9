//! What the program answers to a person at a terminal: results, errors and exit codes.

use std::net::TcpListener;
use std::process::{Command, Output};

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
