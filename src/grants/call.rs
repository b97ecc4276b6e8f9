//! The request for a grant, and the source of its credentials: a request that waits holds none.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures::future::BoxFuture;

use super::object::ObjectKey;
use crate::clock::Moment;
use crate::fingerprint::Fingerprint;
use crate::providers::{Endpoint, Grant};
use crate::token::{Credentials, ExposeSecret as _};

/// Everything that is needed to ask a vendor once.
#[derive(Debug)]
pub struct VendorCall {
    pub grant: Grant,
    pub endpoint: Endpoint,
    /// Wiped when the request was sent.
    pub credentials: Credentials,
}

/// Reads the credentials of a request when its turn has come.
pub trait CallSource: Send + Sync + 'static {
    /// Gives the request that the present spec and credentials of `object` make, with its fingerprint; `None` where they
    /// make none, or cannot be read.
    fn call(&self, object: ObjectKey) -> BoxFuture<'static, Option<(Fingerprint, VendorCall)>>;
}

/// Credentials that were just read are kept for this long at most: the longest time of a request.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// The most bytes of credential values that are kept.
const MOST_BYTES: usize = 1024 * 1024;

/// Requests whose turn comes in a moment, with the credentials that were just read for them. Without these, each first
/// request would read its Secret twice.
#[derive(Debug, Default)]
pub(super) struct CallsInHand {
    calls: HashMap<Fingerprint, (Moment, VendorCall)>,
    /// The grants by the time at which their requests were kept, the oldest first. Some of the requests were taken
    /// since.
    order: VecDeque<(Moment, Fingerprint)>,
    bytes: usize,
}

impl CallsInHand {
    /// Keeps a request until its turn comes, unless there is too much in hand.
    pub(super) fn keep(&mut self, fingerprint: Fingerprint, call: VendorCall, now: Moment) {
        self.drop_old(now);
        let size = size_of(&call);
        if self.bytes + size <= MOST_BYTES {
            self.take(fingerprint);
            self.bytes += size;
            self.calls.insert(fingerprint, (now, call));
            self.order.push_back((now, fingerprint));
        }
    }

    /// The number of requests in hand.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Takes the request of a grant.
    pub(super) fn take(&mut self, fingerprint: Fingerprint) -> Option<VendorCall> {
        let (_, call) = self.calls.remove(&fingerprint)?;
        self.bytes = self.bytes.saturating_sub(size_of(&call));
        Some(call)
    }

    /// Drops the requests that were kept for [`KEPT_FOR`].
    pub(super) fn drop_old(&mut self, now: Moment) {
        while let Some((kept, fingerprint)) = self.order.front().copied() {
            let is_present = self.calls.get(&fingerprint).is_some_and(|(at, _)| *at == kept);
            if is_present && now.since(kept) < KEPT_FOR {
                return;
            }
            self.order.pop_front();
            if is_present {
                self.take(fingerprint);
            }
        }
    }
}

/// The length of the credentials of a request, in bytes.
fn size_of(call: &VendorCall) -> usize {
    let values = call.credentials.values.values();
    let certificate = call.credentials.client_certificate.as_ref();
    let certificate = certificate.map_or(0, |certificate| {
        certificate.certificate_chain.expose_secret().len() + certificate.private_key.expose_secret().len()
    });
    values.map(|value| value.expose_secret().len()).sum::<usize>() + certificate
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::tests::{at, grant};
    use crate::token::SecretString;

    fn call(length: usize) -> VendorCall {
        let value = SecretString::from("x".repeat(length));
        VendorCall {
            grant: Grant::Picus,
            endpoint: Grant::Picus.endpoint(),
            credentials: Credentials {
                values: [("refresh-token", value)].into(),
                client_certificate: None,
            },
        }
    }

    #[test]
    fn a_call_is_kept_for_the_time_of_a_request() {
        let mut calls = CallsInHand::default();
        for number in 0..3 {
            calls.keep(grant(number), call(1), at(i64::from(number)));
        }
        assert!(calls.take(grant(1)).is_some());
        calls.drop_old(at(31));
        assert!(calls.take(grant(0)).is_none());
        assert!(calls.take(grant(2)).is_some());
        assert_eq!(calls.bytes, 0);
    }

    #[test]
    fn a_call_that_is_kept_anew_counts_from_then() {
        let mut calls = CallsInHand::default();
        calls.keep(grant(1), call(1), at(0));
        calls.keep(grant(1), call(2), at(20));
        calls.drop_old(at(40));
        assert_eq!(calls.bytes, 2);
        assert!(calls.take(grant(1)).is_some());
    }

    #[test]
    fn calls_in_hand_have_a_bound_in_bytes() {
        let mut calls = CallsInHand::default();
        for number in 0..=255 {
            calls.keep(grant(number), call(16 * 1024), at(0));
        }
        assert_eq!(calls.len(), 64);
        assert!(calls.take(grant(0)).is_some());
        calls.keep(grant(255), call(16 * 1024), at(1));
        assert!(calls.take(grant(255)).is_some());
    }
}
