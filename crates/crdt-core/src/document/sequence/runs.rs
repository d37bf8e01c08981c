//! What the rules of a sequence ask of its storage.

use super::{
    Sids,
    chunk::{Chunk, Id},
};

/// Where a chunk stands. In a list `slot` is its number, in a tree its place in the leaf. Good until chunks are inserted or
/// removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::document) struct At {
    pub(in crate::document) leaf: u32,
    pub(in crate::document) slot: u32,
}

/// An ordered list of chunks that finds them by id and by visible position, and keeps the count of what can be seen.
pub(super) trait Runs {
    fn first(&self) -> Option<At>;
    fn next(&self, at: At) -> Option<At>;
    fn prev(&self, at: At) -> Option<At>;
    fn get(&self, at: At) -> Chunk;

    /// The chunk that holds an id; may remember where it was.
    fn find(&mut self, id: Id) -> Option<At>;
    /// [`find`](Self::find) without remembering.
    fn peek(&self, id: Id) -> Option<At>;

    /// The time of the first chunk of the same session that starts after an id.
    fn ceiling(&self, id: Id) -> Option<u64>;

    /// Whether all ids of the session are below this one.
    fn is_fresh(&self, id: Id) -> bool;

    /// The chunk that holds the visible element at a position, and the element's place in it; may remember.
    fn seek(&mut self, position: u32) -> Option<(At, u32)>;
    /// [`seek`](Self::seek) without remembering.
    fn peek_position(&self, position: u32) -> Option<(At, u32)>;
    /// How many visible elements stand before a chunk.
    fn position(&self, at: At) -> u32;

    /// Puts a chunk after another, or first. Says where it stands now; the other may have moved.
    fn insert_after(&mut self, at: Option<At>, chunk: Chunk) -> At;
    /// Changes a chunk: its state, its content, and its ends within its old ids and new ids of its own.
    fn replace(&mut self, at: At, chunk: Chunk);
    fn remove(&mut self, at: At);

    /// A chunk behind another one, or that one: it and all between them are larger than an id.
    fn leap(&mut self, at: At, _id: Id, _sids: &impl Sids) -> At {
        at
    }

    /// Whether a bigger storage should take over.
    fn is_full(&self) -> bool;
}
