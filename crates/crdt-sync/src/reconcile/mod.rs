//! What two replicas lack of each other, for about as many bytes as that is, however much they have in common.
//!
//! A state vector with a hundred authors takes a kilobyte, and one with fifty thousand most of a megabyte, each time
//! that two replicas compare. Here the entries of both vectors are a set each, and their difference is decoded from
//! coded symbols (Yang, Gilad and Alizadeh, "Practical Rateless Set Reconciliation", SIGCOMM 2024): the asker takes
//! symbols until they suffice, about one and a half for each entry that differs.
//!
//! The answerer keeps nothing: symbols from any index are made from its vector and the asker's salt. A new salt for
//! each exchange keeps an author from choosing session ids that collide.

mod decoder;
mod mapping;

use crdt_core::{SessionId, StateVector};

pub use decoder::{Difference, NotASketch, Progress, Reconciler};
use mapping::Mapping;

/// The sum of some entries of a state vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Symbol {
    /// Their sessions, exclusive-or.
    pub sid: u64,
    /// Their last times, exclusive-or.
    pub last: u64,
    /// Their checks, exclusive-or.
    pub check: u64,
    /// How many.
    pub count: i64,
}

/// An entry of a state vector, as an element of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    sid: u64,
    last: u64,
}

impl Entry {
    /// Tells an entry from a sum of several, and says in which symbols the entry is.
    fn check(self, salt: u64) -> u64 {
        mix(mix(mix(self.sid ^ salt) ^ self.last).wrapping_add(salt))
    }
}

impl Symbol {
    /// Adds an entry, or takes it away again.
    fn add(&mut self, entry: Entry, check: u64, sign: i64) {
        self.sid ^= entry.sid;
        self.last ^= entry.last;
        self.check ^= check;
        // A symbol from outside may hold any count.
        self.count = self.count.wrapping_add(sign);
    }

    /// The one entry that it holds, and of which side, if it holds one.
    fn pure(&self, salt: u64) -> Option<(Entry, i64)> {
        let entry = Entry { sid: self.sid, last: self.last };
        let one = self.count == 1 || self.count == -1;
        (one && entry.check(salt) == self.check).then_some((entry, self.count))
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The symbols of a vector with the indexes from `from` on.
pub fn sketch(vector: &StateVector<SessionId>, salt: u64, from: usize, count: usize) -> Vec<Symbol> {
    let mut symbols = vec![Symbol::default(); count];
    for (sid, last) in vector.iter() {
        let entry = Entry { sid: sid.get(), last };
        let check = entry.check(salt);
        let mut mapping = Mapping::new(check);
        while mapping.index() < from {
            mapping.advance();
        }
        while let Some(symbol) = symbols.get_mut(mapping.index() - from) {
            symbol.add(entry, check, 1);
            mapping.advance();
        }
    }
    symbols
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): each input bit reaches each output bit.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sid(number: u64) -> SessionId {
        SessionId::new(SessionId::USER_MIN.get() + number).unwrap()
    }

    fn vector(entries: impl IntoIterator<Item = (u64, u64)>) -> StateVector<SessionId> {
        entries.into_iter().map(|(session, last)| (sid(session), last)).collect()
    }

    /// Takes symbols by doubling, as the session does. Returns the difference and how many symbols it took.
    fn reconcile(
        own: &StateVector<SessionId>,
        theirs: &StateVector<SessionId>,
        salt: u64,
    ) -> (Difference, usize) {
        let mut reconciler = Reconciler::new(own.clone(), salt);
        loop {
            let (from, count) = (reconciler.taken(), reconciler.taken().max(8));
            match reconciler.take(&sketch(theirs, salt, from, count)).unwrap() {
                Progress::Done(difference) => return (difference, reconciler.taken()),
                Progress::More => assert!(reconciler.taken() < 1 << 20, "never decoded"),
            }
        }
    }

    fn check(own: &StateVector<SessionId>, theirs: &StateVector<SessionId>, salt: u64) {
        let (difference, taken) = reconcile(own, theirs, salt);
        assert_eq!(difference.theirs, *theirs);
        let ahead = theirs.missing_from(own).map(|(sid, _, ours)| (*sid, ours)).collect();
        assert_eq!(difference.ours_ahead, ahead);
        // Each entry that differs is up to two elements, each of which takes 1.35 symbols, more when there are few; the
        // doubling may double it. That is the mean, which `the_price_is_what_it_should_be` holds: among the salts of all
        // runs there are some that take twice as much.
        assert!(taken <= 64 + 16 * difference.len, "{taken} symbols for {} entries", difference.len);
    }

    proptest! {
        #[test]
        fn the_difference_is_found_for_its_own_price(
            common in prop::collection::btree_map(0u64..1 << 40, 1u64..1 << 40, 0..300),
            own in prop::collection::btree_map(0u64..1 << 40, 1u64..1 << 40, 0..40),
            theirs in prop::collection::btree_map(0u64..1 << 40, 1u64..1 << 40, 0..40),
            advanced in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), 1u64..100), 0..20),
            salt: u64,
        ) {
            let entries: Vec<(u64, u64)> = common.iter().map(|(session, last)| (*session, *last)).collect();
            let (mut a, mut b) = (vector(entries.clone()), vector(entries.clone()));
            a.merge(&vector(own));
            b.merge(&vector(theirs));
            for (index, ours, more) in advanced {
                if !entries.is_empty() {
                    let (session, last) = entries[index.index(entries.len())];
                    if ours { &mut a } else { &mut b }.advance(sid(session), last + more);
                }
            }
            check(&a, &b, salt);
            check(&b, &a, salt);
        }

        #[test]
        fn any_symbols_end_in_an_error_or_more(
            own in prop::collection::btree_map(0u64..50, 1u64..50, 0..20),
            symbols in prop::collection::vec((0u64..1 << 60, 0u64..1 << 60, any::<u64>(), -2i64..3), 0..60),
            salt: u64,
        ) {
            let mut reconciler = Reconciler::new(vector(own), salt);
            let symbols: Vec<Symbol> = symbols.into_iter().map(|(sid, last, check, count)| {
                // Most look like an entry that stands alone.
                let check = if check % 4 > 0 { Entry { sid, last }.check(salt) } else { check };
                Symbol { sid, last, check, count }
            }).collect();
            for some in symbols.chunks(7) {
                if reconciler.take(some).is_err() {
                    break;
                }
            }
            // Each symbol gives one entry at the most.
            prop_assert!(reconciler.entries_len() <= 20 + 2 * symbols.len());
        }
    }

    /// The price does not follow what the vectors have in common.
    #[test]
    fn ten_entries_cost_the_same_among_a_hundred_and_among_fifty_thousand() {
        for common in [100, 50_000] {
            let a = vector((0..common).map(|session| (session * 7919, session + 1)));
            for salt in 0..5 {
                let mut b = a.clone();
                b.merge(&vector((0..10).map(|session| (session * 7919, 1_000_000))));
                let (difference, taken) = reconcile(&a, &b, salt);
                assert_eq!((difference.theirs, difference.len), (b, 10));
                assert!(taken <= 64, "{taken} symbols");
            }
        }
    }

    #[test]
    fn the_price_is_what_it_should_be() {
        let a = vector((0..300).map(|session| (session * 7919, session + 1)));
        for differing in [1, 5, 25, 100] {
            let mut b = a.clone();
            b.merge(&vector((0..differing).map(|session| (session * 7919, 1_000_000))));
            let taken: usize = (0..200).map(|salt| reconcile(&a, &b, salt).1).sum();
            let mean = taken / 200;
            assert!(mean <= 16 + 5 * differing as usize, "{mean} symbols for {differing} entries");
        }
    }

    #[test]
    fn symbols_that_name_an_entry_twice_are_refused() {
        let entry = Entry { sid: 70_000, last: 5 };
        let mut symbol = Symbol::default();
        symbol.add(entry, entry.check(1), 1);
        let mut reconciler = Reconciler::new(StateVector::new(), 1);
        // Taken out of symbol 0, it is still in a symbol that it should not be in.
        let stranger = (0..).map(|from| sketch(&vector([]), 1, from, 1)).take(1).flatten();
        let symbols: Vec<Symbol> = std::iter::once(symbol).chain(stranger).chain([symbol; 40]).collect();
        assert_eq!(reconciler.take(&symbols), Err(NotASketch));
    }
}
