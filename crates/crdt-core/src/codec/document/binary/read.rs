//! Reading the tree.

use super::kind;
use crate::{
    Document, SessionId, Timestamp,
    codec::{
        Malformed, cbor,
        document::{
            DocumentError, Fault, Nodes,
            fault::or_find_double,
            quick, read_con,
            table::{Known, Table},
        },
        room,
        wire::Reader,
    },
    document::{ChunkLoader, Kind, LoadError, Loader, NodeIx, Order, SessionIx},
    id::MAX_ID,
    text::Wtf8,
};

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
pub(in super::super) fn decode(bytes: &[u8]) -> Result<Document, DocumentError> {
    let read = |sought| {
        let mut r = Reader::new(bytes);
        read(&mut r, sought).map_err(|fault| (fault, r.offset()))
    };
    or_find_double(read).map_err(|(fault, at)| fault.at_byte(at))
}

/// Reads a document as if an id were sought: chunk by chunk.
#[cfg(test)]
pub(in super::super) fn decode_seeking(
    bytes: &[u8],
    sought: Option<Timestamp>,
) -> Result<Document, DocumentError> {
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
pub(in super::super) fn root_and_table<'a>(r: &mut Reader<'a>) -> Result<(Reader<'a>, Table), Malformed> {
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
                let value = read_con(r)?;
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
                    left -= quick::read_text_chunks(r, left, entries, chunks);
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
