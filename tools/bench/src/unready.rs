//! The objects that are not Ready yet.

use std::collections::HashSet;

use futures::StreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use test_support::Error;
use vendor_token_operator::api::{VendorToken, names};

/// The objects that are not Ready yet, by a watch that was started before the measured program.
pub(crate) struct Unready {
    events: futures::stream::BoxStream<'static, Result<Event<VendorToken>, watcher::Error>>,
    waiting: HashSet<String>,
}

impl Unready {
    /// Starts the watch; `objects` VendorTokens are expected.
    pub(crate) async fn watch(client: &Client, objects: usize) -> Result<Self, Error> {
        let tokens = Api::<VendorToken>::all(client.clone());
        let mut unready = Self {
            events: kube::runtime::watcher(tokens, watcher::Config::default()).boxed(),
            waiting: HashSet::new(),
        };
        // Until the list is complete.
        loop {
            match unready.events.next().await {
                Some(Ok(Event::InitApply(token))) => {
                    unready.waiting.insert(token.uid().unwrap_or_default());
                }
                Some(Ok(Event::InitDone)) => break,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Error::step("watch VendorTokens")(error)),
                None => return Err(Error::Other("the watch ended".to_owned())),
            }
        }
        if unready.waiting.len() == objects {
            Ok(unready)
        } else {
            Err(Error::Other(format!(
                "{} VendorTokens are there, and {objects} were expected",
                unready.waiting.len()
            )))
        }
    }

    /// Waits for a change, and gives the number of those that are not Ready.
    pub(crate) async fn next(&mut self) -> usize {
        if let Some(Ok(Event::Apply(token) | Event::InitApply(token))) = self.events.next().await
            && is_ready(&token)
        {
            self.waiting.remove(&token.uid().unwrap_or_default());
        }
        self.count()
    }

    /// The number of those that are not Ready.
    pub(crate) fn count(&self) -> usize {
        self.waiting.len()
    }
}

fn is_ready(token: &VendorToken) -> bool {
    let conditions = token.status.iter().flat_map(|status| &status.conditions);
    conditions
        .into_iter()
        .any(|condition| condition.type_ == names::condition::READY && condition.status == "True")
}
