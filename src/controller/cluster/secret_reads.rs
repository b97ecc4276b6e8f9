//! Reads of Secrets' data. All who want one Secret at the same time share one request, and its values live for as long as
//! one of them uses them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::{BoxFuture, Shared, WeakShared};
use futures::{AsyncReadExt as _, FutureExt as _};
use kube::Client;
use kube::api::GetParams;
use kube::core::Request;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::controller::cluster::pacing::Held;
use crate::controller::cluster::secret_name::SecretName;
use crate::error_text::with_causes;
use crate::sync::lock;

/// The longest value that is kept, in bytes: more than any credential, certificate chain or key may have.
pub(crate) const LONGEST_VALUE: usize = 64 * 1024 + 2;
/// The longest answer, in bytes. A Secret has at most 1 MiB of data, which base64 makes a third longer, and metadata.
const LONGEST_ANSWER: usize = 8 * 1024 * 1024;
/// An answer that is longer takes one of [`LARGE_AT_A_TIME`] places, so that many large Secrets do not fill the memory.
const LARGE: usize = 64 * 1024;
const LARGE_AT_A_TIME: usize = 3;

/// The value under one key of a Secret.
pub(crate) enum SecretValue {
    Bytes(Zeroizing<Vec<u8>>),
    /// It is longer than [`LONGEST_VALUE`], and was not kept.
    TooLong,
}

/// The named values of one version of a Secret. Wiped on drop.
pub(crate) struct SecretData {
    /// `uid/resourceVersion`.
    pub(crate) version: String,
    /// The type of the Secret.
    pub(crate) type_: String,
    /// The keys that were asked for, each with its value; `None` for one that the Secret has not.
    values: BTreeMap<String, Option<SecretValue>>,
}

impl fmt::Debug for SecretData {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SecretData")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl SecretData {
    /// The value under `key`; `None` where the Secret has none.
    pub(crate) fn get(&self, key: &str) -> Option<&SecretValue> {
        self.values.get(key)?.as_ref()
    }

    /// True where each of `keys` was asked for.
    pub(crate) fn has_asked_for(&self, keys: &BTreeSet<String>) -> bool {
        keys.iter().all(|key| self.values.contains_key(key))
    }
}

/// The result of a read: `None` where there is no such Secret.
type Outcome = Result<Option<Arc<SecretData>>, Arc<kube::Error>>;
type Flight = BoxFuture<'static, Outcome>;

/// The failure to understand an answer. It quotes nothing of it.
#[derive(Debug, thiserror::Error)]
enum AnswerError {
    #[error("failed to read the API server's answer: it is no Secret in JSON")]
    NotASecret,
    #[error("failed to read the API server's answer: it is longer than {} MiB", LONGEST_ANSWER / 1024 / 1024)]
    TooLong,
    #[error("failed to receive the API server's answer")]
    Broken(#[source] std::io::Error),
}

impl From<AnswerError> for kube::Error {
    fn from(error: AnswerError) -> Self {
        Self::Service(Box::new(error))
    }
}

/// The reads of Secrets that are under way, by namespace and name.
pub(crate) struct SecretReads {
    client: Client,
    under_way: Mutex<HashMap<(String, String), WeakShared<Flight>>>,
    large: Arc<Semaphore>,
}

impl fmt::Debug for SecretReads {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SecretReads").finish_non_exhaustive()
    }
}

impl SecretReads {
    /// Reads through `client`.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            under_way: Mutex::default(),
            large: Arc::new(Semaphore::new(LARGE_AT_A_TIME)),
        }
    }

    /// Reads `keys` of a Secret; `None` where there is none.
    ///
    /// Joins a read that is under way, unless it brings another version than the one which is `wanted`
    /// (`uid/resourceVersion`), or not all keys. Who begins a read asks for `all_keys` that others may want too, and runs
    /// `and_then` with the values before anybody gets them.
    pub(crate) async fn read<Then>(
        &self,
        (namespace, name): (&str, &SecretName),
        wanted: Option<&str>,
        keys: &BTreeSet<String>,
        all_keys: impl Fn() -> BTreeSet<String>,
        and_then: impl FnOnce(Arc<SecretData>) -> Then + Clone + Send + 'static,
    ) -> Result<Option<Arc<SecretData>>, kube::Error>
    where
        Then: Future<Output = ()> + Send + 'static,
    {
        // The first read that is joined may have begun before the change that the caller has seen; no later one has.
        let mut began_before = true;
        loop {
            let (flight, joined) = self.join((namespace, name)).map_or_else(
                || {
                    let mut asked = all_keys();
                    asked.extend(keys.iter().cloned());
                    (self.begin((namespace, name), asked, and_then.clone()), false)
                },
                |flight| (flight, true),
            );
            let found = flight.await;
            let is_good = match &found {
                Ok(Some(data)) => {
                    let is_wanted = wanted.is_none_or(|wanted| data.version == wanted);
                    data.has_asked_for(keys) && (is_wanted || !began_before)
                }
                Ok(None) => wanted.is_none() || !began_before,
                Err(_) => true,
            };
            if is_good || !joined {
                return found.map_err(|error| repeated(&error));
            }
            began_before = false;
        }
    }

    /// The read of this Secret that is under way.
    fn join(&self, (namespace, name): (&str, &SecretName)) -> Option<Shared<Flight>> {
        let under_way = lock(&self.under_way);
        let flight = under_way
            .get(&(namespace.to_owned(), name.to_string()))?
            .upgrade()?;
        flight.peek().is_none().then_some(flight)
    }

    fn begin<Then>(
        &self,
        (namespace, name): (&str, &SecretName),
        keys: BTreeSet<String>,
        and_then: impl FnOnce(Arc<SecretData>) -> Then + Send + 'static,
    ) -> Shared<Flight>
    where
        Then: Future<Output = ()> + Send + 'static,
    {
        let (client, large) = (self.client.clone(), Arc::clone(&self.large));
        let object = (namespace.to_owned(), name.to_string());
        let (in_namespace, of_name) = (namespace.to_owned(), name.clone());
        let flight = async move {
            let data = get(&client, &in_namespace, &of_name, &keys, &large).await?;
            let data = data.map(Arc::new);
            if let Some(data) = &data {
                and_then(Arc::clone(data)).await;
            }
            Ok(data)
        };
        let flight = flight.boxed().shared();
        let mut under_way = lock(&self.under_way);
        under_way.retain(|_, flight| flight.upgrade().is_some_and(|flight| flight.peek().is_none()));
        if let Some(weak) = flight.downgrade() {
            under_way.insert(object, weak);
        }
        flight
    }
}

/// The error of a shared read, for one of those who share it.
fn repeated(error: &Arc<kube::Error>) -> kube::Error {
    if let Some(held) = Held::of(error) {
        return kube::Error::Service(Box::new(held.clone()));
    }
    match &**error {
        kube::Error::Api(status) => kube::Error::Api(status.clone()),
        kube::Error::Service(error) => kube::Error::Service(with_causes(&**error).into()),
        error => kube::Error::Service(with_causes(error).into()),
    }
}

/// Gets `keys` of a Secret; `None` where there is none.
pub(crate) async fn get(
    client: &Client,
    namespace: &str,
    name: &SecretName,
    keys: &BTreeSet<String>,
    large: &Semaphore,
) -> Result<Option<SecretData>, Arc<kube::Error>> {
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    let request = Request::new(path)
        .get(name, &GetParams::default())
        .map_err(|error| Arc::new(kube::Error::BuildRequest(error)))?;
    let stream = match client.request_stream(request).await {
        Ok(stream) => stream,
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(None),
        Err(error) => return Err(Arc::new(error)),
    };
    futures::pin_mut!(stream);
    let mut answer = Answer::default();
    let mut place = None;
    loop {
        if answer.length > LARGE && place.is_none() {
            // It is never closed.
            place = large.acquire().await.ok();
        }
        let read = stream.read(answer.free()).await;
        match read.map_err(|error| Arc::new(AnswerError::Broken(error).into()))? {
            0 => break,
            more => answer.length += more,
        }
        if answer.length > LONGEST_ANSWER {
            return Err(Arc::new(AnswerError::TooLong.into()));
        }
    }
    parse(answer.text(), keys)
        .map(Some)
        .map_err(|error| Arc::new(error.into()))
}

/// An answer as it comes in. What it leaves behind when it grows is wiped too.
struct Answer {
    bytes: Zeroizing<Vec<u8>>,
    length: usize,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            bytes: Zeroizing::new(vec![0; 8 * 1024]),
            length: 0,
        }
    }
}

impl Answer {
    /// The room for more, never empty.
    fn free(&mut self) -> &mut [u8] {
        if self.length == self.bytes.len() {
            let mut larger = Zeroizing::new(vec![0; self.length * 2]);
            larger[..self.length].copy_from_slice(&self.bytes);
            self.bytes = larger;
        }
        &mut self.bytes[self.length..]
    }

    fn text(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Reads `keys` of a Secret in JSON. Texts of parsers may quote what they parse, so they are dropped.
fn parse(json: &[u8], keys: &BTreeSet<String>) -> Result<SecretData, AnswerError> {
    let mut parser = serde_json::Deserializer::from_slice(json);
    parser
        .deserialize_map(SecretVisitor { keys })
        .map_err(|_| AnswerError::NotASecret)
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
}

struct SecretVisitor<'k> {
    keys: &'k BTreeSet<String>,
}

impl<'de> Visitor<'de> for SecretVisitor<'_> {
    type Value = SecretData;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a Secret")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<SecretData, M::Error> {
        let mut metadata = Metadata::default();
        let mut secret = SecretData {
            version: String::new(),
            type_: String::new(),
            values: self.keys.iter().map(|key| (key.clone(), None)).collect(),
        };
        while let Some(member) = map.next_key::<String>()? {
            match member.as_str() {
                "metadata" => metadata = map.next_value()?,
                "type" => secret.type_ = map.next_value::<Option<String>>()?.unwrap_or_default(),
                "data" => map.next_value_seed(DataSeed(&mut secret.values))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        secret.version = format!("{}/{}", metadata.uid, metadata.resource_version);
        Ok(secret)
    }
}

/// Takes the values under the keys that are asked for, and skips the others.
struct DataSeed<'v>(&'v mut BTreeMap<String, Option<SecretValue>>);

impl<'de> serde::de::DeserializeSeed<'de> for DataSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DataSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the data of a Secret")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match self.0.get_mut(&key) {
                Some(place) => *place = Some(map.next_value_seed(ValueSeed)?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Decodes one value.
struct ValueSeed;

impl<'de> serde::de::DeserializeSeed<'de> for ValueSeed {
    type Value = SecretValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<SecretValue, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for ValueSeed {
    type Value = SecretValue;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value in base64")
    }

    fn visit_unit<E>(self) -> Result<SecretValue, E> {
        Ok(SecretValue::Bytes(Zeroizing::default()))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SecretValue, E> {
        if text.len() / 4 * 3 > LONGEST_VALUE + 3 {
            return Ok(SecretValue::TooLong);
        }
        let bytes = STANDARD.decode(text).map_err(|_| E::custom("no base64"))?;
        Ok(SecretValue::Bytes(Zeroizing::new(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use http::Response;
    use kube::client::Body;
    use serde_json::json;
    use tower::service_fn;

    use super::*;

    fn keys(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn secret(version: usize) -> String {
        let value = STANDARD.encode(format!("value-{version}"));
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": { "name": "s", "uid": "u", "resourceVersion": version.to_string(), "labels": { "a": "b" } },
            "data": { "key": value, "other": "AA==", "large": STANDARD.encode(vec![b'x'; 200_000]) },
        })
        .to_string()
    }

    /// Reads through an API server that answers with a newer version each time, and the number of its answers.
    fn reads() -> (Arc<SecretReads>, Arc<AtomicUsize>) {
        let answers = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&answers);
        let service = service_fn(move |_: http::Request<Body>| {
            let version = counted.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                tokio::task::yield_now().await;
                Ok::<_, Infallible>(Response::new(Body::from(secret(version).into_bytes())))
            }
        });
        (
            Arc::new(SecretReads::new(Client::new(service, "default"))),
            answers,
        )
    }

    fn text(data: Option<&SecretValue>) -> Option<String> {
        match data? {
            SecretValue::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            SecretValue::TooLong => Some("too long".to_owned()),
        }
    }

    fn name() -> SecretName {
        SecretName::new("s").unwrap()
    }

    async fn read(reads: &SecretReads, wanted: Option<&str>, names: &[&str]) -> Arc<SecretData> {
        let nothing = |_: Arc<SecretData>| std::future::ready(());
        let (asked, name) = (keys(names), name());
        let found = reads.read(("a", &name), wanted, &asked, BTreeSet::new, nothing);
        found.await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn all_who_read_a_secret_at_the_same_time_share_one_request() {
        let (reads, answers) = reads();
        let all = join_all((0..100).map(|_| read(&reads, Some("u/1"), &["key"]))).await;
        assert_eq!(answers.load(Ordering::SeqCst), 1);
        assert!(
            all.iter()
                .all(|data| text(data.get("key")).as_deref() == Some("value-1"))
        );
        assert_eq!(
            read(&reads, None, &["key"]).await.version,
            "u/2",
            "and no later one"
        );
    }

    #[tokio::test]
    async fn a_value_is_dropped_with_its_last_reader() {
        let (reads, _) = reads();
        let data = Arc::downgrade(&read(&reads, None, &["key"]).await);
        assert!(data.upgrade().is_none());
    }

    #[tokio::test]
    async fn a_read_that_began_before_a_change_is_not_taken_for_it() {
        let (reads, answers) = reads();
        let newer = (0..50).map(|_| read(&reads, Some("u/2"), &["key"]));
        let (old, new) = futures::join!(read(&reads, Some("u/1"), &["key"]), join_all(newer));
        assert_eq!(old.version, "u/1");
        assert!(new.iter().all(|data| data.version == "u/2"));
        assert_eq!(answers.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_version_that_is_gone_costs_all_who_want_it_two_requests_at_most() {
        let (reads, answers) = reads();
        join_all((0..50).map(|_| read(&reads, Some("u/0"), &["key"]))).await;
        assert!(answers.load(Ordering::SeqCst) <= 2);
    }

    #[tokio::test]
    async fn a_reader_of_another_key_reads_for_itself() {
        let (reads, answers) = reads();
        let (one, other) = futures::join!(read(&reads, None, &["key"]), read(&reads, None, &["other"]));
        assert!(one.get("key").is_some() && one.get("other").is_none());
        assert_eq!(text(other.get("other")).as_deref(), Some("\0"));
        assert_eq!(answers.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn nobody_has_the_values_before_they_are_noted() {
        let (reads, _) = reads();
        let noted = Arc::new(AtomicUsize::new(0));
        let note = {
            let noted = Arc::clone(&noted);
            move |_: Arc<SecretData>| async move {
                tokio::task::yield_now().await;
                noted.fetch_add(1, Ordering::SeqCst);
            }
        };
        let one = || async {
            let (asked, name) = (keys(&["key"]), name());
            let found = reads.read(("a", &name), None, &asked, BTreeSet::new, note.clone());
            found.await.unwrap();
            noted.load(Ordering::SeqCst)
        };
        assert_eq!(join_all((0..10).map(|_| one())).await, [1; 10]);
    }

    #[test]
    fn only_the_named_values_are_kept_and_no_long_one() {
        let data = parse(secret(1).as_bytes(), &keys(&["key", "large", "absent"])).unwrap();
        assert_eq!((data.version.as_str(), data.type_.as_str()), ("u/1", "Opaque"));
        assert_eq!(text(data.get("key")).as_deref(), Some("value-1"));
        assert_eq!(text(data.get("large")).as_deref(), Some("too long"));
        assert!(data.get("absent").is_none() && data.get("other").is_none());
    }

    #[test]
    fn a_value_of_the_greatest_length_is_kept() {
        for (length, kept) in [(LONGEST_VALUE, true), (LONGEST_VALUE + 10, false)] {
            let json = json!({ "metadata": {}, "data": { "key": STANDARD.encode(vec![b'x'; length]) } });
            let data = parse(json.to_string().as_bytes(), &keys(&["key"])).unwrap();
            assert_eq!(
                matches!(data.get("key"), Some(SecretValue::Bytes(_))),
                kept,
                "{length}"
            );
        }
    }

    #[test]
    fn what_is_no_secret_is_refused_without_a_word_of_it() {
        for json in [
            "hush-value",
            r#"{"metadata":{},"data":"hush-value"}"#,
            r#"{"metadata":{},"data":{"key":"hush-value!"}}"#,
            r#"{"metadata":"hush-value"}"#,
            r#"{"metadata":{},"data":{"key":"aHVzaA=="#,
        ] {
            let error = parse(json.as_bytes(), &keys(&["key"])).unwrap_err();
            assert!(!with_causes(&error).contains("hush"), "{json}");
        }
        let empty = r#"{"metadata":{},"data":{"key":null}}"#;
        assert!(
            parse(empty.as_bytes(), &keys(&["key"]))
                .unwrap()
                .get("key")
                .is_some()
        );
        assert!(parse(br#"{"metadata":{},"data":null}"#, &keys(&["key"])).is_ok());
    }
}
