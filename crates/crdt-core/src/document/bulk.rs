//! Filling a document's tables from a native snapshot, node after node as they stand in it.
//!
//! Unlike [`Loader`](super::Loader), which builds a document out of single nodes in any order, this takes them each before
//! what it holds, looks no id up, and makes the index at the end in one go: that is also where ids that occur twice show.

use super::{
    Document, Order,
    content::Stored,
    filling::Filling,
    keys::Keys,
    load::LoadError,
    node::{Entry, Form, Kind, NIL, Node},
    sequence::{Chunk, Id, SPAN_MAX, Span},
    sessions::SESSIONS_MAX,
    store::Store,
    taken::Taken,
    unindexed::{Row, Rows, index},
};
use crate::{
    SessionId, Timestamp,
    codec::{Malformed, RawValue, cbor, wire::Reader},
    text::Wtf8,
};

/// An id whose session is a number: in a snapshot its place in the clock, in a document its place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NativeId {
    pub(crate) session: u32,
    pub(crate) time: u64,
}

/// A container whose nodes come next.
struct Open {
    node: u32,
    form: Form,
    time: u64,
    /// Where the next node of an array goes.
    slot: u32,
    key: u32,
}

/// Builds a document out of nodes that come each before what it holds.
pub(crate) struct Bulk {
    doc: Document,
    /// From a session's number in the snapshot to its place in the document.
    sessions: Vec<u32>,
    open: Vec<Open>,
    /// From a node's number in the snapshot to its place in the table, once the two differ.
    numbers: Vec<u32>,
    /// All nodes that came, in rows.
    rows: Vec<Row>,
    root_is_next: bool,
    trees: usize,
    filling: Filling,
}

impl Bulk {
    /// Starts a document of a session that has seen each of some sessions up to a time.
    pub(crate) fn new(
        session: SessionId,
        order: Order,
        seen: &[SessionId],
        last: &[u64],
    ) -> Result<Self, LoadError> {
        let (doc, sessions) = begin(session, order, seen, last)?;
        Ok(Self {
            doc,
            sessions,
            open: Vec::new(),
            numbers: Vec::new(),
            rows: Vec::new(),
            root_is_next: false,
            trees: 0,
            filling: Filling::new(),
        })
    }

    /// Takes for granted that no id occurs twice: somebody has looked.
    pub(crate) const fn set_distinct(&mut self) {
        self.filling.distinct = true;
    }

    pub(crate) fn set_time(&mut self, time: u64, compacted_to: u64) {
        self.doc.set_time(time, compacted_to);
    }

    /// Takes all keys, which are sorted and each there once.
    pub(crate) fn set_keys(&mut self, bytes: Vec<u8>, ends: Vec<u32>) -> Result<(), LoadError> {
        self.heap(bytes.len())?;
        self.doc.store.keys = Keys::sorted(bytes, ends);
        Ok(())
    }

    fn heap(&self, more: usize) -> Result<(), LoadError> {
        check_heap(&self.doc.store, more)
    }

    /// The first tree is the root's; others nothing refers to.
    pub(crate) fn begin_tree(&mut self) {
        self.root_is_next = self.trees == 0;
        self.trees += 1;
    }

    /// Enters a node, and puts it where the next one goes.
    #[inline]
    fn enter(&mut self, id: NativeId, form: Form, payload: u32) -> Result<u32, LoadError> {
        let id = Id::new(self.sessions[id.session as usize], id.time);
        self.push(Node::new(id, form, payload))
    }

    #[inline]
    fn push(&mut self, node: Node) -> Result<u32, LoadError> {
        let at = self.doc.store.nodes.len() as u32;
        self.doc.store.nodes.push(node);
        enter_row(&mut self.rows, node.id(), at, 1);
        if !self.numbers.is_empty() {
            self.numbers.push(at);
        }
        self.hold(at)?;
        Ok(at)
    }

    /// Puts a node where the next one goes.
    #[inline]
    fn hold(&mut self, child: u32) -> Result<(), LoadError> {
        let store = &mut *self.doc.store;
        let Some(open) = self.open.last_mut() else {
            if std::mem::take(&mut self.root_is_next) {
                store.root = child;
                store.nodes[child as usize].link();
            }
            return Ok(());
        };
        let newer = match open.form {
            Form::Val => store.is_newer(child, open.node),
            _ => store.nodes[child as usize].id().time > open.time,
        };
        if !newer {
            let (child, container) = (store.timestamp(store.node(child).id()), store.node(open.node).id());
            return Err(LoadError::TooOld { child, container: store.timestamp(container) });
        }
        match open.form {
            Form::Val => store.nodes[open.node as usize].set_payload(child),
            Form::Obj => store.obj_mut(open.node).entries.push(Entry { key: open.key, node: child }),
            Form::Vec => store.vec_mut(open.node).push(child),
            _ => {
                store.contents.slots.set(open.slot, child);
                open.slot += 1;
            }
        }
        store.nodes[child as usize].link();
        Ok(())
    }

    /// A constant.
    #[inline]
    pub(crate) fn con(&mut self, id: NativeId, value: RawValue<'_>) -> Result<(), LoadError> {
        self.heap(value.as_bytes().len() + 8)?;
        let id = Id::new(self.sessions[id.session as usize], id.time);
        let node = self.doc.store.con_node(id, value);
        self.push(node).map(drop)
    }

    /// Constants of the map or array that was opened last, and the keys of a map, which follow each other from the first on;
    /// `next` tells ids that follow each other, at most so many.
    pub(crate) fn cons<E: From<LoadError> + From<Malformed>>(
        &mut self,
        key: Option<u32>,
        len: u64,
        mut next: impl FnMut(u64) -> Result<(NativeId, u64), E>,
        values: &mut Reader<'_>,
    ) -> Result<(), E> {
        let Self { doc, open, rows, sessions, .. } = self;
        let (Some(open), store) = (open.last_mut(), &mut *doc.store) else { return Ok(()) };
        let at = store.nodes.len() as u32;
        let made = at..at + len as u32;
        let mut rest = values.rest();
        while store.nodes.len() < made.end as usize {
            let node = store.nodes.len() as u32;
            let (id, len) = next((made.end - node).into())?;
            let first = Id::new(sessions[id.session as usize], id.time);
            if id.time <= open.time {
                let container = store.timestamp(store.node(open.node).id());
                return Err(LoadError::TooOld { child: store.timestamp(first), container }.into());
            }
            enter_row(rows, first, node, len as u32);
            store.nodes.reserve(len as usize);
            let mut short = Node::short(first, &[]);
            short.link();
            for ticks in 0..len {
                if let Some((payload, after)) = cbor::brief(rest) {
                    rest = after;
                    store.nodes.push(short.later(ticks, payload));
                    continue;
                }
                values.skip_to(rest);
                let value = cbor::canonical(values)?;
                check_heap(store, value.as_bytes().len() + 8)?;
                let mut node = store.con_node(first.tick(ticks), value);
                node.link();
                store.nodes.push(node);
                rest = values.rest();
            }
        }
        values.skip_to(rest);
        match key {
            Some(key) => {
                let entries = (key..).zip(made.clone()).map(|(key, node)| Entry { key, node });
                store.obj_mut(open.node).entries.extend(entries);
            }
            None => {
                made.clone().zip(open.slot..).for_each(|(node, slot)| store.contents.slots.set(slot, node));
                open.slot += len as u32;
            }
        }
        if !self.numbers.is_empty() {
            self.numbers.extend(made);
        }
        Ok(())
    }

    /// A constant that is a timestamp.
    pub(crate) fn con_id(&mut self, id: NativeId, named: Timestamp) -> Result<(), LoadError> {
        self.heap(16)?;
        let id = Id::new(self.sessions[id.session as usize], id.time);
        let node = self.doc.store.con_id_node(id, named);
        self.push(node).map(drop)
    }

    /// A place of a tuple that was never set, or no root.
    pub(crate) fn none(&mut self) {
        if let Some(open) = self.open.last() {
            self.doc.store.vec_mut(open.node).push(NIL);
        }
        self.root_is_next = false;
    }

    /// A node that was removed while something still refers to it.
    pub(crate) fn missing(&mut self, id: Timestamp) -> Result<(), LoadError> {
        let here = self.doc.store.id(id).filter(|_| self.doc.has_seen(id)).ok_or(LoadError::Unseen(id))?;
        if self.numbers.is_empty() {
            self.numbers.extend(0..self.doc.store.nodes.len() as u32);
        }
        let ghost = self.doc.store.ghost(here);
        self.hold(ghost)
    }

    /// A node that came before, by its number.
    pub(crate) fn again(&mut self, number: u64) -> Result<(), LoadError> {
        let node = match self.numbers.get(number as usize) {
            Some(&node) => node,
            None => number as u32,
        };
        self.hold(node)
    }

    /// A register, map, tuple or array.
    #[inline]
    pub(crate) fn open(&mut self, id: NativeId, kind: Kind, len: usize) -> Result<(), LoadError> {
        let store = &mut *self.doc.store;
        let (form, payload) = match kind {
            Kind::Obj => {
                let payload = store.objs.add();
                store.objs.at_mut(payload).entries.reserve_exact(len);
                (Form::Obj, payload)
            }
            Kind::Vec => {
                let payload = store.vecs.add();
                store.vecs.at_mut(payload).reserve_exact(len);
                (Form::Vec, payload)
            }
            Kind::Arr => {
                self.filling.sequence = store.sequences.add();
                (Form::Arr, self.filling.sequence)
            }
            _ => (Form::Val, NIL),
        };
        let node = self.enter(id, form, payload)?;
        self.open.push(Open { node, form, time: id.time, slot: 0, key: 0 });
        Ok(())
    }

    /// The key of the next node.
    #[inline]
    pub(crate) fn key(&mut self, key: u32) {
        if let Some(open) = self.open.last_mut() {
            open.key = key;
        }
    }

    /// The end of what was opened last.
    pub(crate) fn close(&mut self) {
        self.open.pop();
    }

    /// A text or byte string.
    pub(crate) fn sequence(&mut self, id: NativeId, kind: Kind) -> Result<(), LoadError> {
        self.filling.sequence = self.doc.store.sequences.add();
        let form = if kind == Kind::Str { Form::Str } else { Form::Bin };
        self.enter(id, form, self.filling.sequence).map(drop)
    }

    /// The runs of the sequence that came last come now; there is room for so many. What can be seen of a wide text is put where
    /// it belongs when it [comes](Self::text); all else comes to lie in its arena as it comes.
    pub(crate) fn begin_runs(&mut self, room: usize, is_wide: bool) {
        let store = &mut *self.doc.store;
        let is_array = store.nodes.last().is_some_and(|node| node.form() == Form::Arr);
        let contents = &store.contents;
        self.filling.offset = if is_array { contents.slots.tail() } else { contents.narrow.tail() };
        self.filling.is_wide = is_wide;
        if is_wide {
            self.filling.wide.reserve(room);
        } else {
            self.filling.begin(store, room);
        }
    }

    /// Some of those runs.
    pub(crate) fn runs(
        &mut self,
        runs: impl Iterator<Item = (NativeId, u64, bool)>,
    ) -> Result<(), LoadError> {
        let Self { doc, sessions, filling, .. } = self;
        let time_min = u64::from(doc.order == Order::Server);
        let store = &mut *doc.store;
        let mut offset = filling.offset;
        let (mut left, mut wrong) = (u64::from(SPAN_MAX).saturating_sub(store.span), None);
        let mut chunks = runs.map_while(|(id, span, dead)| {
            if span > left || id.time < time_min {
                wrong = Some((id, span));
                return None;
            }
            left -= span;
            let span = if dead { Span::dead(span as u32) } else { Span::live(span as u32) };
            let session = sessions[id.session as usize];
            let chunk = Chunk { time: id.time, session, span, offset: if dead { 0 } else { offset } };
            offset += span.weight();
            Some(chunk)
        });
        if filling.is_wide {
            filling.wide.extend(chunks);
        } else {
            filling.push(store, &mut chunks);
        }
        filling.offset = offset;
        store.span = u64::from(SPAN_MAX) - left;
        match wrong {
            None => Ok(()),
            Some((_, span)) if span > left => {
                let total = store.span.saturating_add(span);
                Err(too_large("elements of all sequences", total, SPAN_MAX.into()))
            }
            Some((id, _)) => Err(self.time_zero(self.sessions[id.session as usize])),
        }
    }

    /// The end of those runs.
    pub(crate) fn end_runs(&mut self) -> Result<(), LoadError> {
        if self.filling.is_wide { Ok(()) } else { self.filling.end(&mut self.doc.store) }
    }

    /// How many nodes the array holds whose runs came.
    pub(crate) fn elements(&mut self, len: usize) {
        let offset = self.doc.store.contents.slots.append(None, &vec![NIL; len]).offset;
        if let Some(open) = self.open.last_mut() {
            open.slot = offset;
        }
    }

    /// The visible text of the text whose runs came.
    pub(crate) fn text(&mut self, text: Wtf8<'_>, units: u64) -> Result<(), LoadError> {
        let bytes = text.as_bytes();
        if bytes.len() as u64 == units {
            let narrow = &mut self.doc.store.contents.narrow;
            // With room for some more, as any text that is loaded: its first letter then moves nothing.
            narrow.reserve(bytes.len() + bytes.len() / 16 + 32);
            narrow.push(bytes);
            return Ok(());
        }
        let mut rest: &[u16] = &text.utf16().collect::<Vec<u16>>();
        let mut runs = std::mem::take(&mut self.filling.wide);
        for run in runs.iter_mut().filter(|run| !run.span.is_dead()) {
            let (units, left) = rest.split_at((run.span.len() as usize).min(rest.len()));
            rest = left;
            let Stored { span, offset, .. } = self.doc.store.contents.store_units(units);
            (run.span, run.offset) = (span, offset);
        }
        let store = &mut *self.doc.store;
        self.filling.begin(store, runs.len());
        self.filling.push(store, &mut runs.into_iter());
        self.filling.end(store)
    }

    /// The visible bytes of the byte string whose runs came.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.doc.store.contents.narrow.push(bytes);
    }

    /// The document, when no id occurs twice.
    pub(crate) fn finish(mut self) -> Result<Document, LoadError> {
        self.doc.store.fit();
        if self.doc.order == Order::Server
            && let Some(zero) = self.rows.iter().find(|row| row.id.time == 0)
        {
            return Err(self.time_zero(zero.id.session));
        }
        if self.doc.store.ghosts_len() == 0
            && self.rows.len() >= Rows::MIN
            && (self.filling.distinct || self.are_distinct())
        {
            self.doc.store.wait(Rows::new(self.rows));
            return Ok(self.doc);
        }
        index(&self.rows, &mut self.doc.store.sessions)
            .map_err(|session| LoadError::Duplicate(self.duplicate(session)))?;
        let store = &self.doc.store;
        if let Some(id) = store.ghosts().find(|&id| store.find_here(id).is_some()) {
            return Err(LoadError::Duplicate(store.timestamp(id)));
        }
        Ok(self.doc)
    }

    /// Whether all ids of nodes are known to be different. Where the clock is far ahead of the nodes, the index has to tell.
    fn are_distinct(&self) -> bool {
        let store = &*self.doc.store;
        let Some(mut taken) = Taken::new(&store.sessions, store.nodes.len()) else { return false };
        self.rows.iter().for_each(|&Row { id, len, .. }| taken.take(id.session, id.time, len));
        taken.are_distinct()
    }
}

impl Bulk {
    /// A server numbers from 1, and its forms spell "no node" as time 0.
    #[cold]
    fn time_zero(&self, session: u32) -> LoadError {
        LoadError::System(self.doc.store.timestamp(Id::new(session, 0)))
    }

    /// The first id of a session that occurs twice.
    fn duplicate(&self, session: u32) -> Timestamp {
        let store = &self.doc.store;
        let alive = store.nodes.iter().filter(|node| !node.is_dead()).map(Node::id);
        let mut times: Vec<u64> = alive.filter(|id| id.session == session).map(|id| id.time).collect();
        times.sort_unstable();
        let twice = times.windows(2).find(|pair| pair[0] == pair[1]).map_or(0, |pair| pair[0]);
        store.timestamp(Id::new(session, twice))
    }
}

/// An empty document of a session that has seen each of some sessions up to a time, and the place of each in it.
pub(super) fn begin(
    session: SessionId,
    order: Order,
    seen: &[SessionId],
    last: &[u64],
) -> Result<(Document, Vec<u32>), LoadError> {
    if seen.len() >= SESSIONS_MAX {
        return Err(too_large("sessions", seen.len() as u64, SESSIONS_MAX as u64 - 1));
    }
    let session = if order == Order::Server { SessionId::SERVER } else { session };
    let mut doc = Document::with(session, 1, order);
    let mut sessions = Vec::with_capacity(seen.len());
    for (&sid, &last) in seen.iter().zip(last) {
        let at = doc.store.sessions.enter(sid.get());
        doc.observe(at, last);
        sessions.push(at);
    }
    Ok((doc, sessions))
}

impl Document {
    /// What a snapshot says of time.
    pub(super) fn set_time(&mut self, time: u64, compacted_to: u64) {
        self.time = self.time.max(time);
        self.compacted_to = compacted_to;
    }
}

/// Notes that nodes came whose ids follow each other.
#[inline]
fn enter_row(rows: &mut Vec<Row>, id: Id, node: u32, len: u32) {
    if let Some(last) = rows.last_mut()
        && last.id.tick(last.len.into()) == id
        && last.node + last.len == node
    {
        last.len += len;
    } else {
        rows.push(Row { id, node, len });
    }
}

/// Whether so many more bytes have room.
#[inline]
fn check_heap(store: &Store, more: usize) -> Result<(), LoadError> {
    let bytes = (store.heap.len() + more) as u64;
    if bytes > Document::HEAP_BYTES_MAX {
        return Err(too_large("bytes of keys and constants", bytes, Document::HEAP_BYTES_MAX));
    }
    Ok(())
}

fn too_large(what: &'static str, value: u64, max: u64) -> LoadError {
    LoadError::TooLarge { what, value, max }
}

#[cfg(test)]
mod tests;
