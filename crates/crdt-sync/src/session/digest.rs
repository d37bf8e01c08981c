//! A number that stands for a state vector.

use crdt_core::{SessionId, StateVector};

use crate::PatchRecord;

/// Hashes a state vector: equal vectors have equal digests, and different ones almost never do.
///
/// It is a sum over the entries, so that it can follow a vector without reading all of it again. It is no protection
/// against forgery, and a collision delays an exchange only until the next change or the next full exchange.
pub fn digest(vector: &StateVector<SessionId>) -> u64 {
    vector.iter().fold(0, |sum: u64, (sid, time)| sum.wrapping_add(entry(*sid, time)))
}

/// What one entry adds to the digest.
pub(super) fn entry(sid: SessionId, time: u64) -> u64 {
    if time == 0 { 0 } else { mix(mix(sid.get()) ^ time) }
}

/// What a patch adds to the number that stands for the patches themselves: with the same ones it is the same, in whatever
/// order they came. A state vector says how far sessions got, and not with what.
pub fn content(record: &PatchRecord) -> u64 {
    let step = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let (words, rest) = record.patch.as_chunks();
    let hash = words.iter().fold(record.prev, |hash, word| step(hash, u64::from_le_bytes(*word)));
    let last = match record.patch.last_chunk() {
        // What is left stands in the high bytes of the last eight.
        Some(last) => u64::from_le_bytes(*last).unbounded_shr(64 - 8 * rest.len() as u32),
        None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    };
    mix(step(hash, last) ^ record.patch.len() as u64)
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): each input bit reaches each output bit.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A stream of pseudo-random numbers from a seed, for jitter: the machine draws no randomness of its own.
#[derive(Debug, Clone)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// A number below `bound`, evenly enough for jitter.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}
