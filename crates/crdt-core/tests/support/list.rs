//! A list that does what the abstract rule of the RGA says, one element at a time.

use crdt_core::{
    Document, Patch, Timestamp,
    document::{Content, Kind},
    patch::Op,
};

/// All elements ever inserted, in order.
#[derive(Clone, Default)]
pub struct List {
    pub node: Option<Timestamp>,
    pub elements: Vec<Element>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Element {
    pub id: Timestamp,
    pub live: bool,
    /// The code unit or byte; 0 in an array.
    pub unit: u16,
}

impl List {
    pub fn insert(&mut self, id: Timestamp, obj: Timestamp, after: Timestamp, units: &[u16]) {
        let run: Vec<Element> = (id.time..)
            .zip(units)
            .map(|(time, &unit)| Element { id: Timestamp::new(id.sid, time), live: true, unit })
            .collect();
        if run.iter().any(|new| self.elements.iter().any(|element| element.id == new.id)) {
            return;
        }
        let mut place = 0;
        if after != obj {
            match self.elements.iter().position(|element| element.id == after) {
                Some(at) => place = at + 1,
                None => return,
            }
        }
        while self.elements.get(place).is_some_and(|element| element.id > id) {
            place += 1;
        }
        self.elements.splice(place..place, run);
    }

    pub fn apply(&mut self, patch: &Patch) {
        for (id, op) in patch.ops() {
            match op {
                Op::InsStr { obj, after, text, .. } if Some(obj) == self.node => {
                    self.insert(id, obj, after, &text.utf16().collect::<Vec<_>>());
                }
                Op::InsBin { obj, after, bytes } if Some(obj) == self.node => {
                    self.insert(id, obj, after, &bytes.iter().map(|&byte| byte.into()).collect::<Vec<_>>());
                }
                Op::InsArr { obj, after, values } if Some(obj) == self.node => {
                    self.insert(id, obj, after, &vec![0; values.len()]);
                }
                Op::Del { obj, spans } if Some(obj) == self.node => {
                    for span in spans {
                        for element in &mut self.elements {
                            let times = span.start.time..span.start.time + span.span;
                            if element.id.sid == span.start.sid && times.contains(&element.id.time) {
                                element.live = false;
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// The elements of a node, as a walk over its chunks shows them.
pub fn elements(doc: &Document, node: Timestamp) -> Vec<Element> {
    let node = doc.node(node).unwrap();
    let (kind, chunks) = match node.content() {
        Content::Str(chunks) | Content::Bin(chunks) | Content::Arr(chunks) => (node.kind(), chunks),
        other => panic!("{other:?} has no chunks"),
    };
    let mut elements = Vec::new();
    for chunk in chunks {
        let units: Vec<u16> = match (chunk.is_tombstone(), kind) {
            (true, _) => vec![0; chunk.span() as usize],
            (_, Kind::Str) => {
                let mut bytes = Vec::new();
                chunk.write_text(&mut bytes);
                crdt_core::Wtf8::new(&bytes).unwrap().utf16().collect()
            }
            (_, Kind::Bin) => {
                let mut bytes = Vec::new();
                chunk.write_bytes(&mut bytes);
                bytes.into_iter().map(u16::from).collect()
            }
            _ => chunk.children().map(|_| 0).collect(),
        };
        assert_eq!(units.len() as u64, chunk.span());
        for (at, unit) in (0..).zip(units) {
            elements.push(Element { id: chunk.id().tick(at), live: !chunk.is_tombstone(), unit });
        }
    }
    elements
}
