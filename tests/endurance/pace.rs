//! The pace of calls to an API server that fails, by the calls that a proxy has broken: each kind of calls has pauses of
//! its own, and a slow machine makes fewer calls than they allow, but no machine more.

use std::collections::BTreeMap;
use std::iter;

use test_support::BrokenCall;

/// The pauses, in seconds, between calls of one kind that fail: of those that have gates, and of the question put before
/// a vendor is asked. The last one is kept.
pub(crate) const PAUSES: [f64; 4] = [1.0, 2.0, 4.0, 5.0];
/// The same of a watch, without the random part that each has more.
pub(crate) const PAUSES_OF_WATCHES: [f64; 7] = [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0];

/// The most calls in so many seconds that keep to these pauses.
pub(crate) fn most(seconds: f64, pauses: &[f64]) -> usize {
    let last = iter::repeat(*pauses.last().unwrap());
    let all = pauses.iter().copied().chain(last);
    let times = iter::once(0.0).chain(all.scan(0.0, |time, pause| {
        *time += pause;
        Some(*time)
    }));
    times.take_while(|time| *time <= seconds).count()
}

/// A kind of calls that has pauses of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `GET /version`.
    Question,
    WatchOfSecrets,
    WatchOfVendorTokens,
    ReadSecret,
    WriteSecret,
    WriteStatus,
    Event,
}

impl Kind {
    pub(crate) fn of(call: &BrokenCall) -> Self {
        let path: Vec<&str> = call.path.split('/').collect();
        match (call.method.as_str(), path.as_slice()) {
            ("GET", ["", "version"]) => Self::Question,
            ("GET", [.., "secrets"]) => Self::WatchOfSecrets,
            ("GET", [.., "vendortokens"]) => Self::WatchOfVendorTokens,
            ("GET", [.., "secrets", _]) => Self::ReadSecret,
            ("PATCH", [.., "secrets", _]) => Self::WriteSecret,
            ("PATCH", [.., "vendortokens", _, "status"]) => Self::WriteStatus,
            ("POST", [.., "events"]) => Self::Event,
            _ => panic!("nobody should ask for this now: {call:?}"),
        }
    }
}

/// Numbers of calls by kind.
pub(crate) type Counts = BTreeMap<Kind, usize>;

/// Counts calls by kind. Fails where there are more of one than it is `allowed`.
pub(crate) fn count<'c>(
    what: &str,
    calls: impl IntoIterator<Item = &'c BrokenCall>,
    allowed: impl Fn(Kind) -> usize,
) -> Counts {
    let mut counts = Counts::new();
    for call in calls {
        *counts.entry(Kind::of(call)).or_default() += 1;
    }
    for (kind, count) in &counts {
        let most = allowed(*kind);
        println!("{what}: {kind:?}: {count} calls, of at most {most}");
        assert!(
            *count <= most,
            "{what}: {kind:?}: {count} calls, {most} are allowed"
        );
    }
    counts
}
