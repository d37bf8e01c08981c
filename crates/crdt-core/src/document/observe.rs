//! Running operations while someone watches: what each one changed, with what was there before.
//!
//! The engine itself tells nothing, so that nobody pays who does not watch. Here the document is asked before and after
//! each operation, about just what the operation names.

use super::{
    Applied, ApplyError, Document, Kind, locate::Piece, run::disjoint, sequence::Id, subtree::Subtree,
};
use crate::{
    Timespan, Timestamp,
    patch::{Op, Ops, PatchRef},
    text::Text,
};

/// A place that holds one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// The root of the document.
    Root,
    /// The inside of a register.
    Register,
    /// A key of a map.
    Key(Text),
    /// A place of a tuple.
    Index(u8),
    /// A slot of an array.
    Slot(Timestamp),
}

/// What elements of a sequence were.
#[derive(Debug, Clone)]
pub(crate) enum Removed {
    Text(Text),
    Bytes(Vec<u8>),
    Nodes(Vec<Subtree>),
}

impl Removed {
    /// Whether a part of it was referred to from a second place.
    pub(crate) fn is_aliased(&self) -> bool {
        matches!(self, Self::Nodes(nodes) if nodes.iter().any(Subtree::is_aliased))
    }
}

/// What an operation changed.
#[derive(Debug)]
pub(crate) enum Effect {
    /// A place holds another node.
    Held { container: Timestamp, place: Place, was: Option<(Timestamp, Subtree)>, now: Timestamp },
    /// There are new elements in a sequence.
    Inserted { node: Timestamp, ids: Timespan, position: u32 },
    /// Elements of a sequence were deleted; positions are those before, the last ones first.
    Deleted { node: Timestamp, pieces: Vec<(Piece, Removed)> },
}

/// Who is told of each effect with the id of its operation, when the document has it.
pub(crate) trait Observer {
    fn effect(&mut self, document: &Document, id: Timestamp, effect: Effect);
}

/// What was there before an operation.
enum Before {
    Nothing,
    Places { container: Timestamp, places: Vec<(Place, Option<(Timestamp, Subtree)>)> },
    Insert { node: Timestamp, units: u64 },
    Delete { node: Timestamp, pieces: Vec<(Piece, Removed)> },
}

impl Document {
    /// [`apply_ref`](Self::apply_ref), watched.
    pub(crate) fn apply_observed(
        &mut self,
        patch: PatchRef<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Applied, ApplyError> {
        match self.outlook(patch) {
            Ok(seen) => self.take_in(patch, seen, Some(observer)),
            Err(known_or_parked) => Ok(known_or_parked),
        }
    }

    /// [`edit_ops`](Self::edit_ops), watched.
    pub(crate) fn edit_ops_observed(&mut self, ops: Ops<'_>, observer: &mut dyn Observer) {
        for (id, op) in ops {
            let end = id.time + op.span();
            let own = self.make_up_to(end);
            self.run_observed(Id::new(own, id.time), id, &op, observer);
        }
    }

    /// Lets an operation have its effect, and tells of it.
    pub(super) fn run_observed(
        &mut self,
        id: Id,
        ts: Timestamp,
        op: &Op<'_>,
        observer: &mut dyn Observer,
    ) -> bool {
        let before = self.before(op);
        let changed = self.run(id, ts.sid, op);
        if changed {
            self.tell(ts, before, observer);
        }
        changed
    }

    fn before(&self, op: &Op<'_>) -> Before {
        match *op {
            Op::InsVal { obj, value } => {
                let place = if obj == Timestamp::ORIGIN { Place::Root } else { Place::Register };
                Before::Places { container: obj, places: self.places_before(obj, [(place, value)]) }
            }
            Op::InsObj { obj, entries } => {
                let places = entries.map(|(key, value)| (Place::Key(key.to_text()), value));
                Before::Places { container: obj, places: self.places_before(obj, places) }
            }
            Op::InsVec { obj, slots } => {
                let places = slots.map(|(index, value)| (Place::Index(index), value));
                Before::Places { container: obj, places: self.places_before(obj, places) }
            }
            Op::UpdArr { obj, slot, value } => Before::Places {
                container: obj,
                places: self.places_before(obj, [(Place::Slot(slot), value)]),
            },
            Op::InsStr { obj, units, .. } => Before::Insert { node: obj, units },
            Op::InsBin { obj, bytes, .. } => Before::Insert { node: obj, units: bytes.len() as u64 },
            Op::InsArr { obj, values, .. } => {
                let kept = values.filter(|value| value.time > obj.time && self.store.find(*value).is_some());
                Before::Insert { node: obj, units: kept.count() as u64 }
            }
            Op::Del { obj, spans } => self.pieces_before(obj, spans),
            _ => Before::Nothing,
        }
    }

    /// What those places hold that a value may win.
    fn places_before(
        &self,
        container: Timestamp,
        values: impl IntoIterator<Item = (Place, Timestamp)>,
    ) -> Vec<(Place, Option<(Timestamp, Subtree)>)> {
        let mut places: Vec<(Place, Option<(Timestamp, Subtree)>)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for (place, value) in values {
            let was = self.held(container, &place);
            let may_win = was.is_none_or(|was| value > was) && self.store.find(value).is_some();
            if may_win && seen.insert(place.clone()) {
                places.push((place, was.map(|was| (was, Subtree::of(self, was)))));
            }
        }
        places
    }

    /// The visible elements of spans, with what they are.
    fn pieces_before(&self, node: Timestamp, spans: impl Iterator<Item = Timespan>) -> Before {
        let Some(kind) = self.node(node).map(|node| node.kind()) else { return Before::Nothing };
        let mut pieces: Vec<(Piece, Removed)> = Vec::new();
        for span in disjoint(spans) {
            for piece in self.pieces(node, span).into_iter().filter(|piece| piece.live) {
                let removed = match kind {
                    Kind::Str => Removed::Text(self.piece_text(&piece)),
                    Kind::Bin => Removed::Bytes(self.piece_bytes(&piece).to_vec()),
                    _ => {
                        Removed::Nodes(self.piece_nodes(&piece).map(|node| Subtree::of(self, node)).collect())
                    }
                };
                pieces.push((piece, removed));
            }
        }
        pieces.sort_by_key(|(piece, _)| std::cmp::Reverse(piece.position));
        Before::Delete { node, pieces }
    }

    fn tell(&self, id: Timestamp, before: Before, observer: &mut dyn Observer) {
        match before {
            Before::Nothing => {}
            Before::Places { container, places } => {
                for (place, was) in places {
                    let now = self.held(container, &place);
                    if let Some(now) = now.filter(|&now| was.as_ref().is_none_or(|(was, _)| *was != now)) {
                        observer.effect(self, id, Effect::Held { container, place, was, now });
                    }
                }
            }
            Before::Insert { node, units } => {
                if let Some(at) = self.locate(node, id) {
                    let ids = Timespan { start: id, span: units };
                    observer.effect(self, id, Effect::Inserted { node, ids, position: at.position as u32 });
                }
            }
            Before::Delete { node, pieces } if !pieces.is_empty() => {
                observer.effect(self, id, Effect::Deleted { node, pieces });
            }
            Before::Delete { .. } => {}
        }
    }
}
