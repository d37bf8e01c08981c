//! Building a document out of the nodes of a snapshot.

use super::{
    Document, Order,
    node::{Entry, Form, NIL},
    sequence::{Chunk, Id, SPAN_MAX, Span},
    sessions::SESSIONS_MAX,
    store::Store,
};
use crate::{SessionId, Timestamp, codec::RawValue, text::Wtf8};

/// A node of a document that is being loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeIx(u32);

/// A snapshot that contradicts itself or breaks a bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Two nodes or two elements with one id.
    #[error("id {0} occurs twice")]
    Duplicate(Timestamp),
    /// A container that holds a node made before it: the nodes could form a circle.
    #[error("node {child} cannot be held by {container}, which was made after it")]
    TooOld {
        /// The node.
        child: Timestamp,
        /// The container.
        container: Timestamp,
    },
    /// A key that a map has twice.
    #[error("key {0:?} occurs twice")]
    DuplicateKey(String),
    /// A node that does not hold what it is given.
    #[error("a node of another kind is needed at {0}")]
    Kind(Timestamp),
    /// An id of the session that names the root and nothing else.
    #[error("id {0} is the system's: no node and no element can have it")]
    System(Timestamp),
    /// A chunk without elements.
    #[error("the chunk at {0} is empty")]
    Empty(Timestamp),
    /// More of something than a document can hold.
    #[error("{what} come to {value}: at most {max} are allowed")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How much.
        value: u64,
        /// The bound.
        max: u64,
    },
}

/// Builds a document from nodes with their contents, in any order as long as a node is there before it is referred to.
///
/// The loader keeps what every document keeps: ids occur once, containers hold only nodes that were made after them
/// (so there are no circles), and the clock is above all ids.
#[derive(Debug)]
pub struct Loader {
    doc: Document,
}

impl Loader {
    /// Starts an empty document of a session, at its next time.
    pub fn new(session: SessionId, time: u64, order: Order) -> Self {
        let mut doc = Document::with(session, time, order);
        doc.made = doc.time - 1;
        Self { doc }
    }

    /// Makes room for about so many nodes and bytes of content.
    pub fn reserve(&mut self, nodes: usize, bytes: usize) {
        self.doc.store.nodes.reserve(nodes);
        self.doc.store.contents.narrow.reserve(bytes);
    }

    /// Notes that another session has been seen up to a time.
    ///
    /// # Errors
    /// [`LoadError::TooLarge`] for too many sessions.
    pub fn observe(&mut self, session: SessionId, time: u64) -> Result<(), LoadError> {
        let session = self.session(session)?;
        self.doc.observe(session, time);
        Ok(())
    }

    fn session(&mut self, sid: SessionId) -> Result<u32, LoadError> {
        let sessions = &mut self.doc.store.sessions;
        bound("sessions", sessions.len() as u64, SESSIONS_MAX as u64 - 1)?;
        Ok(sessions.enter(sid.get()))
    }

    /// An id in here; the clock is above its last tick from now on.
    fn id(&mut self, id: Timestamp, span: u64) -> Result<Id, LoadError> {
        if id.sid == SessionId::SYSTEM {
            return Err(LoadError::System(id));
        }
        let session = self.session(id.sid)?;
        let last = bound("times", id.time + span - 1, crate::id::MAX_ID - 1)?;
        if session != self.doc.own
            && self.doc.store.sessions.at(session).seen.is_some_and(|seen| last <= seen)
        {
            self.doc.time = self.doc.time.max(last + 1);
        } else {
            self.doc.observe(session, last);
        }
        Ok(Id::new(session, id.time))
    }

    fn heap(&self, more: usize) -> Result<u64, LoadError> {
        let bytes = self.doc.store.heap.len().max(self.doc.store.keys.len_bytes()) + more;
        bound("bytes of keys and constants", bytes as u64, Document::HEAP_BYTES_MAX)
    }

    /// Adds a constant.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn con(&mut self, id: Timestamp, value: RawValue<'_>) -> Result<NodeIx, LoadError> {
        self.heap(value.as_bytes().len() + 8)?;
        let at = self.id(id, 1)?;
        self.doc.store.create_con(at, value).map(NodeIx).ok_or(LoadError::Duplicate(id))
    }

    /// Adds a constant that is a timestamp.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn con_id(&mut self, id: Timestamp, value: Timestamp) -> Result<NodeIx, LoadError> {
        self.heap(16)?;
        let at = self.id(id, 1)?;
        self.doc.store.create_con_id(at, value).map(NodeIx).ok_or(LoadError::Duplicate(id))
    }

    /// Adds a register without a value.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn val(&mut self, id: Timestamp) -> Result<NodeIx, LoadError> {
        self.create(id, Form::Val)
    }

    /// Adds an empty map.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn obj(&mut self, id: Timestamp) -> Result<NodeIx, LoadError> {
        self.create(id, Form::Obj)
    }

    /// Adds an empty tuple.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn vec(&mut self, id: Timestamp) -> Result<NodeIx, LoadError> {
        self.create(id, Form::Vec)
    }

    /// Adds an empty text.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn str(&mut self, id: Timestamp) -> Result<NodeIx, LoadError> {
        self.create(id, Form::Str)
    }

    /// Adds an empty byte string.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn bin(&mut self, id: Timestamp) -> Result<NodeIx, LoadError> {
        self.create(id, Form::Bin)
    }

    /// Adds an empty array.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn arr(&mut self, id: Timestamp) -> Result<NodeIx, LoadError> {
        self.create(id, Form::Arr)
    }

    fn create(&mut self, id: Timestamp, form: Form) -> Result<NodeIx, LoadError> {
        let at = self.id(id, 1)?;
        self.doc.store.create(at, form).map(NodeIx).ok_or(LoadError::Duplicate(id))
    }

    /// The node with an id, if it was added.
    pub fn find(&self, id: Timestamp) -> Option<NodeIx> {
        self.doc.store.find(id).map(NodeIx)
    }

    /// What kind of node it is.
    pub fn kind(&self, node: NodeIx) -> super::Kind {
        self.doc.store.form(node.0).kind()
    }

    fn timestamp(&self, node: NodeIx) -> Timestamp {
        self.doc.store.timestamp(self.doc.store.node(node.0).id())
    }

    fn expect(&self, node: NodeIx, form: Form) -> Result<u32, LoadError> {
        if self.doc.store.form(node.0) == form {
            Ok(node.0)
        } else {
            Err(LoadError::Kind(self.timestamp(node)))
        }
    }

    fn expect_later(&self, child: NodeIx, container: NodeIx) -> Result<(), LoadError> {
        let time = |node: NodeIx| self.doc.store.node(node.0).id().time;
        if time(child) > time(container) { Ok(()) } else { Err(self.too_old(child, container)) }
    }

    fn too_old(&self, child: NodeIx, container: NodeIx) -> LoadError {
        LoadError::TooOld { child: self.timestamp(child), container: self.timestamp(container) }
    }

    fn link(&mut self, node: NodeIx) {
        self.doc.store.node_mut(node.0).link();
    }

    /// Sets a register that has no value yet.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn set_val(&mut self, val: NodeIx, child: NodeIx) -> Result<(), LoadError> {
        self.expect(val, Form::Val)?;
        if self.doc.store.node(val.0).payload() != NIL {
            return Err(LoadError::Duplicate(self.timestamp(val)));
        }
        if !self.doc.store.is_newer(child.0, val.0) {
            return Err(self.too_old(child, val));
        }
        self.doc.store.node_mut(val.0).set_payload(child.0);
        self.link(child);
        Ok(())
    }

    /// Adds a key to a map.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn push_key(&mut self, obj: NodeIx, key: Wtf8<'_>, child: NodeIx) -> Result<(), LoadError> {
        let at = self.expect(obj, Form::Obj)?;
        self.expect_later(child, obj)?;
        self.heap(key.as_bytes().len())?;
        let Store { keys, objs, nodes, .. } = &mut self.doc.store;
        let before = keys.len();
        let number = keys.enter(key.as_bytes());
        let obj = objs.at_mut(nodes[at as usize].payload());
        // A key that no map had before is new to this one too.
        if (number as usize) < before && obj.find(number).is_some() {
            return Err(LoadError::DuplicateKey(key.to_str_lossy().into_owned()));
        }
        obj.push(Entry { key: number, node: child.0 });
        self.link(child);
        Ok(())
    }

    /// Adds the next place to a tuple.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn push_place(&mut self, vec: NodeIx, child: Option<NodeIx>) -> Result<(), LoadError> {
        let at = self.expect(vec, Form::Vec)?;
        if let Some(child) = child {
            self.expect_later(child, vec)?;
        }
        bound("places of a tuple", self.doc.store.vec(at).len() as u64 + 1, 256)?;
        self.doc.store.vec_mut(at).push(child.map_or(NIL, |child| child.0));
        child.into_iter().for_each(|child| self.link(child));
        Ok(())
    }

    /// Adds a live chunk to a text.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn push_text(&mut self, str: NodeIx, id: Timestamp, text: Wtf8<'_>) -> Result<(), LoadError> {
        let units = text.units() as u64;
        let at = self.chunk_id(str, Form::Str, id, units)?;
        let stored = self.doc.store.contents.store_text(None, text, units as u32);
        self.push(str, at, stored.span, stored.offset);
        Ok(())
    }

    /// Adds a live chunk to a byte string.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn push_bytes(&mut self, bin: NodeIx, id: Timestamp, bytes: &[u8]) -> Result<(), LoadError> {
        let at = self.chunk_id(bin, Form::Bin, id, bytes.len() as u64)?;
        let stored = self.doc.store.contents.store_bytes(None, bytes);
        self.push(bin, at, stored.span, stored.offset);
        Ok(())
    }

    /// Adds a live chunk to an array.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn push_children(
        &mut self,
        arr: NodeIx,
        id: Timestamp,
        children: &[NodeIx],
    ) -> Result<(), LoadError> {
        let at = self.chunk_id(arr, Form::Arr, id, children.len() as u64)?;
        for &child in children {
            self.expect_later(child, arr)?;
        }
        let nodes: Vec<u32> = children.iter().map(|child| child.0).collect();
        let stored = self.doc.store.contents.store_slots(None, &nodes);
        self.push(arr, at, stored.span, stored.offset);
        children.iter().for_each(|&child| self.link(child));
        Ok(())
    }

    /// Adds a tombstone to a text, byte string or array.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn push_tombstone(&mut self, node: NodeIx, id: Timestamp, span: u64) -> Result<(), LoadError> {
        let form = self.doc.store.form(node.0);
        if !matches!(form, Form::Str | Form::Bin | Form::Arr) {
            return Err(LoadError::Kind(self.timestamp(node)));
        }
        let at = self.chunk_id(node, form, id, span)?;
        self.push(node, at, Span::dead(span as u32), 0);
        Ok(())
    }

    fn chunk_id(&mut self, node: NodeIx, form: Form, id: Timestamp, units: u64) -> Result<Id, LoadError> {
        self.expect(node, form)?;
        if units == 0 {
            return Err(LoadError::Empty(id));
        }
        bound("elements of all sequences", self.doc.store.span.saturating_add(units), u64::from(SPAN_MAX))?;
        let at = self.id(id, units)?;
        if self.doc.store.sequence(node.0).overlaps(at, units as u32) {
            return Err(LoadError::Duplicate(id));
        }
        Ok(at)
    }

    fn push(&mut self, node: NodeIx, id: Id, span: Span, offset: u32) {
        self.doc.store.span += u64::from(span.len());
        let chunk = Chunk { time: id.time, session: id.session, span, offset };
        self.doc.store.sequence_mut(node.0).push(chunk);
    }

    /// The document, with a node in its root register.
    pub fn finish(mut self, root: Option<NodeIx>) -> Document {
        if let Some(root) = root {
            self.doc.store.root = root.0;
            self.link(root);
        }
        self.doc
    }
}

fn bound(what: &'static str, value: u64, max: u64) -> Result<u64, LoadError> {
    if value > max { Err(LoadError::TooLarge { what, value, max }) } else { Ok(value) }
}
