//! The memory of each VendorToken between reconciles.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::clock::{Moment, Now, Timeline};
use crate::controller::cluster::pacing::{CallKind, Pacer};
use crate::controller::cluster::repairs::{Repairs, TargetWrite};
use crate::fingerprint::{CertificateDigest, Fingerprint, KnownInputs, Login};
use crate::grants::{Grants, ObjectKey};
use crate::metrics::Metrics;
use crate::policy::contest::{Contest, Undone};
use crate::policy::{Problem, PublishBlock};
use crate::sync::lock;

/// The identity of the grant that credentials make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GrantIdentity {
    pub(crate) fingerprint: Fingerprint,
    /// The account that failed attempts with these credentials could lock, and the password for it.
    pub(crate) login: Option<Login>,
}

/// The credentials that a VendorToken was last seen to have.
#[derive(Clone, Debug)]
pub(crate) struct KnownCredentials {
    /// `uid/resourceVersion` of the Secrets that were read.
    pub(crate) version: Box<str>,
    /// A digest of the spec's part in the grant, made before the credentials were read. An edit of the spec changes it.
    pub(crate) known: u64,
    /// The grant that they make, or the reason why they make none.
    pub(crate) found: Result<GrantIdentity, Problem>,
}

/// The digest of `known` for [`KnownCredentials::known`].
pub(crate) fn number_of(known: &KnownInputs) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&known.parameters, &known.sources).hash(&mut hasher);
    hasher.finish()
}

/// The client certificate that a VendorToken was last seen to have.
#[derive(Clone, Debug)]
pub(crate) struct KnownCertificate {
    /// `uid/resourceVersion` of its Secret.
    pub(crate) version: String,
    /// Its digest, or the reason why it cannot be used, whatever the time.
    pub(crate) found: Result<CertificateDigest, Problem>,
}

/// The wait after a failed write of a target.
#[derive(Clone, Debug)]
pub(crate) struct PublishBackoff {
    pub(crate) problem: Problem,
    pub(crate) ends: Moment,
    /// Failures in a row.
    pub(crate) count: i32,
    /// The generation and the target's version of the failed write: a change of either ends the wait.
    pub(crate) generation: Option<i64>,
    pub(crate) target_version: Option<String>,
}

impl PublishBackoff {
    /// The block that a decision depends on, with its end by the wall clock.
    pub(crate) fn block(&self, now: &Now) -> PublishBlock {
        PublishBlock {
            problem: self.problem.clone(),
            next_attempt: now.wall_at(self.ends),
        }
    }
}

/// The first look of this process at the token in a target.
#[derive(Clone, Copy, Debug)]
struct FirstLook {
    /// The token's issue, by which it is known again.
    issued: Timestamp,
    at: Moment,
    /// A token that was issued in the future bears the trace of a step of the clock before this look.
    ahead: SignedDuration,
}

impl FirstLook {
    fn set_back(&self, timeline: &Timeline) -> SignedDuration {
        self.ahead.saturating_add(timeline.set_back_since(self.at))
    }
}

/// Kubernetes calls that fail, of a kind that an object needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trouble {
    pub(crate) kind: CallKind,
    pub(crate) since: Moment,
}

/// The errors of an object's reconciles in a row.
#[derive(Clone, Copy, Debug, Default)]
struct Errors {
    last: Option<Moment>,
    /// The errors that it had while calls for other objects succeeded.
    own: u32,
}

/// A target whose owner references the API server forbids to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnersStay {
    /// The UID of the Secret.
    pub(crate) target: Box<str>,
    /// The generation of the spec that wants other owners.
    pub(crate) generation: Option<i64>,
}

/// The part of a record that few objects need.
#[derive(Debug, Default)]
struct Troubles {
    owners_stay: Option<OwnersStay>,
    trouble: Option<Trouble>,
    errors: Errors,
    /// Those of a status that somebody else keeps changing.
    status_repairs: Option<Repairs<u64>>,
}

/// The pause between two reads of a target that somebody else keeps writing.
const TARGET_READS_APART: Duration = Duration::from_secs(5);

/// The content of a target, as far as this process knows it.
#[derive(Debug, Default)]
struct KnownTarget {
    /// A digest of the version that is known.
    version: Option<u64>,
    /// It holds another token than the sealed one.
    is_exchanged: bool,
    /// The last read of a version that was not known.
    read_at: Option<Moment>,
}

/// The next step for a target at its present version: it is known, or is read now or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetLook {
    /// It is known.
    Known { is_exchanged: bool },
    /// It is to be read now.
    Read,
    /// It is to be read at this moment, and counts until then as it was known before.
    Later { at: Moment, is_exchanged: bool },
}

/// The record of one VendorToken.
#[derive(Debug, Default)]
struct Record {
    first_look: Option<FirstLook>,
    credentials: Option<KnownCredentials>,
    certificate: Option<Box<KnownCertificate>>,
    publish_backoff: Option<Box<PublishBackoff>>,
    known_target: KnownTarget,
    repairs: Repairs<TargetWrite>,
    /// A digest of the status that was written last.
    last_status: Option<u64>,
    troubles: Option<Box<Troubles>>,
}

fn digest(version: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    version.hash(&mut hasher);
    hasher.finish()
}

/// The records of all VendorTokens. They outlast a change of the leader. To forget an object drops its record here, its
/// part in the book of grants, its place at gates, and its metrics.
pub(crate) struct Remembered {
    /// Boxed, because half of the places in a hash map may be empty.
    records: Mutex<HashMap<ObjectKey, Box<Record>>>,
    grants: Arc<Grants>,
    pacer: Arc<Pacer>,
    metrics: Metrics,
}

impl std::fmt::Debug for Remembered {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Remembered")
            .field("objects", &lock(&self.records).len())
            .finish_non_exhaustive()
    }
}

impl Remembered {
    /// No records.
    pub(crate) fn new(grants: Arc<Grants>, pacer: Arc<Pacer>, metrics: Metrics) -> Self {
        Self {
            records: Mutex::default(),
            grants,
            pacer,
            metrics,
        }
    }

    pub(crate) fn credentials(&self, object: &ObjectKey) -> Option<KnownCredentials> {
        lock(&self.records).get(object)?.credentials.clone()
    }

    pub(crate) fn set_credentials(&self, object: &ObjectKey, credentials: Option<KnownCredentials>) {
        self.record(object, |record| record.credentials = credentials);
    }

    pub(crate) fn certificate(&self, object: &ObjectKey) -> Option<KnownCertificate> {
        lock(&self.records).get(object)?.certificate.as_deref().cloned()
    }

    pub(crate) fn set_certificate(&self, object: &ObjectKey, certificate: Option<KnownCertificate>) {
        self.record(object, |record| record.certificate = certificate.map(Box::new));
    }

    /// Looks at a target of this version. The version is known that this process has written or read itself, or has found at
    /// its first look. Of others, one is read at a time, with pauses between the reads: the caller reads it now where the
    /// answer says so.
    pub(crate) fn look_at_target(&self, object: &ObjectKey, version: &str, now: Moment) -> TargetLook {
        let mut records = lock(&self.records);
        let known = &mut records.entry(object.clone()).or_default().known_target;
        let is_exchanged = known.is_exchanged;
        if *known.version.get_or_insert(digest(version)) == digest(version) {
            return TargetLook::Known { is_exchanged };
        }
        match known.read_at.map(|read_at| read_at + TARGET_READS_APART) {
            Some(at) if now < at => TargetLook::Later { at, is_exchanged },
            _ => {
                known.read_at = Some(now);
                TargetLook::Read
            }
        }
    }

    /// Notes that this process knows the content of the target at this version: the sealed token, or another one.
    pub(crate) fn set_known_target(&self, object: &ObjectKey, version: &str, is_exchanged: bool) {
        self.record(object, |record| {
            record.known_target.version = Some(digest(version));
            record.known_target.is_exchanged = is_exchanged;
        });
    }

    /// Forgets the content of all targets, since another process may have written them; but not that one holds a wrong
    /// token, as long as it is that version.
    pub(crate) fn forget_targets(&self) {
        for record in lock(&self.records).values_mut() {
            let known = &mut record.known_target;
            known.version = known.version.filter(|_| known.is_exchanged);
        }
    }

    pub(crate) fn publish_backoff(&self, object: &ObjectKey) -> Option<PublishBackoff> {
        lock(&self.records)
            .get(object)?
            .publish_backoff
            .as_deref()
            .cloned()
    }

    pub(crate) fn set_publish_backoff(&self, object: &ObjectKey, backoff: Option<PublishBackoff>) {
        self.record(object, |record| record.publish_backoff = backoff.map(Box::new));
    }

    /// The target whose owner references may not be changed.
    pub(crate) fn owners_stay(&self, object: &ObjectKey) -> Option<OwnersStay> {
        lock(&self.records)
            .get(object)?
            .troubles
            .as_ref()?
            .owners_stay
            .clone()
    }

    /// Notes the target whose owner references may not be changed, or that there is none.
    pub(crate) fn set_owners_stay(&self, object: &ObjectKey, owners_stay: Option<OwnersStay>) {
        let is_some = owners_stay.is_some();
        self.troubles(object, is_some, |troubles| troubles.owners_stay = owners_stay);
    }

    /// True where a pause would follow this write of the target, because somebody else keeps undoing such writes.
    pub(crate) fn is_repair_too_many(&self, object: &ObjectKey, write: TargetWrite, now: Moment) -> bool {
        let mut records = lock(&self.records);
        let record = records.get_mut(object);
        record.is_some_and(|record| record.repairs.pause_after(write, now).is_some())
    }

    /// Notes a write of the target: see [`Repairs::written`].
    pub(crate) fn target_written(&self, object: &ObjectKey, write: TargetWrite, undone: Undone, now: Moment) {
        self.record(object, |record| {
            record.repairs.written(write, undone, now);
        });
    }

    /// The time for which this status is not written, because somebody else keeps changing it.
    pub(crate) fn status_held_for(&self, object: &ObjectKey, status: u64, now: Moment) -> Option<Duration> {
        let records = lock(&self.records);
        let repairs = records.get(object)?.troubles.as_ref()?.status_repairs.as_ref()?;
        repairs.held_for(status, now)
    }

    /// Notes a write of the status. Gives true where somebody else begins to keep changing it.
    pub(crate) fn status_written(&self, object: &ObjectKey, status: u64, now: Moment) -> bool {
        let mut begins = false;
        self.record(object, |record| {
            let is_repair = record.last_status.replace(status) == Some(status);
            let troubles = record.troubles.as_mut();
            if is_repair {
                let repairs = &mut record.troubles.get_or_insert_default().status_repairs;
                begins =
                    repairs
                        .get_or_insert_with(|| Repairs::of(status))
                        .written(status, Undone::Unknown, now);
            } else if let Some(troubles) = troubles {
                troubles.status_repairs = None;
            }
        });
        begins
    }

    /// The contest for the target of an object.
    pub(crate) fn contest(&self, object: &ObjectKey, now: &Now) -> Option<Contest> {
        lock(&self.records).get(object)?.repairs.contest(now)
    }

    /// The kind of calls that have failed for the object for at least this long.
    pub(crate) fn trouble(&self, object: &ObjectKey, now: Moment, at_least: Duration) -> Option<Trouble> {
        let trouble = lock(&self.records).get(object)?.troubles.as_ref()?.trouble?;
        (now.since(trouble.since) >= at_least).then_some(trouble)
    }

    /// Notes that calls of this kind fail for the object, `None` where none does. The first moment of a trouble is kept.
    pub(crate) fn set_trouble(&self, object: &ObjectKey, trouble: Option<Trouble>) {
        self.troubles(object, trouble.is_some(), |troubles| {
            let before = troubles.trouble;
            troubles.trouble = trouble.map(|trouble| Trouble {
                since: before.map_or(trouble.since, |before| before.since),
                ..trouble
            });
        });
    }

    /// Notes an error of a reconcile, and gives the moment of the one before, where no success followed it.
    pub(crate) fn last_error(&self, object: &ObjectKey, now: Moment) -> Option<Moment> {
        let mut before = None;
        self.troubles(object, true, |troubles| {
            before = troubles.errors.last.replace(now)
        });
        before
    }

    /// Counts an error that no other object has, and gives the number of such errors in a row.
    pub(crate) fn count_error(&self, object: &ObjectKey) -> u32 {
        let mut count = 0;
        self.troubles(object, true, |troubles| {
            troubles.errors.own = troubles.errors.own.saturating_add(1);
            count = troubles.errors.own;
        });
        count
    }

    /// Notes a reconcile without an error.
    pub(crate) fn succeeded(&self, object: &ObjectKey) {
        self.troubles(object, false, |troubles| troubles.errors = Errors::default());
    }

    /// Changes the part of a record that few objects need. Where it is not there, it is made only if `make`.
    fn troubles(&self, object: &ObjectKey, make: bool, change: impl FnOnce(&mut Troubles)) {
        let mut records = lock(&self.records);
        if make {
            let record = records.entry(object.clone()).or_default();
            change(record.troubles.get_or_insert_default());
        } else if let Some(troubles) = records
            .get_mut(object)
            .and_then(|record| record.troubles.as_mut())
        {
            change(troubles);
        }
    }

    /// The time by which the clock was set back since the token that was issued at `issued` came, as far as this process
    /// can know.
    pub(crate) fn set_back(
        &self,
        object: &ObjectKey,
        issued: Timestamp,
        timeline: &Timeline,
    ) -> SignedDuration {
        let now = timeline.now();
        let mut records = lock(&self.records);
        let record = records.entry(object.clone()).or_default();
        let known = record.first_look.filter(|look| look.issued == issued);
        let look = *record.first_look.insert(known.unwrap_or(FirstLook {
            issued,
            at: now.moment,
            ahead: issued.duration_since(now.wall()).max(SignedDuration::ZERO),
        }));
        drop(records);
        look.set_back(timeline)
    }

    /// As [`Self::set_back`], but notes nothing: zero where this process has not looked at that token before.
    pub(crate) fn known_set_back(
        &self,
        object: &ObjectKey,
        issued: Timestamp,
        timeline: &Timeline,
    ) -> SignedDuration {
        let look = lock(&self.records)
            .get(object)
            .and_then(|record| record.first_look);
        look.filter(|look| look.issued == issued)
            .map_or(SignedDuration::ZERO, |look| look.set_back(timeline))
    }

    fn record(&self, object: &ObjectKey, change: impl FnOnce(&mut Record)) {
        change(lock(&self.records).entry(object.clone()).or_default());
    }

    /// Forgets an object.
    pub(crate) fn forget(&self, object: &ObjectKey) {
        lock(&self.records).remove(object);
        self.grants.forget(object);
        self.pacer.forget(object);
        self.metrics.object_removed(&object.namespace, &object.name);
    }

    /// Forgets the objects that do not exist.
    pub(crate) fn forget_unless(&self, exists: impl Fn(&ObjectKey) -> bool) {
        let known: Vec<_> = lock(&self.records).keys().cloned().collect();
        for object in known.iter().filter(|object| !exists(object)) {
            self.forget(object);
        }
        self.pacer.forget_unless(&exists);
        self.grants.forget_unless(exists);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::names::Reason;
    use crate::clock::{Clock, TokioClock};
    use crate::controller::fake;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_holds_up_no_write_of_a_target() {
        let clock = Arc::new(TokioClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        let timeline = Timeline::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let backoff = PublishBackoff {
            problem: Problem::new(Reason::ApiDenied, "no"),
            ends: timeline.now().moment + Duration::from_secs(60),
            count: 1,
            generation: None,
            target_version: None,
        };
        for step in [0, -3600] {
            clock.step(SignedDuration::from_secs(step));
            let next = backoff.block(&timeline.now()).next_attempt;
            assert_eq!(next.duration_since(clock.now()).as_secs(), 60, "{step}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_steps_since_the_first_look_are_taken_off_a_token() {
        let (context, _, _) = fake::context(|sent| sent);
        let clock = Arc::new(TokioClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        let timeline = Timeline::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let step = async |seconds| {
            tokio::time::advance(Duration::from_secs(60)).await;
            clock.step(SignedDuration::from_secs(seconds));
            timeline.now();
        };
        let (remembered, object) = (&context.remembered, fake::object());
        step(-3600).await;
        let issued = clock.now();
        assert_eq!(
            remembered.known_set_back(&object, issued, &timeline),
            SignedDuration::ZERO
        );
        for (seconds, expected) in [(0, 0), (-240, 240), (90_000, 240), (-60, 300)] {
            step(seconds).await;
            let set_back = remembered.set_back(&object, issued, &timeline);
            assert_eq!(set_back.as_secs(), expected, "after a step of {seconds} s");
            assert_eq!(remembered.known_set_back(&object, issued, &timeline), set_back);
        }
        let next = clock.now();
        assert_eq!(
            remembered.set_back(&object, next, &timeline),
            SignedDuration::ZERO,
            "another token"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_issued_in_the_future_stays_set_back_by_as_much() {
        let (context, _, _) = fake::context(|sent| sent);
        let clock = Arc::new(TokioClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        let timeline = Timeline::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let issued = clock.now() + SignedDuration::from_secs(240);
        for _ in 0..6 {
            let set_back = context.remembered.set_back(&fake::object(), issued, &timeline);
            assert_eq!(set_back.as_secs(), 240);
            tokio::time::advance(Duration::from_secs(60)).await;
        }
    }

    #[tokio::test]
    async fn a_target_is_known_as_it_was_found_or_written_in_this_term() {
        let (context, _, _) = fake::context(|sent| sent);
        let (remembered, object) = (&context.remembered, fake::object());
        let look = |version| remembered.look_at_target(&object, version, Moment::at_second(0));
        let known = |is_exchanged| TargetLook::Known { is_exchanged };
        assert_eq!(look("u/1"), known(false), "the first look");
        assert_eq!(look("u/2"), TargetLook::Read, "somebody else wrote it");
        remembered.set_known_target(&object, "u/2", false);
        assert_eq!(look("u/2"), known(false));
        remembered.forget_targets();
        assert_eq!(look("u/9"), known(false), "another process may have written it");
        remembered.set_known_target(&object, "u/9", true);
        remembered.forget_targets();
        assert_eq!(look("u/9"), known(true), "nobody has written it since");
    }

    #[tokio::test]
    async fn a_target_that_somebody_keeps_writing_is_read_after_pauses_and_at_last() {
        let (context, _, _) = fake::context(|sent| sent);
        let (remembered, object) = (&context.remembered, fake::object());
        let look = |version: i64, second| {
            remembered.look_at_target(&object, &version.to_string(), Moment::at_second(second))
        };
        look(-1, 0);
        let mut reads = Vec::new();
        for second in 0..60 {
            match look(second, second) {
                TargetLook::Read => reads.push(second),
                TargetLook::Later { at, is_exchanged } => {
                    let next = reads.last().unwrap() + 5;
                    // The last finding counts until the new version has been read.
                    assert_eq!((at, is_exchanged), (Moment::at_second(next), next > 20));
                }
                TargetLook::Known { .. } => panic!("{second} is known"),
            }
            if reads.last() == Some(&second) {
                remembered.set_known_target(&object, &second.to_string(), second >= 20);
            }
        }
        assert_eq!(reads, [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55]);
        assert_eq!(look(59, 60), TargetLook::Read, "the last write of all");
    }

    #[tokio::test]
    async fn a_forgotten_object_leaves_nothing_behind() {
        let (context, _, _) = fake::context(|sent| sent);
        let object = fake::object();
        let credentials = KnownCredentials {
            version: "v".into(),
            known: 0,
            found: Ok(GrantIdentity {
                fingerprint: Fingerprint::from_bytes([1; 16]),
                login: None,
            }),
        };
        let remembered = &context.remembered;
        remembered.set_credentials(&object, Some(credentials));
        assert!(fake::ask(&context, &object).is_some());
        remembered.forget_unless(|_| true);
        assert!(remembered.credentials(&object).is_some());
        remembered.forget_unless(|_| false);
        assert!(remembered.credentials(&object).is_none());
        assert_eq!(context.grants.waits_since(&object), None);
    }
}
