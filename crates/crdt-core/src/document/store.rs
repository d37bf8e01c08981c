//! The nodes of a document and everything that hangs on them.

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{
    content::Contents,
    keys::Keys,
    node::{Entry, Form, NIL, Node, Obj, Sequences, Slab},
    sequence::{Id, Sequence, Sids},
    sessions::Sessions,
    typing::Typing,
    unindexed::Rows,
};
use crate::{SessionId, Timestamp, codec::RawValue, patch::elements::Constants};

/// Nodes by number and by id, their contents, and the sessions that their ids name.
#[derive(Debug, Clone, Default)]
pub(super) struct Store {
    pub(super) sessions: Sessions,
    pub(super) nodes: Vec<Node>,
    pub(super) free: Vec<u32>,
    /// Nodes that were removed while another node still refers to them.
    pub(super) ghosts: HashMap<Id, u32>,
    pub(super) objs: Slab<Obj>,
    pub(super) vecs: Slab<Vec<u32>>,
    pub(super) sequences: Sequences,
    pub(super) keys: Keys,
    /// The values of constants: a length in the patch format's varint, then so many bytes of CBOR.
    pub(super) heap: Vec<u8>,
    /// Bytes of the heap that no node has any more.
    pub(super) heap_dead: usize,
    pub(super) contents: Contents,
    /// The elements of all sequences, tombstones included.
    pub(super) span: u64,
    /// What the root register holds.
    pub(super) root: u32,
    /// Who types on; forgotten with any other change.
    pub(super) typing: Option<Typing>,
    /// All nodes, as long as those of `sessions` are not [indexed](Self::index).
    pub(super) rows: Option<Rows>,
}

/// So few nodes are not worth a look ahead.
const NODES_AT_ONCE_MIN: usize = 1024;

/// So few keys are not worth a look ahead.
const KEYS_AT_ONCE_MIN: usize = 64;

impl Store {
    pub(super) fn new() -> Self {
        Self { root: NIL, ..Self::default() }
    }

    pub(super) fn timestamp(&self, id: Id) -> Timestamp {
        // A session id is checked when it enters the table.
        let sid = SessionId::new(self.sessions.sid(id.session)).unwrap_or(SessionId::SYSTEM);
        Timestamp::new(sid, id.time)
    }

    /// The id in here, if the session is known.
    pub(super) fn id(&self, id: Timestamp) -> Option<Id> {
        Some(Id::new(self.sessions.get(id.sid.get())?, id.time))
    }

    /// The node with an id.
    pub(super) fn find(&self, id: Timestamp) -> Option<u32> {
        self.find_here(self.id(id)?)
    }

    /// The node with an id in here.
    #[inline]
    pub(super) fn find_here(&self, id: Id) -> Option<u32> {
        match &self.rows {
            None => self.sessions.at(id.session).nodes.get(id.time),
            Some(rows) => rows.find(id),
        }
    }

    /// Makes the index of all nodes, if it is still to be made: before anything is changed.
    pub(super) fn index(&mut self) {
        if let Some(rows) = self.rows.take() {
            rows.index(&mut self.sessions);
        }
    }

    pub(super) fn node(&self, node: u32) -> &Node {
        &self.nodes[node as usize]
    }

    pub(super) fn node_mut(&mut self, node: u32) -> &mut Node {
        &mut self.nodes[node as usize]
    }

    pub(super) fn form(&self, node: u32) -> Form {
        self.node(node).form()
    }

    /// Whether the id of one node is above that of another.
    pub(super) fn is_newer(&self, a: u32, b: u32) -> bool {
        self.sessions.after(self.node(a).id(), self.node(b).id())
    }

    pub(super) fn sequence(&self, node: u32) -> &Sequence {
        self.sequences.at(self.node(node).payload())
    }

    pub(super) fn obj(&self, node: u32) -> &Obj {
        self.objs.at(self.node(node).payload())
    }

    pub(super) fn obj_mut(&mut self, node: u32) -> &mut Obj {
        self.objs.at_mut(self.nodes[node as usize].payload())
    }

    pub(super) fn vec(&self, node: u32) -> &[u32] {
        self.vecs.at(self.node(node).payload())
    }

    pub(super) fn vec_mut(&mut self, node: u32) -> &mut Vec<u32> {
        self.vecs.at_mut(self.nodes[node as usize].payload())
    }

    /// What a chunk of an array holds.
    pub(super) fn slots(&self, offset: u32, len: u32) -> &[u32] {
        self.contents.slots.get(offset, len)
    }

    /// Creates a container without content. `None` if there is a node with the id.
    pub(super) fn create(&mut self, id: Id, form: Form) -> Option<u32> {
        if self.sessions.at(id.session).nodes.get(id.time).is_some() {
            return None;
        }
        let payload = match form {
            Form::Obj => self.objs.add(),
            Form::Vec => self.vecs.add(),
            Form::Str | Form::Bin | Form::Arr => self.sequences.add(),
            _ => NIL,
        };
        Some(self.enter(Node::new(id, form, payload)))
    }

    /// Creates a constant. `None` if there is a node with the id.
    pub(super) fn create_con(&mut self, id: Id, value: RawValue<'_>) -> Option<u32> {
        if self.sessions.at(id.session).nodes.get(id.time).is_some() {
            return None;
        }
        let node = self.con_node(id, value);
        Some(self.enter(node))
    }

    /// A constant that is not in the table yet.
    #[inline]
    pub(super) fn con_node(&mut self, id: Id, value: RawValue<'_>) -> Node {
        con_node(&mut self.heap, id, value)
    }

    /// Creates constants at consecutive times that no node has, each of them referred to once.
    pub(super) fn enter_each(&mut self, id: Id, values: Constants<'_>) -> SmallVec<[u32; 8]> {
        let entered = values.zip(0..).map(|(value, ticks)| {
            let mut node = self.con_node(id.tick(ticks), value);
            node.link();
            self.enter(node)
        });
        entered.collect()
    }

    /// Creates a constant that is a timestamp. `None` if there is a node with the id.
    pub(super) fn create_con_id(&mut self, id: Id, value: Timestamp) -> Option<u32> {
        if self.sessions.at(id.session).nodes.get(id.time).is_some() {
            return None;
        }
        let node = self.con_id_node(id, value);
        Some(self.enter(node))
    }

    /// A constant that is a timestamp and not in the table yet.
    pub(super) fn con_id_node(&mut self, id: Id, value: Timestamp) -> Node {
        let at = self.heap.len() as u32;
        self.heap.extend_from_slice(&value.sid.get().to_le_bytes());
        self.heap.extend_from_slice(&value.time.to_le_bytes());
        Node::new(id, Form::ConId, at)
    }

    /// The place of a node that was removed while something refers to it, while a document is loaded.
    pub(super) fn ghost(&mut self, id: Id) -> u32 {
        let nodes = &mut self.nodes;
        *self.ghosts.entry(id).or_insert_with(|| {
            let mut node = Node::short(id, &[0xf7]);
            node.kill();
            nodes.push(node);
            nodes.len() as u32 - 1
        })
    }

    /// The ids of nodes that were removed while something refers to them.
    pub(super) fn ghosts(&self) -> impl Iterator<Item = Id> + '_ {
        self.ghosts.keys().copied()
    }

    /// Notes that a node which nothing refers to never will be referred to: it came too late for its place. In another
    /// order it would have been there first and been removed since.
    pub(super) fn forgo(&mut self, node: u32) {
        if self.node(node).refs() == 0 {
            self.node_mut(node).lose();
        }
    }

    fn enter(&mut self, node: Node) -> u32 {
        let id = node.id();
        let mut node = node;
        let ghost = if self.ghosts.is_empty() { None } else { self.ghosts.remove(&id) };
        let at = if let Some(at) = ghost {
            // Who still refers to the id refers to the new node.
            node.keep_refs(self.node(at));
            *self.node_mut(at) = node;
            at
        } else if let Some(at) = self.free.pop() {
            *self.node_mut(at) = node;
            at
        } else {
            self.nodes.push(node);
            self.nodes.len() as u32 - 1
        };
        self.sessions.at_mut(id.session).nodes.insert(id.time, at);
        at
    }

    /// A constant's value; `None` for one that is a timestamp, and for other nodes.
    pub(super) fn con(&self, node: u32) -> Option<RawValue<'_>> {
        let node = self.node(node);
        match node.form() {
            Form::ConShort => Some(RawValue::trusted(node.short_bytes())),
            Form::Con => {
                let (start, len) = get_len(&self.heap, node.payload() as usize);
                Some(RawValue::trusted(&self.heap[start..start + len]))
            }
            _ => None,
        }
    }

    /// The timestamp that a constant is.
    pub(super) fn con_id(&self, node: u32) -> Option<Timestamp> {
        let node = self.node(node);
        if node.form() != Form::ConId {
            return None;
        }
        let at = node.payload() as usize;
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| self.heap[at + i]));
        let sid = SessionId::new(number(at)).unwrap_or(SessionId::SYSTEM);
        Some(Timestamp::new(sid, number(at + 8)))
    }

    /// Whether a key whose value it is counts as deleted.
    pub(super) fn is_undefined(&self, node: u32) -> bool {
        let mut node = node;
        loop {
            let at = self.node(node);
            if at.is_dead() {
                return true;
            }
            match at.form() {
                Form::ConShort => return at.short_bytes() == [0xf7],
                Form::Val => match at.payload() {
                    NIL => return true,
                    child => node = child,
                },
                _ => return false,
            }
        }
    }

    /// Calls `each` with the nodes that a node refers to.
    pub(super) fn for_each_child(&self, node: u32, mut each: impl FnMut(u32)) {
        match self.form(node) {
            Form::Val => {
                let child = self.node(node).payload();
                if child != NIL {
                    each(child);
                }
            }
            Form::Obj => self.obj(node).entries.iter().for_each(|entry| each(entry.node)),
            Form::Vec => self.vec(node).iter().filter(|&&child| child != NIL).for_each(|&child| each(child)),
            Form::Arr => {
                for chunk in self.sequence(node).chunks().filter(|chunk| !chunk.span.is_dead()) {
                    self.slots(chunk.offset, chunk.span.len()).iter().for_each(|&child| each(child));
                }
            }
            _ => {}
        }
    }

    /// Ids of all nodes in the index, by session and time.
    pub(super) fn ids(&self) -> Vec<(Timestamp, u32)> {
        if let Some(rows) = &self.rows {
            let all = rows
                .sorted()
                .iter()
                .flat_map(|row| (0..row.len).map(move |at| (row.id.tick(at.into()), row.node + at)));
            let mut ids: Vec<_> = all.map(|(id, node)| (self.timestamp(id), node)).collect();
            // By the ids of sessions, not by their places.
            ids.sort_by_key(|(id, _)| id.sid);
            return ids;
        }
        let mut sessions: Vec<_> = self.sessions.iter().zip(0u32..).collect();
        sessions.sort_by_key(|&(_, at)| self.sessions.sid_at(at));
        let ids = sessions.into_iter().flat_map(|(session, at)| {
            session.nodes.iter().map(move |(time, node)| (self.timestamp(Id::new(at, time)), node))
        });
        ids.collect()
    }

    /// How many places for nodes are free.
    pub(super) fn free_len(&self) -> usize {
        self.free.len()
    }

    pub(super) fn ghosts_len(&self) -> usize {
        self.ghosts.len()
    }

    /// Makes room for so many keys at once, which may all be new.
    pub(super) fn reserve_keys(&mut self, obj: u32, more: usize) {
        if more > KEYS_AT_ONCE_MIN && more > self.keys.len() {
            self.keys.reserve(more);
            self.obj_mut(obj).entries.reserve(more);
        }
    }

    /// Makes room for nodes of about so many operations.
    #[inline]
    pub(super) fn reserve_nodes(&mut self, ops: usize) {
        if ops > NODES_AT_ONCE_MIN {
            self.nodes.reserve(ops);
        }
    }

    /// Sets a key that a map does not have.
    #[inline]
    pub(super) fn push_key(&mut self, obj: u32, key: u32, value: u32) {
        self.obj_mut(obj).push(Entry { key, node: value });
        self.node_mut(value).link();
    }
}

#[inline]
pub(super) fn con_node(heap: &mut Vec<u8>, id: Id, value: RawValue<'_>) -> Node {
    let bytes = value.as_bytes();
    if bytes.len() <= 3 {
        return Node::short(id, bytes);
    }
    let at = heap.len() as u32;
    put_len(heap, bytes.len());
    heap.extend_from_slice(bytes);
    Node::new(id, Form::Con, at)
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    let mut len = len;
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
}

/// Where the bytes behind a length start, and the length.
pub(super) fn get_len(bytes: &[u8], at: usize) -> (usize, usize) {
    let (mut at, mut len, mut shift) = (at, 0, 0);
    loop {
        let byte = bytes[at];
        at += 1;
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return (at, len);
        }
    }
}
