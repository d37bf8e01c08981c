//! Removing nodes: what nothing refers to any more goes, with all that hangs below it.

use super::{
    node::{Form, NIL, Node},
    sequence::Id,
    store::{Store, get_len},
};

impl Store {
    /// Takes away a reference to a node, and with it the node and all that hangs below it.
    pub(super) fn release(&mut self, node: u32) {
        self.node_mut(node).unlink();
        let at = self.node(node);
        let form = at.form();
        let is_alone = matches!(form, Form::ConShort | Form::Con | Form::ConId | Form::Str | Form::Bin);
        if is_alone && !at.is_dead() && at.refs() == 0 {
            // The usual case: what holds no other nodes gives way to the next.
            let id = at.id();
            self.sessions.at_mut(id.session).nodes.remove(id.time);
            if form != Form::ConShort {
                self.drop_content(node);
            }
            self.bury(node);
            return;
        }
        let mut doomed = vec![node];
        while let Some(node) = doomed.pop() {
            if self.form(node) == Form::Free {
                continue;
            }
            if !self.node(node).is_dead() {
                let start = doomed.len();
                self.for_each_child(node, |child| doomed.push(child));
                for &child in &doomed[start..] {
                    self.nodes[child as usize].unlink();
                }
                let id = self.node(node).id();
                self.sessions.at_mut(id.session).nodes.remove(id.time);
                self.drop_content(node);
                self.node_mut(node).kill();
                self.ghosts.insert(id, node);
            }
            if self.node(node).refs() == 0 {
                let id = self.node(node).id();
                self.ghosts.remove(&id);
                self.bury(node);
            }
        }
    }

    /// Removes a node that nothing refers to, and what nothing else refers to below it. What stands elsewhere too stays there:
    /// in the eyes of everyone nothing gives way here.
    pub(super) fn drop_lost(&mut self, node: u32) {
        let mut doomed = vec![node];
        while let Some(node) = doomed.pop() {
            let at = self.node(node);
            if at.form() == Form::Free || at.refs() > 0 {
                continue;
            }
            let id = at.id();
            if at.is_dead() {
                self.ghosts.remove(&id);
            } else {
                let start = doomed.len();
                self.for_each_child(node, |child| doomed.push(child));
                for &child in &doomed[start..] {
                    self.nodes[child as usize].unlink();
                }
                self.sessions.at_mut(id.session).nodes.remove(id.time);
                self.drop_content(node);
            }
            self.bury(node);
        }
    }

    fn bury(&mut self, node: u32) {
        *self.node_mut(node) = Node::new(Id::new(0, 0), Form::Free, NIL);
        self.free.push(node);
    }

    /// Frees what a node holds. It is a constant without value then.
    fn drop_content(&mut self, node: u32) {
        let (form, payload) = (self.form(node), self.node(node).payload());
        match form {
            Form::Con => {
                let (start, len) = get_len(&self.heap, payload as usize);
                self.heap_dead += start + len - payload as usize;
            }
            Form::ConId => self.heap_dead += 16,
            Form::Obj => drop(self.objs.take(payload)),
            Form::Vec => drop(self.vecs.take(payload)),
            Form::Str | Form::Bin | Form::Arr => {
                let sequence = self.sequences.take(payload);
                self.span -= u64::from(sequence.span());
                for chunk in sequence.chunks().filter(|chunk| !chunk.span.is_dead()) {
                    if form == Form::Arr {
                        self.contents.slots.kill(chunk.offset, chunk.span.len());
                    } else {
                        self.contents.kill_text(chunk.span, chunk.offset);
                    }
                }
            }
            Form::Val | Form::ConShort | Form::Free => {}
        }
        let old = *self.node(node);
        let mut empty = Node::short(old.id(), &[0xf7]);
        empty.keep_refs(&old);
        *self.node_mut(node) = empty;
    }
}
