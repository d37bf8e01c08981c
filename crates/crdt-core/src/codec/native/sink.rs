//! What can be made of a snapshot: a document, or its JSON value.

use super::{
    Col, Columns, NativeError, impossible,
    keys::KeyList,
    read::{Clock, Walk},
    runs::{Run, RunReader},
};
use crate::{
    Document, SessionId, Timestamp, Value,
    codec::{Malformed, RawValue, cbor, wire::Reader},
    document::{Bulk, Kind, LoadError, NativeId},
    text::Wtf8,
};

/// Takes the nodes of a snapshot in the order in which they stand: each before what it holds.
pub(super) trait Sink {
    /// A constant.
    fn con(&mut self, id: NativeId, value: RawValue<'_>) -> Result<(), LoadError>;
    /// Constants of a map or an array, and the keys of a map, which follow each other from the first on; `next` tells ids that
    /// follow each other, at most so many.
    fn cons(
        &mut self,
        key: Option<u32>,
        len: u64,
        mut next: impl FnMut(u64) -> Result<(NativeId, u64), Fault>,
        values: &mut Reader<'_>,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let (id, row) = next(len - done)?;
            for ticks in 0..row {
                if let Some(key) = key {
                    self.key(key + (done + ticks) as u32);
                }
                self.con(NativeId { time: id.time + ticks, ..id }, cbor::canonical(values)?)?;
            }
            done += row;
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
    /// The runs of the array, text or byte string that was opened last come now: there is room for so many. `is_wide` if not
    /// all of the text that can be seen is ASCII.
    fn begin_runs(&mut self, room: usize, is_wide: bool);
    /// Takes all those runs, of which there are so many.
    #[inline]
    fn read_runs(&mut self, len: u64, reader: &mut RunReader<'_>) -> Result<(), NativeError> {
        let mut left = len;
        while left > 0 {
            let rows = reader.next(left)?;
            left -= rows.len() as u64;
            self.runs(rows).map_err(impossible(Col::Moves, reader.offset()))?;
        }
        Ok(())
    }
    /// Some of those runs.
    fn runs(&mut self, runs: &[Run]) -> Result<(), LoadError>;
    /// Their end.
    fn end_runs(&mut self) -> Result<(), LoadError>;
    /// How many nodes the array that was opened last holds: its runs have come.
    fn elements(&mut self, len: usize) -> Result<(), LoadError>;
    /// The visible text of the text that was opened last, and its length in UTF-16 units.
    fn text(&mut self, text: Wtf8<'_>, units: u64) -> Result<(), LoadError>;
    /// The visible bytes of the byte string that was opened last.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), LoadError>;
}

/// What is wrong with a row of constants: their ids, their bytes, or what they say.
pub(super) enum Fault {
    Ids(NativeError),
    Values(Malformed),
    Impossible(LoadError),
}

impl From<Malformed> for Fault {
    fn from(error: Malformed) -> Self {
        Self::Values(error)
    }
}

impl From<LoadError> for Fault {
    fn from(error: LoadError) -> Self {
        Self::Impossible(error)
    }
}

/// Makes a document.
pub(super) fn load(columns: &Columns<'_>, session: SessionId) -> Result<Document, NativeError> {
    load_with(columns, session, false)
}

/// Makes a document of a snapshot that was [surveyed](super::Snapshot).
pub(super) fn load_again(columns: &Columns<'_>, session: SessionId) -> Result<Document, NativeError> {
    load_with(columns, session, true)
}

fn load_with(columns: &Columns<'_>, session: SessionId, is_distinct: bool) -> Result<Document, NativeError> {
    let clock = Clock::read(columns)?;
    let keys = KeyList::read(columns)?;
    let clock_len = columns.get(Col::Clock as usize).len();
    let mut bulk = Bulk::new(session, clock.order, &clock.sessions, &clock.last)
        .map_err(impossible(Col::Clock, clock_len))?;
    bulk.set_time(clock.time, clock.compacted_to);
    if is_distinct {
        bulk.set_distinct();
    }
    let walk = Walk::new(columns, &clock, keys.ends.len());
    bulk.set_keys(keys.bytes, keys.ends)
        .map_err(impossible(Col::Keys, columns.get(Col::Keys as usize).len()))?;
    walk.run(&mut bulk, Bulk::begin_tree)?;
    bulk.finish().map_err(impossible(Col::Ids, columns.get(Col::Ids as usize).len()))
}

impl Sink for Bulk {
    #[inline]
    fn con(&mut self, id: NativeId, value: RawValue<'_>) -> Result<(), LoadError> {
        self.con(id, value)
    }

    #[inline]
    fn cons(
        &mut self,
        key: Option<u32>,
        len: u64,
        next: impl FnMut(u64) -> Result<(NativeId, u64), Fault>,
        values: &mut Reader<'_>,
    ) -> Result<(), Fault> {
        self.cons(key, len, next, values)
    }

    fn con_id(&mut self, id: NativeId, named: Timestamp) -> Result<(), LoadError> {
        self.con_id(id, named)
    }

    fn none(&mut self) -> Result<(), LoadError> {
        self.none();
        Ok(())
    }

    fn missing(&mut self, id: Timestamp) -> Result<(), LoadError> {
        self.missing(id)
    }

    fn again(&mut self, number: u64) -> Result<(), LoadError> {
        self.again(number)
    }

    #[inline]
    fn open(&mut self, id: NativeId, kind: Kind, len: usize) -> Result<(), LoadError> {
        self.open(id, kind, len)
    }

    #[inline]
    fn key(&mut self, number: u32) {
        self.key(number);
    }

    fn close(&mut self) {
        self.close();
    }

    fn sequence(&mut self, id: NativeId, kind: Kind) -> Result<(), LoadError> {
        self.sequence(id, kind)
    }

    fn begin_runs(&mut self, room: usize, is_wide: bool) {
        self.begin_runs(room, is_wide);
    }

    fn runs(&mut self, runs: &[Run]) -> Result<(), LoadError> {
        self.runs(runs.iter().map(|&Run { id, span, dead }| (id, span, dead)))
    }

    fn end_runs(&mut self) -> Result<(), LoadError> {
        self.end_runs()
    }

    fn elements(&mut self, len: usize) -> Result<(), LoadError> {
        self.elements(len);
        Ok(())
    }

    fn text(&mut self, text: Wtf8<'_>, units: u64) -> Result<(), LoadError> {
        self.text(text, units)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        self.bytes(bytes);
        Ok(())
    }
}

/// Makes a JSON value.
pub(super) fn view(columns: &Columns<'_>) -> Result<Value, NativeError> {
    let view = view_with(columns, None)?;
    if view.again {
        // Something is referred to twice, which no honest editor does: a document knows what that is.
        return Ok(load(columns, SessionId::LOCAL)?.view());
    }
    Ok(view.root)
}

/// Makes the JSON value of a snapshot that was [surveyed](super::Snapshot).
pub(super) fn view_again(columns: &Columns<'_>, lens: &[u32]) -> Result<Value, NativeError> {
    view_with(columns, Some(lens)).map(|view| view.root)
}

fn view_with(columns: &Columns<'_>, lens: Option<&[u32]>) -> Result<View, NativeError> {
    let clock = Clock::read(columns)?;
    let keys = KeyList::read(columns)?;
    let walk = Walk::new(columns, &clock, keys.ends.len());
    let walk = match lens {
        Some(lens) => walk.without_runs(lens),
        None => walk,
    };
    let mut view = View { keys, open: Vec::new(), key: None, trees: 0, root: Value::Undefined, again: false };
    walk.run(&mut view, |view| view.trees += 1)?;
    Ok(view)
}

/// A container whose nodes are being read.
enum Open {
    Val(Value),
    Obj(Vec<(crate::Text, Value)>),
    Vec(Vec<Value>),
    Arr(Vec<Value>),
}

struct View {
    keys: KeyList,
    open: Vec<(Open, Option<u32>)>,
    key: Option<u32>,
    /// The first tree is the root's; what nothing refers to is not shown.
    trees: usize,
    root: Value,
    again: bool,
}

impl View {
    /// A value comes to stand where the next one does; `None` is a node that was removed.
    fn put(&mut self, value: Option<Value>) {
        let value =
            if self.open.len() >= Document::VIEW_DEPTH_MAX { value.map(|_| Value::Null) } else { value };
        match self.open.last_mut() {
            None if self.trees == 1 => self.root = value.unwrap_or_default(),
            None => {}
            Some((Open::Val(held), _)) => *held = value.unwrap_or_default(),
            Some((Open::Obj(entries), _)) => {
                if let (Some(key), Some(value)) =
                    (self.key.take(), value.filter(|value| !value.is_undefined()))
                {
                    entries.push((self.keys.get(key).to_text(), value));
                }
            }
            Some((Open::Vec(items), _)) => items.push(value.unwrap_or_default()),
            Some((Open::Arr(items), _)) => items.extend(value),
        }
    }
}

impl Sink for View {
    fn con(&mut self, _: NativeId, value: RawValue<'_>) -> Result<(), LoadError> {
        self.put(Some(value.to_value()));
        Ok(())
    }

    fn con_id(&mut self, _: NativeId, named: Timestamp) -> Result<(), LoadError> {
        let pair = [named.sid.get(), named.time].map(|number| Value::Int(number as i64));
        self.put(Some(Value::Array(pair.into())));
        Ok(())
    }

    fn none(&mut self) -> Result<(), LoadError> {
        self.put(Some(Value::Undefined));
        Ok(())
    }

    fn missing(&mut self, _: Timestamp) -> Result<(), LoadError> {
        self.put(None);
        Ok(())
    }

    fn again(&mut self, _: u64) -> Result<(), LoadError> {
        self.again = true;
        self.put(None);
        Ok(())
    }

    fn open(&mut self, _: NativeId, kind: Kind, len: usize) -> Result<(), LoadError> {
        let open = match kind {
            Kind::Obj => Open::Obj(Vec::with_capacity(len)),
            Kind::Vec => Open::Vec(Vec::with_capacity(len)),
            Kind::Arr => Open::Arr(Vec::new()),
            _ => Open::Val(Value::Undefined),
        };
        self.open.push((open, self.key.take()));
        Ok(())
    }

    fn key(&mut self, number: u32) {
        self.key = Some(number);
    }

    fn close(&mut self) {
        let Some((open, key)) = self.open.pop() else { return };
        self.key = key;
        self.put(Some(match open {
            Open::Val(value) => value,
            Open::Obj(entries) => Value::Map(entries),
            Open::Vec(items) | Open::Arr(items) => Value::Array(items),
        }));
    }

    fn sequence(&mut self, _: NativeId, _: Kind) -> Result<(), LoadError> {
        Ok(())
    }

    fn begin_runs(&mut self, _: usize, _: bool) {}

    fn read_runs(&mut self, len: u64, reader: &mut RunReader<'_>) -> Result<(), NativeError> {
        reader.for_each(len, |_| ())
    }

    fn runs(&mut self, _: &[Run]) -> Result<(), LoadError> {
        Ok(())
    }

    fn end_runs(&mut self) -> Result<(), LoadError> {
        Ok(())
    }

    fn elements(&mut self, len: usize) -> Result<(), LoadError> {
        if let Some((Open::Arr(items), _)) = self.open.last_mut() {
            items.reserve_exact(len);
        }
        Ok(())
    }

    fn text(&mut self, text: Wtf8<'_>, _: u64) -> Result<(), LoadError> {
        self.put(Some(Value::Text(text.to_text())));
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        self.put(Some(Value::Bytes(bytes.to_vec())));
        Ok(())
    }
}
