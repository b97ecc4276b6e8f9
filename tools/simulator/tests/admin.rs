//! The program: its first line, its admin API, its end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::process::Stdio;

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use vendor_simulator::Vendor;

struct Program {
    child: Child,
    line: Value,
    admin: String,
    plain: Client,
    trusting: Client,
    folder: std::path::PathBuf,
}

impl Program {
    async fn start(name: &str, arguments: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("vendor-simulator-{}-{name}", std::process::id()));
        let mut child = Command::new(env!("CARGO_BIN_EXE_vendor-simulator"))
            .args(arguments)
            .arg("--state-dir")
            .arg(&folder)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        let ca = std::fs::read(line["caFile"].as_str().unwrap()).unwrap();
        let ca = reqwest::Certificate::from_pem(&ca).unwrap();
        let trusting = Client::builder().tls_certs_only([ca]).no_proxy().build().unwrap();
        let plain = Client::builder().no_proxy().build().unwrap();
        Self {
            child,
            admin: line["admin"].as_str().unwrap().to_owned(),
            line,
            plain,
            trusting,
            folder,
        }
    }

    async fn admin(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = self
            .plain
            .request(method, format!("{}{path}", self.admin))
            .body(body.to_string());
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.bytes().await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn ask_picus(&self, secret: &str) -> (u16, Value) {
        let url = format!("{}{}", self.line["picus"].as_str().unwrap(), Vendor::Picus.path());
        let response = self
            .trusting
            .post(url)
            .json(&json!({"refresh_token": secret}))
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn the_admin_api_does_what_the_readme_says() {
    let program = Program::start("admin", &["--lifetime", "picus=90", "--budget", "Mapiq=20"]).await;
    for vendor in Vendor::ALL {
        assert!(
            program.line[vendor.name()]
                .as_str()
                .unwrap()
                .starts_with("https://localhost:")
        );
    }
    let none = Value::Null;
    let (get, put, post, delete) = (Method::GET, Method::PUT, Method::POST, Method::DELETE);
    assert_eq!(program.admin(get.clone(), "/healthz", none.clone()).await.0, 200);
    let origins = program.admin(get.clone(), "/origins", none.clone()).await.1;
    assert_eq!(origins["picus"], program.line["picus"]);

    let list = json!([{"id": "one", "secret": "s-1"}, {"id": "two", "secret": "s-2", "lifetimeSeconds": 30}]);
    assert_eq!(
        program.admin(put.clone(), "/credentials/picus", list).await.0,
        200
    );
    let untenanted = json!({"id": "user", "secret": "s"});
    assert_eq!(
        program
            .admin(put.clone(), "/credentials/checkmarxSCA", untenanted)
            .await
            .0,
        400
    );
    let misspelt = json!({"id": "x", "secret": "topsecret", "lifetime": 3});
    let (status, body) = program.admin(put.clone(), "/credentials/picus", misspelt).await;
    assert_eq!(status, 400);
    assert!(!body.to_string().contains("topsecret"));
    let shown = program
        .admin(get.clone(), "/credentials/picus", none.clone())
        .await
        .1;
    assert_eq!(shown.as_array().unwrap().len(), 2);
    assert!(!shown.to_string().contains("s-1"));

    let (status, body) = program.ask_picus("s-1").await;
    assert_eq!(status, 200);
    let question = json!({"vendor": "picus", "token": body["token"]});
    let answer = program.admin(post.clone(), "/validate", question).await.1;
    assert_eq!(
        (&answer["valid"], &answer["credential"]),
        (&json!(true), &json!("one"))
    );
    let life = answer["expiresMs"].as_u64().unwrap() - answer["issuedMs"].as_u64().unwrap();
    assert_eq!(life, 90_000);

    let fault =
        json!({"vendor": "picus", "times": 1, "effect": {"kind": "answer", "status": 500, "body": "x"}});
    let (status, id) = program.admin(post.clone(), "/faults", fault).await;
    assert_eq!(status, 201);
    let faults = program.admin(get.clone(), "/faults", none.clone()).await.1;
    assert_eq!(faults[0]["id"], id["id"]);
    let path = format!("/faults/{}", id["id"]);
    assert_eq!(program.admin(delete.clone(), &path, none.clone()).await.0, 204);
    assert_eq!(program.admin(delete.clone(), &path, none.clone()).await.0, 404);
    let unknown = json!({"vendor": "picus", "effect": {"kind": "explode"}});
    assert_eq!(program.admin(post.clone(), "/faults", unknown).await.0, 400);
    for kind in [
        "hang",
        "close",
        "truncate",
        "gzip",
        "byteOrderMark",
        "numbersAsText",
        "sameToken",
    ] {
        let fault = json!({"vendor": "sixMap", "effect": {"kind": kind}});
        assert_eq!(
            program.admin(post.clone(), "/faults", fault).await.0,
            201,
            "{kind}"
        );
    }
    assert_eq!(
        program.admin(delete.clone(), "/faults", none.clone()).await.0,
        204
    );

    assert_eq!(
        program
            .admin(post.clone(), "/lifetime/picus", json!({"seconds": 5}))
            .await
            .0,
        204
    );
    assert_eq!(
        program
            .admin(get.clone(), "/lifetime/picus", none.clone())
            .await
            .1,
        json!({"seconds": 5})
    );
    let mapiq = program.admin(get.clone(), "/budget/mapiq", none.clone()).await.1;
    assert_eq!(
        mapiq,
        json!({"requests": 20, "windowSeconds": 60, "retryAfterHeader": true})
    );
    assert_eq!(
        program
            .admin(post.clone(), "/budget/picus", json!({"requests": 0}))
            .await
            .0,
        204
    );
    assert_eq!(program.ask_picus("s-1").await.0, 429);
    assert_eq!(
        program
            .admin(delete.clone(), "/budget/picus", none.clone())
            .await
            .0,
        204
    );
    assert_eq!(program.ask_picus("s-3").await.0, 401);
    assert_eq!(
        program
            .admin(post.clone(), "/wildcard/picus", json!({"accepted": true}))
            .await
            .0,
        204
    );
    assert_eq!(program.ask_picus("s-3").await.0, 200);

    let ledger = program.admin(get.clone(), "/ledger", none.clone()).await.1;
    let picus = &ledger["vendors"]["picus"];
    assert_eq!(picus["calls"], json!(4));
    assert_eq!(picus["byStatus"], json!({"200": 2, "401": 1, "429": 1}));
    assert_eq!(picus["credentials"]["one"]["calls"], json!(2));
    let calls = program
        .admin(get.clone(), "/ledger/calls?since=3&vendor=picus", none.clone())
        .await
        .1;
    assert_eq!(calls.as_array().unwrap().len(), 1);
    assert!(!calls.to_string().contains("s-3"));
    assert_eq!(
        program
            .admin(get.clone(), "/ledger/violations", none.clone())
            .await
            .1,
        json!([])
    );
    assert_eq!(
        program.admin(delete.clone(), "/ledger", none.clone()).await.0,
        204
    );
    assert_eq!(
        program.admin(get.clone(), "/trap", none.clone()).await.1["connections"],
        json!(0)
    );
    assert_eq!(
        program.admin(get.clone(), "/accounts", none.clone()).await.1,
        json!([])
    );

    assert_eq!(
        program
            .admin(post.clone(), "/listeners/picus/pause", none.clone())
            .await
            .0,
        204
    );
    let url = format!(
        "{}{}",
        program.line["picus"].as_str().unwrap(),
        Vendor::Picus.path()
    );
    assert!(program.trusting.post(&url).send().await.unwrap_err().is_connect());
    assert_eq!(
        program
            .admin(post.clone(), "/listeners/picus/resume", none.clone())
            .await
            .0,
        204
    );
    let mode = json!({"mode": "expired"});
    assert_eq!(
        program.admin(post.clone(), "/listeners/picus/tls", mode).await.0,
        204
    );
    assert!(program.trusting.post(&url).send().await.is_err());
    let minted = program
        .admin(post, "/client-certificates", json!({"name": "x"}))
        .await
        .1;
    assert!(
        minted["certificatePem"]
            .as_str()
            .unwrap()
            .starts_with("-----BEGIN CERTIFICATE")
    );
    assert_eq!(
        program
            .admin(delete, "/credentials/picus?id=one", none.clone())
            .await
            .0,
        204
    );
    assert_eq!(program.admin(get, "/credentials/nobody", none).await.0, 404);
}

#[tokio::test]
async fn the_program_ends_cleanly_at_sigterm_and_sigint() {
    for name in ["TERM", "INT"] {
        let mut program = Program::start(name, &["--wildcard-credentials", "--counts-only"]).await;
        assert_eq!(program.ask_picus("anything").await.0, 200);
        let pid = program.line["pid"].to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .await
                .unwrap()
                .success()
        );
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), program.child.wait()).await;
        assert!(ended.unwrap().unwrap().success(), "{name}");
    }
}
