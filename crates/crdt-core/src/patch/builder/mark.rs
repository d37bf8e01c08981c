//! Places in a patch that is being built: to go back to, and to look at what came since.

use super::PatchBuilder;
use crate::{
    Timestamp,
    codec::wire::Reader,
    patch::{Ops, elements::Constants},
};

/// A place in a patch that is being built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    start: Timestamp,
    next: u64,
    op_count: u64,
    len_bytes: usize,
}

impl PatchBuilder {
    /// Where the builder stands, to come back to.
    pub(crate) const fn mark(&self) -> Mark {
        Mark { start: self.start, next: self.next, op_count: self.op_count, len_bytes: self.body.len() }
    }

    /// The operations written since a mark of the same patch.
    pub(crate) fn ops_since(&mut self, mark: Mark) -> Ops<'_> {
        let (id, left) = (self.id_since(mark), self.op_count - mark.op_count);
        Ops { reader: Reader::new(self.body.bytes()).at_offset(mark.len_bytes), id, left }
    }

    /// Forgets the operations written since a mark of the same patch.
    pub(crate) fn truncate(&mut self, mark: Mark) {
        self.start = mark.start;
        self.next = mark.next;
        self.op_count = mark.op_count;
        self.body.bytes().truncate(mark.len_bytes);
    }

    /// The id of the first operation since a mark.
    pub(crate) const fn id_since(&self, mark: Mark) -> Timestamp {
        // An empty patch can have moved to a later start since.
        if mark.op_count == 0 { self.start } else { Timestamp::new(self.start.sid, mark.next) }
    }

    /// How many bytes the operations since a mark take.
    pub(crate) const fn len_since(&self, mark: Mark) -> usize {
        self.body.len() - mark.len_bytes
    }

    /// The constants that the operations since a mark make, if those do nothing else.
    pub(crate) fn constants_since(&mut self, mark: Mark) -> Constants<'_> {
        let len = (self.op_count - mark.op_count) as u32;
        Constants::trusted(&self.body.bytes()[mark.len_bytes..], len)
    }
}
