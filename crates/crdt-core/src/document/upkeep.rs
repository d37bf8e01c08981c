//! What a store takes in memory, and giving back what it does not need.

use super::{
    node::{Form, Node, Obj},
    sequence::Sequence,
    store::{Store, get_len},
    unindexed::Rows,
};

/// Dead bytes in the heap that are not worth moving the others for.
const HEAP_DEAD_FREE: usize = 64 * 1024;

impl Store {
    /// Moves what is alive together when most of some storage is dead.
    #[inline]
    pub(super) fn tidy(&mut self) {
        if self.contents.is_wasteful() || self.heap_dead > HEAP_DEAD_FREE || self.keys.may_be_dead() {
            self.move_together();
        }
    }

    #[cold]
    fn move_together(&mut self) {
        if self.contents.is_wasteful() {
            let old = std::mem::take(&mut self.contents);
            for node in 0..self.nodes.len() as u32 {
                let form = self.form(node);
                if matches!(form, Form::Str | Form::Bin | Form::Arr) {
                    let sequence = self.sequences.at_mut(self.nodes[node as usize].payload());
                    let contents = &mut self.contents;
                    sequence.move_contents(|chunk| contents.take_over(&old, chunk, form == Form::Arr));
                }
            }
        }
        if self.keys.may_be_dead() {
            self.drop_dead_keys();
        }
        if self.heap_dead > HEAP_DEAD_FREE && self.heap_dead > self.heap.len() / 2 {
            self.heap_dead = 0;
            let old = std::mem::take(&mut self.heap);
            for node in &mut self.nodes {
                let at = node.payload() as usize;
                let end = match node.form() {
                    Form::Con => {
                        let (start, len) = get_len(&old, at);
                        start + len
                    }
                    Form::ConId => at + 16,
                    _ => continue,
                };
                node.set_payload(self.heap.len() as u32);
                self.heap.extend_from_slice(&old[at..end]);
            }
        }
    }

    /// Drops the keys that no map has. Nobody counts who has which: a look at all maps is as rare as it is long.
    fn drop_dead_keys(&mut self) {
        let mut alive = vec![false; self.keys.len()];
        let mut entries = 0;
        for obj in &self.objs.items {
            entries += obj.entries.len();
            obj.entries.iter().for_each(|entry| alive[entry.key as usize] = true);
        }
        if let Some(numbers) = self.keys.keep(|key| alive[key as usize], entries) {
            self.objs.items.iter_mut().for_each(|obj| obj.renumber(&numbers));
        }
    }

    /// Bytes that everything takes, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
            + self.objs.items.iter().map(Obj::size_bytes).sum::<usize>()
            + self.vecs.items.iter().map(|vec| size_of_val(vec) + vec.capacity() * 4).sum::<usize>()
            + self.sequences.items.iter().map(Sequence::size_bytes).sum::<usize>()
            + self.sessions.size_bytes()
            + self.keys.size_bytes()
            + self.rows.as_ref().map_or(0, Rows::size_bytes)
            + self.heap.capacity()
            + self.contents.size_bytes()
    }

    /// Gives back room that growing left over, when a document has been loaded and may stay as it is for long.
    pub(super) fn fit(&mut self) {
        fn fit<T>(items: &mut Vec<T>) {
            if items.capacity() - items.len() > items.len() / 8 + 64 {
                items.shrink_to_fit();
            }
        }
        fit(&mut self.nodes);
        fit(&mut self.heap);
        fit(&mut self.objs.items);
        fit(&mut self.sequences.items);
        self.objs.items.iter_mut().for_each(|obj| fit(&mut obj.entries));
        self.vecs.items.iter_mut().for_each(fit);
        self.contents.fit();
        self.keys.fit();
    }
}
