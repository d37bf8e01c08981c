//! The forms of a document that json-joy reads and writes too.
//!
//! *Structural* forms are the tree from the root, in four spellings ([`DocumentFormat`]). The *indexed* form is a field
//! per node ([`indexed`]), the *sidecar* form the plain view beside its metadata ([`sidecar`]). Nodes that the root does
//! not reach are in the indexed form only, and sessions without an id in the tree are in no form but the verbose and
//! the indexed one: keep a state vector beside a snapshot, and [give it back](Document::note_seen) (H8).

mod binary;
mod compact;
mod fault;
pub mod indexed;
mod quick;
pub mod sidecar;
mod table;
#[cfg(test)]
mod tests;
mod verbose;

use std::collections::HashSet;

use fault::Fault;
pub use fault::{DocumentError, Place};

use super::{Malformed, RawValue, cbor, json, msgpack, wire::Reader};
use crate::{
    Document, SessionId, Timestamp, Value, Wtf8,
    document::{Child, Chunk, ChunkLoader, Kind, LoadError, Loader, NodeIx, NodeRef},
};

/// A structural form of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DocumentFormat {
    /// Bytes, the smallest and fastest: for snapshots.
    Binary,
    /// The compact form in MessagePack.
    CompactBinary,
    /// JSON arrays with numbers for names.
    Compact,
    /// JSON with names, for people.
    Verbose,
}

/// A document that cannot be written in a form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentEncodeError {
    /// It holds what the form cannot say.
    #[error("this form cannot say {what}: take the structural binary form")]
    Lost {
        /// What the form lacks.
        what: &'static str,
    },
    /// Only the structural binary form has no bound.
    #[error("nodes are nested deeper than {max} levels: take the structural binary form")]
    TooDeep {
        /// [`DocumentFormat::DEPTH_MAX`].
        max: usize,
    },
    /// A document that a server numbers has structural forms only.
    #[error("a document in server order has no such form: take a structural one")]
    ServerOrder,
}

/// JSON levels of the deepest document: three for each node in the verbose form, and a constant in the last one.
pub(crate) const VALUE_DEPTH_MAX: usize = 3 * DocumentFormat::DEPTH_MAX + Value::DEPTH_MAX + 8;

impl DocumentFormat {
    /// All forms.
    pub const ALL: [Self; 4] = [Self::Binary, Self::CompactBinary, Self::Compact, Self::Verbose];

    /// How deep nodes may be nested in a document that is written in a form other than the binary one.
    pub const DEPTH_MAX: usize = 256;

    /// Writes a document. The binary form has room for every document.
    ///
    /// # Errors
    /// [`DocumentEncodeError`]
    pub fn encode(self, document: &Document) -> Result<Vec<u8>, DocumentEncodeError> {
        match self {
            Self::Binary => Ok(binary::encode(document)),
            Self::CompactBinary => in_msgpack(&compact::to_value(document)?),
            Self::Compact => in_json(&compact::to_value(document)?),
            Self::Verbose => in_json(&verbose::to_value(document)?),
        }
    }

    /// Reads a document from anyone.
    ///
    /// # Errors
    /// [`DocumentError`]
    pub fn decode(self, bytes: &[u8]) -> Result<Document, DocumentError> {
        match self {
            Self::Binary => binary::decode(bytes),
            Self::CompactBinary => compact::from_value(&msgpack::decode(bytes, VALUE_DEPTH_MAX)?),
            Self::Compact => compact::from_value(&json::decode_within(bytes, VALUE_DEPTH_MAX)?),
            Self::Verbose => verbose::from_value(&json::decode_within(bytes, VALUE_DEPTH_MAX)?),
        }
    }
}

impl Document {
    /// The document in json-joy's structural binary form.
    pub fn to_binary(&self) -> Vec<u8> {
        binary::encode(self)
    }

    /// Reads [`to_binary`](Self::to_binary), or what json-joy's `model.toBinary()` wrote.
    ///
    /// The document goes on as the session that wrote it. Who is another one calls [`set_session`](Self::set_session)
    /// before the first edit: two replicas that edit as one session make different things with the same ids. Who takes patches
    /// from many [gives back](Self::note_seen) the state vector too, which the form does not hold.
    ///
    /// # Errors
    /// [`DocumentError`]
    pub fn from_binary(bytes: &[u8]) -> Result<Self, DocumentError> {
        binary::decode(bytes)
    }

    /// The document as a compact value: what [`DocumentFormat::Compact`] writes as JSON.
    ///
    /// # Errors
    /// [`DocumentEncodeError`]
    pub fn to_compact(&self) -> Result<Value, DocumentEncodeError> {
        compact::to_value(self)
    }

    /// Reads [`to_compact`](Self::to_compact).
    ///
    /// # Errors
    /// [`DocumentError`]
    pub fn from_compact(value: &Value) -> Result<Self, DocumentError> {
        compact::from_value(value)
    }

    /// The document as a value with names: what [`DocumentFormat::Verbose`] writes as JSON.
    ///
    /// # Errors
    /// [`DocumentEncodeError`]
    pub fn to_verbose(&self) -> Result<Value, DocumentEncodeError> {
        verbose::to_value(self)
    }

    /// Reads [`to_verbose`](Self::to_verbose).
    ///
    /// # Errors
    /// [`DocumentError`]
    pub fn from_verbose(value: &Value) -> Result<Self, DocumentError> {
        verbose::from_value(value)
    }
}

/// Writes JSON text, unless something would be lost.
fn in_json(value: &Value) -> Result<Vec<u8>, DocumentEncodeError> {
    if json::is_json(value) {
        Ok(json::encode(value).into_bytes())
    } else {
        Err(DocumentEncodeError::Lost { what: "bytes, or a constant that holds more than JSON" })
    }
}

/// Writes MessagePack, unless something would be lost.
fn in_msgpack(value: &Value) -> Result<Vec<u8>, DocumentEncodeError> {
    if msgpack::is_msgpack(value) {
        Ok(msgpack::encode(value))
    } else {
        Err(DocumentEncodeError::Lost { what: "a constant with a tag or an integer beyond 2^53" })
    }
}

/// Keeps the walk of a tree finite and of the size of the document.
///
/// Something may refer to a node that was removed elsewhere, or to one that is referred to elsewhere too; the reference
/// allows both, and loses data (H5). A node with several references is written at each, as the reference does, as
/// long as the whole does not become three times the document; then a constant without a value takes its place.
struct Walk<'d> {
    document: &'d Document,
    seen: HashSet<usize>,
    /// How much may be written, counted since the first node that was written again.
    left: Option<usize>,
}

impl<'d> Walk<'d> {
    fn new(document: &'d Document) -> Self {
        Self { document, seen: HashSet::new(), left: None }
    }

    /// The node to write; `None` for a constant without a value.
    #[inline]
    fn enter<'c>(&mut self, child: Child<'c>) -> Option<NodeRef<'c>> {
        let node = child.node()?;
        let again = node.is_aliased() && !self.seen.insert(node.index());
        if again || self.left.is_some() {
            self.count(&node, again)?;
        }
        Some(node)
    }

    #[cold]
    fn count(&mut self, node: &NodeRef<'_>, again: bool) -> Option<()> {
        let document = self.document;
        let left = self.left.get_or_insert_with(|| 16 + 2 * document.weight());
        let size = node.weight();
        if again && *left < size {
            return None;
        }
        *left = left.saturating_sub(size);
        Some(())
    }
}

/// Writes a chunk's text as CBOR.
fn put_chunk_text(out: &mut Vec<u8>, chunk: &Chunk<'_>, scratch: &mut Vec<u8>) {
    if let Some(ascii) = chunk.ascii() {
        cbor::put_text_head(out, ascii.len(), ascii.len());
        out.extend_from_slice(ascii);
        return;
    }
    scratch.clear();
    chunk.write_text(scratch);
    cbor::put_text(out, Wtf8::trusted(scratch));
}

/// A chunk's text.
fn chunk_text(chunk: &Chunk<'_>) -> Value {
    let mut text = Vec::new();
    chunk.write_text(&mut text);
    Wtf8::trusted(&text).into()
}

/// A constant's value, in canonical spelling.
enum ConBytes<'a> {
    Raw(RawValue<'a>),
    Respelled(Vec<u8>),
}

impl ConBytes<'_> {
    fn as_raw(&self) -> RawValue<'_> {
        match self {
            Self::Raw(raw) => *raw,
            Self::Respelled(bytes) => RawValue::trusted(bytes),
        }
    }
}

impl From<&Value> for ConBytes<'_> {
    fn from(value: &Value) -> Self {
        Self::Respelled(cbor::encode(value))
    }
}

/// Reads a constant's value in whatever spelling.
fn read_con<'a>(r: &mut Reader<'a>) -> Result<ConBytes<'a>, Malformed> {
    let before = std::mem::replace(&mut r.canonical, true);
    let value = cbor::scan(r)?;
    let canonical = std::mem::replace(&mut r.canonical, before);
    Ok(if canonical { ConBytes::Raw(value) } else { ConBytes::from(&value.to_value()) })
}

/// Takes nodes as they are read. A node that was read before, which another thing refers to, is not filled again.
struct Nodes {
    loader: Loader,
    /// Within a node that was read before.
    muted: bool,
    /// Nobody seeks anything, unless something is wrong.
    sought: Option<Sought>,
}

/// An element that stands twice in a sequence: reading again stops where it stands the second time.
struct Sought {
    id: Timestamp,
    /// The sequence in which it stood last.
    met: Option<NodeIx>,
}

impl Nodes {
    /// The node with an id, if it was read before.
    fn known(&self, id: Timestamp) -> Option<(NodeIx, Kind)> {
        self.loader.find(id).map(|node| (node, self.loader.kind(node)))
    }

    fn new(loader: Loader, sought: Option<Timestamp>) -> Self {
        Self { loader, muted: false, sought: sought.map(|id| Sought { id, met: None }) }
    }

    /// Elements are read that may be sought.
    fn meet(&mut self, node: NodeIx, id: Timestamp, span: u64) -> Result<(), LoadError> {
        let Some(Sought { id: sought, met }) = &mut self.sought else { return Ok(()) };
        let is_here =
            id.sid == sought.sid && sought.time.checked_sub(id.time).is_some_and(|before| before < span);
        if is_here && met.replace(node) == Some(node) {
            return Err(LoadError::Duplicate(*sought));
        }
        Ok(())
    }

    /// Starts a container or sequence. Also returns what [`muted`](Self::muted) is to be set to at its end.
    fn open(&mut self, id: Timestamp, kind: Kind) -> Result<(NodeIx, bool), LoadError> {
        let before = self.muted;
        if let Some((node, known)) = self.known(id) {
            if known != kind {
                return Err(LoadError::Duplicate(id));
            }
            self.muted = true;
            return Ok((node, before));
        }
        if self.muted {
            // A second copy with other content than the first.
            return Err(LoadError::Duplicate(id));
        }
        let node = match kind {
            Kind::Con | Kind::Val => self.loader.val(id),
            Kind::Obj => self.loader.obj(id),
            Kind::Vec => self.loader.vec(id),
            Kind::Str => self.loader.str(id),
            Kind::Bin => self.loader.bin(id),
            Kind::Arr => self.loader.arr(id),
        }?;
        Ok((node, before))
    }

    /// A constant. One without a value may stand for a node of any kind that was read before.
    fn con(&mut self, id: Timestamp, value: RawValue<'_>) -> Result<NodeIx, LoadError> {
        match self.known(id) {
            Some((node, kind)) if kind == Kind::Con || value.is_undefined() => Ok(node),
            _ => self.loader.con(id, value),
        }
    }

    fn con_id(&mut self, id: Timestamp, named: Timestamp) -> Result<NodeIx, LoadError> {
        match self.known(id) {
            Some((node, Kind::Con)) => Ok(node),
            _ => self.loader.con_id(id, named),
        }
    }

    fn set_val(&mut self, val: NodeIx, child: NodeIx) -> Result<(), LoadError> {
        if self.muted { Ok(()) } else { self.loader.set_val(val, child) }
    }

    fn push_key(&mut self, obj: NodeIx, key: Wtf8<'_>, child: NodeIx) -> Result<(), LoadError> {
        if self.muted { Ok(()) } else { self.loader.push_key(obj, key, child) }
    }

    fn push_place(&mut self, vec: NodeIx, child: Option<NodeIx>) -> Result<(), LoadError> {
        if self.muted { Ok(()) } else { self.loader.push_place(vec, child) }
    }

    fn push_text(&mut self, str: NodeIx, id: Timestamp, text: Wtf8<'_>) -> Result<(), LoadError> {
        if self.muted {
            return Ok(());
        }
        if self.sought.is_some() {
            self.meet(str, id, text.units() as u64)?;
        }
        self.loader.push_text(str, id, text)
    }

    fn push_bytes(&mut self, bin: NodeIx, id: Timestamp, bytes: &[u8]) -> Result<(), LoadError> {
        if self.muted {
            return Ok(());
        }
        self.meet(bin, id, bytes.len() as u64)?;
        self.loader.push_bytes(bin, id, bytes)
    }

    fn push_children(&mut self, arr: NodeIx, id: Timestamp, nodes: &[NodeIx]) -> Result<(), LoadError> {
        if self.muted {
            return Ok(());
        }
        self.meet(arr, id, nodes.len() as u64)?;
        self.loader.push_children(arr, id, nodes)
    }

    fn push_tombstone(&mut self, node: NodeIx, id: Timestamp, span: u64) -> Result<(), LoadError> {
        if self.muted {
            return Ok(());
        }
        self.meet(node, id, span)?;
        self.loader.push_tombstone(node, id, span)
    }

    /// The chunks of a sequence, to be filled; `None` if it was read before.
    fn chunks(&mut self, node: NodeIx) -> Result<Option<ChunkLoader<'_>>, LoadError> {
        if self.muted { Ok(None) } else { self.loader.chunks(node).map(Some) }
    }

    fn finish(self, root: Option<NodeIx>) -> Result<Document, LoadError> {
        self.loader.finish(root)
    }
}

/// Whether an id stands for "no node".
fn is_nothing(id: Timestamp) -> bool {
    id.sid == SessionId::SYSTEM
}

/// A live chunk of an array out of what was read; each of its slots holds a node.
fn push_all(
    nodes: &mut Nodes,
    arr: NodeIx,
    id: Timestamp,
    children: Vec<Option<NodeIx>>,
) -> Result<(), Fault> {
    let children: Option<Vec<_>> = children.into_iter().collect();
    match children {
        Some(children) if children.is_empty() => Ok(()),
        Some(children) => Ok(nodes.push_children(arr, id, &children)?),
        None => Err(Malformed::shape("a node", "the system's id").into()),
    }
}
