//! The indexed binary form: a field per node, so that a store can keep and load nodes one by one.
//!
//! Unlike the other forms it has the nodes that the root does not reach, and all sessions that were seen.

use std::collections::{BTreeMap, HashMap};

use super::{
    DocumentEncodeError, DocumentError, Nodes,
    binary::kind,
    fault::{Fault, or_find_double},
    is_nothing, put_chunk_text,
    table::*,
};
use crate::{
    Document, Timestamp,
    codec::{
        Malformed, base36, cbor,
        wire::{Reader, put_b1vu56, put_pair},
    },
    document::{Child, Content, Kind, NodeIx, NodeRef, Order},
    id::MAX_ID,
};

/// The fields of a document by name: `c` the clock table, `r` the root's id, and one for each node.
pub type Fields = BTreeMap<String, Vec<u8>>;

/// Writes a document. A document in server order has no such form.
///
/// # Errors
/// [`DocumentEncodeError::ServerOrder`]
pub fn encode(document: &Document) -> Result<Fields, DocumentEncodeError> {
    if document.order() == Order::Server {
        return Err(DocumentEncodeError::ServerOrder);
    }
    let mut table = TableWriter::full(document);
    let mut fields = Fields::new();
    if let Some(root) = document.root_child() {
        let mut out = Vec::new();
        put_id(&mut out, &mut table, root.id());
        fields.insert("r".to_owned(), out);
    }
    let mut scratch = Vec::new();
    for node in document.nodes() {
        let mut out = Vec::new();
        put_node(&mut out, &mut table, node, &mut scratch);
        let name = format!("{}_{}", base36(table.index(node.id())), base36(node.id().time));
        fields.insert(name, out);
    }
    let mut clock = Vec::new();
    table.put(&mut clock);
    fields.insert("c".to_owned(), clock);
    Ok(fields)
}

fn put_id(out: &mut Vec<u8>, table: &mut TableWriter, id: Timestamp) {
    let index = table.index(id);
    put_pair(out, index, id.time);
}

/// Headers here are CBOR's.
pub(super) fn put_header(out: &mut Vec<u8>, kind: u8, len: usize) {
    cbor::put_head(out, kind, len as u64);
}

fn put_node(out: &mut Vec<u8>, table: &mut TableWriter, node: NodeRef<'_>, scratch: &mut Vec<u8>) {
    match node.content() {
        Content::Con(value) => {
            out.push(0);
            out.extend_from_slice(value.as_bytes());
        }
        Content::ConId(id) => {
            out.push(1);
            put_id(out, table, id);
        }
        Content::Val(child) => {
            out.push(kind::VAL << 5);
            // The reference cannot write a register without a value.
            put_id(out, table, child.map_or(Timestamp::ORIGIN, |child| child.id()));
        }
        Content::Obj(entries) => {
            put_header(out, kind::OBJ, entries.len());
            for (key, child) in entries {
                cbor::put_text(out, key);
                put_id(out, table, child.id());
            }
        }
        Content::Vec(places) => {
            put_header(out, kind::VEC, places.len());
            for place in places {
                out.push(place.is_some().into());
                place.into_iter().for_each(|child| put_id(out, table, child.id()));
            }
        }
        Content::Str(chunks) => {
            put_header(out, kind::STR, chunks.clone().count());
            for chunk in chunks {
                put_id(out, table, chunk.id());
                match chunk.is_tombstone() {
                    true => cbor::put_head(out, 0, chunk.span()),
                    false => put_chunk_text(out, &chunk, scratch),
                }
            }
        }
        Content::Bin(chunks) => {
            put_header(out, kind::BIN, chunks.clone().count());
            for chunk in chunks {
                put_id(out, table, chunk.id());
                put_b1vu56(out, chunk.is_tombstone(), chunk.span());
                if !chunk.is_tombstone() {
                    chunk.write_bytes(out);
                }
            }
        }
        Content::Arr(chunks) => {
            put_header(out, kind::ARR, chunks.clone().count());
            for chunk in chunks {
                put_id(out, table, chunk.id());
                put_b1vu56(out, chunk.is_tombstone(), chunk.span());
                if !chunk.is_tombstone() {
                    chunk.children().for_each(|child: Child<'_>| put_id(out, table, child.id()));
                }
            }
        }
    }
}

/// Reads a document.
///
/// # Errors
/// [`DocumentError`]
pub fn decode(fields: &Fields) -> Result<Document, DocumentError> {
    let mut name = "c";
    or_find_double(|sought| {
        let mut r = Reader::new(&[]);
        read(fields, &mut r, &mut name, sought).map_err(|fault| (fault, r.offset()))
    })
    .map_err(|(fault, at)| fault.at_byte(at).of(format!("field {name:?}")))
}

/// Reads a document. `name` and `r` tell what was being read in the end.
fn read<'f>(
    fields: &'f Fields,
    r: &mut Reader<'f>,
    name: &mut &'f str,
    sought: Option<Timestamp>,
) -> Result<Document, Fault> {
    *name = "c";
    *r = Reader::new(
        fields.get(*name).ok_or_else(|| Malformed::shape("the clock table", "nothing").within("$"))?,
    );
    let table = Table::read(r)?;
    r.end()?;
    let mut nodes = Nodes::new(table.loader()?, sought);
    // Two walks: a node can refer to one whose field comes later.
    let mut known = HashMap::new();
    let mut waiting = Vec::new();
    for (field, bytes) in fields.iter().filter(|(name, _)| name.len() >= 3) {
        (*name, *r) = (field, Reader::new(bytes));
        let id = id_of(field, &table).ok_or(Malformed::Contradiction {
            at: 0,
            what: "a name that is no place in the clock table and a time, such as 0_1z",
        })?;
        let (kind, len) = read_header(r)?;
        match read_leaf(r, &table, &mut nodes, id, kind, len)? {
            Some(node) => {
                r.end()?;
                known.insert(id, node);
            }
            None => {
                let (node, _) = nodes.open(id, kind_of(kind))?;
                known.insert(id, node);
                waiting.push((field, node, kind, len, *r));
            }
        }
    }
    for (field, node, kind, len, content) in waiting {
        (*name, *r) = (field, content);
        read_content(r, &table, &mut nodes, &known, (node, kind, len))?;
        r.end()?;
    }
    *name = "r";
    let root = match fields.get(*name) {
        None => None,
        Some(bytes) => {
            *r = Reader::new(bytes);
            let root = read_child(r, &table, &mut nodes, &known)?;
            r.end()?;
            root
        }
    };
    Ok(nodes.finish(root)?)
}

/// The id in a field's name.
fn id_of(name: &str, table: &Table) -> Option<Timestamp> {
    let (index, time) = name.split_once('_')?;
    let number = |digits: &str| {
        let plain = digits.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase());
        plain.then(|| u64::from_str_radix(digits, 36).ok()).flatten()
    };
    let (session, time) = (table.session(number(index)?)?, number(time)?);
    (time < MAX_ID).then(|| Timestamp::new(session, time))
}

pub(super) fn read_header(r: &mut Reader<'_>) -> Result<(u8, u64), Malformed> {
    let header = r.u8("the header of a node")?;
    let len = match header & 31 {
        low @ 0..24 => low.into(),
        wide @ 24..27 => r.big_endian(1 << (wide - 24), "the length of a node")?,
        _ => return Err(r.unexpected(header, "the header of a node")),
    };
    Ok((header >> 5, len))
}

fn kind_of(kind: u8) -> Kind {
    [Kind::Con, Kind::Val, Kind::Obj, Kind::Vec, Kind::Str, Kind::Bin, Kind::Arr][usize::from(kind.min(6))]
}

fn read_id(r: &mut Reader<'_>, table: &Table) -> Result<Timestamp, Malformed> {
    let at = r.offset();
    let (index, time) = r.pair()?;
    let session = table.session(index).filter(|_| time < MAX_ID);
    let what = "an id that the clock table does not explain";
    Ok(Timestamp::new(session.ok_or(Malformed::Contradiction { at, what })?, time))
}

/// Reads a node that refers to no other; `None` if it does.
fn read_leaf(
    r: &mut Reader<'_>,
    table: &Table,
    nodes: &mut Nodes,
    id: Timestamp,
    kind: u8,
    len: u64,
) -> Result<Option<NodeIx>, Fault> {
    Ok(Some(match kind {
        kind::CON if len == 0 => {
            let value = super::read_con(r)?;
            nodes.con(id, value.as_raw())?
        }
        kind::CON => {
            let named = read_id(r, table)?;
            nodes.con_id(id, named)?
        }
        kind::STR => {
            let (node, _) = nodes.open(id, Kind::Str)?;
            for _ in 0..len {
                let id = read_id(r, table)?;
                match r.peek().map(|head| head >> 5) {
                    Some(3) => nodes.push_text(node, id, cbor::key(r)?)?,
                    _ => nodes.push_tombstone(node, id, cbor::unsigned(r)?)?,
                }
            }
            node
        }
        kind::BIN => {
            let (node, _) = nodes.open(id, Kind::Bin)?;
            for _ in 0..len {
                let id = read_id(r, table)?;
                match r.b1vu56("a span")? {
                    (true, span) => nodes.push_tombstone(node, id, span)?,
                    (false, span) => nodes.push_bytes(node, id, r.take(span, "bytes")?)?,
                }
            }
            node
        }
        kind::VAL | kind::OBJ | kind::VEC | kind::ARR => return Ok(None),
        _ => return Err(r.unexpected(kind << 5, "the header of a node").into()),
    }))
}

/// A child, which has a field of its own. Something that refers to a node that is gone gets a constant without a value
/// (H5). `None` for the system's id.
fn read_child(
    r: &mut Reader<'_>,
    table: &Table,
    nodes: &mut Nodes,
    known: &HashMap<Timestamp, NodeIx>,
) -> Result<Option<NodeIx>, Fault> {
    let id = read_id(r, table)?;
    Ok(match known.get(&id) {
        Some(&node) => Some(node),
        None if is_nothing(id) => None,
        None => Some(nodes.con(id, crate::codec::RawValue::UNDEFINED)?),
    })
}

fn read_content(
    r: &mut Reader<'_>,
    table: &Table,
    nodes: &mut Nodes,
    known: &HashMap<Timestamp, NodeIx>,
    (node, kind, len): (NodeIx, u8, u64),
) -> Result<(), Fault> {
    // The node itself was opened in the first walk.
    nodes.muted = false;
    match kind {
        kind::VAL => {
            if let Some(child) = read_child(r, table, nodes, known)? {
                nodes.set_val(node, child)?;
            }
        }
        kind::OBJ => {
            for _ in 0..len {
                let key = cbor::key(r)?;
                if let Some(child) = read_child(r, table, nodes, known)? {
                    nodes.push_key(node, key, child)?;
                }
            }
        }
        kind::VEC => {
            for _ in 0..len {
                let child = match r.u8("a place")? {
                    0 => None,
                    _ => read_child(r, table, nodes, known)?,
                };
                nodes.push_place(node, child)?;
            }
        }
        _ => {
            for _ in 0..len {
                let id = read_id(r, table)?;
                let (deleted, span) = r.b1vu56("a span")?;
                if deleted {
                    nodes.push_tombstone(node, id, span)?;
                    continue;
                }
                let mut children = Vec::new();
                for _ in 0..span {
                    children.push(read_child(r, table, nodes, known)?);
                }
                super::push_all(nodes, node, id, children)?;
            }
        }
    }
    Ok(())
}
