//! Everything that must hold of a document, checked.

use std::collections::HashMap;

use super::{
    Document,
    node::{Form, NIL},
    sequence::{Chunk, Id},
    store::{Store, get_len},
};

impl Document {
    /// Checks all invariants, for tests and after a crash; says what is wrong. Takes time as long as the document.
    ///
    /// # Errors
    /// A description of the first thing that does not hold.
    pub fn check(&self) -> Result<(), String> {
        let store = &*self.store;
        store.sessions.check(self.time)?;
        store.keys.check()?;
        store.check_nodes()?;
        store.check_references()?;
        store.check_places()?;
        store.check_sequences()?;
        store.check_contents()?;
        store.check_heap()?;
        self.check_typing()
    }
}

impl Store {
    fn name(&self, node: u32) -> String {
        self.timestamp(self.node(node).id()).to_string()
    }

    /// The nodes of a kind with their numbers.
    fn of_form(&self, is: impl Fn(Form) -> bool) -> impl Iterator<Item = u32> {
        (0..self.nodes.len() as u32).filter(move |&node| is(self.form(node)))
    }

    fn is_seen(&self, id: Id) -> bool {
        self.sessions.seen_or_made(id.session).max(self.sessions.seen(id.session)) >= Some(id.time)
    }

    /// Nodes and the index lead to each other.
    fn check_nodes(&self) -> Result<(), String> {
        for node in self.of_form(|form| form != Form::Free) {
            let at = self.node(node);
            if (self.find_here(at.id()) == Some(node)) == at.is_dead() {
                return Err(format!("node {} is dead or in the index, not one of them", self.name(node)));
            }
            if at.is_dead() && at.refs() == 0 {
                return Err(format!("nothing refers to the dead node {}", self.name(node)));
            }
            if at.is_dead() != (self.ghosts.get(&at.id()) == Some(&node)) {
                return Err(format!("node {} is dead or no ghost, not one of them", self.name(node)));
            }
            if !self.is_seen(at.id()) {
                return Err(format!("node {} is above the clock", self.name(node)));
            }
            if at.form() == Form::Obj {
                let obj = self.obj(node);
                obj.check(self.keys.len()).map_err(|what| format!("in {}: {what}", self.name(node)))?;
            }
        }
        for (id, node) in self.ids() {
            let is_it = self
                .nodes
                .get(node as usize)
                .is_some_and(|at| at.form() != Form::Free && !at.is_dead() && self.timestamp(at.id()) == id);
            if !is_it {
                return Err(format!("the index leads from {id} to another node"));
            }
        }
        let dead = self.nodes.iter().filter(|node| node.is_dead()).count();
        if dead == self.ghosts.len() { Ok(()) } else { Err(format!("{dead} dead nodes, not each a ghost")) }
    }

    /// What is referred to is counted, and is there.
    fn check_references(&self) -> Result<(), String> {
        let mut refs: HashMap<u32, usize> = HashMap::new();
        if self.root != NIL {
            *refs.entry(self.root).or_default() += 1;
        }
        for node in self.of_form(|form| form != Form::Free) {
            self.for_each_child(node, |child| *refs.entry(child).or_default() += 1);
        }
        if let Some(far) = refs.keys().find(|&&node| node as usize >= self.nodes.len()) {
            return Err(format!("a reference to {far}, which is no node"));
        }
        for node in 0..self.nodes.len() as u32 {
            let counted = refs.get(&node).copied().unwrap_or(0).min(usize::from(u8::MAX));
            let at = self.node(node);
            if at.form() == Form::Free && counted > 0 {
                return Err(format!("{counted} references to place {node}, which is free for another node"));
            }
            // A full count stays full.
            if at.refs() != u8::MAX && usize::from(at.refs()) != counted {
                return Err(format!("{counted} references to {}, counted {}", self.name(node), at.refs()));
            }
        }
        Ok(())
    }

    /// Each place is used by one node, or free.
    fn check_places(&self) -> Result<(), String> {
        let mut free = self.free.clone();
        free.sort_unstable();
        if !self.of_form(|form| form == Form::Free).eq(free) {
            return Err(format!("{} places are known as free, and others are", self.free.len()));
        }
        let used = |is: fn(Form) -> bool| self.of_form(is).map(|node| self.node(node).payload()).collect();
        self.objs.check(used(|form| form == Form::Obj)).map_err(|what| format!("maps: {what}"))?;
        self.vecs.check(used(|form| form == Form::Vec)).map_err(|what| format!("tuples: {what}"))?;
        self.sequences.check(used(has_chunks)).map_err(|what| format!("sequences: {what}"))
    }

    fn check_sequences(&self) -> Result<(), String> {
        let mut span = 0;
        for node in self.of_form(has_chunks) {
            let sequence = self.sequence(node);
            span += u64::from(sequence.span());
            sequence.check().map_err(|what| format!("in {}: {what}", self.name(node)))?;
            let is_early = |chunk: &Chunk| !self.is_seen(chunk.id().tick(u64::from(chunk.span.len()) - 1));
            if let Some(early) = sequence.chunks().find(is_early) {
                return Err(format!("element {} is above the clock", self.timestamp(early.id())));
            }
        }
        if span == self.span { Ok(()) } else { Err(format!("{span} elements, counted {}", self.span)) }
    }

    /// No two chunks have one content.
    fn check_contents(&self) -> Result<(), String> {
        let [mut narrow, mut wide, mut slots] = [const { Vec::new() }; 3];
        for node in self.of_form(has_chunks) {
            for chunk in self.sequence(node).chunks().filter(|chunk| !chunk.span.is_dead()) {
                let arena = match self.form(node) {
                    Form::Arr => &mut slots,
                    _ if chunk.span.is_wide() => &mut wide,
                    _ => &mut narrow,
                };
                arena.push((chunk.offset, chunk.span.len()));
            }
        }
        self.contents.narrow.check(narrow).map_err(|what| format!("bytes: {what}"))?;
        self.contents.wide.check(wide).map_err(|what| format!("wide text: {what}"))?;
        self.contents.slots.check(slots).map_err(|what| format!("slots: {what}"))
    }

    /// No two constants have one value.
    fn check_heap(&self) -> Result<(), String> {
        let mut values: Vec<(usize, usize)> = Vec::new();
        for node in self.of_form(|form| matches!(form, Form::Con | Form::ConId)) {
            let start = self.node(node).payload() as usize;
            if start >= self.heap.len() {
                return Err(format!("the value of {} is not there", self.name(node)));
            }
            let end = match self.form(node) {
                Form::ConId => start + 16,
                _ => {
                    let (start, len) = get_len(&self.heap, start);
                    start + len
                }
            };
            values.push((start, end));
        }
        values.sort_unstable();
        let live: usize = values.iter().map(|(start, end)| end - start).sum();
        let overlap = values.windows(2).any(|two| two[0].1 > two[1].0);
        let beyond = values.last().is_some_and(|(_, end)| *end > self.heap.len());
        if overlap || beyond || live + self.heap_dead != self.heap.len() {
            let (dead, all) = (self.heap_dead, self.heap.len());
            return Err(format!(
                "{live} bytes of values and {dead} dead ones of {all}, or values that overlap"
            ));
        }
        Ok(())
    }
}

const fn has_chunks(form: Form) -> bool {
    matches!(form, Form::Str | Form::Bin | Form::Arr)
}

#[cfg(test)]
mod tests;
