//! Walking the columns of a document, node by node, for whoever wants to make something of them.

use super::{
    Col, Columns, NativeError, SnapshotKind, column, impossible, kind,
    runs::{IdReader, RunReader},
    sink::{Fault, Sink},
};
use crate::{
    SessionId, Timestamp,
    codec::{self, Malformed, cbor, wire::Reader},
    document::{Kind, NativeId, Order},
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
        clock.compacted_to = r.vu57_up_to(clock.time - 1, "time of compaction")?;
        r.end()?;
        Ok(clock)
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
    /// How many elements of each sequence to come can be seen, if somebody has walked here before.
    lens: Option<std::slice::Iter<'a, u32>>,
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
            lens: None,
        }
    }

    /// Passes over the runs of all sequences, of each of which so many elements can be seen.
    pub(super) fn without_runs(self, lens: &'a [u32]) -> Self {
        Self { lens: Some(lens.iter()), ..self }
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
        if self.lens.is_none() {
            self.runs.end()?;
        }
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
        if let Some(&(key, _)) = self.rows.last() {
            sink.key(key);
            self.skip_keys(1);
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

    /// Reads as many constants of the map or array that was opened last as follow each other in all but their ids.
    #[inline]
    fn cons<S: Sink>(&mut self, sink: &mut S, kind: Kind, left: u64) -> Result<(), NativeError> {
        let keys = self.rows.last().copied().filter(|_| kind == Kind::Obj);
        let most = keys.map_or(left, |(_, row)| left.min(row.into())).min(self.row);
        let Self { ids, values, .. } = &mut *self;
        let key = keys.map(|(key, _)| key);
        let read = sink.cons(key, most, |most| ids.next_run(most).map_err(Fault::Ids), values);
        read.map_err(|fault| match fault {
            Fault::Ids(error) => error,
            Fault::Values(error) => column(Col::Values)(error),
            Fault::Impossible(error) => impossible(Col::Ids, self.ids.offset())(error),
        })?;
        if keys.is_some() {
            self.skip_keys(most as u32);
        }
        self.row -= most;
        self.count += most;
        self.owed -= most;
        self.passed(most);
        Ok(())
    }

    /// So many keys of the row that is next have come.
    #[inline]
    fn skip_keys(&mut self, len: u32) {
        if let Some((key, row)) = self.rows.last_mut() {
            *key += len;
            *row -= len;
            if *row == 0 {
                self.rows.pop();
            }
        }
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
                let value = cbor::canonical(&mut self.values).map_err(column(Col::Values))?;
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

    /// Reads the runs of a sequence; `is_wide` if its text is not ASCII. Tells how many elements can be seen.
    fn sequence<S: Sink>(
        &mut self,
        sink: &mut S,
        id: NativeId,
        len: u64,
        is_wide: bool,
    ) -> Result<u64, NativeError> {
        if let Some(lens) = &mut self.lens {
            return Ok(lens.next().map_or(0, |&len| len.into()));
        }
        self.runs.begin(id);
        sink.begin_runs(codec::room(len, self.runs.left()), is_wide);
        sink.read_runs(len, &mut self.runs)?;
        sink.end_runs().map_err(impossible(Col::Moves, self.runs.offset()))?;
        Ok(self.runs.visible())
    }

    fn text_node<S: Sink>(&mut self, sink: &mut S) -> Result<(), NativeError> {
        let id = self.id()?;
        sink.sequence(id, Kind::Str).map_err(impossible(Col::Ids, self.ids.offset()))?;
        let (len, extra) = (self.count()?, self.count()?);
        let units = self.sequence(sink, id, len, extra > 0)?;
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
        let runs = self.count()?;
        let len = self.sequence(sink, id, runs, false)?;
        let bytes = self.bytes.take(len, "bytes").map_err(column(Col::Bytes))?;
        sink.bytes(bytes).map_err(impossible(Col::Moves, self.runs.offset()))
    }

    fn array<S: Sink>(&mut self, sink: &mut S) -> Result<(), NativeError> {
        let id = self.id()?;
        sink.open(id, Kind::Arr, 0).map_err(impossible(Col::Ids, self.ids.offset()))?;
        let runs = self.count()?;
        let left = self.sequence(sink, id, runs, false)?;
        self.owe(left)?;
        sink.elements(left as usize).map_err(impossible(Col::Moves, self.runs.offset()))?;
        self.stack.push(Frame { kind: Kind::Arr, left });
        Ok(())
    }
}
