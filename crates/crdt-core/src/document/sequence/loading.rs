//! Filling a sequence with the chunks of a snapshot, in order.

use super::{Chunk, Id, Runs, Sequence, Storage, Tree, few};

impl Sequence {
    /// Appends a chunk while a document is loaded. The sequence cannot be used before it is [sealed](Self::seal).
    #[inline]
    pub(in super::super) fn push(&mut self, chunk: Chunk) {
        self.in_pieces |= chunk.span.is_soft();
        self.len += chunk.span.weight();
        self.span += chunk.span.len();
        self.time_max = self.time_max.max(chunk.end() - 1);
        match &mut self.storage {
            Storage::Many(tree) => tree.append(chunk),
            Storage::Few(_) => self.push_few(chunk),
        }
    }

    /// [`push`](Self::push) for many that do not go on where another one ends.
    #[inline(always)]
    pub(in super::super) fn push_all(&mut self, chunks: &mut impl Iterator<Item = Chunk>) {
        let Storage::Many(tree) = &mut self.storage else {
            return chunks.for_each(|chunk| self.push(chunk));
        };
        let (weight, span, end) = tree.append_all(chunks);
        self.len += weight;
        self.span += span;
        self.time_max = self.time_max.max(end.saturating_sub(1));
    }

    /// Notes that all chunks that were appended are known to have different ids, so nobody needs to look at the
    /// [end](Self::seal).
    pub(in super::super) const fn set_distinct(&mut self) {
        if let Storage::Many(tree) = &mut self.storage {
            tree.set_distinct();
        }
    }

    #[inline(never)]
    fn push_few(&mut self, chunk: Chunk) {
        let Storage::Few(few) = &mut self.storage else { return };
        if !few.is_full() {
            return few.0.push(chunk);
        }
        let mut tree = Box::new(Tree::open(few::FEW));
        few.0.drain(..).for_each(|chunk| tree.append(chunk));
        tree.append(chunk);
        self.storage = Storage::Many(tree);
    }

    /// Makes room for about so many chunks that are going to be appended; whether they are many, and the first ones.
    pub(in super::super) fn reserve(&mut self, chunks: usize) -> bool {
        let first_of_many =
            chunks > few::FEW && matches!(&self.storage, Storage::Few(few) if few.0.is_empty());
        if first_of_many {
            self.storage = Storage::Many(Box::new(Tree::open(chunks)));
        }
        first_of_many
    }

    /// Ends the [appending](Self::push) of chunks.
    ///
    /// # Errors
    /// An id that occurs twice.
    pub(in super::super) fn seal(&mut self) -> Result<(), Id> {
        match &mut self.storage {
            Storage::Few(few) => few.find_double(),
            Storage::Many(tree) => {
                tree.seal();
                tree.find_double()
            }
        }
        .map_or(Ok(()), Err)
    }
}
