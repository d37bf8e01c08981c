//! What a replica has seen.

use std::{borrow::Borrow, cmp::Ordering, collections::BTreeMap};

use serde::{Deserialize, Serialize, Serializer};

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
///
/// The entries are kept in one sorted row: to look one up touches few lines of memory, copies and comparisons go through
/// it in order, and a new writer costs a move of those behind it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(from = "BTreeMap<W, u64>", bound(deserialize = "W: Ord + Deserialize<'de>"))]
pub struct StateVector<W: Ord = SessionId>(Vec<(W, u64)>);

impl<W: Ord> StateVector<W> {
    /// A vector that has seen nothing.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Where a writer stands, or would stand.
    #[inline]
    fn place<Q: Ord + ?Sized>(&self, writer: &Q) -> Result<usize, usize>
    where
        W: Borrow<Q>,
    {
        self.0.binary_search_by(|(at, _)| at.borrow().cmp(writer))
    }

    /// The highest count seen of a writer; 0 for none.
    #[inline]
    pub fn get<Q: Ord + ?Sized>(&self, writer: &Q) -> u64
    where
        W: Borrow<Q>,
    {
        self.place(writer).map_or(0, |place| self.0[place].1)
    }

    /// Notes that everything of `writer` up to `count` has been seen. Returns whether that was news.
    #[inline]
    pub fn advance(&mut self, writer: W, count: u64) -> bool {
        count > self.raise(writer, count)
    }

    /// [`advance`](Self::advance) that returns what had been seen before; 0 for nothing.
    #[inline]
    pub fn raise(&mut self, writer: W, count: u64) -> u64 {
        match self.place(&writer) {
            Ok(place) => {
                let seen = &mut self.0[place].1;
                let before = *seen;
                *seen = count.max(before);
                before
            }
            Err(place) => {
                if count > 0 {
                    self.0.insert(place, (writer, count));
                }
                0
            }
        }
    }

    /// [`get`](Self::get) for who asks for the same writers again and again: `near` is where the writer stood when it was asked
    /// for last, and is told where it stands now. Any number will do; a right one saves the search.
    #[inline]
    pub fn get_near<Q: Ord + ?Sized>(&self, writer: &Q, near: &mut u32) -> u64
    where
        W: Borrow<Q>,
    {
        self.place_near(writer, near).map_or(0, |place| self.0[place].1)
    }

    /// [`raise`](Self::raise) in the same way.
    #[inline]
    pub fn raise_near(&mut self, writer: W, count: u64, near: &mut u32) -> u64 {
        match self.place_near(&writer, near) {
            Ok(place) => {
                let seen = &mut self.0[place].1;
                let before = *seen;
                *seen = count.max(before);
                before
            }
            Err(_) => self.raise(writer, count),
        }
    }

    #[inline]
    fn place_near<Q: Ord + ?Sized>(&self, writer: &Q, near: &mut u32) -> Result<usize, usize>
    where
        W: Borrow<Q>,
    {
        if self.0.get(*near as usize).is_some_and(|(at, _)| at.borrow() == writer) {
            return Ok(*near as usize);
        }
        let place = self.place(writer);
        let (Ok(found) | Err(found)) = place;
        *near = found as u32;
        place
    }

    /// Takes over everything that `other` has seen (the join of the two).
    pub fn merge(&mut self, other: &Self)
    where
        W: Clone,
    {
        if other.len() <= Self::FEW {
            for (writer, count) in &other.0 {
                self.advance(writer.clone(), *count);
            }
            return;
        }
        // Side by side: one by one, each new writer would move those behind it.
        let own = std::mem::take(&mut self.0);
        self.0.reserve(own.len().max(other.len()));
        let (mut own, mut theirs) = (own.into_iter().peekable(), other.0.iter().peekable());
        while let (Some((mine, _)), Some((their, _))) = (own.peek(), theirs.peek()) {
            match mine.cmp(their) {
                Ordering::Less => self.0.extend(own.next()),
                Ordering::Greater => self.0.extend(theirs.next().cloned()),
                Ordering::Equal => {
                    let count = theirs.next().map_or(0, |(_, count)| *count);
                    self.0.extend(own.next().map(|(writer, own)| (writer, own.max(count))));
                }
            }
        }
        self.0.extend(own);
        self.0.extend(theirs.cloned());
    }

    /// So few entries are merged one by one.
    const FEW: usize = 4;

    /// Whether everything that `other` has seen has been seen here.
    pub fn contains(&self, other: &Self) -> bool {
        self.missing_from(other).next().is_none()
    }

    /// What `other` has seen and this one has not: `(writer, seen here, seen there)`.
    pub fn missing_from<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a W, u64, u64)> {
        // Both are sorted: what lies before an entry of the one can't be met by a later entry of the other. Few entries
        // are looked up in many instead.
        let mut from = if other.len() * 8 < self.len() { None } else { Some(0) };
        other.0.iter().filter_map(move |(writer, there)| {
            let here = match &mut from {
                None => self.get(writer),
                Some(from) => {
                    while self.0.get(*from).is_some_and(|(at, _)| at < writer) {
                        *from += 1;
                    }
                    self.0.get(*from).filter(|(at, _)| at == writer).map_or(0, |(_, count)| *count)
                }
            };
            (here < *there).then_some((writer, here, *there))
        })
    }

    /// The entries in the order of the writers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&W, u64)> {
        self.0.iter().map(|(writer, count)| (writer, *count))
    }

    /// How many writers have been seen.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing has been seen.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<W: Ord> Default for StateVector<W> {
    fn default() -> Self {
        Self::new()
    }
}

/// A map from writers to counts.
impl<W: Ord + Serialize> Serialize for StateVector<W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<W: Ord> From<BTreeMap<W, u64>> for StateVector<W> {
    fn from(entries: BTreeMap<W, u64>) -> Self {
        Self(entries.into_iter().filter(|(_, count)| *count > 0).collect())
    }
}

impl<W: Ord> FromIterator<(W, u64)> for StateVector<W> {
    fn from_iter<I: IntoIterator<Item = (W, u64)>>(entries: I) -> Self {
        let mut entries: Vec<(W, u64)> = entries.into_iter().filter(|(_, count)| *count > 0).collect();
        // The highest count of a writer comes first, and stays.
        entries.sort_by(|(a, m), (b, n)| a.cmp(b).then_with(|| n.cmp(m)));
        entries.dedup_by(|(later, _), (first, _)| later == first);
        Self(entries)
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
        fn it_is_a_map_of_highest_counts(entries in prop::collection::vec((0u8..20, 0u64..6), 0..40), more in prop::collection::vec((0u8..20, 0u64..6), 0..40)) {
            let mut oracle: BTreeMap<u8, u64> = BTreeMap::new();
            let mut one_by_one = StateVector::new();
            for (writer, count) in entries.iter().chain(&more).copied().filter(|(_, count)| *count > 0) {
                let seen = oracle.entry(writer).or_default();
                prop_assert_eq!(one_by_one.raise(writer, count), *seen);
                *seen = count.max(*seen);
                prop_assert_eq!(one_by_one.get(&writer), *seen);
            }
            prop_assert!(one_by_one.iter().eq(oracle.iter().map(|(writer, count)| (writer, *count))));
            let (first, second): (StateVector<u8>, _) =
                (entries.into_iter().collect(), more.into_iter().collect());
            prop_assert_eq!(joined(&first, &second), one_by_one);
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
