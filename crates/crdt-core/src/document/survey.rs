//! Looking through a native snapshot without making anything of it.
//!
//! Whatever [`Bulk`](super::Bulk) would refuse is not passed. What is hard to tell, and what honest editors hardly ever make,
//! is not passed either: then the document is made at once, and says what is wrong, if something is.

use super::{
    Document, Order,
    bulk::{self, NativeId},
    held::Held,
    load::LoadError,
    node::Kind,
    sequence::{Id, SPAN_MAX, Sids},
    taken::Taken,
    unread::Unread,
};
use crate::{
    SessionId, Timestamp,
    codec::{
        Malformed, cbor,
        native::{Snapshot, Stable},
        wire::Reader,
    },
};

/// Ids that follow each other.
#[derive(Debug, Clone, Copy)]
struct Row {
    id: Id,
    len: u64,
}

/// A container whose nodes come next.
struct Open {
    id: Id,
    kind: Kind,
}

/// Finds out whether a document can be made of nodes that come each before what it holds.
pub(crate) struct Survey {
    doc: Document,
    /// From a session's number in the snapshot to its place in the document.
    sessions: Vec<u32>,
    open: Vec<Open>,
    /// Up to when each session was seen, by their numbers in the snapshot.
    last: Vec<u64>,
    /// The ids of all nodes, and how many those are.
    nodes: Vec<Row>,
    node_count: usize,
    /// How many elements all sequences have.
    span: u64,
    /// The ids of the sequence whose runs come, by the numbers of their sessions in the snapshot.
    taken: Option<Taken>,
    few: Vec<Row>,
    too_many: bool,
    /// How many elements of each sequence can be seen.
    lens: Vec<u32>,
}

/// Rows of ids of which there are not many more are compared with each other.
const FEW: usize = 64;
/// A snapshot that is longer could hold more bytes of constants than a document.
const LEN_MAX: usize = 1 << 24;

impl Survey {
    /// Starts with the sessions, and up to when each was seen.
    pub(crate) fn new(
        session: SessionId,
        order: Order,
        seen: &[SessionId],
        last: Vec<u64>,
    ) -> Result<Self, LoadError> {
        let (doc, sessions) = bulk::begin(session, order, seen, &last)?;
        // A server counts from 1.
        if order == Order::Server {
            return doubt();
        }
        Ok(Self {
            doc,
            sessions,
            last,
            open: Vec::new(),
            nodes: Vec::new(),
            node_count: 0,
            span: 0,
            taken: None,
            few: Vec::new(),
            too_many: false,
            lens: Vec::new(),
        })
    }

    pub(crate) fn set_time(&mut self, time: u64, compacted_to: u64) {
        self.doc.set_time(time, compacted_to);
    }

    /// Whether so many bytes, and keys of so many, have room in any document.
    pub(crate) fn has_room(len_bytes: usize, key_bytes: usize) -> bool {
        const { assert!(9 * LEN_MAX as u64 + (LEN_MAX as u64) < Document::HEAP_BYTES_MAX) }
        len_bytes <= LEN_MAX && key_bytes <= LEN_MAX
    }

    #[inline]
    fn id(&self, id: NativeId) -> Id {
        Id::new(self.sessions[id.session as usize], id.time)
    }

    /// A node that holds no others.
    #[inline]
    pub(crate) fn node(&mut self, id: NativeId) -> Result<(), LoadError> {
        self.put(id).map(drop)
    }

    /// A node comes to stand where the next one does.
    #[inline]
    fn put(&mut self, id: NativeId) -> Result<Id, LoadError> {
        let id = self.id(id);
        if let Some(open) = self.open.last() {
            let newer = match open.kind {
                Kind::Val => self.doc.store.sessions().after(id, open.id),
                _ => id.time > open.id.time,
            };
            if !newer {
                return doubt();
            }
        }
        self.enter(id, 1);
        Ok(id)
    }

    #[inline]
    fn enter(&mut self, id: Id, len: u64) {
        self.node_count += len as usize;
        enter(&mut self.nodes, id, len);
    }

    /// Constants of the map or array that was opened last, which follow each other; `next` tells ids that do, at most so many.
    pub(crate) fn cons<E: From<LoadError> + From<Malformed>>(
        &mut self,
        len: u64,
        mut next: impl FnMut(u64) -> Result<(NativeId, u64), E>,
        values: &mut Reader<'_>,
    ) -> Result<(), E> {
        let mut left = len;
        while left > 0 {
            let (id, row) = next(left)?;
            let id = self.id(id);
            if self.open.last().is_some_and(|open| id.time <= open.id.time) {
                return Ok(doubt()?);
            }
            self.enter(id, row);
            let mut rest = values.rest();
            for _ in 0..row {
                if let Some((_, after)) = cbor::brief(rest) {
                    rest = after;
                    continue;
                }
                values.skip_to(rest);
                cbor::canonical(values)?;
                rest = values.rest();
            }
            values.skip_to(rest);
            left -= row;
        }
        Ok(())
    }

    /// A register, map, tuple or array.
    #[inline]
    pub(crate) fn open(&mut self, id: NativeId, kind: Kind) -> Result<(), LoadError> {
        let id = self.put(id)?;
        self.open.push(Open { id, kind });
        Ok(())
    }

    /// The end of what was opened last.
    pub(crate) fn close(&mut self) {
        self.open.pop();
    }

    /// The runs of a sequence come now: about so many.
    pub(crate) fn begin_runs(&mut self, room: usize) {
        self.taken = Taken::of(self.last.iter().copied(), room);
        // None of its ids is above the clock, and if all are different they are no more than the clock counts.
        let most = self.taken.as_ref().map_or(0, Taken::room);
        self.span = self.span.saturating_add(most);
        self.few.clear();
    }

    /// What takes those runs, if they are many for the clock.
    pub(crate) const fn taken(&mut self) -> Option<&mut Taken> {
        self.taken.as_mut()
    }

    /// One of those runs, if they are few.
    pub(crate) fn run(&mut self, id: NativeId, span: u64) {
        self.span = self.span.saturating_add(span);
        self.too_many |= self.few.len() >= FEW;
        if !self.too_many {
            enter(&mut self.few, Id::new(id.session, id.time), span);
        }
    }

    /// How many elements of those runs can be seen.
    pub(crate) fn set_visible(&mut self, len: u64) {
        self.lens.push(len as u32);
    }

    /// The end of those runs.
    pub(crate) fn end_runs(&mut self) -> Result<(), LoadError> {
        let distinct = match self.taken.take() {
            Some(taken) => taken.are_distinct(),
            None => are_distinct(&mut self.few),
        };
        if distinct && !self.too_many && self.span <= SPAN_MAX.into() { Ok(()) } else { doubt() }
    }

    /// The end of all nodes: whether their ids are known to be different.
    pub(crate) fn are_distinct(&mut self) -> bool {
        if self.nodes.len() <= FEW {
            return are_distinct(&mut self.nodes);
        }
        Taken::new(self.doc.store.sessions(), self.node_count).is_some_and(|mut taken| {
            self.nodes.iter().for_each(|row| taken.take(row.id.session, row.id.time, row.len as u32));
            taken.are_distinct()
        })
    }

    /// The document, which reads the snapshot when it has to.
    pub(crate) fn into_document(mut self, bytes: Stable) -> Document {
        let session = self.doc.session();
        let sessions = std::mem::take(&mut self.doc.store.sessions);
        let snapshot = Snapshot::new(bytes, self.lens.into());
        self.doc.store = Held::unread(Unread::new(snapshot, session, sessions));
        self.doc
    }
}

/// That it may be wrong. Nobody sees the error: whoever reads the snapshot then finds the true one, or none.
#[cold]
pub(crate) fn doubt<T>() -> Result<T, LoadError> {
    Err(LoadError::Unseen(Timestamp::ORIGIN))
}

/// Notes ids that follow each other.
#[inline]
fn enter(rows: &mut Vec<Row>, id: Id, len: u64) {
    match rows.last_mut() {
        Some(last) if last.id.tick(last.len) == id => last.len += len,
        _ => rows.push(Row { id, len }),
    }
}

/// Whether no id is in two rows.
fn are_distinct(rows: &mut [Row]) -> bool {
    rows.sort_unstable_by_key(|row| (row.id.session, row.id.time));
    rows.is_sorted_by(|a, b| a.id.session < b.id.session || a.id.time + a.len <= b.id.time)
}
