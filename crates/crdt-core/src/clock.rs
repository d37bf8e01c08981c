//! What a replica has seen.

use std::{borrow::Borrow, cmp::Ordering, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use crate::SessionId;

/// A state vector (also: vector clock): for each writer, the highest count seen, **all lower ones included**.
///
/// One type for both uses. Keyed by [`SessionId`] it holds Lamport times of a CRDT document's sessions; keyed by
/// [`ClientId`](crate::ClientId) it holds each client's last sequence number of an event document. A document's own
/// sequence number is another number and never an entry here. A writer that is absent counts as 0, and no entry is 0,
/// so vectors that mean the same are equal.
///
/// State vectors form a join-semilattice under [`merge`](Self::merge): it is commutative, associative and idempotent.
/// See Fidge (1988) and Mattern (1989).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "BTreeMap<W, u64>", bound(deserialize = "W: Ord + Deserialize<'de>"))]
pub struct StateVector<W: Ord = SessionId>(BTreeMap<W, u64>);

impl<W: Ord> StateVector<W> {
    /// A vector that has seen nothing.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The highest count seen of a writer; 0 for none.
    pub fn get<Q: Ord + ?Sized>(&self, writer: &Q) -> u64
    where
        W: Borrow<Q>,
    {
        self.0.get(writer).copied().unwrap_or(0)
    }

    /// Notes that everything of `writer` up to `count` has been seen. Returns whether that was news.
    pub fn advance(&mut self, writer: W, count: u64) -> bool {
        count > self.raise(writer, count)
    }

    /// [`advance`](Self::advance) that returns what had been seen before; 0 for nothing.
    pub fn raise(&mut self, writer: W, count: u64) -> u64 {
        if count == 0 {
            return self.get(&writer);
        }
        let seen = self.0.entry(writer).or_insert(0);
        let before = *seen;
        *seen = count.max(before);
        before
    }

    /// Takes over everything that `other` has seen (the join of the two).
    pub fn merge(&mut self, other: &Self)
    where
        W: Clone,
    {
        for (writer, &count) in &other.0 {
            self.advance(writer.clone(), count);
        }
    }

    /// Whether everything that `other` has seen has been seen here.
    pub fn contains(&self, other: &Self) -> bool {
        other.0.iter().all(|(writer, &count)| self.get(writer) >= count)
    }

    /// What `other` has seen and this one has not: `(writer, seen here, seen there)`.
    pub fn missing_from<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a W, u64, u64)> {
        other.0.iter().filter_map(|(writer, &there)| {
            let here = self.get(writer);
            (here < there).then_some((writer, here, there))
        })
    }

    /// The entries in the order of the writers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&W, u64)> {
        self.0.iter().map(|(writer, &count)| (writer, count))
    }

    /// How many writers have been seen.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing has been seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<W: Ord> Default for StateVector<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W: Ord> From<BTreeMap<W, u64>> for StateVector<W> {
    fn from(mut entries: BTreeMap<W, u64>) -> Self {
        entries.retain(|_, count| *count > 0);
        Self(entries)
    }
}

impl<W: Ord> FromIterator<(W, u64)> for StateVector<W> {
    fn from_iter<I: IntoIterator<Item = (W, u64)>>(entries: I) -> Self {
        let mut vector = Self::new();
        for (writer, count) in entries {
            vector.advance(writer, count);
        }
        vector
    }
}

/// Causal order: less is "before", greater is "after", `None` is "concurrent".
impl<W: Ord> PartialOrd for StateVector<W> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self.contains(other), other.contains(self)) {
            (true, true) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Greater),
            (false, true) => Some(Ordering::Less),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vectors() -> impl Strategy<Value = StateVector<u8>> {
        prop::collection::btree_map(0u8..5, 0u64..6, 0..5).prop_map(StateVector::from)
    }

    fn joined(a: &StateVector<u8>, b: &StateVector<u8>) -> StateVector<u8> {
        let mut join = a.clone();
        join.merge(b);
        join
    }

    proptest! {
        #[test]
        fn merge_is_a_join(a in vectors(), b in vectors(), c in vectors()) {
            prop_assert_eq!(joined(&a, &b), joined(&b, &a));
            prop_assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
            prop_assert_eq!(&joined(&a, &a), &a);
            prop_assert!(joined(&a, &b) >= a);
            // The least upper bound: whatever contains both contains their join.
            if c.contains(&a) && c.contains(&b) {
                prop_assert!(c.contains(&joined(&a, &b)));
            }
        }

        #[test]
        fn nothing_is_missing_exactly_when_contained(a in vectors(), b in vectors()) {
            prop_assert_eq!(a.missing_from(&b).next().is_none(), a.contains(&b));
            let mut caught_up = a.clone();
            for (writer, from, to) in a.missing_from(&b) {
                prop_assert!(from < to);
                caught_up.advance(*writer, to);
            }
            prop_assert_eq!(caught_up, joined(&a, &b));
        }

        #[test]
        fn equal_meaning_is_equal_bytes(a in vectors()) {
            let mut zeroed: BTreeMap<u8, u64> = a.iter().map(|(w, c)| (*w, c)).collect();
            zeroed.entry(9).or_insert(0);
            let json = serde_json::to_string(&zeroed).unwrap();
            prop_assert_eq!(serde_json::from_str::<StateVector<u8>>(&json).unwrap(), a);
        }
    }

    #[test]
    fn concurrent_vectors_are_not_ordered() {
        let a = StateVector::from_iter([("a", 1)]);
        let b = StateVector::from_iter([("b", 1)]);
        assert_eq!(a.partial_cmp(&b), None);
    }
}
