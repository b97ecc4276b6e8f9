//! The events of a watch, read line by line as they come in. An event that cannot be read ends no watch.

use futures::{AsyncBufRead, AsyncBufReadExt as _};
use kube::core::Status;

use crate::controller::cluster::object_json::{FromJson, Members};
use crate::controller::cluster::pages::LONGEST_OBJECT;

/// The longest line that is kept: an object, and what is around it.
const LONGEST_LINE: usize = LONGEST_OBJECT + 1024;

/// The room for a line that is kept from one to the next.
const USUAL_LINE: usize = 64 * 1024;

/// An event of a watch.
#[derive(Debug)]
pub(crate) enum WatchEvent<T> {
    /// An object was added or changed.
    Applied(T),
    Deleted(T),
    /// Nothing but the present version.
    Bookmark,
    /// An event of another type.
    Unknown,
    /// The watch has failed.
    Failed(Box<Status>),
}

/// The events of one watch.
#[derive(Debug)]
pub(crate) struct WatchEvents<R> {
    answer: R,
    /// The present line as far as it has come, up to [`LONGEST_LINE`].
    line: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> WatchEvents<R> {
    /// The events in `answer`.
    pub(crate) fn new(answer: R) -> Self {
        Self {
            answer,
            line: Vec::new(),
        }
    }

    /// The next event, and the resource version that it tells; `None` at the end of the watch. An empty version is none.
    pub(crate) async fn next<T: FromJson>(
        &mut self,
    ) -> Result<Option<(WatchEvent<T>, String)>, std::io::Error> {
        while self.next_line().await? {
            if !self.line.trim_ascii().is_empty() {
                return Ok(Some(read(&self.line)));
            }
        }
        Ok(None)
    }

    /// False at the end. A line without an end is none.
    async fn next_line(&mut self) -> Result<bool, std::io::Error> {
        self.line.clear();
        // One large object must not keep its room for as long as the watch.
        self.line.shrink_to(USUAL_LINE);
        loop {
            let piece = match self.answer.fill_buf().await {
                Ok(piece) => piece,
                Err(error) if is_cut_off(&error) => return Ok(false),
                Err(error) => return Err(error),
            };
            if piece.is_empty() {
                return Ok(false);
            }
            let end = piece.iter().position(|byte| *byte == b'\n');
            let taken = piece.get(..end.unwrap_or(piece.len())).unwrap_or_default();
            let kept = taken.len().min(LONGEST_LINE - self.line.len());
            self.line.extend_from_slice(taken.get(..kept).unwrap_or_default());
            let used = taken.len() + usize::from(end.is_some());
            self.answer.consume_unpin(used);
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}

/// True where the answer ended without its last chunk, as that of a long watch may.
fn is_cut_off(error: &std::io::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if kind == Some(std::io::ErrorKind::UnexpectedEof) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn read<T: FromJson>(line: &[u8]) -> (WatchEvent<T>, String) {
    let members = Members::of(line);
    let json = members.get("object").unwrap_or_default();
    let version = || {
        let metadata = Members::of(json).object("metadata");
        metadata
            .read("resourceVersion")
            .ok()
            .flatten()
            .unwrap_or_default()
    };
    let type_: Option<String> = members.read("type").ok().flatten();
    let object = || {
        let object = T::from_json(json);
        let version = object.resource_version().to_owned();
        (object, version)
    };
    match type_.as_deref() {
        Some("ADDED" | "MODIFIED") => {
            let (object, version) = object();
            (WatchEvent::Applied(object), version)
        }
        Some("DELETED") => {
            let (object, version) = object();
            (WatchEvent::Deleted(object), version)
        }
        Some("BOOKMARK") => (WatchEvent::Bookmark, version()),
        Some("ERROR") => (WatchEvent::Failed(status(&Members::of(json))), String::new()),
        // A status in the place of an event.
        None if members.get("code").is_some() => (WatchEvent::Failed(status(&members)), String::new()),
        _ => (WatchEvent::Unknown, version()),
    }
}

/// Reads a status, as far as it can be read.
fn status(members: &Members<'_>) -> Box<Status> {
    let text = |name| members.read::<String>(name).ok().flatten().unwrap_or_default();
    let reason = text("reason");
    let code = members.read("code").ok().flatten();
    let code = code.unwrap_or(if reason == "Expired" { 410 } else { 500 });
    Status::failure(&text("message"), &reason).with_code(code).boxed()
}

#[cfg(test)]
mod tests {
    use futures::io::{BufReader, Cursor};
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::cluster::object_json::ReadSecret;

    fn events(text: impl Into<Vec<u8>>) -> WatchEvents<BufReader<Cursor<Vec<u8>>>> {
        WatchEvents::new(BufReader::with_capacity(7, Cursor::new(text.into())))
    }

    /// The first event of a watch with this line, in short, and the version that it tells.
    async fn first(line: &str) -> (String, String) {
        let (event, version) = events(format!("{line}\n"))
            .next::<ReadSecret>()
            .await
            .unwrap()
            .unwrap();
        let told = match event {
            WatchEvent::Applied(Ok((object, _))) => format!("applied {object}"),
            WatchEvent::Applied(Err(unreadable)) => format!("unreadable {}", unreadable.object),
            WatchEvent::Deleted(object) => format!("deleted {}", object.unwrap().0),
            WatchEvent::Bookmark => "bookmark".to_owned(),
            WatchEvent::Unknown => "unknown".to_owned(),
            WatchEvent::Failed(status) => format!("failed {} {}", status.code, status.message),
        };
        (told, version)
    }

    const OBJECT: &str =
        r#""object":{"metadata":{"name":"s","namespace":"a","uid":"u","resourceVersion":"7"}}"#;

    #[rstest]
    #[case::added(r#"{"type":"ADDED",OBJECT}"#, "applied a/s", "7")]
    #[case::object_first(r#"{OBJECT,"type":"MODIFIED"}"#, "applied a/s", "7")]
    #[case::deleted(r#"{"type":"DELETED",OBJECT}"#, "deleted a/s", "7")]
    #[case::bookmark(r#"{"type":"BOOKMARK",OBJECT}"#, "bookmark", "7")]
    #[case::bookmark_of_nothing(r#"{"type":"BOOKMARK","object":{"kind":"Secret"}}"#, "bookmark", "")]
    #[case::bookmark_alone(r#"{"type":"BOOKMARK"}"#, "bookmark", "")]
    #[case::another_type(r#"{"type":"MOVED",OBJECT}"#, "unknown", "7")]
    #[case::no_type("{OBJECT}", "unknown", "7")]
    #[case::no_object(r#"{"type":"ADDED","object":null}"#, "unreadable /", "")]
    #[case::no_json("<html>", "unknown", "")]
    #[case::expired(
        r#"{"type":"ERROR","object":{"code":410,"message":"too old"}}"#,
        "failed 410 too old",
        ""
    )]
    #[case::expired_in_words(r#"{"type":"ERROR","object":{"reason":"Expired"}}"#, "failed 410 ", "")]
    #[case::odd_status(
        r#"{"type":"ERROR","object":{"code":410,"message":null,"details":{"causes":5},"metadata":[]}}"#,
        "failed 410 ",
        ""
    )]
    #[case::error_of_nothing(r#"{"type":"ERROR","object":"gone"}"#, "failed 500 ", "")]
    #[case::bare_status(r#"{"kind":"Status","code":403,"message":"no"}"#, "failed 403 no", "")]
    #[tokio::test]
    async fn each_line_is_an_event_of_its_own(
        #[case] line: &str,
        #[case] expected: &str,
        #[case] version: &str,
    ) {
        let line = line.replace("OBJECT", OBJECT);
        assert_eq!(
            first(&line).await,
            (expected.to_owned(), version.to_owned()),
            "{line}"
        );
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_known_by_its_names_and_the_next_one_is_read() {
        let long = json!({ "name": "s", "namespace": "a", "uid": "u", "resourceVersion": "7", "zzz": "x".repeat(LONGEST_LINE) });
        let event = |metadata: &Value| format!(r#"{{"type":"ADDED","object":{{"metadata":{metadata}}}}}"#);
        let short = json!({ "name": "t", "namespace": "a", "uid": "u", "resourceVersion": "8" });
        let text = format!("{}\n\n{}\n{{\"type\":", event(&long), event(&short));
        let mut events = WatchEvents::new(BufReader::new(Cursor::new(text.into_bytes())));
        let (first, version) = events.next::<ReadSecret>().await.unwrap().unwrap();
        let WatchEvent::Applied(Err(unreadable)) = first else {
            panic!("{first:?}")
        };
        assert_eq!(
            (unreadable.object.to_string(), version),
            ("a/s".to_owned(), "7".to_owned())
        );
        let (second, version) = events.next::<ReadSecret>().await.unwrap().unwrap();
        assert!(matches!(second, WatchEvent::Applied(Ok(_))) && version == "8");
        assert!(
            events.next::<ReadSecret>().await.unwrap().is_none(),
            "a line without an end is none"
        );
    }
}
