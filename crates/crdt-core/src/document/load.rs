//! Building a document out of the nodes of a snapshot.

mod chunks;

pub use chunks::ChunkLoader;
use smallvec::SmallVec;

use super::{
    Document, Order,
    node::{Entry, Form, NIL},
    sequence::{Id, Sids},
    sessions::{SESSIONS_MAX, Sessions},
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
    #[error("id {0} occurs twice: expected each once")]
    Duplicate(Timestamp),
    /// A container that holds a node made before it: the nodes could form a circle.
    #[error("node {child} in {container}: expected a node that was made after what holds it")]
    TooOld {
        /// The node.
        child: Timestamp,
        /// The container.
        container: Timestamp,
    },
    /// A key that a map has twice.
    #[error("key {key:?} occurs twice in {map}: expected each once")]
    DuplicateKey {
        /// The map.
        map: Timestamp,
        /// The key.
        key: String,
    },
    /// A node that does not hold what it is given.
    #[error("a node of another kind is needed at {0}")]
    Kind(Timestamp),
    /// An id of the session that names the root and nothing else.
    #[error("id {0} is the system's: expected one of a session, for a node or an element")]
    System(Timestamp),
    /// An id that the clock does not know.
    #[error("id {0} is above the clock: expected one that the clock has seen")]
    Unseen(Timestamp),
    /// A chunk without elements.
    #[error("the chunk at {0} is empty: expected at least one element")]
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

/// A session of a document that is being loaded, and the first time not seen of it: looked up once for many ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionIx {
    pub(super) at: u32,
    /// Not the last time seen: of a session that nothing was seen of, time 0 has to be noted too.
    pub(super) unseen: u64,
}

/// Builds a document from nodes with their contents, in any order as long as a node is there before it is referred to.
///
/// The loader keeps what every document keeps: ids occur once, containers hold only nodes that were made after them
/// (so there are no circles), and the clock is above all ids.
#[derive(Debug)]
pub struct Loader {
    doc: Document,
    /// The sessions that timestamps in constants are of, where a name may be all that there is of a session.
    named: Option<Vec<u32>>,
}

impl Loader {
    /// Starts an empty document of a session, at its next time.
    pub fn new(session: SessionId, time: u64, order: Order) -> Self {
        let mut doc = Document::with(session, time, order);
        doc.store.sessions.made = doc.time - 1;
        Self { doc, named: None }
    }

    /// What was noted of a session counts as seen only if something of it is loaded, should a timestamp in a constant be of that
    /// session. Forms that write ids by a table enter a session there for such a timestamp too, also if nothing was seen of
    /// it: taken at its word, the table would have all that the session made refused as known.
    pub(crate) fn doubt_names(&mut self) {
        self.named = Some(Vec::new());
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
        let session = self.enter(session)?;
        self.doc.observe(session, time);
        Ok(())
    }

    /// [`observe`](Self::observe), unless something was noted of the session before.
    pub(crate) fn observe_first(&mut self, session: SessionId, time: u64) -> Result<(), LoadError> {
        let session = self.enter(session)?;
        if self.doc.store.sessions.seen(session).is_none() {
            self.doc.observe(session, time);
        }
        Ok(())
    }

    /// Looks a session up for [`chunks`](Self::chunks).
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn session(&mut self, sid: SessionId) -> Result<SessionIx, LoadError> {
        let at = self.enter(sid)?;
        let sessions = &self.doc.store.sessions;
        Ok(SessionIx { at, unseen: sessions.seen_of_any(at).map_or(0, |seen| seen + 1) })
    }

    fn enter(&mut self, sid: SessionId) -> Result<u32, LoadError> {
        let sessions = &mut self.doc.store.sessions;
        bound("sessions", sessions.len() as u64, SESSIONS_MAX as u64 - 1)?;
        Ok(sessions.enter(sid.get()))
    }

    /// Whether nothing in a document can have an id. A server numbers from 1; its forms spell "no node" as time 0.
    fn is_no_id(&self, id: Timestamp) -> bool {
        id.sid == SessionId::SYSTEM || id.time == 0 && self.doc.order == Order::Server
    }

    /// An id in here; the clock is above its last tick from now on.
    fn id(&mut self, id: Timestamp, span: u64) -> Result<Id, LoadError> {
        if self.is_no_id(id) {
            return Err(LoadError::System(id));
        }
        let session = self.enter(id.sid)?;
        let last = bound("times", id.time + span - 1, crate::id::MAX_ID - 1)?;
        if session != self.doc.store.sessions.own
            && self.doc.store.sessions.seen(session).is_some_and(|seen| last <= seen)
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
        if let Some(named) = &mut self.named
            && let Some(session) = self.doc.store.sessions.get(value.sid.get())
            && named.last() != Some(&session)
        {
            named.push(session);
        }
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

    /// Makes room for about so many keys of a map.
    pub fn reserve_keys(&mut self, obj: NodeIx, more: usize) {
        if self.doc.store.form(obj.0) == Form::Obj {
            self.doc.store.reserve_keys(obj.0, more);
        }
    }

    /// Adds a key to a map.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn push_key(&mut self, obj: NodeIx, key: Wtf8<'_>, child: NodeIx) -> Result<(), LoadError> {
        let at = self.expect(obj, Form::Obj)?;
        self.expect_later(child, obj)?;
        self.heap(key.as_bytes().len())?;
        let Store { keys, objs, nodes, .. } = &mut *self.doc.store;
        let before = keys.len();
        let number = keys.enter(key.as_bytes());
        let obj = objs.at_mut(nodes[at as usize].payload());
        // A key that no map had before is new to this one too.
        if (number as usize) < before && obj.find(number).is_some() {
            let map = self.doc.store.timestamp(self.doc.store.node(at).id());
            return Err(LoadError::DuplicateKey { map, key: key.to_str_lossy().into_owned() });
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

    /// The chunks of a text, byte string or array, to be added.
    ///
    /// # Errors
    /// [`LoadError::Kind`] for a node of another kind.
    pub fn chunks(&mut self, node: NodeIx) -> Result<ChunkLoader<'_>, LoadError> {
        let form = self.doc.store.form(node.0);
        if !matches!(form, Form::Str | Form::Bin | Form::Arr) {
            return Err(LoadError::Kind(self.timestamp(node)));
        }
        let Document { store, time, .. } = &mut self.doc;
        let store = &mut **store;
        let sequence = store.sequences.at_mut(store.nodes[node.0 as usize].payload());
        let Store { sessions, contents, span, .. } = store;
        Ok(ChunkLoader { sequence, contents, sessions, span, time, form, taken: None })
    }

    /// Adds a live chunk to a text.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn push_text(&mut self, str: NodeIx, id: Timestamp, text: Wtf8<'_>) -> Result<(), LoadError> {
        let session = self.chunk_session(id)?;
        self.chunks(str)?.text(session, id.time, text)
    }

    /// Adds a live chunk to a byte string.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn push_bytes(&mut self, bin: NodeIx, id: Timestamp, bytes: &[u8]) -> Result<(), LoadError> {
        let session = self.chunk_session(id)?;
        self.chunks(bin)?.bytes(session, id.time, bytes)
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
        for &child in children {
            self.expect_later(child, arr)?;
        }
        let session = self.chunk_session(id)?;
        let nodes: SmallVec<[u32; 16]> = children.iter().map(|child| child.0).collect();
        self.chunks(arr)?.slots(session, id.time, &nodes)?;
        children.iter().for_each(|&child| self.link(child));
        Ok(())
    }

    /// Adds a tombstone to a text, byte string or array.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn push_tombstone(&mut self, node: NodeIx, id: Timestamp, span: u64) -> Result<(), LoadError> {
        let session = self.chunk_session(id)?;
        self.chunks(node)?.tombstone(session, id.time, span)
    }

    fn chunk_session(&mut self, id: Timestamp) -> Result<SessionIx, LoadError> {
        if self.is_no_id(id) { Err(LoadError::System(id)) } else { self.session(id.sid) }
    }

    /// The document, with a node in its root register.
    ///
    /// # Errors
    /// [`LoadError::Duplicate`] for an element that a sequence has twice.
    pub fn finish(mut self, root: Option<NodeIx>) -> Result<Document, LoadError> {
        let store = &mut *self.doc.store;
        for sequence in &mut store.sequences.items {
            sequence.seal().map_err(|id| LoadError::Duplicate(timestamp(&store.sessions, id)))?;
        }
        if let Some(root) = root {
            self.doc.store.root = root.0;
            self.link(root);
        }
        if let Some(named) = self.named.take() {
            self.forget_names(named);
        }
        self.doc.store.fit();
        Ok(self.doc)
    }

    /// Forgets what was noted of sessions that nothing is here of.
    fn forget_names(&mut self, mut named: Vec<u32>) {
        let store = &mut *self.doc.store;
        let has_node = |session: u32| store.sessions.at(session).nodes.ceiling(0).is_some();
        named.retain(|&session| session != store.sessions.own && !has_node(session));
        if named.is_empty() {
            return;
        }
        let mut has_chunk = vec![false; store.sessions.len()];
        for sequence in &store.sequences.items {
            sequence.chunks().for_each(|chunk| has_chunk[chunk.session as usize] = true);
        }
        named.retain(|&session| !has_chunk[session as usize]);
        store.sessions.forget(&named);
    }
}

fn timestamp(sessions: &Sessions, id: Id) -> Timestamp {
    Timestamp::new(SessionId::new(sessions.sid(id.session)).unwrap_or(SessionId::SYSTEM), id.time)
}

pub(super) fn bound(what: &'static str, value: u64, max: u64) -> Result<u64, LoadError> {
    if value > max { Err(LoadError::TooLarge { what, value, max }) } else { Ok(value) }
}
