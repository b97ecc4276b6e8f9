//! The right to write a Secret as the target of a VendorToken.

use jiff::{SignedDuration, Timestamp};

use super::observed::{Problem, Target};
use super::schedule;
use super::token_facts::Stored;
use crate::api::names::Reason;
use crate::seal::{SealedFacts, TokenFacts};

/// The record of a Secret's metadata: enough to judge it, and small, because a cluster may have very many Secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRecord {
    pub uid: Box<str>,
    pub resource_version: Box<str>,
    pub controller: Option<Controller>,
    /// The value of the annotation `vendortoken.io/adoptable-by`: the name of the VendorToken that may take the Secret
    /// over.
    pub adoptable_by: Option<Box<str>>,
    /// Our own apply entry in `managedFields`.
    pub ours: Option<Box<OurEntry>>,
    /// The facts about the token in it, whoever has written them.
    pub facts: Option<Box<SealedFacts>>,
}

impl SecretRecord {
    /// The version of the Secret, as `uid/resourceVersion`.
    pub fn version(&self) -> String {
        format!("{}/{}", self.uid, self.resource_version)
    }
}

/// The controller of a Secret: the owner reference with `controller: true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Controller {
    /// A VendorToken of this name.
    VendorToken { name: Box<str>, uid: Box<str> },
    /// An object of another kind.
    Other { kind: Box<str>, name: Box<str> },
}

/// The values that our apply entry owns, without those that somebody else has written since. They tell drift. Whoever
/// chooses our name for their field manager can write them as well, so they prove nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OurEntry {
    /// The label `vendortoken.io/name`.
    pub name: Option<Box<str>>,
    /// A digest of the paths of all keys, labels and annotations that we own.
    pub owned: u64,
    /// A digest of the keys of `data` that we own.
    pub owned_data: u64,
    /// The annotation `vendortoken.io/content`.
    pub content: Option<Box<str>>,
}

/// A VendorToken that names a Secret as its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimant<'a> {
    pub name: &'a str,
    /// Its `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
}

/// The target that the spec describes.
#[derive(Clone, Copy, Debug)]
pub struct Desired<'a> {
    pub secret_name: &'a str,
    /// The digests of the templates, without the mark that [`content`] puts in front: that of all, a point, and that of
    /// the type and the data alone.
    pub content: &'a str,
    /// A digest of the paths of all keys, labels and annotations that we would own.
    pub owned: u64,
    /// A digest of the keys of `data` that we would own.
    pub owned_data: u64,
    /// True for `deletionPolicy: Delete`: the target has an owner reference, unless it was adopted.
    pub delete_with_owner: bool,
    /// The VendorToken's own UID.
    pub uid: &'a str,
    /// True where the API server forbids to change the owner references: the target counts as desired with those that
    /// stand there.
    pub owners_stay: bool,
    /// The facts on the Secret, where the operator's present key has sealed them for this VendorToken.
    pub sealed: Option<&'a TokenFacts>,
}

/// The value of the annotation `vendortoken.io/content`: a mark (`adopted` or `created`) and the digests of the
/// templates (see [`Desired::content`]). The mark keeps an adopted Secret without an owner reference, also after its consent annotation was taken
/// away.
pub fn content(adopted: bool, digests: &str) -> String {
    let mark = if adopted { "adopted" } else { "created" };
    format!("{mark}.{digests}")
}

/// Compares the value of the annotation `vendortoken.io/content` with the desired digests, and tells whether all
/// templates are the same, and whether those of the data are. Values of earlier versions have one digest, of all.
fn compare_content(found: &str, desired: &str) -> (bool, bool) {
    let mut found = found.split('.').skip(1);
    let mut desired = desired.split('.');
    let all = found.next().is_some_and(|all| Some(all) == desired.next());
    (
        all,
        all || found.next().is_some_and(|data| Some(data) == desired.next()),
    )
}

/// True for a Secret that the VendorToken `me` has adopted, or will adopt with its next write. `sealed` are the facts
/// on it, where they are proven. On a Secret with a controller a mark counts only if it is proven: an adopted Secret
/// gets no owner.
pub fn is_adopted(record: Option<&SecretRecord>, me: &str, sealed: Option<&TokenFacts>) -> bool {
    let Some(record) = record else { return false };
    let without_owner = record.controller.is_none();
    let ours = record
        .ours
        .as_ref()
        .filter(|_| without_owner && incumbent(record) == Some(me));
    let marked = sealed
        .map(|facts| &*facts.content)
        .or_else(|| ours.and_then(|ours| ours.content.as_deref()));
    match marked {
        Some(content) => content.starts_with("adopted."),
        None => without_owner && record.adoptable_by.as_deref() == Some(me),
    }
}

/// The VendorToken that has this Secret: the one that our own label names, or else its controller. They differ where the
/// API server forbids to change owner references. `None` for a Secret that we have not made, or that somebody else
/// controls.
pub fn incumbent(record: &SecretRecord) -> Option<&str> {
    let entry = record.ours.as_ref()?;
    let controller = match &record.controller {
        Some(Controller::VendorToken { name, .. }) => Some(&**name),
        Some(Controller::Other { .. }) => return None,
        None => None,
    };
    entry.name.as_deref().or(controller)
}

/// The VendorToken for which a Secret was kept: the Secret has no owner that deletes it, and there is still a token in
/// it.
fn kept_of(record: &SecretRecord) -> Option<&str> {
    let holds_token = record.ours.as_ref()?.content.is_some();
    incumbent(record).filter(|_| record.controller.is_none() && holds_token)
}

/// True where the owner references of a Secret of ours are those that the spec wants.
pub fn has_desired_owner(record: &SecretRecord, me: &str, desired: &Desired<'_>) -> bool {
    match &record.controller {
        Some(Controller::VendorToken { uid, .. }) => desired.delete_with_owner && **uid == *desired.uid,
        Some(Controller::Other { .. }) => false,
        None => !desired.delete_with_owner || is_adopted(Some(record), me, desired.sealed),
    }
}

/// Takes the Secret that `me` names as its target (`None`: there is none), and gives the right to write it. `stored` are
/// its facts, where they were verified for `me`. `others` are the other VendorTokens of the namespace that name it.
pub fn judge(
    record: Option<&SecretRecord>,
    stored: Option<Stored>,
    me: Claimant<'_>,
    others: &[Claimant<'_>],
    desired: &Desired<'_>,
    now: Timestamp,
) -> Target {
    let secret = desired.secret_name;
    let Some(record) = record else {
        // Nobody has it yet: the older VendorToken wins, then the lesser name.
        let rank = |claimant: &Claimant<'_>| {
            (
                claimant.created.unwrap_or(Timestamp::MAX),
                claimant.name.to_owned(),
            )
        };
        return match others
            .iter()
            .filter(|other| rank(other) < rank(&me))
            .min_by_key(|other| rank(other))
        {
            Some(winner) => conflict(secret, winner.name),
            None => Target::Free,
        };
    };
    if let Some(Controller::Other { kind, name }) = &record.controller {
        return not_owned(format!(
            "Secret '{secret}' is controlled by {kind} '{name}' and stays untouched: choose another `spec.target.name`"
        ));
    }
    // A backup that is restored may be without `managedFields`: the seal proves whose it is all the same.
    let sealed_for_me = desired.sealed.filter(|_| record.ours.is_none()).map(|_| me.name);
    match incumbent(record).or(sealed_for_me) {
        Some(name) if name == me.name => return ours(record, stored, me.name, desired, now),
        Some(name) if others.iter().any(|other| other.name == name) => return conflict(secret, name),
        _ => {}
    }
    if record.adoptable_by.as_deref() == Some(me.name) {
        return Target::Free;
    }
    match (incumbent(record), kept_of(record)) {
        // Its owner is gone, and garbage collection would take the Secret too.
        (Some(_), None) => Target::Free,
        // Consent and `Retain` are for the VendorToken that they were given to.
        (_, Some(former)) => not_owned(format!(
            "Secret '{secret}' was adopted by or kept for VendorToken '{former}', so it stays untouched: choose another \
             `spec.target.name`, delete the Secret, or let its owner annotate it with 'vendortoken.io/adoptable-by: {}'",
            me.name
        )),
        (None, None) => not_owned(format!(
            "Secret '{secret}' exists and was not made by this VendorToken, so it stays untouched: choose another \
             `spec.target.name`, delete the Secret, or let its owner annotate it with 'vendortoken.io/adoptable-by: {}'",
            me.name
        )),
    }
}

fn not_owned(message: String) -> Target {
    Target::Blocked(Problem::new(Reason::TargetNotOwned, message))
}

fn conflict(secret: &str, winner: &str) -> Target {
    Target::Blocked(Problem::new(
        Reason::TargetConflict,
        format!(
            "Secret '{secret}' is the target of VendorToken '{winner}': give one of the two another `spec.target.name`"
        ),
    ))
}

fn ours(
    record: &SecretRecord,
    stored: Option<Stored>,
    me: &str,
    desired: &Desired<'_>,
    now: Timestamp,
) -> Target {
    let stored = stored.filter(|stored| is_credible(stored, now));
    let Some(entry) = &record.ours else {
        return Target::Ours {
            // The read of the target shows if the token is still there.
            stored: stored.map(|stored| Stored {
                is_in_place: true,
                is_readable: true,
                ..stored
            }),
            as_desired: false,
        };
    };
    let owner_as_desired = desired.owners_stay || has_desired_owner(record, me, desired);
    let (content_as_desired, data_as_desired) = entry
        .content
        .as_deref()
        .map_or((false, false), |found| compare_content(found, desired.content));
    let is_in_place = data_as_desired && entry.owned_data == desired.owned_data;
    let stored = stored.map(|stored| Stored {
        is_in_place,
        is_readable: is_in_place,
        ..stored
    });
    Target::Ours {
        as_desired: stored.is_some()
            && owner_as_desired
            && content_as_desired
            && entry.owned == desired.owned,
        stored,
    }
}

/// True when a vendor can have given these times. Others would keep an old token for ever, or make refreshes loop.
pub fn is_credible(stored: &Stored, now: Timestamp) -> bool {
    let latest_expiry = stored
        .issued
        .checked_add(SignedDuration::from_hours(24 * 400))
        .unwrap_or(Timestamp::MAX);
    schedule::is_credible_issue(stored.issued, now)
        && stored.issued < stored.expires
        && stored.expires <= latest_expiry
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::inputs::Inputs;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn stored(issued: i64, expires: i64) -> Stored {
        Stored {
            issued: Timestamp::from_second(now().as_second() + issued).unwrap(),
            expires: Timestamp::from_second(now().as_second() + expires).unwrap(),
            inputs: Inputs {
                key_id: "0".repeat(8),
                parameters: "0".repeat(32),
                sources: "0".repeat(8),
                fingerprint: "0".repeat(32),
                jitter: 0,
            },
            credentials_version: None,
            refresh_handled: None,
            is_in_place: true,
            is_readable: true,
        }
    }

    fn entry() -> Option<Box<OurEntry>> {
        Some(Box::new(OurEntry {
            name: Some("sca".into()),
            owned: 7,
            owned_data: 3,
            content: Some("created.c1".into()),
        }))
    }

    fn named(name: &str) -> Option<Box<OurEntry>> {
        entry().map(|entry| {
            Box::new(OurEntry {
                name: Some(name.into()),
                ..*entry
            })
        })
    }

    fn adopted(name: &str) -> Option<Box<OurEntry>> {
        named(name).map(|entry| {
            Box::new(OurEntry {
                content: Some(content(true, "c1").into()),
                ..*entry
            })
        })
    }

    fn emptied(name: &str) -> Option<Box<OurEntry>> {
        Some(Box::new(OurEntry {
            name: Some(name.into()),
            ..OurEntry::default()
        }))
    }

    fn owned_by(name: &str, uid: &str) -> Option<Controller> {
        Some(Controller::VendorToken {
            name: name.into(),
            uid: uid.into(),
        })
    }

    fn record() -> SecretRecord {
        SecretRecord {
            uid: "u".into(),
            resource_version: "1".into(),
            controller: owned_by("sca", "uid-1"),
            adoptable_by: None,
            ours: entry(),
            facts: None,
        }
    }

    fn verdict(record: Option<&SecretRecord>, others: &[Claimant<'_>]) -> Target {
        judge(record, Some(stored(-10, 3590)), me(), others, &desired(), now())
    }

    fn desired() -> Desired<'static> {
        Desired {
            secret_name: "sca-token",
            content: "c1",
            owned: 7,
            owned_data: 3,
            delete_with_owner: true,
            uid: "uid-1",
            owners_stay: false,
            sealed: None,
        }
    }

    fn me() -> Claimant<'static> {
        Claimant {
            name: "sca",
            created: Some(now()),
        }
    }

    fn judged(record: &SecretRecord) -> &'static str {
        judged_with(record, Some(stored(-10, 3590)))
    }

    fn judged_with(record: &SecretRecord, stored: Option<Stored>) -> &'static str {
        match judge(Some(record), stored, me(), &[], &desired(), now()) {
            Target::Free => "free",
            Target::Blocked(problem) => problem.reason.as_str(),
            Target::Ours {
                as_desired: true,
                stored: Some(_),
            } => "ours, as desired",
            Target::Ours { stored: Some(_), .. } => "ours, to be repaired",
            Target::Ours { stored: None, .. } => "ours, without a token",
        }
    }

    #[rstest]
    #[case::ours_and_intact(record(), "ours, as desired")]
    #[case::ours_after_a_restore_under_another_uid(
        SecretRecord { controller: owned_by("sca", "uid-0"), ..record() }, "ours, to be repaired"
    )]
    #[case::kept_without_an_owner(SecretRecord { controller: None, ..record() }, "ours, to be repaired")]
    #[case::somebody_elses_and_plain(
        SecretRecord { controller: None, ours: None, ..record() }, "TargetNotOwned"
    )]
    #[case::controlled_by_another_kind(
        SecretRecord { controller: Some(Controller::Other { kind: "ExternalSecret".into(), name: "x".into() }), ..record() },
        "TargetNotOwned"
    )]
    #[case::an_owner_reference_without_our_apply_entry(SecretRecord { ours: None, ..record() }, "TargetNotOwned")]
    #[case::adoptable_by_us(
        SecretRecord { controller: None, ours: None, adoptable_by: Some("sca".into()), ..record() }, "free"
    )]
    #[case::adoptable_by_another(
        SecretRecord { controller: None, ours: None, adoptable_by: Some("other".into()), ..record() }, "TargetNotOwned"
    )]
    #[case::consent_does_not_beat_a_controller(
        SecretRecord {
            controller: Some(Controller::Other { kind: "ExternalSecret".into(), name: "x".into() }),
            ours: None,
            adoptable_by: Some("sca".into()),
            ..record()
        },
        "TargetNotOwned"
    )]
    #[case::its_owner_is_gone(SecretRecord { controller: owned_by("gone", "uid-9"), ours: named("gone"), ..record() }, "free")]
    #[case::kept_of_another(SecretRecord { controller: None, ours: named("gone"), ..record() }, "TargetNotOwned")]
    #[case::adopted_by_another(
        SecretRecord { controller: None, ours: adopted("gone"), adoptable_by: Some("gone".into()), ..record() },
        "TargetNotOwned"
    )]
    #[case::kept_of_another_with_consent_for_us(
        SecretRecord { controller: None, ours: named("gone"), adoptable_by: Some("sca".into()), ..record() }, "free"
    )]
    #[case::emptied_by_another(SecretRecord { controller: None, ours: emptied("gone"), ..record() }, "free")]
    #[case::restored_without_managed_fields(
        SecretRecord { controller: owned_by("sca", "uid-0"), ours: None, ..record() }, "TargetNotOwned"
    )]
    #[case::restored_without_managed_fields_with_consent(
        SecretRecord { controller: owned_by("sca", "uid-0"), ours: None, adoptable_by: Some("sca".into()), ..record() },
        "free"
    )]
    #[case::taken_over_where_owners_stay(
        SecretRecord { controller: owned_by("gone", "uid-9"), ..record() }, "ours, to be repaired"
    )]
    fn each_secret_has_its_verdict(#[case] record: SecretRecord, #[case] expected: &str) {
        assert_eq!(judged(&record), expected);
    }

    #[rstest]
    #[case::issued_in_the_future(3600, 7200)]
    #[case::expires_in_more_than_400_days(0, 401 * 86_400)]
    #[case::expires_before_it_was_issued(0, -1)]
    fn a_token_with_incredible_times_does_not_count(#[case] issued: i64, #[case] expires: i64) {
        assert_eq!(
            judged_with(&record(), Some(stored(issued, expires))),
            "ours, without a token"
        );
    }

    #[test]
    fn an_apply_entry_alone_proves_no_token() {
        assert_eq!(judged_with(&record(), None), "ours, without a token");
    }

    #[rstest]
    #[case::as_desired("created.c1.d1", "c1.d1", true)]
    #[case::of_an_earlier_version("created.c1", "c1.d1", true)]
    #[case::labels_edited("created.c2.d1", "c1.d1", true)]
    #[case::data_edited("created.c2.d2", "c1.d1", false)]
    #[case::edited_since_an_earlier_version("created.c2", "c1.d1", false)]
    #[case::garbage("created", "c1.d1", false)]
    #[case::a_spec_that_cannot_be_used("created.c1.d1", "", false)]
    fn a_token_is_in_place_where_the_templates_of_the_data_are_the_same(
        #[case] found: &str,
        #[case] wanted: &str,
        #[case] expected: bool,
    ) {
        let found = SecretRecord {
            ours: entry().map(|entry| {
                Box::new(OurEntry {
                    content: Some(found.into()),
                    ..*entry
                })
            }),
            ..record()
        };
        let desired = Desired {
            content: wanted,
            ..desired()
        };
        let judged = judge(Some(&found), Some(stored(-10, 3590)), me(), &[], &desired, now());
        let Target::Ours {
            stored: Some(stored), ..
        } = judged
        else {
            panic!("{judged:?}");
        };
        assert_eq!((stored.is_in_place, stored.is_readable), (expected, expected));
    }

    #[test]
    fn a_token_is_not_in_place_where_others_have_taken_a_key_of_the_data() {
        let found = SecretRecord {
            ours: entry().map(|entry| {
                Box::new(OurEntry {
                    owned_data: 4,
                    ..*entry
                })
            }),
            ..record()
        };
        let judged = judge(
            Some(&found),
            Some(stored(-10, 3590)),
            me(),
            &[],
            &desired(),
            now(),
        );
        assert!(
            matches!(&judged, Target::Ours { stored: Some(stored), .. } if !stored.is_in_place),
            "{judged:?}"
        );
    }

    #[test]
    fn a_lost_key_or_an_edited_template_is_repaired() {
        for change in [
            |entry: &mut OurEntry| entry.owned = 8,
            |entry: &mut OurEntry| entry.content = Some("created.c2".into()),
        ] {
            let mut entry = entry();
            change(entry.as_mut().unwrap());
            assert_eq!(
                judged(&SecretRecord {
                    ours: entry,
                    ..record()
                }),
                "ours, to be repaired"
            );
        }
    }

    #[test]
    fn the_incumbent_keeps_a_contested_target() {
        let older = Claimant {
            name: "other",
            created: Some(Timestamp::MIN),
        };
        let mine = verdict(Some(&record()), &[older]);
        assert!(matches!(mine, Target::Ours { .. }), "{mine:?}");

        let theirs = SecretRecord {
            controller: owned_by("other", "uid-2"),
            ours: named("other"),
            ..record()
        };
        let blocked = verdict(Some(&theirs), &[older]);
        assert!(
            matches!(&blocked, Target::Blocked(problem) if problem.reason == Reason::TargetConflict),
            "{blocked:?}"
        );
    }

    #[test]
    fn a_target_whose_incumbent_is_gone_can_be_taken_over() {
        let theirs = SecretRecord {
            controller: owned_by("other", "uid-2"),
            ours: named("other"),
            ..record()
        };
        assert_eq!(verdict(Some(&theirs), &[]), Target::Free);
    }

    #[test]
    fn without_a_secret_the_older_then_the_lesser_name_wins() {
        let younger = Claimant {
            name: "aaa",
            created: Some(Timestamp::MAX),
        };
        assert_eq!(verdict(None, &[younger]), Target::Free);
        let same_age = Claimant {
            name: "aaa",
            created: me().created,
        };
        assert!(matches!(verdict(None, &[same_age]), Target::Blocked(_)));
    }

    #[test]
    fn an_adopted_secret_stays_adopted_after_its_consent_was_taken_away() {
        let mut entry = entry();
        entry.as_mut().unwrap().content = Some(content(true, "c1").into());
        let adopted = SecretRecord {
            controller: None,
            ours: entry,
            ..record()
        };
        assert!(is_adopted(Some(&adopted), "sca", None));
        assert!(!is_adopted(Some(&adopted), "other", None));
        assert_eq!(judged(&adopted), "ours, as desired");
        let kept = SecretRecord {
            controller: None,
            ..record()
        };
        assert!(!is_adopted(Some(&kept), "sca", None));
        assert!(!is_adopted(None, "sca", None));
        let with_forged_mark = SecretRecord {
            controller: owned_by("sca", "uid-1"),
            ..adopted
        };
        assert!(!is_adopted(Some(&with_forged_mark), "sca", None));
        // With consent of its own, another VendorToken adopts what was kept.
        let consented = SecretRecord {
            adoptable_by: Some("other".into()),
            ..kept
        };
        assert!(is_adopted(Some(&consented), "other", None));
        assert!(!is_adopted(Some(&consented), "sca", None));
    }

    #[test]
    fn a_target_without_managed_fields_is_ours_by_its_seal() {
        let facts = |adopted| TokenFacts {
            issued: now(),
            expires: now(),
            inputs: stored(0, 1).inputs,
            content: content(adopted, "c1").into(),
            credentials_version: None,
            refresh_handled: None,
        };
        for (controller, adopted) in [(owned_by("sca", "uid-0"), false), (None, false), (None, true)] {
            let restored = SecretRecord {
                controller,
                ours: None,
                ..record()
            };
            let facts = facts(adopted);
            let desired = Desired {
                sealed: Some(&facts),
                ..desired()
            };
            let judged = judge(
                Some(&restored),
                Some(stored(-10, 3590)),
                me(),
                &[],
                &desired,
                now(),
            );
            assert!(
                matches!(&judged, Target::Ours { stored: Some(stored), as_desired: false } if stored.is_readable),
                "{judged:?}"
            );
            // The mark of an adoption is kept too.
            assert_eq!(is_adopted(Some(&restored), "sca", Some(&facts)), adopted);
        }
        // Somebody else's controller is not ours by any seal.
        let facts = facts(false);
        let desired = Desired {
            sealed: Some(&facts),
            ..desired()
        };
        let controlled = SecretRecord {
            controller: Some(Controller::Other {
                kind: "ExternalSecret".into(),
                name: "x".into(),
            }),
            ours: None,
            ..record()
        };
        let judged = judge(Some(&controlled), None, me(), &[], &desired, now());
        assert!(matches!(judged, Target::Blocked(_)), "{judged:?}");
    }

    #[test]
    fn owners_that_may_not_be_changed_count_as_desired() {
        for controller in [owned_by("sca", "uid-0"), owned_by("gone", "uid-9"), None] {
            let record = SecretRecord {
                controller,
                ..record()
            };
            let forbidden = Desired {
                owners_stay: true,
                ..desired()
            };
            for (desired, expected) in [(desired(), false), (forbidden, true)] {
                let judged = judge(Some(&record), Some(stored(-10, 3590)), me(), &[], &desired, now());
                assert!(
                    matches!(judged, Target::Ours { as_desired, .. } if as_desired == expected),
                    "{record:?} {judged:?}"
                );
            }
        }
    }
}
