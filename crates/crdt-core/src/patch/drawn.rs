//! What the tests of the ways that read a patch at once draw: ids of any length, and bytes that are not quite a patch.

use proptest::prelude::*;

use crate::{Patch, SessionId, Timestamp, id::MAX_ID};

/// A number of any length in bits.
pub(super) fn number() -> impl Strategy<Value = u64> {
    (1..=MAX_ID, 0..53u32).prop_map(|(number, shift)| (number >> shift).max(1))
}

/// An id, as often as not of the patch's own session.
pub(super) fn id(own: u64) -> impl Strategy<Value = Timestamp> {
    let sid = prop_oneof![Just(own), number()];
    (sid, number()).prop_map(|(sid, time)| Timestamp::new(SessionId::new(sid).unwrap(), time))
}

/// A patch's bytes with some of them changed, and perhaps cut off.
pub(super) fn nearly(patch: impl Strategy<Value = Patch>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (patch, changes, prop::option::of(any::<prop::sample::Index>())).prop_map(|(patch, changes, cut)| {
        let mut bytes = patch.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    })
}
