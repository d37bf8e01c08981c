//! The structural binary form: the tree from the root, ids as distances from a clock table. The form for snapshots.
//!
//! Written and read without recursion: nodes may be nested as deep as the bytes go.

mod read;
mod write;

#[cfg(test)]
pub(super) use read::decode_seeking;
pub(super) use read::{decode, root_and_table};
pub(super) use write::{IdWriter, encode};

/// Type codes, in the upper three bits of a node's header.
pub(super) mod kind {
    pub(in super::super) const CON: u8 = 0;
    pub(in super::super) const VAL: u8 = 1;
    pub(in super::super) const OBJ: u8 = 2;
    pub(in super::super) const VEC: u8 = 3;
    pub(in super::super) const STR: u8 = 4;
    pub(in super::super) const BIN: u8 = 5;
    pub(in super::super) const ARR: u8 = 6;
}
