//! The structural binary form: the tree from the root, ids as distances from a clock table. The form for snapshots.
//!
//! Written and read without recursion: nodes may be nested as deep as the bytes go.

use super::{
    DocumentError, Fault, Nodes, Walk,
    fault::or_find_double,
    table::{Known, Place, Table, TableWriter},
};
use crate::{
    Document, SessionId, Timestamp,
    codec::{
        Malformed, cbor, room,
        wire::{Reader, put_b1vu56, put_pair, put_vu57},
    },
    document::{
        Child, ChunkLoader, Chunks, Content, Entries, Kind, LoadError, Loader, NodeIx, Order, Places,
        SessionIx,
    },
    id::MAX_ID,
    text::Wtf8,
};

/// Type codes, in the upper three bits of a node's header.
pub(super) mod kind {
    pub(in super::super) const CON: u8 = 0;
    pub(in super::super) const VAL: u8 = 1;
    pub(in super::super) const OBJ: u8 = 2;
    pub(in super::super) const VEC: u8 = 3;
    pub(in super::super) const STR: u8 = 4;
    pub(in super::super) const BIN: u8 = 5;
    pub(in super::super) const ARR: u8 = 6;
}

/// How ids are written.
pub(super) enum IdWriter {
    Logical(TableWriter),
    Server,
}

impl IdWriter {
    #[inline]
    pub(super) fn put(&mut self, out: &mut Vec<u8>, id: Timestamp) {
        match self {
            Self::Logical(table) => {
                let (place, distance) = table.relative(id);
                put_pair(out, place, distance);
            }
            Self::Server => put_vu57(out, id.time),
        }
    }

    /// Writes an id and returns what others of its session are relative to.
    pub(super) fn put_placed(&mut self, out: &mut Vec<u8>, id: Timestamp) -> Option<Place> {
        self.put(out, id);
        match self {
            Self::Logical(table) => Some(table.placed(id)),
            Self::Server => None,
        }
    }
}

/// Writes a document.
pub(super) fn encode(document: &Document) -> Vec<u8> {
    let (ids, head) = match document.order() {
        Order::Server => {
            let mut head = vec![0x80];
            put_vu57(&mut head, document.time());
            (IdWriter::Server, head)
        }
        Order::Logical => (IdWriter::Logical(TableWriter::new(document)), vec![0; 4]),
    };
    let (walk, stack, scratch) = (Walk::new(document), Vec::new(), Vec::new());
    let mut writer = Writer { out: head, ids, walk, stack, scratch };
    writer.put_root(document.root_child());
    let Writer { mut out, ids, .. } = writer;
    if let IdWriter::Logical(table) = ids {
        // What is longer than the frame can say has no such form: readers are to refuse it, not to read half of it.
        let len = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
        out[..4].copy_from_slice(&len.to_be_bytes());
        table.put(&mut out);
    }
    out
}

/// A container whose content is being written.
enum Frame<'d> {
    Obj(Entries<'d>),
    Vec(Places<'d>),
    Arr { chunks: Chunks<'d>, children: Vec<Child<'d>> },
}

struct Writer<'d> {
    out: Vec<u8>,
    ids: IdWriter,
    walk: Walk<'d>,
    stack: Vec<Frame<'d>>,
    /// Text that does not lie in one piece, or not as bytes.
    scratch: Vec<u8>,
}

impl<'d> Writer<'d> {
    fn put_root(&mut self, root: Option<Child<'d>>) {
        let Some(root) = root else { return self.out.push(0) };
        let mut next = Some(root);
        loop {
            while let Some(child) = next.take() {
                next = self.put_node(child);
            }
            let Some(frame) = self.stack.last_mut() else { return };
            next = match frame {
                Frame::Obj(entries) => entries.next().map(|(key, child)| {
                    cbor::put_text(&mut self.out, key);
                    child
                }),
                Frame::Vec(places) => places
                    .find(|place| {
                        if place.is_none() {
                            self.out.push(0);
                        }
                        place.is_some()
                    })
                    .flatten(),
                Frame::Arr { chunks, children } => loop {
                    if let Some(child) = children.pop() {
                        break Some(child);
                    }
                    let Some(chunk) = chunks.next() else { break None };
                    self.ids.put(&mut self.out, chunk.id());
                    put_b1vu56(&mut self.out, chunk.is_tombstone(), chunk.span());
                    if !chunk.is_tombstone() {
                        children.extend(chunk.children());
                        children.reverse();
                    }
                },
            };
            if next.is_none() {
                self.stack.pop();
            }
        }
    }

    /// Writes a node up to its first child. Returns the child of a register; other containers go onto the stack.
    fn put_node(&mut self, child: Child<'d>) -> Option<Child<'d>> {
        self.ids.put(&mut self.out, child.id());
        let Some(node) = self.walk.enter(child) else {
            self.out.extend_from_slice(&[kind::CON << 5, 0xf7]);
            return None;
        };
        match node.content() {
            Content::Con(value) => {
                self.out.push(kind::CON << 5);
                self.out.extend_from_slice(value.as_bytes());
            }
            Content::ConId(id) => {
                self.out.push(kind::CON << 5 | 1);
                self.ids.put(&mut self.out, id);
            }
            Content::Val(child) => {
                self.out.push(kind::VAL << 5);
                return Some(child.unwrap_or(Child::Missing(Timestamp::ORIGIN)));
            }
            Content::Obj(entries) => {
                self.put_header(kind::OBJ, entries.len());
                self.stack.push(Frame::Obj(entries));
            }
            Content::Vec(places) => {
                self.put_header(kind::VEC, places.len());
                self.stack.push(Frame::Vec(places));
            }
            Content::Str(chunks) => {
                self.put_header(kind::STR, chunks.total());
                super::quick::put_text_chunks(&mut self.out, &mut self.ids, &chunks, &mut self.scratch);
            }
            Content::Bin(chunks) => {
                self.put_header(kind::BIN, chunks.total());
                for chunk in chunks {
                    self.ids.put(&mut self.out, chunk.id());
                    put_b1vu56(&mut self.out, chunk.is_tombstone(), chunk.span());
                    if !chunk.is_tombstone() {
                        chunk.write_bytes(&mut self.out);
                    }
                }
            }
            Content::Arr(chunks) => {
                self.put_header(kind::ARR, chunks.total());
                self.stack.push(Frame::Arr { chunks, children: Vec::new() });
            }
        }
        None
    }

    fn put_header(&mut self, kind: u8, len: usize) {
        if len < 31 {
            self.out.push(kind << 5 | len as u8);
        } else {
            self.out.push(kind << 5 | 31);
            put_vu57(&mut self.out, len as u64);
        }
    }
}

/// How ids are read.
enum IdReader {
    /// By the table, and by its entries as the loader knows them.
    Logical(Table, Vec<Known>),
    Server(SessionIx),
}

impl IdReader {
    #[inline]
    fn read(&self, r: &mut Reader<'_>) -> Result<Timestamp, Malformed> {
        match self {
            Self::Logical(table, _) => {
                let at = r.offset();
                let (place, distance) = r.pair()?;
                table.absolute(place, distance).ok_or(Malformed::Contradiction {
                    at,
                    what: "an id that the clock table does not explain",
                })
            }
            Self::Server(_) => {
                let time = r.time()?;
                // The server names the system's ids by a time of 0.
                Ok(if time == 0 { Timestamp::ORIGIN } else { Timestamp::new(SessionId::SERVER, time) })
            }
        }
    }

    /// The id of a chunk: never the system's.
    #[inline]
    fn read_chunk(&self, r: &mut Reader<'_>) -> Result<(SessionIx, u64), Fault> {
        let found = match self {
            Self::Logical(_, entries) => {
                let before = *r;
                let (place, distance) = r.pair()?;
                let entry = place.checked_sub(1).and_then(|at| entries.get(usize::try_from(at).ok()?));
                let id = entry.and_then(|entry| Some((entry.session?, entry.time.checked_sub(distance)?)));
                if id.is_none() {
                    *r = before;
                }
                id
            }
            Self::Server(session) => Some((*session, r.time()?)).filter(|(_, time)| *time > 0),
        };
        match found {
            Some(id) => Ok(id),
            None => Err(self.read(r).map_or_else(Into::into, |id| LoadError::System(id).into())),
        }
    }
}

/// Reads a document.
pub(super) fn decode(bytes: &[u8]) -> Result<Document, DocumentError> {
    let read = |sought| {
        let mut r = Reader::new(bytes);
        read(&mut r, sought).map_err(|fault| (fault, r.offset()))
    };
    or_find_double(read).map_err(|(fault, at)| fault.at_byte(at))
}

/// Reads a document as if an id were sought: chunk by chunk.
#[cfg(test)]
pub(super) fn decode_seeking(bytes: &[u8], sought: Option<Timestamp>) -> Result<Document, DocumentError> {
    let mut r = Reader::new(bytes);
    read(&mut r, sought).map_err(|fault| fault.at_byte(r.offset()))
}

/// Reads a document, in one way whatever stands there if an id is sought.
fn read(r: &mut Reader<'_>, sought: Option<Timestamp>) -> Result<Document, Fault> {
    if r.peek().is_some_and(|first| first & 0x80 != 0) {
        r.u8("the kind of document")?;
        let time = r.vu57_up_to(MAX_ID, "time")?;
        let mut loader = Loader::new(SessionId::SERVER, time, Order::Server);
        let server = loader.session(SessionId::SERVER)?;
        return read_root(r, &IdReader::Server(server), Nodes::new(loader, sought));
    }
    let (mut root, table) = root_and_table(r)?;
    let mut loader = table.loader()?;
    loader.reserve(0, root.left());
    let known = table.known(&mut loader)?;
    let document = read_root(&mut root, &IdReader::Logical(table, known), Nodes::new(loader, sought));
    *r = root;
    document
}

/// The root, whose length stands in front, and the clock table behind it.
pub(super) fn root_and_table<'a>(r: &mut Reader<'a>) -> Result<(Reader<'a>, Table), Malformed> {
    let start = *r;
    let len = r.big_endian(4, "the length of the root")?;
    let at = r.offset();
    r.take(len, "the root")?;
    // Its bytes end where the table starts, and count from the start of all.
    let root = Reader::new(r.since(start.offset())).at_offset(at);
    let table = Table::read(r)?;
    r.end()?;
    Ok((root, table))
}

/// A container whose content is being read.
enum Open<'a> {
    Val,
    Obj { left: u64, key: Wtf8<'a> },
    Vec { left: u64 },
    Arr { chunks: u64, id: Timestamp, left: u64, children: Vec<NodeIx> },
}

/// A container and whether what it holds is read a second time only.
struct Level<'a> {
    node: NodeIx,
    muted_before: bool,
    open: Open<'a>,
}

fn read_root(r: &mut Reader<'_>, ids: &IdReader, mut nodes: Nodes) -> Result<Document, Fault> {
    if r.peek() == Some(0) {
        r.u8("the root")?;
        r.end()?;
        return Ok(nodes.finish(None)?);
    }
    let mut stack: Vec<Level<'_>> = Vec::new();
    let mut done = read_node(r, ids, &mut nodes, &mut stack)?;
    let root = loop {
        // A node is read: its parent takes it, and what the parent asks for next is read.
        let Some(level) = stack.last_mut() else { break done };
        let node = level.node;
        let more = match &mut level.open {
            Open::Val => match done.take() {
                Some(Read::Node(child)) => {
                    nodes.set_val(node, child)?;
                    false
                }
                Some(Read::Nothing) => false,
                None => true,
            },
            Open::Obj { left, key } => {
                match done.take() {
                    Some(Read::Node(child)) => nodes.push_key(node, *key, child)?,
                    Some(Read::Nothing) => return Err(nothing(r)),
                    None => {}
                }
                let more = take_one(left);
                if more {
                    *key = cbor::key(r)?;
                }
                more
            }
            Open::Vec { left } => {
                match done.take() {
                    Some(Read::Node(child)) => nodes.push_place(node, Some(child))?,
                    Some(Read::Nothing) => nodes.push_place(node, None)?,
                    None => {}
                }
                loop {
                    if !take_one(left) {
                        break false;
                    }
                    if r.peek() != Some(0) {
                        break true;
                    }
                    r.u8("an empty place")?;
                    nodes.push_place(node, None)?;
                }
            }
            Open::Arr { chunks, id, left, children } => {
                match done.take() {
                    Some(Read::Node(child)) => children.push(child),
                    Some(Read::Nothing) => return Err(nothing(r)),
                    None => {}
                }
                loop {
                    if take_one(left) {
                        break true;
                    }
                    if !children.is_empty() {
                        nodes.push_children(node, *id, children)?;
                        children.clear();
                    }
                    if !take_one(chunks) {
                        break false;
                    }
                    *id = ids.read(r)?;
                    let (deleted, span) = r.b1vu56("a span")?;
                    if deleted {
                        nodes.push_tombstone(node, *id, span)?;
                    } else {
                        *left = span;
                    }
                }
            }
        };
        done = if more {
            read_node(r, ids, &mut nodes, &mut stack)?
        } else {
            nodes.muted = level.muted_before;
            stack.pop();
            Some(Read::Node(node))
        };
    };
    r.end()?;
    Ok(nodes.finish(match root {
        Some(Read::Node(node)) => Some(node),
        _ => None,
    })?)
}

/// What became of a node that was read to its end.
enum Read {
    Node(NodeIx),
    /// The system's id, which stands for no node.
    Nothing,
}

fn nothing(r: &Reader<'_>) -> Fault {
    Malformed::Contradiction { at: r.offset(), what: "the system's id where a node is needed" }.into()
}

/// Counts down; whether there was one left.
fn take_one(left: &mut u64) -> bool {
    match left.checked_sub(1) {
        Some(less) => {
            *left = less;
            true
        }
        None => false,
    }
}

/// What stands behind the id of a chunk of text.
enum TextChunk<'a> {
    Live(Wtf8<'a>),
    Dead(u64),
}

#[inline]
fn read_text_chunk<'a>(r: &mut Reader<'a>) -> Result<TextChunk<'a>, Malformed> {
    let before = *r;
    let head = r.u8("a chunk")?;
    let len = match head & 31 {
        small @ 0..24 => u64::from(small),
        24 => r.u8("a chunk")?.into(),
        25 => r.big_endian(2, "a chunk")?,
        _ => 0,
    };
    // Long lengths, text in pieces and mistakes are left to CBOR.
    match (head >> 5, head & 31) {
        (3, 0..26) => r.text(len).map(TextChunk::Live),
        (0, 0..26) => Ok(TextChunk::Dead(len)),
        (major, _) => {
            *r = before;
            if major == 3 {
                cbor::key(r).map(TextChunk::Live)
            } else {
                cbor::unsigned(r).map(TextChunk::Dead)
            }
        }
    }
}

/// Reads a node up to its first child. `None` if it is a container, which is on the stack then.
fn read_node<'a>(
    r: &mut Reader<'a>,
    ids: &IdReader,
    nodes: &mut Nodes,
    stack: &mut Vec<Level<'a>>,
) -> Result<Option<Read>, Fault> {
    let id = ids.read(r)?;
    let header = r.u8("the header of a node")?;
    let (kind, low) = (header >> 5, header & 31);
    let len = if low == 31 { r.vu57("the length of a node")? } else { low.into() };
    let open = match kind {
        kind::CON => {
            if low == 0 {
                let value = super::read_con(r)?;
                if id.sid == SessionId::SYSTEM {
                    return Ok(Some(Read::Nothing));
                }
                return Ok(Some(Read::Node(nodes.con(id, value.as_raw())?)));
            }
            let named = ids.read(r)?;
            return Ok(Some(Read::Node(nodes.con_id(id, named)?)));
        }
        kind::STR => {
            let (node, muted_before) = nodes.open(id, Kind::Str)?;
            if nodes.sought.is_some() {
                for _ in 0..len {
                    let id = ids.read(r)?;
                    match read_text_chunk(r)? {
                        TextChunk::Live(text) => nodes.push_text(node, id, text)?,
                        TextChunk::Dead(span) => nodes.push_tombstone(node, id, span)?,
                    }
                }
                nodes.muted = muted_before;
                return Ok(Some(Read::Node(node)));
            }
            let mut chunks = nodes.chunks(node)?;
            if let Some(chunks) = &mut chunks {
                // A chunk takes two bytes at least.
                chunks.reserve(room(len, r.left() / 2));
            }
            let mut left = len;
            while left > 0 {
                if let (Some(chunks), IdReader::Logical(_, entries)) = (&mut chunks, ids) {
                    left -= super::quick::read_text_chunks(r, left, entries, chunks);
                }
                // Whatever was not usual about the next one.
                let Some(less) = left.checked_sub(1) else { break };
                left = less;
                let (session, time) = ids.read_chunk(r)?;
                match (read_text_chunk(r)?, &mut chunks) {
                    (_, None) => {}
                    (TextChunk::Live(text), Some(chunks)) => chunks.text(session, time, text)?,
                    (TextChunk::Dead(span), Some(chunks)) => chunks.tombstone(session, time, span)?,
                }
            }
            chunks.into_iter().for_each(ChunkLoader::finish);
            nodes.muted = muted_before;
            return Ok(Some(Read::Node(node)));
        }
        kind::BIN => {
            let (node, muted_before) = nodes.open(id, Kind::Bin)?;
            for _ in 0..len {
                let id = ids.read(r)?;
                match r.b1vu56("a span")? {
                    (true, span) => nodes.push_tombstone(node, id, span)?,
                    (false, span) => nodes.push_bytes(node, id, r.take(span, "bytes")?)?,
                }
            }
            nodes.muted = muted_before;
            return Ok(Some(Read::Node(node)));
        }
        kind::VAL => (Kind::Val, Open::Val),
        kind::OBJ => (Kind::Obj, Open::Obj { left: len, key: Wtf8::default() }),
        kind::VEC => (Kind::Vec, Open::Vec { left: len }),
        kind::ARR => (Kind::Arr, Open::Arr { chunks: len, id, left: 0, children: Vec::new() }),
        _ => return Err(r.unexpected(header, "the header of a node").into()),
    };
    let (kind, open) = open;
    let (node, muted_before) = nodes.open(id, kind)?;
    if kind == Kind::Obj {
        // Each entry takes four bytes at least.
        nodes.loader.reserve_keys(node, room(len, r.left() / 4));
    }
    stack.push(Level { node, muted_before, open });
    Ok(None)
}
