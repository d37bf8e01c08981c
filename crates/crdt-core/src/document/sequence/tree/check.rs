//! Everything that must hold of a tree, checked.

use super::{
    super::runs::{At, Runs},
    Tree,
    index::find_double,
    node::NIL,
};

impl Tree {
    /// Checks every count, link and index entry; says what is wrong.
    pub(in super::super) fn check(&self) -> Result<(), String> {
        let ensure = |ok: bool, what: &str| if ok { Ok(()) } else { Err(what.to_owned()) };
        let (mut leaf, mut prev, mut chunks) = (self.head, NIL, 0);
        while leaf != NIL {
            let node = &self.leaves[leaf as usize];
            ensure(node.prev == prev, "leaf does not know its left neighbour")?;
            ensure(node.len > 0 || self.head == self.tail, "an empty leaf stands in the tree")?;
            let parent = &self.inner[node.parent as usize];
            let slot = parent.slot_of(leaf);
            let short = if self.pending.0 == leaf { self.pending.1 } else { 0 };
            ensure(
                parent.low && parent.weight[slot].wrapping_add_signed(short) == node.weight(),
                "leaf's count is wrong",
            )?;
            for chunk in node.chunks() {
                let (id, end) = (chunk.id(), chunk.end());
                if let Some(index) = self.index.get() {
                    let author = index.known(id.session);
                    let at = author.and_then(|author| author.times.get(id.time));
                    ensure(at == Some(leaf), "chunk is not in the index")?;
                    let known = author.is_some_and(|author| end <= author.end);
                    ensure(known, "chunk ends after all that its author made")?;
                }
            }
            chunks += node.len as usize;
            (prev, leaf) = (leaf, node.next);
        }
        ensure(find_double(&self.leaves).is_none(), "an id stands in two chunks")?;
        ensure(prev == self.tail, "tail is not the last leaf")?;
        ensure(
            self.index.get().is_none_or(|index| index.len() == chunks),
            "index has entries without a chunk",
        )?;
        for (at, node) in self.inner.iter().enumerate() {
            if self.free_inner.contains(&(at as u32)) || node.parent == NIL {
                continue;
            }
            let parent = &self.inner[node.parent as usize];
            ensure(parent.weight[parent.slot_of(at as u32)] == node.total(), "inner count is wrong")?;
        }
        if let Some((leaf, before)) = self.near {
            let first = At { leaf, slot: self.leaves[leaf as usize].place(0) as u32 };
            ensure(self.position(first) == before, "remembered position is wrong")?;
        }
        Ok(())
    }
}
