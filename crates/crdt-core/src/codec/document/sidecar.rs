//! The sidecar form: the plain view as CBOR, for readers that know nothing of CRDTs, and beside it what makes it a
//! document again.

use super::{
    DocumentEncodeError, DocumentError, DocumentFormat, Nodes, Walk,
    binary::{kind, root_and_table},
    fault::{Fault, or_find_double},
    indexed::{put_header, read_header},
    is_nothing,
    table::{Table, TableWriter},
};
use crate::{
    Document, Text, Timestamp, Wtf8,
    codec::{
        Malformed, cbor,
        shape::found,
        wire::{Reader, put_b1vu56, put_pair},
    },
    document::{Child, Chunks, Content, Kind, NodeIx, Order},
    value::Value,
};

/// The two parts of the form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// The view as CBOR; empty for an empty document. Maps have their keys sorted, deleted ones with `undefined`.
    pub view: Vec<u8>,
    /// Ids and chunks, without any content.
    pub meta: Vec<u8>,
}

struct Writer<'d> {
    view: Vec<u8>,
    meta: Vec<u8>,
    table: TableWriter,
    walk: Walk<'d>,
}

/// Writes a document. A document in server order has no such form.
///
/// # Errors
/// [`DocumentEncodeError`]
pub fn encode(document: &Document) -> Result<Sidecar, DocumentEncodeError> {
    if document.order() == Order::Server {
        return Err(DocumentEncodeError::ServerOrder);
    }
    let (table, walk) = (TableWriter::new(document), Walk::new(document));
    let mut writer = Writer { view: Vec::new(), meta: vec![0; 4], table, walk };
    match document.root_child() {
        Some(root) => writer.node(root, DocumentFormat::DEPTH_MAX)?,
        None => writer.meta.push(0),
    }
    let Writer { view, mut meta, table, .. } = writer;
    // As in the binary form: what is too long for the frame is refused by readers.
    let len = u32::try_from(meta.len() - 4).unwrap_or(u32::MAX);
    meta[..4].copy_from_slice(&len.to_be_bytes());
    table.put(&mut meta);
    Ok(Sidecar { view, meta })
}

impl Writer<'_> {
    fn id(&mut self, id: Timestamp) {
        let (place, distance) = self.table.relative(id);
        put_pair(&mut self.meta, place, distance);
    }

    fn node(&mut self, child: Child<'_>, depth: usize) -> Result<(), DocumentEncodeError> {
        let Some(deeper) = depth.checked_sub(1) else {
            return Err(DocumentEncodeError::TooDeep { max: DocumentFormat::DEPTH_MAX });
        };
        self.id(child.id());
        let Some(node) = self.walk.enter(child) else {
            self.nothing();
            return Ok(());
        };
        match node.content() {
            Content::Con(value) => {
                self.meta.push(0);
                self.view.extend_from_slice(value.as_bytes());
            }
            Content::ConId(named) => {
                self.meta.push(1);
                self.id(named);
                self.view.push(0xf6);
            }
            Content::Val(child) => {
                self.meta.push(kind::VAL << 5);
                self.node(child.unwrap_or(Child::Missing(Timestamp::ORIGIN)), deeper)?;
            }
            Content::Obj(entries) => {
                let mut entries: Vec<_> = entries.collect();
                entries.sort_by(|(a, _), (b, _)| a.cmp_utf16(*b));
                put_header(&mut self.meta, kind::OBJ, entries.len());
                cbor::put_head(&mut self.view, 5, entries.len() as u64);
                for (key, child) in entries {
                    cbor::put_text(&mut self.view, key);
                    self.node(child, deeper)?;
                }
            }
            Content::Vec(places) => {
                put_header(&mut self.meta, kind::VEC, places.len());
                cbor::put_head(&mut self.view, 4, places.len() as u64);
                for place in places {
                    match place {
                        Some(child) => self.node(child, deeper)?,
                        None => {
                            self.id(Timestamp::ORIGIN);
                            self.nothing();
                        }
                    }
                }
            }
            Content::Str(chunks) => {
                self.chunks(kind::STR, chunks.clone());
                let mut text = Text::new();
                let mut scratch = Vec::new();
                for chunk in chunks.filter(|chunk| !chunk.is_tombstone()) {
                    scratch.clear();
                    chunk.write_text(&mut scratch);
                    // Halves of a character in neighbouring chunks are one character in the view.
                    text.push(Wtf8::trusted(&scratch));
                }
                cbor::put_text(&mut self.view, text.as_wtf8());
            }
            Content::Bin(chunks) => {
                self.chunks(kind::BIN, chunks.clone());
                cbor::put_head(&mut self.view, 2, chunks.visible());
                chunks
                    .filter(|chunk| !chunk.is_tombstone())
                    .for_each(|chunk| chunk.write_bytes(&mut self.view));
            }
            Content::Arr(chunks) => {
                put_header(&mut self.meta, kind::ARR, chunks.clone().count());
                cbor::put_head(&mut self.view, 4, chunks.visible());
                for chunk in chunks {
                    self.id(chunk.id());
                    put_b1vu56(&mut self.meta, chunk.is_tombstone(), chunk.span());
                    if !chunk.is_tombstone() {
                        for child in chunk.children() {
                            self.node(child, deeper)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// A constant without a value.
    fn nothing(&mut self) {
        self.meta.push(0);
        self.view.push(0xf7);
    }

    fn chunks(&mut self, kind: u8, chunks: Chunks<'_>) {
        put_header(&mut self.meta, kind, chunks.clone().count());
        for chunk in chunks {
            self.id(chunk.id());
            put_b1vu56(&mut self.meta, chunk.is_tombstone(), chunk.span());
        }
    }
}

/// Reads a document.
///
/// # Errors
/// [`DocumentError`]
pub fn decode(Sidecar { view, meta }: &Sidecar) -> Result<Document, DocumentError> {
    let view = match view.is_empty() {
        true => Value::Undefined,
        false => cbor::decode_within(view, DocumentFormat::DEPTH_MAX + Value::DEPTH_MAX)
            .map_err(|malformed| DocumentError::from(malformed).of("the view"))?,
    };
    let read = |sought| {
        let mut r = Reader::new(meta);
        read(&mut r, &view, sought).map_err(|fault| (fault, r.offset()))
    };
    or_find_double(read).map_err(|(fault, at)| fault.at_byte(at).of("the metadata"))
}

fn read(r: &mut Reader<'_>, view: &Value, sought: Option<Timestamp>) -> Result<Document, Fault> {
    let (root, table) = root_and_table(r)?;
    let nodes = Nodes::new(table.loader()?, sought);
    *r = root;
    if r.peek() == Some(0) {
        return Ok(nodes.finish(None)?);
    }
    let mut reader = MetaReader { nodes, table };
    let node = reader.node(r, view, DocumentFormat::DEPTH_MAX)?;
    r.end()?;
    Ok(reader.nodes.finish(node)?)
}

struct MetaReader {
    nodes: Nodes,
    table: Table,
}

impl MetaReader {
    fn id(&self, r: &mut Reader<'_>) -> Result<Timestamp, Malformed> {
        let at = r.offset();
        let (place, distance) = r.pair()?;
        let what = "an id that the clock table does not explain";
        self.table.absolute(place, distance).ok_or(Malformed::Contradiction { at, what })
    }

    /// Reads a node whose view is known. `None` for the system's id, which stands for no node.
    fn node(&mut self, r: &mut Reader<'_>, view: &Value, depth: usize) -> Result<Option<NodeIx>, Fault> {
        let Some(deeper) = depth.checked_sub(1) else {
            return Err(Malformed::TooDeep { at: r.offset(), max: DocumentFormat::DEPTH_MAX }.into());
        };
        let id = self.id(r)?;
        let at = r.offset();
        let (kind, len) = read_header(r)?;
        let differs = || Malformed::Contradiction { at, what: "metadata of another view" };
        let kind = match kind {
            kind::CON if len == 0 && is_nothing(id) => return Ok(None),
            kind::CON if len == 0 => {
                return Ok(Some(self.nodes.con(id, super::ConBytes::from(view).as_raw())?));
            }
            kind::CON => {
                let named = self.id(r)?;
                return Ok(Some(self.nodes.con_id(id, named)?));
            }
            kind::VAL => Kind::Val,
            kind::OBJ => Kind::Obj,
            kind::VEC => Kind::Vec,
            kind::STR => Kind::Str,
            kind::BIN => Kind::Bin,
            kind::ARR => Kind::Arr,
            other => return Err(r.unexpected(other << 5, "the header of a node").into()),
        };
        let (node, muted_before) = self.nodes.open(id, kind)?;
        match (kind, view) {
            (Kind::Val, view) => {
                if let Some(child) = self.node(r, view, deeper)? {
                    self.nodes.set_val(node, child)?;
                }
            }
            (Kind::Obj, Value::Map(entries)) if entries.len() as u64 == len => {
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by(|(a, _), (b, _)| a.as_wtf8().cmp_utf16(b.as_wtf8()));
                for (key, value) in entries {
                    if let Some(child) = self.node(r, value, deeper)? {
                        self.nodes.push_key(node, key.as_wtf8(), child)?;
                    }
                }
            }
            (Kind::Vec, Value::Array(items)) if items.len() as u64 == len => {
                for item in items {
                    let child = self.node(r, item, deeper)?;
                    self.nodes.push_place(node, child)?;
                }
            }
            (Kind::Str, Value::Text(text)) => self.text(r, node, text, len)?,
            (Kind::Bin, Value::Bytes(bytes)) => {
                let mut rest = &bytes[..];
                for _ in 0..len {
                    let id = self.id(r)?;
                    match r.b1vu56("a span")? {
                        (true, span) => self.nodes.push_tombstone(node, id, span)?,
                        (false, span) => {
                            let (chunk, after) = usize::try_from(span)
                                .ok()
                                .and_then(|n| rest.split_at_checked(n))
                                .ok_or_else(differs)?;
                            self.nodes.push_bytes(node, id, chunk)?;
                            rest = after;
                        }
                    }
                }
                if !rest.is_empty() {
                    return Err(differs().into());
                }
            }
            (Kind::Arr, Value::Array(items)) => {
                let mut rest = items.iter();
                for _ in 0..len {
                    let id = self.id(r)?;
                    let (deleted, span) = r.b1vu56("a span")?;
                    if deleted {
                        self.nodes.push_tombstone(node, id, span)?;
                        continue;
                    }
                    let mut children = Vec::new();
                    for _ in 0..span {
                        children.push(self.node(r, rest.next().ok_or_else(differs)?, deeper)?);
                    }
                    super::push_all(&mut self.nodes, node, id, children)?;
                }
                if rest.next().is_some() {
                    return Err(differs().into());
                }
            }
            (_, view) => {
                return Err(found("the view of the metadata's kind and size", view).within("$").into());
            }
        }
        self.nodes.muted = muted_before;
        Ok(Some(node))
    }

    /// Cuts a text's live chunks from the view.
    fn text(&mut self, r: &mut Reader<'_>, node: NodeIx, text: &Text, len: u64) -> Result<(), Fault> {
        let differs =
            |r: &Reader<'_>| Malformed::Contradiction { at: r.offset(), what: "metadata of another view" };
        let mut units = text.as_wtf8().utf16();
        for _ in 0..len {
            let id = self.id(r)?;
            let (deleted, span) = r.b1vu56("a span")?;
            if deleted {
                self.nodes.push_tombstone(node, id, span)?;
                continue;
            }
            let span = usize::try_from(span).map_err(|_| differs(r))?;
            let chunk: Vec<u16> = units.by_ref().take(span).collect();
            if chunk.len() != span {
                return Err(differs(r).into());
            }
            if span > 0 {
                self.nodes.push_text(node, id, Text::from_utf16(chunk).as_wtf8())?;
            }
        }
        if units.next().is_some() { Err(differs(r).into()) } else { Ok(()) }
    }
}
