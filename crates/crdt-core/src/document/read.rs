//! Walking the nodes of a document, with their ids and the chunks of their sequences.

use super::{
    Document, NativeId,
    chunks::Chunks,
    content::TextOut,
    node::{Form, Kind, NIL},
    store::Store,
};
use crate::{
    SessionId, Timestamp, Value,
    codec::RawValue,
    text::{Key, Wtf8},
};

/// A node of a document.
#[derive(Debug, Clone, Copy)]
pub struct NodeRef<'d> {
    store: &'d Store,
    node: u32,
}

/// What something refers to.
#[derive(Debug, Clone, Copy)]
pub enum Child<'d> {
    /// A node.
    Node(NodeRef<'d>),
    /// A node that has been removed from elsewhere.
    Missing(Timestamp),
}

/// What a node holds.
#[derive(Debug, Clone)]
pub enum Content<'d> {
    /// A constant's value.
    Con(RawValue<'d>),
    /// A constant that is a timestamp.
    ConId(Timestamp),
    /// A register's node; `None` if it was never set.
    Val(Option<Child<'d>>),
    /// A map's entries, in the order in which the keys were set first.
    Obj(Entries<'d>),
    /// A tuple's places.
    Vec(Places<'d>),
    /// A text's chunks.
    Str(Chunks<'d>),
    /// A byte string's chunks.
    Bin(Chunks<'d>),
    /// An array's chunks.
    Arr(Chunks<'d>),
}

/// A document's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockView {
    /// The document's own session.
    pub session: SessionId,
    /// The next unused time.
    pub time: u64,
}

impl Document {
    /// The node in the document's root register; `None` if that was never set, or if the node is gone.
    #[inline]
    pub fn root(&self) -> Option<NodeRef<'_>> {
        let store = &*self.store;
        store.root_node().map(|node| NodeRef { store, node })
    }

    /// What the root register refers to, be it gone or not: for snapshots, so that it wins over the same values in a
    /// document that is read.
    pub(crate) fn root_child(&self) -> Option<Child<'_>> {
        let store = &*self.store;
        (store.root != NIL).then(|| Child::of(store, store.root))
    }

    /// The node with an id.
    pub fn node(&self, id: Timestamp) -> Option<NodeRef<'_>> {
        self.store.find(id).map(|node| NodeRef { store: &self.store, node })
    }

    pub(crate) fn node_at(&self, node: u32) -> NodeRef<'_> {
        NodeRef { store: &self.store, node }
    }

    /// All nodes, those that nothing refers to included, by session and then time.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = NodeRef<'_>> {
        self.store.ids().into_iter().map(|(_, node)| NodeRef { store: &self.store, node })
    }

    /// All tuples, in no order.
    pub(crate) fn tuples(&self) -> impl Iterator<Item = NodeRef<'_>> {
        let store = &*self.store;
        let tuples =
            store.nodes.iter().zip(0u32..).filter(|(node, _)| node.form() == Form::Vec && !node.is_dead());
        tuples.map(|(_, node)| NodeRef { store, node })
    }

    /// The nodes that nothing refers to yet and that something may come to refer to, in the order of their ids.
    pub(crate) fn loose_nodes(&self) -> Vec<NodeRef<'_>> {
        let store = &self.store;
        let is_loose = |node: &super::node::Node| {
            node.refs() == 0 && !node.is_lost() && !node.is_dead() && node.form() != Form::Free
        };
        let nodes = store.nodes.iter().zip(0u32..).filter(|(node, _)| is_loose(node));
        let mut loose: Vec<NodeRef<'_>> = nodes.map(|(_, node)| NodeRef { store, node }).collect();
        loose.sort_unstable_by_key(NodeRef::id);
        loose
    }

    /// How long it is when each node is written once, about.
    pub(crate) fn weight(&self) -> usize {
        let store = &self.store;
        let nodes = store.nodes.iter().zip(0u32..).filter(|(node, _)| !node.is_dead());
        nodes.map(|(_, node)| NodeRef { store, node }.weight()).sum()
    }

    /// How many keys occur in all maps, or did.
    pub(crate) fn key_count(&self) -> usize {
        self.store.keys.len()
    }

    /// The bytes of the key with a number.
    pub(crate) fn key(&self, number: u32) -> &[u8] {
        self.store.keys.get(number)
    }

    /// The own session and the next time.
    pub fn clock(&self) -> ClockView {
        ClockView { session: self.session(), time: self.time() }
    }
}

impl<'d> NodeRef<'d> {
    /// The node's id.
    pub fn id(&self) -> Timestamp {
        self.store.timestamp(self.store.node(self.node).id())
    }

    /// The node's id, with its session's number in the document.
    pub(crate) fn native_id(&self) -> NativeId {
        let id = self.store.node(self.node).id();
        NativeId { session: id.session, time: id.time }
    }

    /// Calls `each` with the runs of a text, byte string or array: the first id, how many, and whether they are
    /// tombstones. Neighbours are not joined.
    pub(crate) fn for_each_run(&self, mut each: impl FnMut(NativeId, u32, bool)) {
        for chunk in self.store.sequence(self.node).chunks() {
            each(
                NativeId { session: chunk.session, time: chunk.time },
                chunk.span.len(),
                chunk.span.is_dead(),
            );
        }
    }

    /// Appends the visible text of a text, as WTF-8.
    pub(crate) fn write_text(&self, out: &mut Vec<u8>) {
        let chunks = self.store.sequence(self.node).chunks().filter(|chunk| !chunk.span.is_dead());
        self.store.contents.read_texts(chunks, &mut TextOut::new(out));
    }

    /// What kind of node it is.
    pub fn kind(&self) -> Kind {
        self.store.form(self.node).kind()
    }

    /// The number of the node's session in the document, from 0 without gaps. Good until the document changes.
    pub fn session_index(&self) -> usize {
        self.store.node(self.node).id().session as usize
    }

    /// The number of the node in the document's table. Good until the document changes.
    pub const fn index(&self) -> usize {
        self.node as usize
    }

    /// The same, as the table counts.
    pub(crate) const fn number(&self) -> u32 {
        self.node
    }

    /// Whether more than one thing refers to it. The reference allows that and its encoders then lose data; a walk of
    /// the tree should take it the first time that it meets it, or it can take for ever.
    pub fn is_aliased(&self) -> bool {
        self.store.node(self.node).refs() > 1
    }

    /// How long it is when it is written, about and without what it holds.
    pub(crate) fn weight(&self) -> usize {
        let store = self.store;
        let content = match store.form(self.node) {
            Form::Con | Form::ConShort => store.con(self.node).map_or(0, |raw| raw.as_bytes().len()),
            Form::Str | Form::Bin | Form::Arr => {
                let sequence = store.sequence(self.node);
                sequence.chunks().count() + sequence.len() as usize
            }
            _ => 0,
        };
        1 + content
    }

    /// The JSON value of it and all that it holds.
    pub fn view(&self) -> Value {
        super::view::view_of(self.store, self.node)
    }

    /// What it holds.
    pub fn content(&self) -> Content<'d> {
        let (store, node) = (self.store, self.node);
        match store.form(node) {
            Form::Con | Form::ConShort | Form::Free => {
                Content::Con(store.con(node).unwrap_or(RawValue::UNDEFINED))
            }
            Form::ConId => Content::ConId(store.con_id(node).unwrap_or(Timestamp::ORIGIN)),
            Form::Val => {
                let child = store.node(node).payload();
                Content::Val((child != NIL).then(|| Child::of(store, child)))
            }
            Form::Obj => Content::Obj(Entries { store, entries: store.obj(node).entries.iter() }),
            Form::Vec => Content::Vec(Places { store, places: store.vec(node).iter() }),
            Form::Str => Content::Str(Chunks::of(store, store.sequence(node))),
            Form::Bin => Content::Bin(Chunks::of(store, store.sequence(node))),
            Form::Arr => Content::Arr(Chunks::of(store, store.sequence(node))),
        }
    }

    /// How many visible elements a text, byte string or array has; how many keys or places a map or tuple.
    pub fn len(&self) -> usize {
        match self.store.form(self.node) {
            Form::Obj => self.store.obj(self.node).entries.len(),
            Form::Vec => self.store.vec(self.node).len(),
            Form::Str | Form::Bin | Form::Arr => self.store.sequence(self.node).len() as usize,
            _ => 0,
        }
    }

    /// Whether it has no elements, keys or places.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The node at a key of a map.
    pub fn get<K: Key + ?Sized>(&self, key: &K) -> Option<NodeRef<'d>> {
        if self.store.form(self.node) != Form::Obj {
            return None;
        }
        let obj = self.store.obj(self.node);
        let place = obj.find(self.store.keys.find(key.as_key().as_bytes())?)?;
        Child::of(self.store, obj.entries[place].node).node()
    }

    /// The node at an index of an array or tuple.
    pub fn at(&self, index: usize) -> Option<NodeRef<'d>> {
        let child = match self.store.form(self.node) {
            Form::Vec => *self.store.vec(self.node).get(index).filter(|&&child| child != NIL)?,
            Form::Arr => {
                let sequence = self.store.sequence(self.node);
                let (at, offset) = sequence.seek(u32::try_from(index).ok()?)?;
                self.store.slots(sequence.chunk(at).offset + offset, 1)[0]
            }
            _ => return None,
        };
        Child::of(self.store, child).node()
    }

    /// Whether a key that holds it counts as deleted.
    pub fn is_undefined(&self) -> bool {
        self.store.is_undefined(self.node)
    }

    /// The node in a register.
    pub fn child(&self) -> Option<NodeRef<'d>> {
        match self.content() {
            Content::Val(child) => child?.node(),
            _ => None,
        }
    }
}

impl<'d> Child<'d> {
    pub(super) fn of(store: &'d Store, node: u32) -> Self {
        if store.node(node).is_dead() {
            Self::Missing(store.timestamp(store.node(node).id()))
        } else {
            Self::Node(NodeRef { store, node })
        }
    }

    /// The node, if it is there.
    pub const fn node(self) -> Option<NodeRef<'d>> {
        match self {
            Self::Node(node) => Some(node),
            Self::Missing(_) => None,
        }
    }

    /// The id that is referred to.
    pub fn id(&self) -> Timestamp {
        match self {
            Self::Node(node) => node.id(),
            Self::Missing(id) => *id,
        }
    }
}

/// The entries of a map.
#[derive(Debug, Clone)]
pub struct Entries<'d> {
    store: &'d Store,
    entries: std::slice::Iter<'d, super::node::Entry>,
}

impl<'d> Entries<'d> {
    /// The entries with their keys' numbers in the document.
    pub(crate) fn numbered(self) -> impl Iterator<Item = (u32, Child<'d>)> {
        let Self { store, entries } = self;
        entries.map(move |entry| (entry.key, Child::of(store, entry.node)))
    }
}

impl<'d> Iterator for Entries<'d> {
    type Item = (Wtf8<'d>, Child<'d>);

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.entries.next()?;
        Some((Wtf8::trusted(self.store.keys.get(entry.key)), Child::of(self.store, entry.node)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}

impl ExactSizeIterator for Entries<'_> {}

/// The places of a tuple; `None` for one that was never set.
#[derive(Debug, Clone)]
pub struct Places<'d> {
    store: &'d Store,
    places: std::slice::Iter<'d, u32>,
}

impl<'d> Iterator for Places<'d> {
    type Item = Option<Child<'d>>;

    fn next(&mut self) -> Option<Self::Item> {
        let &node = self.places.next()?;
        Some((node != NIL).then(|| Child::of(self.store, node)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.places.size_hint()
    }
}

impl ExactSizeIterator for Places<'_> {}
