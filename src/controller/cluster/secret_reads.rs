//! Reads of credentials. All who want one Secret at the same time share one request, and its values live for as long as
//! one of them uses them.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};

use crate::controller::cluster::answers::Answers;
use crate::controller::cluster::pacing::Held;
use crate::controller::cluster::secret_calls::SecretCalls;
use crate::controller::cluster::secret_data::SecretData;
use crate::controller::cluster::secret_name::SecretName;
use crate::error_text::with_causes;
use crate::sync::lock;

/// The longest value that is kept, in bytes: more than any credential, certificate chain or key may have.
const LONGEST_VALUE: usize = 64 * 1024 + 2;

/// The result of a read: `None` where there is no such Secret.
type Outcome = Result<Option<Arc<SecretData>>, Arc<kube::Error>>;
type Flight = BoxFuture<'static, Outcome>;

/// The reads of Secrets that are under way, by namespace and name.
pub(crate) struct SecretReads {
    answers: Answers,
    under_way: Mutex<HashMap<(String, String), WeakShared<Flight>>>,
}

impl fmt::Debug for SecretReads {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SecretReads").finish_non_exhaustive()
    }
}

impl SecretReads {
    /// Reads through `answers`.
    pub(crate) fn new(answers: Answers) -> Self {
        Self {
            answers,
            under_way: Mutex::default(),
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
        let calls = SecretCalls::new(&self.answers, namespace);
        let object = (namespace.to_owned(), name.to_string());
        let name = name.clone();
        let flight = async move {
            let data = calls
                .read(&name, &keys, LONGEST_VALUE, |secret| secret.data)
                .await;
            let data = data.map_err(Arc::new)?.map(Arc::new);
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use futures::future::join_all;
    use http::Response;
    use kube::Client;
    use kube::client::Body;
    use serde_json::json;
    use tower::service_fn;

    use super::*;
    use crate::controller::cluster::secret_data::SecretValue;

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
            Arc::new(SecretReads::new(Answers::new(Client::new(service, "default")))),
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
}
