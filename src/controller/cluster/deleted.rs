//! The objects that were deleted lately: the answer to a call may come after the event of a deletion, and must not
//! bring the object back.

use std::collections::{HashSet, VecDeque};

/// No answer is later than it takes to delete so many other objects.
const MOST_REMEMBERED: usize = 4096;

/// The UIDs of deleted objects. No UID is ever used again.
#[derive(Debug, Default)]
pub(crate) struct Deleted {
    all: HashSet<Box<str>>,
    by_time: VecDeque<Box<str>>,
}

impl Deleted {
    /// Notes a deletion. An empty UID, of an object that was never read, is not noted.
    pub(crate) fn note(&mut self, uid: &str) {
        if uid.is_empty() || !self.all.insert(uid.into()) {
            return;
        }
        self.by_time.push_back(uid.into());
        if self.by_time.len() > MOST_REMEMBERED
            && let Some(oldest) = self.by_time.pop_front()
        {
            self.all.remove(&oldest);
        }
    }

    /// True for an object that was deleted lately.
    pub(crate) fn has(&self, uid: &str) -> bool {
        self.all.contains(uid)
    }

    /// Takes a deletion back: the API server lists the object, from a restored backup.
    pub(crate) fn is_back(&mut self, uid: &str) {
        if self.all.remove(uid) {
            self.by_time.retain(|known| **known != *uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_deletions_are_known_and_no_more_are_kept() {
        let mut deleted = Deleted::default();
        for number in 0..=MOST_REMEMBERED {
            deleted.note(&number.to_string());
            deleted.note(&number.to_string());
        }
        assert!(!deleted.has("0") && deleted.has("1") && deleted.has(&MOST_REMEMBERED.to_string()));
        assert_eq!(deleted.by_time.len(), MOST_REMEMBERED);
    }

    #[test]
    fn a_restored_object_is_no_longer_deleted() {
        let mut deleted = Deleted::default();
        deleted.note("u");
        deleted.is_back("u");
        assert!(!deleted.has("u") && deleted.by_time.is_empty());
    }
}
