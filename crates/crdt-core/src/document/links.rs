//! From each node to what holds it, for those who want to know where in the document a change happened.
//!
//! Documents do not keep this for themselves: it would cost each node more than the node. It is made in one walk when
//! someone begins to watch, and kept up with every change from then on.

use super::{
    Document, Place,
    node::{Form, NIL},
    sequence::Id,
};
use crate::{Timestamp, model::PathStep, text::Wtf8};

/// For each node, by its number, where it was put last. Whether it is still there is checked when it is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Links {
    links: Vec<Link>,
    /// How often the document's keys had got other numbers.
    keys_moves: u32,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    holder: u32,
    at: At,
}

#[derive(Debug, Clone, Copy)]
enum At {
    Nowhere,
    Root,
    Register,
    Key(u32),
    Index(u8),
    Slot(Id),
}

impl Links {
    /// The links of all nodes that a document has.
    pub(crate) fn of(document: &Document) -> Self {
        let store = &document.store;
        let mut links = vec![Link { holder: NIL, at: At::Nowhere }; store.nodes.len()];
        let mut put = |child: u32, link: Link| links[child as usize] = link;
        if store.root != NIL {
            put(store.root, Link { holder: NIL, at: At::Root });
        }
        for holder in 0..store.nodes.len() as u32 {
            match store.form(holder) {
                Form::Val => {
                    let child = store.node(holder).payload();
                    if child != NIL {
                        put(child, Link { holder, at: At::Register });
                    }
                }
                Form::Obj => {
                    for entry in &store.obj(holder).entries {
                        put(entry.node, Link { holder, at: At::Key(entry.key) });
                    }
                }
                Form::Vec => {
                    for (index, &child) in store.vec(holder).iter().enumerate() {
                        if child != NIL {
                            put(child, Link { holder, at: At::Index(index as u8) });
                        }
                    }
                }
                Form::Arr => {
                    for chunk in store.sequence(holder).chunks().filter(|chunk| !chunk.span.is_dead()) {
                        let slots = store.slots(chunk.offset, chunk.span.len());
                        for (tick, &child) in (0..).zip(slots) {
                            put(child, Link { holder, at: At::Slot(chunk.id().tick(tick)) });
                        }
                    }
                }
                _ => {}
            }
        }
        Self { links, keys_moves: store.keys.moves() }
    }

    /// Begins anew if keys have got other numbers.
    pub(crate) fn renew(&mut self, document: &Document) {
        if self.keys_moves != document.store.keys.moves() {
            *self = Self::of(document);
        }
    }

    /// Notes that a place of a container holds a node now.
    pub(crate) fn attach(
        &mut self,
        document: &Document,
        container: Timestamp,
        place: &Place,
        child: Timestamp,
    ) {
        self.renew(document);
        let store = &document.store;
        let Some(child) = store.find(child) else { return };
        let at = match place {
            Place::Root => At::Root,
            Place::Register => At::Register,
            Place::Key(key) => store.keys.find(key.as_bytes()).map_or(At::Nowhere, At::Key),
            Place::Index(index) => At::Index(*index),
            Place::Slot(slot) => store.id(*slot).map_or(At::Nowhere, At::Slot),
        };
        let holder = if let Place::Root = place { Some(NIL) } else { store.find(container) };
        let Some(holder) = holder else { return };
        if self.links.len() <= child as usize {
            self.links.resize(store.nodes.len(), Link { holder: NIL, at: At::Nowhere });
        }
        self.links[child as usize] = Link { holder, at };
    }

    /// The way from the root to a node, if the node is part of what the document shows and `stop` holds for no node on
    /// the way, itself included. [Renewed](Self::renew) before.
    pub(crate) fn path(
        &self,
        document: &Document,
        node: Timestamp,
        mut stop: impl FnMut(Timestamp) -> bool,
    ) -> Option<Vec<PathStep>> {
        let store = &document.store;
        let mut steps = Vec::new();
        let mut node = store.find(node)?;
        loop {
            if store.node(node).is_dead() || stop(store.timestamp(store.node(node).id())) {
                return None;
            }
            let Link { holder, at } = *self.links.get(node as usize)?;
            if let At::Root = at {
                return (store.root == node).then(|| {
                    steps.reverse();
                    steps
                });
            }
            if holder as usize >= store.nodes.len() {
                return None;
            }
            let holds = match (at, store.form(holder)) {
                (At::Register, Form::Val) => store.node(holder).payload() == node,
                (At::Key(key), Form::Obj) => {
                    let obj = store.obj(holder);
                    steps.push(PathStep::Key(Wtf8::trusted(store.keys.get(key)).to_text()));
                    obj.find(key).is_some_and(|place| obj.entries[place].node == node)
                }
                (At::Index(index), Form::Vec) => {
                    steps.push(PathStep::Index(usize::from(index)));
                    store.vec(holder).get(usize::from(index)) == Some(&node)
                }
                (At::Slot(slot), Form::Arr) => {
                    let sequence = store.sequence(holder);
                    let at = sequence.find(slot)?;
                    let chunk = sequence.chunk(at);
                    let within = (slot.time - chunk.time) as u32;
                    steps.push(PathStep::Index((sequence.position(at) + within) as usize));
                    !chunk.span.is_dead() && store.slots(chunk.offset + within, 1)[0] == node
                }
                _ => false,
            };
            if !holds {
                return None;
            }
            node = holder;
        }
    }
}
