//! The objects that were deleted lately: an answer to a call of ours may come after the event that tells of the deletion,
//! and must not bring the object back.

use std::collections::{HashSet, VecDeque};

/// Answers are not late for longer than it takes for so many others to be deleted.
const MOST: usize = 4096;

/// UIDs, of which none is ever used again.
#[derive(Debug, Default)]
pub(in crate::controller) struct Deleted {
    all: HashSet<Box<str>>,
    by_time: VecDeque<Box<str>>,
}

impl Deleted {
    /// This object was deleted.
    pub(in crate::controller) fn note(&mut self, uid: &str) {
        if !self.all.insert(uid.into()) {
            return;
        }
        self.by_time.push_back(uid.into());
        if self.by_time.len() > MOST
            && let Some(oldest) = self.by_time.pop_front()
        {
            self.all.remove(&oldest);
        }
    }

    /// Whether this object was deleted lately.
    pub(in crate::controller) fn has(&self, uid: &str) -> bool {
        self.all.contains(uid)
    }

    /// The API server lists it: a backup was restored.
    pub(in crate::controller) fn is_back(&mut self, uid: &str) {
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
        for number in 0..=MOST {
            deleted.note(&number.to_string());
            deleted.note(&number.to_string());
        }
        assert!(!deleted.has("0") && deleted.has("1") && deleted.has(&MOST.to_string()));
        deleted.is_back("1");
        assert!(!deleted.has("1"));
        assert_eq!(deleted.by_time.len(), MOST - 1);
    }
}
