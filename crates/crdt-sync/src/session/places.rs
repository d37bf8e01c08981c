//! Where sessions stood in a vector when they were looked up last.

use crdt_core::SessionId;

const SLOTS_BITS: u32 = 7;

/// A guess for each session where it stands in a sorted vector; those that share a slot overwrite each other's. Wrong
/// guesses cost a search, which is what there was without them.
#[derive(Debug)]
pub(super) struct Places([u32; 1 << SLOTS_BITS]);

impl Default for Places {
    fn default() -> Self {
        Self([0; 1 << SLOTS_BITS])
    }
}

impl Places {
    /// A session's slot.
    pub(super) const fn of(&mut self, sid: SessionId) -> &mut u32 {
        // The high bits of a product depend on all bits of the number.
        let mixed = sid.get().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &mut self.0[(mixed >> (u64::BITS - SLOTS_BITS)) as usize]
    }
}
