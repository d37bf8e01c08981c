//! Whether a patch is the one that a server has given its times to.
//!
//! A server gives each time once. Who makes drafts numbers them from the last time it knows of, so two drafts can have the
//! same times, and the second one of them, taken for the first one come again, would be lost without a word. The document
//! keeps no patches to compare with, but it has what they made.

use super::{Content, Document, Kind, Place};
use crate::{
    Timespan, Timestamp,
    patch::{Con, Op, PatchRef},
};

impl Document {
    /// The first operation of a patch, among those up to a time that has been seen, that cannot have been at its time: what was
    /// made then is something else, or it would do something now that it would have done then. What has been removed since is
    /// not compared, unless the patch goes on and could mean it.
    pub(super) fn first_foreign_op(&self, patch: PatchRef<'_>, seen: u64) -> Option<Timestamp> {
        let goes_on = patch.next_time() > seen + 1;
        let is_lost = |id, op: &Op<'_>| goes_on && op.makes_node() && self.node(id).is_none();
        let is_foreign = |id, op: &Op<'_>| {
            self.made_otherwise(patch.id(), id, op) || is_lost(id, op) || self.would_change(patch.id(), op)
        };
        let mut seen_ops = patch.ops().take_while(|(id, _)| id.time <= seen);
        seen_ops.find(|(id, op)| is_foreign(*id, op)).map(|(id, _)| id)
    }

    /// Whether something else was made at the time of an operation.
    fn made_otherwise(&self, start: Timestamp, id: Timestamp, op: &Op<'_>) -> bool {
        let Some(made) = self.node(id) else { return self.inserted_otherwise(start, id, op) };
        let kind = match op {
            Op::NewCon(con) => {
                return match (con, made.content()) {
                    (Con::Value(value), Content::Con(other)) => {
                        value.as_bytes() != other.as_bytes() && value.to_value() != other.to_value()
                    }
                    (Con::Id(id), Content::ConId(other)) => *id != other,
                    _ => true,
                };
            }
            Op::NewVal => Kind::Val,
            Op::NewObj => Kind::Obj,
            Op::NewVec => Kind::Vec,
            Op::NewStr => Kind::Str,
            Op::NewBin => Kind::Bin,
            Op::NewArr => Kind::Arr,
            _ => return true,
        };
        made.kind() != kind
    }

    /// Whether an insertion stands for other elements than there are, or for some that are not there.
    fn inserted_otherwise(&self, start: Timestamp, id: Timestamp, op: &Op<'_>) -> bool {
        let (Op::InsStr { obj, after, .. } | Op::InsBin { obj, after, .. } | Op::InsArr { obj, after, .. }) =
            *op
        else {
            return false;
        };
        let kind = match op {
            Op::InsStr { .. } => Kind::Str,
            Op::InsBin { .. } => Kind::Bin,
            _ => Kind::Arr,
        };
        if self.node(obj).is_none_or(|node| node.kind() != kind) || obj.time >= id.time {
            return false;
        }
        let pieces = self.pieces(obj, Timespan { start: id, span: op.span() });
        let differs = |piece: &&super::Piece| {
            let range = (piece.id.time - id.time) as usize..;
            let (from, len) = (range.start, piece.units as usize);
            match *op {
                Op::InsStr { text, .. } => {
                    !text.utf16().skip(from).take(len).eq(self.piece_text(piece).as_wtf8().utf16())
                }
                Op::InsBin { bytes, .. } => bytes[range][..len] != *self.piece_bytes(piece),
                // A slot can hold something newer by now.
                _ => false,
            }
        };
        if pieces.iter().filter(|piece| piece.live).any(|piece| differs(&piece)) {
            return true;
        }
        // Of an array, values that were missing are left out. Tombstones can be gone.
        let has_all = match *op {
            Op::InsArr { mut values, .. } => values.all(|value| is_of(start, value)),
            _ => true,
        };
        let is_there = pieces.iter().map(|piece| u64::from(piece.units)).sum::<u64>() == op.span();
        let could_be = after == obj || self.locate(obj, after).is_some();
        has_all && self.compacted_to == 0 && !is_there && could_be
    }

    /// Whether an operation would change something. One that has been done would not: of two that set a place the newer one
    /// has won, and what was deleted is.
    fn would_change(&self, start: Timestamp, op: &Op<'_>) -> bool {
        if self.compacted_to > 0 {
            // What has won can be gone with its place.
            return false;
        }
        let would_hold = |container, place: &Place, value| {
            let is_known = is_of(start, value) || self.node(value).is_some();
            is_known && self.would_hold(container, place, value)
        };
        match *op {
            Op::InsVal { obj: Timestamp::ORIGIN, value } => would_hold(None, &Place::Root, value),
            Op::InsVal { obj, value } => would_hold(Some((obj, Kind::Val)), &Place::Register, value),
            Op::InsObj { obj, mut entries } => entries
                .any(|(key, value)| would_hold(Some((obj, Kind::Obj)), &Place::Key(key.to_text()), value)),
            Op::InsVec { obj, mut slots } => {
                slots.any(|(index, value)| would_hold(Some((obj, Kind::Vec)), &Place::Index(index), value))
            }
            Op::UpdArr { obj, slot, value } => {
                let place = Place::Slot(slot);
                self.held(obj, &place).is_some() && would_hold(Some((obj, Kind::Arr)), &place, value)
            }
            Op::Del { obj, mut spans } => {
                spans.any(|span| self.pieces(obj, span).iter().any(|piece| piece.live))
            }
            _ => false,
        }
    }

    /// Whether a place would hold a value that it does not hold.
    fn would_hold(&self, container: Option<(Timestamp, Kind)>, place: &Place, value: Timestamp) -> bool {
        let newer = |than: Timestamp| (value.time, value.sid) > (than.time, than.sid);
        let takes = |(id, kind): (Timestamp, Kind)| {
            newer(id) && self.node(id).is_some_and(|node| node.kind() == kind)
        };
        let obj = container.map_or(Timestamp::ORIGIN, |(id, _)| id);
        container.is_none_or(takes) && self.held(obj, place).is_none_or(newer)
    }
}

/// Whether a node is one of a patch that begins at an id. Then it was there when the patch came, and if it has been removed
/// since, something newer is where the patch had put it.
fn is_of(start: Timestamp, node: Timestamp) -> bool {
    node.sid == start.sid && node.time >= start.time
}
