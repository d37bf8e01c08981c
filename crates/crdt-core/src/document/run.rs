//! What each operation does to the nodes.

use smallvec::SmallVec;

use super::{
    Document,
    content::{Contents, Stored},
    node::{Form, NIL},
    sequence::{Chunk, Id, Sids},
    store::Store,
};
use crate::{
    SessionId, Timespan, Timestamp,
    patch::{Con, Op, TextOp},
};

/// The spans of a deletion can overlap, and each takes a step for each chunk that has been deleted. So if there are more than
/// this, what one span has covered is left out of the others.
const SPANS_AS_THEY_COME_MAX: usize = 16;

/// Spans in the order of their ids, each id once.
pub(super) fn disjoint(spans: impl Iterator<Item = Timespan>) -> impl Iterator<Item = Timespan> {
    let mut spans: Vec<Timespan> = spans.collect();
    spans.sort_unstable_by_key(|span| (span.start.sid, span.start.time));
    let mut done = Timestamp::ORIGIN;
    spans.into_iter().filter_map(move |Timespan { start, span }| {
        let end = start.time.saturating_add(span);
        let from = if start.sid == done.sid { start.time.max(done.time) } else { start.time };
        if from >= end {
            return None;
        }
        done = Timestamp::new(start.sid, end);
        Some(Timespan { start: Timestamp::new(start.sid, from), span: end - from })
    })
}

impl Document {
    /// The node with an id, fast if it is the one that was edited last.
    fn target(&mut self, id: Timestamp) -> Option<u32> {
        let store = &*self.store;
        if let Some(node) = store.nodes.get(self.target as usize) {
            let last = node.id();
            if last.time == id.time
                && node.form() != Form::Free
                && !node.is_dead()
                && store.sessions.sid(last.session) == id.sid.get()
            {
                return Some(self.target);
            }
        }
        let node = store.find(id)?;
        self.target = node;
        Some(node)
    }

    pub(super) fn target_of(&mut self, id: Timestamp, form: Form) -> Option<u32> {
        self.target(id).filter(|&node| self.store.form(node) == form)
    }

    /// The target of values that, if it is gone, will never come to stand anywhere. What is older than it would not have come
    /// to stand there anyway, and may come to elsewhere.
    fn target_or_forgo(
        &mut self,
        id: Timestamp,
        form: Form,
        values: impl IntoIterator<Item = Timestamp>,
    ) -> Option<u32> {
        let target = self.target_of(id, form);
        if target.is_none() {
            for value in values.into_iter().filter(|value| value.time > id.time) {
                if let Some(value) = self.store.find(value) {
                    self.store.forgo(value);
                }
            }
        }
        target
    }

    /// The element that an insertion follows: `Some(None)` for the beginning.
    fn anchor(&self, obj: Timestamp, after: Timestamp, id: Id, sid: SessionId) -> Option<Option<Id>> {
        if after == obj {
            return Some(None);
        }
        if after.sid == sid {
            return Some(Some(Id::new(id.session, after.time)));
        }
        self.store.id(after).map(Some)
    }

    /// Lets an operation have its effect. Tells whether it had one.
    pub(super) fn run(&mut self, id: Id, sid: SessionId, op: &Op<'_>) -> bool {
        self.run_maybe(id, sid, op).unwrap_or(false)
    }

    fn run_maybe(&mut self, id: Id, sid: SessionId, op: &Op<'_>) -> Option<bool> {
        Some(match *op {
            Op::InsStr { obj, after, text, units } => {
                let id_out = Timestamp::new(sid, id.time);
                self.insert_text(id, &TextOp { id: id_out, obj, after, text, units })?
            }
            Op::Del { obj, spans } => {
                let node = self.target(obj)?;
                let mut changed = false;
                if spans.len() <= SPANS_AS_THEY_COME_MAX {
                    spans.for_each(|span| changed |= self.delete(node, span));
                } else {
                    disjoint(spans).for_each(|span| changed |= self.delete(node, span));
                }
                changed
            }
            Op::NewCon(Con::Value(value)) => self.store.create_con(id, value).is_some(),
            Op::NewCon(Con::Id(value)) => self.store.create_con_id(id, value).is_some(),
            Op::NewVal => self.store.create(id, Form::Val).is_some(),
            Op::NewObj => self.store.create(id, Form::Obj).is_some(),
            Op::NewVec => self.store.create(id, Form::Vec).is_some(),
            Op::NewStr => self.store.create(id, Form::Str).is_some(),
            Op::NewBin => self.store.create(id, Form::Bin).is_some(),
            Op::NewArr => self.store.create(id, Form::Arr).is_some(),
            Op::InsVal { obj, value } => {
                let found = self.store.find(value)?;
                if obj == Timestamp::ORIGIN {
                    self.store.set_root(found)
                } else {
                    let node = self.target_or_forgo(obj, Form::Val, [value])?;
                    self.store.set_val(node, found)
                }
            }
            Op::InsObj { obj, entries } => {
                let node = self.target_or_forgo(obj, Form::Obj, entries.map(|(_, value)| value))?;
                let mut changed = false;
                self.store.reserve_keys(node, entries.len());
                for (key, value) in entries {
                    if let Some(value) = self.store.find(value).filter(|&value| self.is_later(value, node)) {
                        changed |= self.store.put_key(node, key.as_bytes(), value);
                    }
                }
                changed
            }
            Op::InsVec { obj, slots } => {
                let node = self.target_or_forgo(obj, Form::Vec, slots.map(|(_, value)| value))?;
                let mut changed = false;
                for (place, value) in slots {
                    if let Some(value) = self.store.find(value).filter(|&value| self.is_later(value, node)) {
                        changed |= self.store.set_place(node, place, value);
                    }
                }
                changed
            }
            Op::InsBin { obj, after, bytes } => {
                let node = self.target_of(obj, Form::Bin)?;
                let after = self.anchor(obj, after, id, sid)?;
                self.insert_run(node, after, id, bytes.len() as u32, |store, left| {
                    store.store_bytes(left, bytes)
                })?
            }
            Op::InsArr { obj, after, values } => {
                let node = self.target_or_forgo(obj, Form::Arr, values)?;
                let after = self.anchor(obj, after, id, sid)?;
                let values: SmallVec<[u32; 16]> = values
                    .filter_map(|value| self.store.find(value))
                    .filter(|&value| self.is_later(value, node))
                    .collect();
                let changed = self.insert_run(node, after, id, values.len() as u32, |store, left| {
                    store.store_slots(left, &values)
                })?;
                for &value in &values {
                    self.store.node_mut(value).link();
                }
                changed
            }
            Op::UpdArr { obj, slot, value } => {
                let node = self.target_or_forgo(obj, Form::Arr, [value])?;
                let value = self.store.find(value)?;
                let changed = self.store.id(slot).and_then(|slot| self.set_slot(node, slot, value));
                if changed.is_none() {
                    self.store.forgo(value);
                }
                changed?
            }
            Op::Nop { .. } => false,
        })
    }

    #[inline]
    pub(super) fn insert_text(&mut self, id: Id, op: &TextOp<'_>) -> Option<bool> {
        let node = self.target_of(op.obj, Form::Str)?;
        let after = self.anchor(op.obj, op.after, id, op.id.sid)?;
        let (bytes, units) = (op.text.as_bytes(), op.units as u32);
        if let Some(after) = after
            && units as usize == bytes.len()
        {
            let store = &mut *self.store;
            let sequence = store.sequences.at_mut(store.nodes[node as usize].payload());
            if sequence.type_after(after, id, bytes, &store.sessions, &mut store.contents.narrow) {
                store.span += op.units;
                return Some(true);
            }
        }
        self.insert_run(node, after, id, units, |store, left| store.store_text(left, op.text, units))
    }

    /// Whether a value was made after the container it goes to; so no container ever holds itself.
    fn is_later(&self, value: u32, container: u32) -> bool {
        self.store.node(value).id().time > self.store.node(container).id().time
    }

    pub(super) fn insert_run(
        &mut self,
        node: u32,
        after: Option<Id>,
        id: Id,
        units: u32,
        store: impl FnOnce(&mut Contents, Option<Chunk>) -> Stored,
    ) -> Option<bool> {
        if units == 0 {
            return None;
        }
        let held = &mut *self.store;
        let payload = held.node(node).payload();
        let sequence = held.sequences.at_mut(payload);
        let spot = sequence.place(after, id, units, &held.sessions)?;
        let stored = store(&mut held.contents, sequence.joined(spot));
        if let Some(moved) = stored.moved {
            sequence.relocate(spot, moved);
        }
        sequence.put(spot, id, stored.span, stored.offset);
        held.span += u64::from(units);
        Some(true)
    }

    fn set_slot(&mut self, node: u32, slot: Id, value: u32) -> Option<bool> {
        let sequence = self.store.sequence(node);
        let chunk = sequence.chunk(sequence.find(slot)?);
        if chunk.span.is_dead() {
            return None;
        }
        let place = chunk.offset + (slot.time - chunk.time) as u32;
        let old = self.store.slots(place, 1)[0];
        if !self.store.is_newer(value, old) {
            return None;
        }
        self.store.contents.slots.set(place, value);
        self.store.node_mut(value).link();
        self.store.release(old);
        Some(true)
    }

    /// Deletes the elements of a span. Tells whether there were any.
    fn delete(&mut self, node: u32, span: Timespan) -> bool {
        let form = self.store.form(node);
        if !matches!(form, Form::Str | Form::Bin | Form::Arr) {
            return false;
        }
        let Some(start) = self.store.id(span.start) else { return false };
        let store = &mut *self.store;
        let payload = store.node(node).payload();
        let sequence = store.sequences.at_mut(payload);
        let contents = &mut store.contents;
        let mut changed = false;
        let mut released: Vec<u32> = Vec::new();
        sequence.delete(start, span.span, |dead| {
            changed = true;
            if form == Form::Arr {
                released.extend_from_slice(contents.slots.get(dead.offset, dead.span.len()));
                contents.slots.kill(dead.offset, dead.span.len());
            } else {
                contents.kill_text(dead.span, dead.offset);
            }
        });
        for node in released {
            store.release(node);
        }
        changed
    }

    /// The node in the root register.
    pub(super) fn root_node(&self) -> Option<u32> {
        self.store.root_node()
    }
}

impl Store {
    /// The node in the root register.
    #[inline]
    pub(super) fn root_node(&self) -> Option<u32> {
        (self.root != NIL && !self.node(self.root).is_dead()).then_some(self.root)
    }
}
