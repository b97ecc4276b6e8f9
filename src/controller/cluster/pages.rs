//! Pages of a list, read item by item as they come in: no more than one object is held at a time, and a page of too many
//! bytes is asked for again in smaller parts.

use futures::AsyncReadExt as _;
use kube::Client;
use kube::api::ListParams;
use kube::core::{ListMeta, Request};
use serde::Deserialize;

/// The most objects in one page.
const LARGEST_PAGE: u32 = 500;
/// The most bytes of one page of several objects.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// The bytes that are kept of an object. etcd takes 1.5 MiB, of which JSON may make six times as many.
pub(crate) const LONGEST_OBJECT: usize = 8 * 1024 * 1024;
/// The most bytes of a page of one object.
const LONGEST_PAGE: usize = 64 * 1024 * 1024;
/// The most bytes of a list beside its objects.
const LONGEST_FRAME: usize = 64 * 1024;
/// The bytes that are taken from a connection at a time.
const PIECE: usize = 32 * 1024;

/// The failure to read a page. It quotes nothing of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    #[error("the API server's answer is no list in JSON")]
    NotAList,
    #[error("the API server's answer has more than {} MiB", LONGEST_PAGE / 1024 / 1024)]
    TooLong,
    #[error("failed to receive the API server's answer")]
    Broken(#[source] std::io::Error),
}

/// Asks for the pages of lists, and learns how many objects fit into one.
pub(crate) struct Pages {
    client: Client,
    path: String,
    /// Ask for metadata only.
    metadata: bool,
    size: u32,
}

impl Pages {
    /// Pages of the collection at `path`.
    pub(crate) fn new(client: Client, path: String, metadata: bool) -> Self {
        Self {
            client,
            path,
            metadata,
            size: LARGEST_PAGE,
        }
    }

    /// Reads the page at `continue_token`, the first for `None`, and gives the metadata of the list. Gives each object to
    /// `item` as JSON: perhaps twice, when a page turns out to be too large, and only the beginning of one that is too long.
    /// `None` where the first page is too large: the caller begins the list anew, because the next first page shows a later
    /// state, in which an object that `item` received may have been deleted. All later pages show the state of the first.
    pub(crate) async fn read(
        &mut self,
        continue_token: Option<&str>,
        mut item: impl FnMut(&[u8]),
    ) -> Result<Option<ListMeta>, kube::Error> {
        loop {
            if let Some(list) = self.try_page(continue_token, &mut item).await? {
                return Ok(Some(list));
            }
            tracing::debug!(path = self.path, size = self.size, "a page was too large");
            if continue_token.is_none() {
                return Ok(None);
            }
        }
    }

    /// Reads one page. `None` for a page that is too large: a smaller one is asked for next.
    async fn try_page(
        &mut self,
        continue_token: Option<&str>,
        item: &mut impl FnMut(&[u8]),
    ) -> Result<Option<ListMeta>, kube::Error> {
        let mut parameters = ListParams::default().limit(self.size);
        parameters.continue_token = continue_token.map(str::to_owned);
        let request = Request::new(self.path.as_str());
        let request = if self.metadata {
            request.list_metadata(&parameters)
        } else {
            request.list(&parameters)
        };
        let request = request.map_err(kube::Error::BuildRequest)?;
        let stream = self.client.request_stream(request).await?;
        futures::pin_mut!(stream);
        let failed = |error: PageError| kube::Error::Service(Box::new(error));
        let mut splitter = Splitter::default();
        let mut piece = vec![0; PIECE];
        let (mut bytes, mut items) = (0, 0_u32);
        loop {
            let read = stream.read(&mut piece).await;
            let read = read.map_err(|error| failed(PageError::Broken(error)))?;
            if read == 0 {
                break;
            }
            bytes += read;
            splitter
                .take(piece.get(..read).unwrap_or_default(), |object| {
                    item(object);
                    items += 1;
                })
                .map_err(failed)?;
            if bytes > PAGE_BYTES && self.size > 1 {
                self.size = (items / 2).clamp(1, self.size / 2);
                return Ok(None);
            }
            if bytes > LONGEST_PAGE {
                return Err(failed(PageError::TooLong));
            }
        }
        if bytes < PAGE_BYTES / 4 {
            self.size = self.size.saturating_mul(2).min(LARGEST_PAGE);
        }
        splitter.end().map(Some).map_err(failed)
    }
}

/// Splits a list in JSON into its items, as it comes in.
#[derive(Debug, Default)]
struct Splitter {
    /// The list without its items.
    frame: Vec<u8>,
    /// The present item, as far as it has come, and without what is beyond [`LONGEST_OBJECT`].
    item: Vec<u8>,
    in_items: bool,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Splitter {
    /// Takes the next piece, and gives each item that it completes to `complete`.
    fn take(&mut self, piece: &[u8], mut complete: impl FnMut(&[u8])) -> Result<(), PageError> {
        for &byte in piece {
            let was_in_string = self.in_string;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
            } else {
                match byte {
                    b'"' => self.in_string = true,
                    b'{' | b'[' => {
                        self.depth += 1;
                        self.in_items |= self.depth == 2 && byte == b'[' && self.follows_items();
                        if self.in_items && self.depth == 2 {
                            self.frame.push(byte);
                            continue;
                        }
                    }
                    b'}' | b']' => {
                        self.depth = self.depth.checked_sub(1).ok_or(PageError::NotAList)?;
                        self.in_items &= self.depth > 1;
                    }
                    _ => {}
                }
            }
            if !self.in_items {
                self.frame.push(byte);
                if self.frame.len() > LONGEST_FRAME {
                    return Err(PageError::NotAList);
                }
            } else if self.depth > 2 || self.in_string || was_in_string || byte == b'}' {
                if self.item.len() < LONGEST_OBJECT {
                    self.item.push(byte);
                }
                if self.depth == 2 && byte == b'}' && !was_in_string {
                    complete(&self.item);
                    self.item.clear();
                }
            }
        }
        Ok(())
    }

    /// True where the frame ends with the name of the member with the items.
    fn follows_items(&self) -> bool {
        let frame = self.frame.trim_ascii_end();
        let name = frame.strip_suffix(b":").map(<[u8]>::trim_ascii_end);
        name.is_some_and(|name| name.ends_with(b"\"items\""))
    }

    /// The metadata of the list, at the end of it.
    fn end(self) -> Result<ListMeta, PageError> {
        #[derive(Deserialize)]
        struct Frame {
            metadata: ListMeta,
        }
        let frame: Frame = serde_json::from_slice(&self.frame).map_err(|_| PageError::NotAList)?;
        Ok(frame.metadata)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use http::Response;
    use kube::client::Body;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;
    use crate::controller::cluster::object_json::{FromJson as _, ReadSecret};
    use crate::error_text::with_causes;
    use crate::sync::lock;

    /// The items of a list that comes in pieces of this size, and its metadata.
    fn split(list: &[u8], piece: usize) -> Result<(Vec<Value>, ListMeta), PageError> {
        let mut splitter = Splitter::default();
        let mut items = Vec::new();
        for piece in list.chunks(piece) {
            splitter.take(piece, |item| {
                items.push(serde_json::from_slice(item).unwrap_or_default())
            })?;
        }
        Ok((items, splitter.end()?))
    }

    fn list(items: &[Value]) -> Value {
        json!({ "kind": "SecretList", "apiVersion": "v1",
            "metadata": { "resourceVersion": "7", "continue": "next" }, "items": items })
    }

    /// Texts with everything that a splitter could take for structure.
    fn any_item() -> impl Strategy<Value = Value> {
        let text = r#"[a"\\\[\]{}:,é\n ]{0,12}"#;
        let leaf = prop_oneof![
            text.prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            Just(Value::Null),
            Just(json!([])),
            Just(json!({}))
        ];
        let value = leaf.prop_recursive(3, 20, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(
                    prop_oneof![text.prop_map(String::from), Just("items".to_owned())],
                    inner,
                    0..4
                )
                .prop_map(|members| json!(members)),
            ]
        });
        prop::collection::vec(value, 0..3).prop_map(|values| json!({ "metadata": {}, "items": values }))
    }

    proptest! {
        #[test]
        fn any_items_are_found_in_any_pieces(
            items in prop::collection::vec(any_item(), 0..6), piece in 1..40_usize, pretty in any::<bool>()
        ) {
            let list = list(&items);
            let text = if pretty { serde_json::to_vec_pretty(&list) } else { serde_json::to_vec(&list) };
            let (found, metadata) = split(&text.unwrap(), piece).unwrap();
            prop_assert_eq!(found, items);
            prop_assert_eq!(metadata.continue_.as_deref(), Some("next"));
        }

        #[test]
        fn no_bytes_make_it_fail_but_with_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = split(&bytes, 7);
        }
    }

    #[test]
    fn a_list_without_items_is_empty_and_another_text_is_no_list() {
        for empty in [
            r#"{"metadata":{"resourceVersion":"7"},"items":null}"#,
            r#"{"items":[],"metadata":{"resourceVersion":"7"}}"#,
            r#"{"metadata":{"resourceVersion":"7"}}"#,
        ] {
            let (items, metadata) = split(empty.as_bytes(), 5).unwrap();
            assert_eq!(
                (items.len(), metadata.resource_version.as_deref()),
                (0, Some("7"))
            );
        }
        for bad in ["", "<html>", "]", r#"{"items":[{}]"#, r#"{"items":[{}]}}"#, "{}"] {
            assert!(split(bad.as_bytes(), 5).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_frame_without_an_end_is_given_up() {
        let mut splitter = Splitter::default();
        splitter.take(br#"{"a":""#, |_| {}).unwrap();
        let piece = vec![b'x'; PIECE];
        let taken = (0..)
            .take_while(|_| splitter.take(&piece, |_| {}).is_ok())
            .count();
        assert_eq!(taken, LONGEST_FRAME / PIECE - 1);
    }

    #[test]
    fn an_object_that_is_too_long_is_cut_and_the_next_one_is_whole() {
        let mut splitter = Splitter::default();
        let mut items: Vec<Vec<u8>> = Vec::new();
        let long = "x".repeat(LONGEST_OBJECT);
        let list = format!(r#"{{"items":[{{"a":"{long}"}},{{"b":1}}],"metadata":{{}}}}"#);
        for piece in list.as_bytes().chunks(PIECE) {
            splitter.take(piece, |item| items.push(item.to_owned())).unwrap();
        }
        assert_eq!(
            (items[0].len(), items[1].as_slice()),
            (LONGEST_OBJECT, b"{\"b\":1}".as_slice())
        );
    }

    /// The limits of the requests for all pages of a list of `count` Secrets with `bytes` of metadata each, and the
    /// number of Secrets that it gave.
    async fn limits(count: usize, bytes: usize) -> (Vec<usize>, usize) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let service = service_fn(move |request: http::Request<Body>| {
            let query: std::collections::HashMap<_, _> =
                url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
                    .into_owned()
                    .collect();
            let limit: usize = query["limit"].parse().unwrap();
            lock(&noted).push(limit);
            let from: usize = query.get("continue").map_or(0, |token| token.parse().unwrap());
            let to = (from + limit).min(count);
            let items = (from..to).map(|number| {
                let annotations = json!({ "a": "x".repeat(bytes) });
                json!({ "metadata": { "name": number.to_string(), "namespace": "a", "uid": "u", "resourceVersion": "1",
                    "annotations": annotations } })
            });
            let token = if to < count { to.to_string() } else { String::new() };
            let list = json!({ "metadata": { "resourceVersion": "7", "continue": token },
                "items": items.collect::<Vec<_>>() });
            async move { Ok::<_, Infallible>(Response::new(Body::from(list.to_string().into_bytes()))) }
        });
        let client = Client::new(service, "default");
        let mut pages = Pages::new(client, "/api/v1/secrets".to_owned(), true);
        let mut names = std::collections::BTreeSet::new();
        let mut token = None;
        loop {
            let page = pages
                .read(token.as_deref(), |secret| {
                    names.insert(ReadSecret::from_json(secret).unwrap().0.name);
                })
                .await
                .unwrap();
            let Some(page) = page else {
                assert_eq!(token, None, "only the first page begins the list anew");
                names.clear();
                continue;
            };
            token = page.continue_.filter(|token| !token.is_empty());
            if token.is_none() {
                return (lock(&asked).clone(), names.len());
            }
        }
    }

    #[tokio::test]
    async fn a_page_of_too_many_bytes_is_asked_for_again_in_smaller_parts() {
        let (limits, found) = limits(20, 1_200_000).await;
        println!("1.2 MB each: {limits:?}");
        assert_eq!(found, 20);
        assert_eq!(limits[..2], [500, 3]);
        assert!(
            limits[1..].iter().all(|limit| limit * 1_200_000 <= PAGE_BYTES),
            "{limits:?}"
        );
    }

    #[tokio::test]
    async fn pages_of_small_objects_have_five_hundred() {
        assert_eq!(limits(1100, 100).await, (vec![500, 500, 500], 1100));
    }

    #[tokio::test]
    async fn one_object_that_is_larger_than_a_page_should_be_is_read() {
        let (limits, found) = limits(3, 7_000_000).await;
        assert_eq!((limits, found), (vec![500, 1, 1, 1], 3));
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_given_up() {
        let service = service_fn(|_: http::Request<Body>| async {
            let pieces = futures::stream::repeat_with(|| {
                Ok::<_, Infallible>(hyper::body::Frame::data(vec![b'x'; PIECE].into()))
            });
            let start = futures::stream::iter([Ok(hyper::body::Frame::data(
                br#"{"items":[{"a":""#.to_vec().into(),
            ))]);
            let body = http_body_util::StreamBody::new(futures::StreamExt::chain(start, pieces));
            Ok::<http::Response<http_body_util::StreamBody<_>>, Infallible>(Response::new(body))
        });
        let mut pages = Pages::new(
            Client::new(service, "default"),
            "/api/v1/secrets".to_owned(),
            true,
        );
        let first = pages.read(None, |_| {}).await.unwrap();
        assert!(first.is_none(), "a smaller page is asked for first");
        let error = pages.read(None, |_| {}).await.unwrap_err();
        assert!(with_causes(&error).contains("more than 64 MiB"), "{error:?}");
    }
}
