//! The API server's audit log: who asked for what, counted exactly.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::{Client, Config};
use serde::Deserialize;

use crate::connection::get;
use crate::{Error, wait_for};

/// How long a request may take that was sent before [`AuditLog::since`]; the API server cuts others off at 60 s.
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);
/// A path that is always served; the query makes the request recognizable.
const MARKER: &str = "/version?audit-mark=";

/// A place in the audit log.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

/// One request to the API server, and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    /// `ResponseComplete`; `ResponseStarted` for a watch that is open; `Panic`; or `RequestReceived` when the API
    /// server was stopped before it answered.
    pub stage: String,
    /// The user, or the impersonated one, as `system:serviceaccount:NAMESPACE:NAME` for service accounts.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch` (applies too), `delete`, `deletecollection`.
    pub verb: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The plural, as `secrets`; empty for paths like `/readyz`.
    pub resource: String,
    /// As `status`; mostly empty.
    pub subresource: String,
    /// Empty for what has none and for requests over all namespaces.
    pub namespace: String,
    /// The object's name; empty for lists, watches and creations with a generated name.
    pub name: String,
    /// The HTTP status; 0 without an answer.
    pub code: u16,
    /// Path and query.
    pub uri: String,
    /// The client's `User-Agent`.
    pub user_agent: String,
    /// When the API server got the request.
    pub received: Timestamp,
}

impl AuditEntry {
    /// Whether the request was meant to change something.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }

    /// The resource with its subresource, as `vendortokens/status`.
    pub fn resource_path(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// Requests in the order in which the API server received them, each once; a slice with a few questions.
#[derive(Clone, Debug, Default)]
pub struct AuditEntries(Vec<AuditEntry>);

impl Deref for AuditEntries {
    type Target = [AuditEntry];

    fn deref(&self) -> &[AuditEntry] {
        &self.0
    }
}

impl IntoIterator for AuditEntries {
    type Item = AuditEntry;
    type IntoIter = std::vec::IntoIter<AuditEntry>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl AuditEntries {
    /// How many requests `condition` holds for.
    pub fn count(&self, condition: impl Fn(&AuditEntry) -> bool) -> usize {
        self.0.iter().filter(|entry| condition(entry)).count()
    }

    /// The requests that `condition` holds for.
    pub fn matching(&self, condition: impl Fn(&AuditEntry) -> bool) -> Self {
        Self(self.0.iter().filter(|entry| condition(entry)).cloned().collect())
    }

    /// The requests of a service account.
    pub fn of_service_account(&self, namespace: &str, name: &str) -> Self {
        let user = format!("system:serviceaccount:{namespace}:{name}");
        self.matching(|entry| entry.user == user)
    }

    /// Numbers of requests by verb and resource (with its subresource): for tables and messages.
    pub fn by_verb_and_resource(&self) -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for entry in &self.0 {
            *counts
                .entry((entry.verb.clone(), entry.resource_path()))
                .or_default() += 1;
        }
        counts
    }
}

/// The end of what a stopped API server has written: what it left unanswered stays so.
#[derive(Debug, Default)]
pub(crate) struct Cut(AtomicU64);

impl Cut {
    pub(crate) fn set_to_the_end_of(&self, path: &Path) {
        let length = fs::metadata(path)
            .map(|metadata| metadata.len())
            .unwrap_or_default();
        self.0.store(length, Ordering::SeqCst);
    }
}

/// The audit log of a [`crate::ControlPlane`].
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
    config: Config,
    cut: Arc<Cut>,
}

impl AuditLog {
    pub(crate) fn new(path: PathBuf, config: Config, cut: Arc<Cut>) -> Self {
        Self { path, config, cut }
    }

    /// The file, JSON lines of `audit.k8s.io/v1`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A mark: all requests answered before the call are before it, all sent after the call behind it.
    ///
    /// # Errors
    /// When the API server does not answer, or the log cannot be read.
    pub async fn mark(&self) -> Result<Mark, Error> {
        let start = fs::metadata(&self.path)
            .map_err(Error::io("read the audit log"))?
            .len();
        self.settle(start).await.map(|reading| Mark(reading.marker_end))
    }

    /// All requests received since `mark` that were sent before this call, with their answers: waits until each of
    /// them is answered (a watch: has begun), so a count is exact.
    ///
    /// # Errors
    /// When the API server does not answer, a request takes longer than 30 s, or the log cannot be read.
    pub async fn since(&self, mark: Mark) -> Result<AuditEntries, Error> {
        let reading = self.settle(mark.0).await?;
        Ok(AuditEntries(
            reading
                .received
                .into_iter()
                .filter(|entry| !entry.uri.starts_with(MARKER))
                .collect(),
        ))
    }

    /// All requests so far; as [`Self::since`].
    ///
    /// # Errors
    /// As [`Self::since`].
    pub async fn entries(&self) -> Result<AuditEntries, Error> {
        self.since(Mark(0)).await
    }

    /// How many requests there were since `mark` that `condition` holds for.
    ///
    /// # Errors
    /// As [`Self::since`].
    pub async fn count_since(
        &self,
        mark: Mark,
        condition: impl Fn(&AuditEntry) -> bool,
    ) -> Result<usize, Error> {
        Ok(self.since(mark).await?.count(condition))
    }

    /// Sends a marker request and reads from `start` until its line is seen and everything before it is answered.
    ///
    /// A client may have its answer a moment before the log has the line. But the line "received" is written before a
    /// request is worked on: whoever is answered before the marker is sent stands before the marker in the log.
    async fn settle(&self, start: u64) -> Result<Reading, Error> {
        let client = Client::try_from(self.config.clone()).map_err(Error::kube("make a client"))?;
        let marker = format!("{MARKER}{}", uuid());
        let mut reading = Reading::new(start, marker.clone(), self.cut.0.load(Ordering::SeqCst));
        match tokio::time::timeout(SETTLE_DEADLINE, get(&client, &marker)).await {
            Ok(answer) => answer?,
            Err(_) => {
                return Err(Error::Timeout {
                    description: "an answer of the API server".to_owned(),
                    seconds: SETTLE_DEADLINE.as_secs_f64(),
                    last_state: "none".to_owned(),
                });
            }
        };
        let shared = Mutex::new(&mut reading);
        wait_for(
            "the answers of all requests in the audit log",
            SETTLE_DEADLINE,
            || async {
                let mut reading = shared.lock().unwrap_or_else(PoisonError::into_inner);
                reading.read_on(&self.path).map_err(|error| error.to_string())?;
                reading.unsettled().map_or(Ok(()), Err)
            },
        )
        .await?;
        Ok(reading)
    }
}

/// A number of its own for each marker.
fn uuid() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!(
        "{}-{}",
        Timestamp::now().as_nanosecond(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// What has been read of the log, up to the marker, and what is still awaited.
struct Reading {
    position: u64,
    marker: String,
    marker_end: u64,
    cut: u64,
    received: Vec<AuditEntry>,
    open: HashMap<String, usize>,
    partial: Vec<u8>,
}

impl Reading {
    fn new(start: u64, marker: String, cut: u64) -> Self {
        Self {
            position: start,
            marker,
            marker_end: 0,
            cut,
            received: Vec::new(),
            open: HashMap::new(),
            partial: Vec::new(),
        }
    }

    /// Reads what has been added to the log; a line that is still being written is left for the next time.
    fn read_on(&mut self, path: &Path) -> Result<(), Error> {
        let failed = || Error::io("read the audit log");
        let mut file = File::open(path).map_err(failed())?;
        let end_of_partial = self.position + self.partial.len() as u64;
        file.seek(SeekFrom::Start(end_of_partial)).map_err(failed())?;
        file.read_to_end(&mut self.partial).map_err(failed())?;
        let bytes = std::mem::take(&mut self.partial);
        let mut rest = bytes.as_slice();
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, after) = rest.split_at(end + 1);
            rest = after;
            self.position += line.len() as u64;
            let event: Event = serde_json::from_slice(line).map_err(|error| Error::Manifest {
                what: "the audit log".to_owned(),
                reason: error.to_string(),
            })?;
            self.take(event);
        }
        self.partial = rest.to_vec();
        Ok(())
    }

    fn take(&mut self, event: Event) {
        if self.position > self.cut {
            // Whoever had no answer from the stopped server gets none from this one.
            self.cut = u64::MAX;
            self.open.clear();
        }
        if event.stage == "RequestReceived" {
            if self.marker_end > 0 {
                return;
            }
            if event.uri == self.marker {
                self.marker_end = self.position;
                return;
            }
            self.open.insert(event.audit_id.clone(), self.received.len());
            self.received.push(event.into_entry());
        } else if let Some(&index) = self.open.get(&event.audit_id) {
            if event.stage != "ResponseStarted" || event.verb == "watch" {
                self.open.remove(&event.audit_id);
            }
            if let Some(entry) = self.received.get_mut(index) {
                // The name of an object with a generated name is known only now.
                *entry = AuditEntry {
                    received: entry.received,
                    ..event.into_entry()
                };
            }
        }
    }

    fn unsettled(&self) -> Option<String> {
        if self.marker_end == 0 {
            return Some("the marker is not there yet".to_owned());
        }
        let index = self.open.values().min()?;
        let entry = self.received.get(*index)?;
        Some(format!(
            "{} without an answer, the first: {} {} of {}",
            self.open.len(),
            entry.verb,
            entry.uri,
            entry.user
        ))
    }
}

/// A line of the log, `audit.k8s.io/v1`.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "auditID")]
    audit_id: String,
    stage: String,
    #[serde(rename = "requestURI")]
    uri: String,
    verb: String,
    user: User,
    #[serde(rename = "impersonatedUser")]
    impersonated_user: Option<User>,
    #[serde(rename = "userAgent", default)]
    user_agent: String,
    #[serde(rename = "objectRef", default)]
    object: Object,
    #[serde(rename = "responseStatus", default)]
    status: Status,
    #[serde(rename = "requestReceivedTimestamp")]
    received: Timestamp,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Object {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
}

impl Event {
    fn into_entry(self) -> AuditEntry {
        AuditEntry {
            stage: self.stage,
            user: self.impersonated_user.unwrap_or(self.user).username,
            verb: self.verb,
            group: self.object.api_group,
            resource: self.object.resource,
            subresource: self.object.subresource,
            namespace: self.object.namespace,
            name: self.object.name,
            code: self.status.code,
            uri: self.uri,
            user_agent: self.user_agent,
            received: self.received,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, stage: &str, verb: &str, uri: &str) -> String {
        format!(
            r#"{{"auditID":"{id}","stage":"{stage}","requestURI":"{uri}","verb":"{verb}","user":{{"username":"u"}},"requestReceivedTimestamp":"2026-01-01T00:00:00.000001Z","responseStatus":{{"code":200}}}}"#
        ) + "\n"
    }

    fn read(text: &str, cut: u64) -> Reading {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, text).unwrap();
        let mut reading = Reading::new(0, "/marker".to_owned(), cut);
        reading.read_on(&path).unwrap();
        reading
    }

    #[test]
    fn a_request_is_counted_once_and_awaited_until_it_is_answered() {
        let received =
            line("a", "RequestReceived", "get", "/a") + &line("m", "RequestReceived", "get", "/marker");
        let before = read(&received, 0);
        assert!(before.unsettled().unwrap().contains("/a"));
        let after = read(&(received + &line("a", "ResponseComplete", "get", "/a")), 0);
        assert_eq!(after.unsettled(), None);
        assert_eq!(after.received.len(), 1);
        assert_eq!(after.received[0].code, 200);
    }

    #[test]
    fn a_request_behind_the_marker_is_not_counted() {
        let text = line("m", "RequestReceived", "get", "/marker")
            + &line("b", "RequestReceived", "get", "/b")
            + &line("b", "ResponseComplete", "get", "/b");
        assert_eq!(read(&text, 0).received, []);
    }

    #[test]
    fn an_open_watch_is_settled_when_it_has_begun() {
        let text =
            line("w", "RequestReceived", "watch", "/w") + &line("m", "RequestReceived", "get", "/marker");
        assert!(read(&text, 0).unsettled().is_some());
        let reading = read(&(text + &line("w", "ResponseStarted", "watch", "/w")), 0);
        assert_eq!(reading.unsettled(), None);
    }

    #[test]
    fn a_line_that_is_being_written_is_read_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text =
            line("a", "RequestReceived", "get", "/a") + &line("m", "RequestReceived", "get", "/marker");
        let (first, second) = text.split_at(text.len() - 20);
        fs::write(&path, first).unwrap();
        let mut reading = Reading::new(0, "/marker".to_owned(), 0);
        reading.read_on(&path).unwrap();
        assert_eq!(reading.marker_end, 0);
        fs::write(&path, [first, second].concat()).unwrap();
        reading.read_on(&path).unwrap();
        assert_eq!(reading.marker_end, text.len() as u64);
        assert_eq!(reading.received.len(), 1);
    }

    #[test]
    fn what_a_stopped_server_left_unanswered_is_not_awaited() {
        let cut_off = line("a", "RequestReceived", "get", "/a");
        let cut = cut_off.len() as u64;
        let reading = read(&(cut_off + &line("m", "RequestReceived", "get", "/marker")), cut);
        assert_eq!(reading.unsettled(), None);
        assert_eq!(reading.received[0].stage, "RequestReceived");
    }

    #[test]
    fn what_a_stopped_server_answered_keeps_its_answer() {
        let answered =
            line("a", "RequestReceived", "get", "/a") + &line("a", "ResponseComplete", "get", "/a");
        let cut = answered.len() as u64;
        let reading = read(&(answered + &line("m", "RequestReceived", "get", "/marker")), cut);
        assert_eq!(reading.received[0].code, 200);
    }
}
