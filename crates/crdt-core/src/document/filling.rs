//! Filling one sequence after the other with the runs of a snapshot.

use super::{load::LoadError, node::NIL, sequence::Chunk, store::Store, taken::Taken};

/// A sequence that gets its runs.
pub(super) struct Filling {
    pub(super) sequence: u32,
    /// Whether they are kept until the text comes, which is not all ASCII.
    pub(super) is_wide: bool,
    pub(super) wide: Vec<Chunk>,
    /// Where the content of the next live one lies.
    pub(super) offset: u32,
    /// Whether all ids are known to be different; else those of the sequence.
    pub(super) distinct: bool,
    taken: Option<Taken>,
}

impl Filling {
    pub(super) const fn new() -> Self {
        Self { sequence: NIL, is_wide: false, wide: Vec::new(), offset: 0, distinct: false, taken: None }
    }

    /// Makes room in the sequence, which is empty.
    pub(super) fn begin(&mut self, store: &mut Store, room: usize) {
        let is_first_of_many = store.sequences.at_mut(self.sequence).reserve(room);
        self.taken =
            if is_first_of_many && !self.distinct { Taken::new(&store.sessions, room) } else { None };
    }

    #[inline(always)]
    pub(super) fn push(&mut self, store: &mut Store, chunks: &mut impl Iterator<Item = Chunk>) {
        let sequence = store.sequences.at_mut(self.sequence);
        match &mut self.taken {
            Some(taken) => {
                taken.taking(|taking| {
                    let take = |chunk: &Chunk| taking.take(chunk.session, chunk.time, chunk.span.len());
                    sequence.push_all(&mut chunks.inspect(take));
                });
            }
            None => sequence.push_all(chunks),
        }
    }

    pub(super) fn end(&mut self, store: &mut Store) -> Result<(), LoadError> {
        let sequence = store.sequences.at_mut(self.sequence);
        let taken = self.taken.take();
        if self.distinct || taken.is_some_and(|taken| taken.are_distinct()) {
            sequence.set_distinct();
        }
        sequence.seal().map_err(|id| LoadError::Duplicate(store.timestamp(id)))
    }
}
