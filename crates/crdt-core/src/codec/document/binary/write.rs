//! Writing the tree.

use super::kind;
use crate::{
    Document, Timestamp,
    codec::{
        cbor,
        document::{
            Walk, quick,
            table::{Place, TableWriter},
        },
        wire::{put_b1vu56, put_pair, put_vu57},
    },
    document::{Child, Chunks, Content, Entries, Order, Places},
};

/// How ids are written.
pub(in super::super) enum IdWriter {
    Logical(TableWriter),
    Server,
}

impl IdWriter {
    #[inline]
    pub(in super::super) fn put(&mut self, out: &mut Vec<u8>, id: Timestamp) {
        match self {
            Self::Logical(table) => {
                let (place, distance) = table.relative(id);
                put_pair(out, place, distance);
            }
            Self::Server => put_vu57(out, id.time),
        }
    }

    /// Writes an id and returns what others of its session are relative to.
    pub(in super::super) fn put_placed(&mut self, out: &mut Vec<u8>, id: Timestamp) -> Option<Place> {
        self.put(out, id);
        match self {
            Self::Logical(table) => Some(table.placed(id)),
            Self::Server => None,
        }
    }
}

/// Writes a document.
pub(in super::super) fn encode(document: &Document) -> Vec<u8> {
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
                quick::put_text_chunks(&mut self.out, &mut self.ids, &chunks, &mut self.scratch);
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
