//! Walking the columns of a document, node by node, for whoever wants to make something of them.

use super::{
    Col, Columns, NativeError, SnapshotKind, column, impossible, kind,
    runs::{IdReader, Run, RunReader},
};
use crate::{
    SessionId, Timestamp,
    codec::{self, Malformed, RawValue, cbor, wire::Reader},
    document::{Kind, LoadError, NativeId, Order},
    id::MAX_ID,
    text::Wtf8,
};

/// What a snapshot says of time.
pub(super) struct Clock {
    pub(super) order: Order,
    pub(super) sessions: Vec<SessionId>,
    /// The last time seen of each.
    pub(super) last: Vec<u64>,
    /// The next unused time.
    pub(super) time: u64,
    /// Up to where tombstones have been dropped.
    pub(super) compacted_to: u64,
}

impl Clock {
    pub(super) fn read(columns: &Columns<'_>) -> Result<Self, NativeError> {
        let order = if columns.kind == SnapshotKind::Server { Order::Server } else { Order::Logical };
        Self::sessions(columns.get(Col::Clock as usize), order).map_err(column(Col::Clock))
    }

    fn sessions(bytes: &[u8], order: Order) -> Result<Self, Malformed> {
        let r = &mut Reader::new(bytes);
        let count = r.vu57("a count of sessions")?;
        let room = codec::room(count, r.left() / 2);
        let mut clock = Self {
            order,
            sessions: Vec::with_capacity(room),
            last: Vec::with_capacity(room),
            time: 0,
            compacted_to: 0,
        };
        let mut sid = 0u64;
        for _ in 0..count {
            let more = r.vu57_up_to(MAX_ID - sid, "session id")?;
            if more == 0 {
                let what = "the system's session, or one twice";
                return Err(Malformed::Contradiction { at: r.offset(), what });
            }
            sid += more;
            clock.sessions.push(SessionId::new(sid).unwrap_or(SessionId::SYSTEM));
            clock.last.push(r.vu57_up_to(MAX_ID - 1, "time")?);
        }
        let max = clock.last.iter().copied().max().unwrap_or(0);
        clock.time = max + 1 + r.vu57_up_to(MAX_ID - max - 1, "time")?;
        clock.compacted_to = r.vu57_up_to(max, "time of compaction")?;
        r.end()?;
        Ok(clock)
    }
}

/// How long a key is that is put together at once.
const BLOCK: usize = 16;

/// By how many: the low bytes of a block.
const LOW_BYTES: [u128; BLOCK + 1] = {
    let (mut masks, mut len) = ([0; BLOCK + 1], 0);
    while len < BLOCK {
        masks[len + 1] = masks[len] << 8 | 0xff;
        len += 1;
    }
    masks
};

/// A short key in a block, and zeros behind it.
struct Brief {
    block: u128,
    len: usize,
}

impl Brief {
    /// A key; none if it is long.
    fn of(key: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        let Some(room) = block.get_mut(..key.len()) else { return Self { block: 0, len: 0 } };
        room.copy_from_slice(key);
        Self { block: u128::from_le_bytes(block), len: key.len() }
    }

    /// The key that stands next in some bytes, and the bytes behind it. `None` if it is unusual in any way, or long.
    #[inline(always)]
    fn next<'a>(&self, bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let &[shared, rest_len, ref ahead @ ..] = bytes.first_chunk::<{ BLOCK + 2 }>()?;
        let (shared, rest_len) = (usize::from(shared), usize::from(rest_len));
        if self.len == 0 || shared > self.len || rest_len == 0 || shared + rest_len > BLOCK {
            return None;
        }
        let (kept, more) =
            (self.block & LOW_BYTES[shared], u128::from_le_bytes(*ahead) & LOW_BYTES[rest_len]);
        let is_ascii = (kept | more) & u128::from_le_bytes([0x80; BLOCK]) == 0;
        // Sorted: the first byte that differs is larger, or there was none.
        let in_order = self.block.to_le_bytes()[shared] < ahead[0] || shared == self.len;
        let key = Self { block: kept | more << (8 * shared), len: shared + rest_len };
        (is_ascii && in_order).then_some((key, bytes.get(2 + rest_len..)?))
    }
}

/// The keys of a document, sorted.
pub(super) struct KeyList {
    pub(super) bytes: Vec<u8>,
    /// Where each key ends; it starts where the one before ends.
    pub(super) ends: Vec<u32>,
}

impl KeyList {
    pub(super) fn read(columns: &Columns<'_>) -> Result<Self, NativeError> {
        Self::unfold(columns.get(Col::Keys as usize)).map_err(column(Col::Keys))
    }

    fn unfold(column: &[u8]) -> Result<Self, Malformed> {
        let r = &mut Reader::new(column);
        let count = r.vu57("a count of keys")?;
        // A key may share all but a byte with the one before; so bytes are bounded, not only counted.
        let max = column.len().saturating_mul(super::frame::RATIO_MAX);
        let mut keys = Self {
            bytes: Vec::with_capacity(column.len()),
            ends: Vec::with_capacity(super::super::room(count, column.len() / 2)),
        };
        let (mut start, mut end, mut is_ascii) = (0, 0, true);
        let mut last = Brief::of(&[]);
        for number in 0..count {
            if let Some((key, rest)) = last.next(r.rest())
                && end + key.len <= max.min(u32::MAX as usize)
            {
                r.skip_to(rest);
                // A copy of a fixed size is two instructions, and what is too much is cut off.
                keys.bytes.extend_from_slice(&key.block.to_le_bytes());
                (start, end) = (end, end + key.len);
                keys.bytes.truncate(end);
                keys.ends.push(end as u32);
                last = key;
                continue;
            }
            let shared = r.vu57_up_to((end - start) as u64, "length of what keys share")? as usize;
            let rest_len = r.vu57("the length of a key")?;
            let rest = r.take(rest_len, "a key")?;
            // Sorted: the first byte that differs is larger, or there was none.
            let in_order = match (keys.bytes.get(start + shared..end).and_then(<[u8]>::first), rest.first()) {
                (None, None) => number == 0,
                (None, Some(_)) => true,
                (Some(before), Some(after)) => before < after,
                (Some(_), None) => false,
            };
            if !in_order {
                return Err(Malformed::Contradiction { at: r.offset(), what: "keys that are not sorted" });
            }
            let total = keys.bytes.len() + shared + rest.len();
            if total > max || total > u32::MAX as usize {
                let max = max.min(u32::MAX as usize) as u64;
                return Err(Malformed::TooLarge {
                    at: r.offset(),
                    what: "length of all keys",
                    value: total as u64,
                    max,
                });
            }
            keys.bytes.extend_from_within(start..start + shared);
            keys.bytes.extend_from_slice(rest);
            (start, end) = (end, total);
            // What it shares with one that is ASCII is too.
            is_ascii = is_ascii && rest.is_ascii() || keys.bytes[start..].is_ascii();
            if !is_ascii {
                Wtf8::new(&keys.bytes[start..])
                    .map_err(|_| Malformed::Text { at: r.offset() - rest.len() })?;
            }
            keys.ends.push(end as u32);
            last = Brief::of(&keys.bytes[start..]);
        }
        r.end()?;
        Ok(keys)
    }

    pub(super) fn get(&self, number: u32) -> Wtf8<'_> {
        let at = number as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        Wtf8::trusted(&self.bytes[start..self.ends[at] as usize])
    }
}

/// Takes the nodes of a snapshot in the order in which they stand: each before what it holds.
pub(super) trait Sink {
    /// A constant.
    fn con(&mut self, id: NativeId, value: RawValue<'_>) -> Result<(), LoadError>;
    /// Constants of a map or an array, with ids that follow each other, as do the keys if it is a map; `next` tells the
    /// values.
    fn cons<'v>(
        &mut self,
        id: NativeId,
        key: Option<u32>,
        len: u64,
        mut next: impl FnMut() -> Result<RawValue<'v>, Fault>,
    ) -> Result<(), Fault> {
        for at in 0..len {
            if let Some(key) = key {
                self.key(key + at as u32);
            }
            self.con(NativeId { time: id.time + at, ..id }, next()?)?;
        }
        Ok(())
    }
    /// A constant that is a timestamp.
    fn con_id(&mut self, id: NativeId, named: Timestamp) -> Result<(), LoadError>;
    /// No node.
    fn none(&mut self) -> Result<(), LoadError>;
    /// A node that is not there, though something refers to it.
    fn missing(&mut self, id: Timestamp) -> Result<(), LoadError>;
    /// The node with this number in the snapshot, which stands further in front.
    fn again(&mut self, number: u64) -> Result<(), LoadError>;
    /// A register, map or tuple, which holds the `len` nodes that follow; or an array, whose runs follow first.
    fn open(&mut self, id: NativeId, kind: Kind, len: usize) -> Result<(), LoadError>;
    /// The key of the next node.
    fn key(&mut self, number: u32);
    /// The end of what was opened last.
    fn close(&mut self);
    /// A text or byte string, and then its runs and its visible content.
    fn sequence(&mut self, id: NativeId, kind: Kind) -> Result<(), LoadError>;
    /// A run of the array, text or byte string that was opened last.
    fn run(&mut self, run: Run) -> Result<(), LoadError>;
    /// How many nodes the array that was opened last holds: its runs have come.
    fn elements(&mut self, len: usize) -> Result<(), LoadError>;
    /// The visible text of the text that was opened last, and its length in UTF-16 units.
    fn text(&mut self, text: Wtf8<'_>, units: u64) -> Result<(), LoadError>;
    /// The visible bytes of the byte string that was opened last.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), LoadError>;
}

/// What is wrong with a run of constants: their bytes, or what they say.
pub(super) enum Fault {
    Native(NativeError),
    Impossible(LoadError),
}

impl From<NativeError> for Fault {
    fn from(error: NativeError) -> Self {
        Self::Native(error)
    }
}

impl From<LoadError> for Fault {
    fn from(error: LoadError) -> Self {
        Self::Impossible(error)
    }
}

/// A map, tuple or array whose nodes follow.
struct Frame {
    kind: Kind,
    left: u64,
}

pub(super) struct Walk<'a> {
    kinds: Reader<'a>,
    kind: u8,
    row: u64,
    ids: IdReader<'a>,
    counts: Reader<'a>,
    entries: Reader<'a>,
    values: Reader<'a>,
    runs: RunReader<'a>,
    text: Reader<'a>,
    text_is_ascii: bool,
    bytes: Reader<'a>,
    names: Reader<'a>,
    key_count: u64,
    /// The keys to come of all open maps, those of the innermost last: a first one, and how many follow each other.
    rows: Vec<(u32, u32)>,
    count: u64,
    /// How many nodes the open maps, registers and arrays still wait for.
    owed: u64,
    stack: Vec<Frame>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(columns: &'a Columns<'_>, clock: &'a Clock, key_count: usize) -> Self {
        let bytes = |column: Col| columns.get(column as usize);
        let reader = |column: Col| Reader::new(bytes(column));
        Self {
            kinds: reader(Col::Kinds),
            kind: kind::NONE,
            row: 0,
            ids: IdReader::new(bytes(Col::Ids), &clock.last),
            counts: reader(Col::Counts),
            entries: reader(Col::Entries),
            values: reader(Col::Values),
            runs: RunReader::new(bytes(Col::Moves), bytes(Col::Spans), bytes(Col::Starts), &clock.last),
            text: reader(Col::Text),
            text_is_ascii: bytes(Col::Text).is_ascii(),
            bytes: reader(Col::Bytes),
            names: reader(Col::Names),
            key_count: key_count as u64,
            rows: Vec::new(),
            count: 0,
            owed: 0,
            stack: Vec::new(),
        }
    }

    /// Walks the tree from the root, then the nodes that nothing refers to; `top` is called before each.
    pub(super) fn run<S: Sink>(
        mut self,
        sink: &mut S,
        mut top: impl FnMut(&mut S),
    ) -> Result<(), NativeError> {
        for tree in 0u64.. {
            top(sink);
            if self.next_kind()? == kind::NONE && tree == 0 {
                sink.none().map_err(impossible(Col::Kinds, self.kinds.offset()))?;
            } else if matches!(self.kind, kind::CON..=kind::CON_ID) || self.kind == kind::MISSING && tree == 0
            {
                self.node(sink)?;
            } else {
                return Err(self.bad_kind("a node that nothing refers to, with a kind from 0 to 7"));
            }
            while let Some(&Frame { kind, left }) = self.stack.last() {
                if left == 0 {
                    self.stack.pop();
                    sink.close();
                    continue;
                }
                if left > 1 && kind != Kind::Vec && self.peek_kind()? == kind::CON {
                    self.cons(sink, kind, left)?;
                    continue;
                }
                self.passed(1);
                match kind {
                    Kind::Obj => {
                        self.owed -= 1;
                        self.key(sink);
                    }
                    Kind::Vec => {}
                    _ => self.owed -= 1,
                }
                self.next_kind()?;
                self.node(sink)?;
            }
            if self.row == 0 && self.kinds.left() == 0 {
                break;
            }
        }
        self.ids.end()?;
        self.runs.end()?;
        let rest = [
            (Col::Counts, self.counts),
            (Col::Entries, self.entries),
            (Col::Values, self.values),
            (Col::Text, self.text),
            (Col::Bytes, self.bytes),
            (Col::Names, self.names),
        ];
        rest.into_iter().try_for_each(|(at, reader)| reader.end().map_err(column(at)))
    }

    /// Tells the key of the next node of the map that was opened last.
    #[inline]
    fn key<S: Sink>(&mut self, sink: &mut S) {
        if let Some((key, row)) = self.rows.last_mut() {
            sink.key(*key);
            *key += 1;
            *row -= 1;
            if *row == 0 {
                self.rows.pop();
            }
        }
    }

    /// Reads the keys of a map with so many entries: rows of keys that follow each other.
    #[inline]
    fn keys(&mut self, len: u64) -> Result<(), Malformed> {
        let start = self.rows.len();
        let (mut next, mut left) = (0, len);
        while left > 0 {
            let head = self.entries.vu57("a key")?;
            let row = if head & 1 == 0 { 1 } else { self.entries.vu57("a row of keys")?.saturating_add(2) };
            let first = next + (head >> 1);
            let at = self.entries.offset();
            if row > left {
                return Err(Malformed::Contradiction { at, what: "more keys than entries" });
            }
            let (end, max) = (first.saturating_add(row), self.key_count);
            if end > max {
                return Err(Malformed::TooLarge { at, what: "number of keys", value: end, max });
            }
            self.rows.push((first as u32, row as u32));
            next = end;
            left -= row;
        }
        self.rows[start..].reverse();
        Ok(())
    }

    /// Reads as many constants of the map or array that was opened last as follow each other in every way.
    #[inline]
    fn cons<S: Sink>(&mut self, sink: &mut S, kind: Kind, left: u64) -> Result<(), NativeError> {
        let keys = self.rows.last_mut().filter(|_| kind == Kind::Obj);
        let most = keys.as_ref().map_or(left, |keys| left.min(keys.1.into())).min(self.row);
        let (id, len) = self.ids.next_run(most)?;
        let key = keys.map(|keys| {
            let key = keys.0;
            *keys = (key + len as u32, keys.1 - len as u32);
            key
        });
        if key.is_some() && self.rows.last().is_some_and(|keys| keys.1 == 0) {
            self.rows.pop();
        }
        self.row -= len;
        self.count += len;
        self.owed -= len;
        self.passed(len);
        let ids_at = self.ids.offset();
        let read = sink.cons(id, key, len, || Ok(con(&mut self.values).map_err(column(Col::Values))?));
        read.map_err(|fault| match fault {
            Fault::Native(error) => error,
            Fault::Impossible(error) => impossible(Col::Ids, ids_at)(error),
        })
    }

    /// So many nodes of what was opened last come now.
    #[inline]
    fn passed(&mut self, len: u64) {
        if let Some(frame) = self.stack.last_mut() {
            frame.left -= len;
        }
    }

    /// The kind of the next node.
    #[inline]
    fn peek_kind(&mut self) -> Result<u8, NativeError> {
        if self.row == 0 {
            let head = self.kinds.vu57("the kind of a node").map_err(column(Col::Kinds))?;
            self.kind = (head & 15) as u8;
            self.row = (head >> 4) + 1;
        }
        Ok(self.kind)
    }

    #[inline]
    fn next_kind(&mut self) -> Result<u8, NativeError> {
        self.peek_kind()?;
        self.row -= 1;
        Ok(self.kind)
    }

    fn count(&mut self) -> Result<u64, NativeError> {
        self.counts.vu57("the length of a node").map_err(column(Col::Counts))
    }

    fn name(&mut self) -> Result<Timestamp, NativeError> {
        let mut read = || Ok(Timestamp::new(self.names.session()?, self.names.time()?));
        read().map_err(column(Col::Names))
    }

    /// Reads a node of the kind that was read, up to its first child.
    #[inline]
    fn node<S: Sink>(&mut self, sink: &mut S) -> Result<(), NativeError> {
        let (kind, max) = match self.kind {
            kind::CON => {
                let id = self.id()?;
                let value = con(&mut self.values).map_err(column(Col::Values))?;
                return sink.con(id, value).map_err(impossible(Col::Ids, self.ids.offset()));
            }
            kind::CON_ID => {
                let (id, named) = (self.id()?, self.name()?);
                return sink.con_id(id, named).map_err(impossible(Col::Ids, self.ids.offset()));
            }
            kind::NONE if self.stack.last().is_some_and(|frame| frame.kind == Kind::Vec) => {
                return sink.none().map_err(impossible(Col::Kinds, self.kinds.offset()));
            }
            kind::MISSING => {
                let id = self.name()?;
                return sink.missing(id).map_err(impossible(Col::Names, self.names.offset()));
            }
            kind::AGAIN => {
                let max = self.count.saturating_sub(1);
                let number = self.names.vu57_up_to(max, "number of a node").map_err(column(Col::Names))?;
                return sink.again(number).map_err(impossible(Col::Names, self.names.offset()));
            }
            kind::STR => return self.text_node(sink),
            kind::BIN => return self.bytes_node(sink),
            kind::VAL => (Kind::Val, 1),
            kind::OBJ => (Kind::Obj, u64::MAX),
            kind::VEC => (Kind::Vec, 256),
            kind::ARR => return self.array(sink),
            _ => return Err(self.bad_kind("a kind of node from 0 to 10, and one that can stand here")),
        };
        let id = self.id()?;
        let len = self.counts.vu57_up_to(max, "length of a node").map_err(column(Col::Counts))?;
        if kind != Kind::Vec {
            self.owe(len)?;
        }
        if kind == Kind::Obj {
            self.keys(len).map_err(column(Col::Entries))?;
        }
        sink.open(id, kind, len as usize).map_err(impossible(Col::Ids, self.ids.offset()))?;
        self.stack.push(Frame { kind, left: len });
        Ok(())
    }

    /// Checks that so many more nodes can follow: each takes a byte of one of these columns at least. So a length that
    /// was made up costs no memory. (A tuple has at most 256 places, and they may be empty.)
    #[inline]
    fn owe(&mut self, more: u64) -> Result<(), NativeError> {
        self.owed = self.owed.saturating_add(more);
        if self.owed > (self.values.left() + self.counts.left() + self.names.left()) as u64 {
            let what = "more nodes than there are bytes for them";
            return Err(column(Col::Counts)(Malformed::Contradiction { at: self.counts.offset(), what }));
        }
        Ok(())
    }

    #[cold]
    fn bad_kind(&self, expected: &'static str) -> NativeError {
        column(Col::Kinds)(self.kinds.unexpected(self.kind, expected))
    }

    #[inline]
    fn id(&mut self) -> Result<NativeId, NativeError> {
        self.count += 1;
        self.ids.next()
    }

    /// Reads the runs of a sequence. Tells how many elements can be seen.
    fn sequence<S: Sink>(&mut self, sink: &mut S, id: NativeId) -> Result<u64, NativeError> {
        let count = self.count()?;
        self.runs.begin(id);
        let mut visible = 0u64;
        for _ in 0..count {
            let run = self.runs.next()?;
            if !run.dead {
                visible = visible.saturating_add(run.span);
            }
            sink.run(run).map_err(impossible(Col::Moves, self.runs.offset()))?;
        }
        Ok(visible)
    }

    fn text_node<S: Sink>(&mut self, sink: &mut S) -> Result<(), NativeError> {
        let id = self.id()?;
        sink.sequence(id, Kind::Str).map_err(impossible(Col::Ids, self.ids.offset()))?;
        let units = self.sequence(sink, id)?;
        let extra = self.count()?;
        let at = self.text.offset();
        let bytes = self.text.take(units.saturating_add(extra), "a text").map_err(column(Col::Text))?;
        let text = if self.text_is_ascii {
            Wtf8::trusted(bytes)
        } else {
            Wtf8::new(bytes).map_err(|wrong| column(Col::Text)(Malformed::Text { at: at + wrong }))?
        };
        if text.units() as u64 != units {
            let what = "a text of another length than its runs";
            return Err(column(Col::Text)(Malformed::Contradiction { at, what }));
        }
        sink.text(text, units).map_err(impossible(Col::Moves, self.runs.offset()))
    }

    fn bytes_node<S: Sink>(&mut self, sink: &mut S) -> Result<(), NativeError> {
        let id = self.id()?;
        sink.sequence(id, Kind::Bin).map_err(impossible(Col::Ids, self.ids.offset()))?;
        let len = self.sequence(sink, id)?;
        let bytes = self.bytes.take(len, "bytes").map_err(column(Col::Bytes))?;
        sink.bytes(bytes).map_err(impossible(Col::Moves, self.runs.offset()))
    }

    fn array<S: Sink>(&mut self, sink: &mut S) -> Result<(), NativeError> {
        let id = self.id()?;
        sink.open(id, Kind::Arr, 0).map_err(impossible(Col::Ids, self.ids.offset()))?;
        let left = self.sequence(sink, id)?;
        self.owe(left)?;
        sink.elements(left as usize).map_err(impossible(Col::Moves, self.runs.offset()))?;
        self.stack.push(Frame { kind: Kind::Arr, left });
        Ok(())
    }
}

/// Reads a constant, which is in canonical spelling.
#[inline]
fn con<'a>(r: &mut Reader<'a>) -> Result<RawValue<'a>, Malformed> {
    let value = cbor::scan(r)?;
    if r.canonical { Ok(value) } else { Err(Malformed::NotCanonical) }
}
