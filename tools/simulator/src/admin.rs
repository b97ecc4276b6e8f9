//! The admin API: JSON over plain HTTP on the loopback interface.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRef, Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::authority::TlsMode;
use crate::budget::Budget;
use crate::credential::Credential;
use crate::error::Error;
use crate::fault::{Effect, Fault};
use crate::form::read_form;
use crate::ledger::VendorCounts;
use crate::simulator::{Control, Origins};
use crate::vendor::Vendor;

#[derive(Clone)]
struct Admin {
    control: Arc<Control>,
    origins: Arc<Origins>,
}

impl FromRef<Admin> for Arc<Control> {
    fn from_ref(admin: &Admin) -> Self {
        Arc::clone(&admin.control)
    }
}

impl FromRef<Admin> for Arc<Origins> {
    fn from_ref(admin: &Admin) -> Self {
        Arc::clone(&admin.origins)
    }
}

type Shared = State<Arc<Control>>;

/// A refusal of the admin API: `{"error": "..."}`.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

fn bad(text: impl Into<String>) -> Refused {
    Refused(StatusCode::BAD_REQUEST, text.into())
}

pub(crate) async fn bind(port: u16) -> Result<(TcpListener, String), Error> {
    let failed = |source| Error::Listen { port, source };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let origin = format!("http://{}", listener.local_addr().map_err(failed)?);
    Ok((listener, origin))
}

pub(crate) async fn serve(
    listener: TcpListener,
    control: Arc<Control>,
    origins: Origins,
    mut stopped: watch::Receiver<bool>,
) {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route(
            "/origins",
            get(async |State(origins): State<Arc<Origins>>| Json(Origins::clone(&origins))),
        )
        .route(
            "/ca.pem",
            get(async |State(control): Shared| pem(control.ca_pem())),
        )
        .route(
            "/client-ca.pem",
            get(async |State(control): Shared| pem(control.client_ca_pem())),
        )
        .route("/client-certificates", post(mint_client_certificate))
        .route(
            "/credentials/{vendor}",
            get(list_credentials)
                .put(put_credentials)
                .delete(remove_credentials),
        )
        .route("/wildcard/{vendor}", post(set_wildcard))
        .route("/faults", get(list_faults).post(add_fault).delete(clear_faults))
        .route("/faults/{id}", delete(clear_fault))
        .route("/lifetime/{vendor}", get(lifetime).post(set_lifetime))
        .route(
            "/budget/{vendor}",
            get(budget).post(set_budget).delete(clear_budget),
        )
        .route("/listeners/{vendor}/pause", post(pause))
        .route("/listeners/{vendor}/resume", post(resume))
        .route("/listeners/{vendor}/tls", post(set_tls))
        .route("/ledger", get(counts).delete(clear_ledger))
        .route("/ledger/calls", get(calls))
        .route("/ledger/violations", get(violations))
        .route("/validate", post(validate))
        .route("/trap", get(async |State(control): Shared| Json(control.trap())))
        .route(
            "/accounts",
            get(async |State(control): Shared| Json(control.accounts())).delete(clear_accounts),
        )
        // Ten thousand credentials in one request are a few megabytes.
        .layer(DefaultBodyLimit::max(64 * 1024 * 1024))
        .with_state(Admin {
            control,
            origins: Arc::new(origins),
        });
    let stop = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "failed to serve the admin API");
    }
}

fn pem(text: &str) -> impl IntoResponse + use<> {
    (
        [(header::CONTENT_TYPE, "application/x-pem-file")],
        text.to_owned(),
    )
}

fn named(name: &str) -> Result<Vendor, Refused> {
    name.parse()
        .map_err(|error: crate::vendor::UnknownVendor| Refused(StatusCode::NOT_FOUND, error.to_string()))
}

/// Reads a JSON body of any content type. The message names the place only: the body may hold secrets.
fn read<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| {
        bad(format!(
            "failed to read the body at line {} column {}",
            error.line(),
            error.column()
        ))
    })
}

fn query(query: Option<String>, name: &str) -> Result<Option<String>, Refused> {
    let pairs = read_form(query.unwrap_or_default().as_bytes()).map_err(bad)?;
    Ok(pairs
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Name {
    name: String,
    #[serde(default)]
    stranger: bool,
}

async fn mint_client_certificate(
    State(control): Shared,
    body: bytes::Bytes,
) -> Result<impl IntoResponse, Refused> {
    let Name { name, stranger } = read(&body)?;
    let certificate = match stranger {
        true => control.stranger_certificate(&name),
        false => control.client_certificate(&name),
    };
    Ok(Json(certificate?))
}

async fn list_credentials(
    State(control): Shared,
    Path(vendor): Path<String>,
) -> Result<impl IntoResponse, Refused> {
    Ok(Json(control.credentials(named(&vendor)?)))
}

async fn put_credentials(
    State(control): Shared,
    Path(vendor): Path<String>,
    body: bytes::Bytes,
) -> Result<impl IntoResponse, Refused> {
    let vendor = named(&vendor)?;
    let list: Vec<Credential> = if body.trim_ascii_start().starts_with(b"[") {
        read(&body)?
    } else {
        vec![read(&body)?]
    };
    if vendor == Vendor::CheckmarxSca && list.iter().any(|credential| credential.tenant.is_none()) {
        return Err(bad("a Checkmarx credential needs a tenant"));
    }
    if vendor != Vendor::CheckmarxSca && list.iter().any(|credential| credential.tenant.is_some()) {
        return Err(bad("only a Checkmarx credential has a tenant"));
    }
    let ids: Vec<_> = list.iter().map(Credential::ledger_id).collect();
    for credential in list {
        control.put_credential(vendor, credential);
    }
    Ok(Json(json!({"registered": ids.len(), "ledgerIds": ids})))
}

async fn remove_credentials(
    State(control): Shared,
    Path(vendor): Path<String>,
    RawQuery(text): RawQuery,
) -> Result<StatusCode, Refused> {
    let vendor = named(&vendor)?;
    match query(text, "id")? {
        Some(id) if control.remove_credential(vendor, &id) => {}
        Some(_) => return Err(Refused(StatusCode::NOT_FOUND, "no such credential".to_owned())),
        None => control.clear_credentials(vendor),
    }
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    accepted: bool,
}

async fn set_wildcard(
    State(control): Shared,
    Path(vendor): Path<String>,
    body: bytes::Bytes,
) -> Result<StatusCode, Refused> {
    let Accepted { accepted } = read(&body)?;
    control.set_wildcard(named(&vendor)?, accepted);
    Ok(StatusCode::NO_CONTENT)
}

async fn list_faults(State(control): Shared) -> impl IntoResponse {
    Json(control.faults())
}

async fn add_fault(State(control): Shared, body: bytes::Bytes) -> Result<impl IntoResponse, Refused> {
    let fault: Fault = read(&body)?;
    check(&fault.effect).map_err(bad)?;
    Ok((StatusCode::CREATED, Json(json!({"id": control.add_fault(fault)}))))
}

fn check(effect: &Effect) -> Result<(), &'static str> {
    match effect {
        Effect::Answer { status, headers, .. } => {
            if !(200..=599).contains(status) {
                return Err("the status is not within 200..=599");
            }
            let good = headers.iter().all(|(name, value)| {
                HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_str(value).is_ok()
            });
            if good {
                Ok(())
            } else {
                Err("a header is not well-formed")
            }
        }
        Effect::Redirect { status, .. } if ![301, 302, 303, 307, 308].contains(status) => {
            Err("the status is not one of 301, 302, 303, 307, 308")
        }
        _ => Ok(()),
    }
}

async fn clear_faults(State(control): Shared) -> StatusCode {
    control.clear_faults();
    StatusCode::NO_CONTENT
}

async fn clear_fault(State(control): Shared, Path(id): Path<u64>) -> Result<StatusCode, Refused> {
    if control.clear_fault(id) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Refused(
            StatusCode::NOT_FOUND,
            "no such fault is in force".to_owned(),
        ))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Seconds {
    seconds: u64,
}

async fn lifetime(State(control): Shared, Path(vendor): Path<String>) -> Result<impl IntoResponse, Refused> {
    Ok(Json(json!({"seconds": control.lifetime(named(&vendor)?)})))
}

async fn set_lifetime(
    State(control): Shared,
    Path(vendor): Path<String>,
    body: bytes::Bytes,
) -> Result<StatusCode, Refused> {
    let Seconds { seconds } = read(&body)?;
    control.set_lifetime(named(&vendor)?, seconds);
    Ok(StatusCode::NO_CONTENT)
}

async fn budget(State(control): Shared, Path(vendor): Path<String>) -> Result<impl IntoResponse, Refused> {
    Ok(Json(control.budget(named(&vendor)?)))
}

async fn set_budget(
    State(control): Shared,
    Path(vendor): Path<String>,
    body: bytes::Bytes,
) -> Result<StatusCode, Refused> {
    let budget: Budget = read(&body)?;
    if budget.window_seconds == 0 {
        return Err(bad("windowSeconds is 0"));
    }
    control.set_budget(named(&vendor)?, Some(budget));
    Ok(StatusCode::NO_CONTENT)
}

async fn clear_budget(State(control): Shared, Path(vendor): Path<String>) -> Result<StatusCode, Refused> {
    control.set_budget(named(&vendor)?, None);
    Ok(StatusCode::NO_CONTENT)
}

async fn pause(State(control): Shared, Path(vendor): Path<String>) -> Result<StatusCode, Refused> {
    control.pause(named(&vendor)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn resume(State(control): Shared, Path(vendor): Path<String>) -> Result<StatusCode, Refused> {
    control.resume(named(&vendor)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mode {
    mode: TlsMode,
}

async fn set_tls(
    State(control): Shared,
    Path(vendor): Path<String>,
    body: bytes::Bytes,
) -> Result<StatusCode, Refused> {
    let Mode { mode } = read(&body)?;
    control.set_tls(named(&vendor)?, mode).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn counts(State(control): Shared, RawQuery(text): RawQuery) -> Result<impl IntoResponse, Refused> {
    let with_credentials = query(text, "credentials")?.is_none_or(|value| value != "false");
    let mut vendors = serde_json::Map::new();
    for vendor in Vendor::ALL {
        let mut counts: VendorCounts = control.counts(vendor);
        if !with_credentials {
            counts.credentials.clear();
        }
        vendors.insert(vendor.name().to_owned(), json!(counts));
    }
    Ok(Json(json!({"sequence": control.sequence(), "vendors": vendors})))
}

async fn clear_ledger(State(control): Shared) -> StatusCode {
    control.clear_ledger();
    StatusCode::NO_CONTENT
}

async fn calls(State(control): Shared, RawQuery(text): RawQuery) -> Result<impl IntoResponse, Refused> {
    let since = match query(text.clone(), "since")? {
        Some(since) => since.parse().map_err(|_| bad("since is not a sequence number"))?,
        None => 0,
    };
    let vendor = query(text, "vendor")?.map(|name| named(&name)).transpose()?;
    let mut calls = control.calls_since(since);
    calls.retain(|call| vendor.is_none_or(|vendor| call.vendor == vendor));
    Ok(Json(calls))
}

async fn violations(State(control): Shared) -> impl IntoResponse {
    Json(control.violations())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    vendor: Vendor,
    token: String,
}

async fn validate(State(control): Shared, body: bytes::Bytes) -> Result<Json<Value>, Refused> {
    let Question { vendor, token } = read(&body)?;
    Ok(Json(json!(control.validate(vendor, &token))))
}

async fn clear_accounts(State(control): Shared) -> StatusCode {
    control.clear_accounts();
    StatusCode::NO_CONTENT
}
