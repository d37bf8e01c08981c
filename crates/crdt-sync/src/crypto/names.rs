//! Which key speaks for which replica.

use std::collections::{BTreeMap, VecDeque};

use super::access::KeyId;
use crate::PeerId;

/// How many names a key may claim that are bound to none. One more takes the place of its oldest, so that a key can't use up
/// what there is for others, and a program that takes a new name at each start goes on.
const CLAIMS_MAX: usize = 64;

/// The names of replicas and their keys: those that are bound, and those that were free and are claimed.
#[derive(Default)]
pub(super) struct Names {
    bound: BTreeMap<PeerId, KeyId>,
    claimed: BTreeMap<PeerId, KeyId>,
    keys: BTreeMap<KeyId, Key>,
}

#[derive(Default)]
struct Key {
    /// How many names are bound to it. If there are some it speaks for these alone.
    bound: usize,
    /// What it has claimed, the oldest first.
    claims: VecDeque<PeerId>,
}

impl Names {
    /// Gives a name to a key, whoever had it.
    pub(super) fn bind(&mut self, peer: PeerId, key: KeyId) {
        if let Some(claimer) = self.claimed.remove(&peer)
            && let Some(claimer) = self.keys.get_mut(&claimer)
        {
            claimer.claims.retain(|claimed| *claimed != peer);
        }
        let entry = self.keys.entry(key).or_default();
        entry.bound += 1;
        for claimed in entry.claims.drain(..) {
            self.claimed.remove(&claimed);
        }
        if let Some(before) = self.bound.insert(peer, key)
            && let Some(before) = self.keys.get_mut(&before)
        {
            before.bound -= 1;
        }
    }

    /// The names that are bound, and to which keys.
    pub(super) fn bound(&self) -> impl Iterator<Item = (&PeerId, &KeyId)> {
        self.bound.iter()
    }

    /// Who speaks under a name.
    pub(super) fn owner(&self, peer: &PeerId) -> Option<KeyId> {
        self.bound.get(peer).or_else(|| self.claimed.get(peer)).copied()
    }

    /// Whether a key that has signed something under a name may. A name that nobody has is its own from then on, unless it is
    /// bound to others.
    pub(super) fn speaks(&mut self, peer: &PeerId, key: KeyId) -> bool {
        if let Some(owner) = self.owner(peer) {
            return owner == key;
        }
        let entry = self.keys.entry(key).or_default();
        if entry.bound > 0 {
            return false;
        }
        if entry.claims.len() == CLAIMS_MAX
            && let Some(oldest) = entry.claims.pop_front()
        {
            self.claimed.remove(&oldest);
        }
        entry.claims.push_back(peer.clone());
        self.claimed.insert(peer.clone(), key);
        true
    }

    /// Frees what a key has claimed. A name that is bound to it is nobody else's until it is bound anew.
    pub(super) fn leave(&mut self, key: KeyId) {
        let Some(key) = self.keys.get_mut(&key) else { return };
        for claimed in key.claims.drain(..) {
            self.claimed.remove(&claimed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: KeyId = [1; 8];
    const BOB: KeyId = [2; 8];

    fn name(name: impl AsRef<str>) -> PeerId {
        PeerId::new(name).unwrap()
    }

    #[test]
    fn a_free_name_is_of_the_first_who_speaks_under_it() {
        let mut names = Names::default();
        assert!(names.speaks(&name("a"), ALICE));
        assert!(!names.speaks(&name("a"), BOB));
        assert!(names.speaks(&name("a"), ALICE));
        // Whose key is taken from the list loses what it claimed.
        names.leave(ALICE);
        assert_eq!(names.owner(&name("a")), None);
        assert!(names.speaks(&name("a"), BOB));
    }

    #[test]
    fn a_bound_name_is_of_its_key_and_the_key_of_its_names() {
        let mut names = Names::default();
        assert!(names.speaks(&name("a"), BOB) && names.speaks(&name("b"), BOB));
        names.bind(name("a"), ALICE);
        assert!(names.speaks(&name("a"), ALICE) && !names.speaks(&name("a"), BOB));
        assert!(!names.speaks(&name("c"), ALICE), "it speaks for what it is bound to");
        names.leave(ALICE);
        assert!(!names.speaks(&name("a"), BOB), "it is bound all the same");
        // Another key takes its place; what that had claimed is free.
        names.bind(name("a"), BOB);
        assert!(names.speaks(&name("a"), BOB) && !names.speaks(&name("a"), ALICE));
        assert_eq!(names.owner(&name("b")), None);
        assert!(names.speaks(&name("b"), ALICE), "nothing is bound to her any more");
    }

    #[test]
    fn who_claims_many_names_loses_its_own_oldest() {
        let mut names = Names::default();
        assert!(names.speaks(&name("bob"), BOB));
        for number in 0..=CLAIMS_MAX {
            assert!(names.speaks(&name(format!("ghost-{number}")), ALICE));
        }
        assert_eq!(names.owner(&name("ghost-0")), None);
        assert_eq!(names.claimed.len(), CLAIMS_MAX + 1);
        assert_eq!(names.owner(&name("bob")), Some(BOB));
    }
}
