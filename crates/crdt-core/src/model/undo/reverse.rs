//! Taking back what a step did, by new edits.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ids,
    places::{Left, Part, Places, parts},
    step::{Action, Step, Stood},
};
use crate::{
    PatchBuilder, Timespan, Timestamp,
    document::{Named, Now, Place, Removed, Renamed, Subtree},
    model::{EditError, Model},
};

impl Model {
    /// Takes back what a step did, and notes it as the step that is being reversed.
    pub(super) fn reverse_step(&mut self, step: &Arc<Step>) -> Result<(), EditError> {
        let Some(undo) = &mut self.undo else { return Ok(()) };
        undo.reversed = Some(Arc::clone(step));
        let brings_back = step.actions.iter().any(|action| matches!(action, Action::Deleted { .. }));
        let deleted = if brings_back { undo.deleted() } else { BTreeMap::new() };
        let kept = |named| undo.ids.kept(named).max(ids::within(&deleted, named).map(|(.., start)| start));
        let made = |constant| undo.ids.made(constant);
        let named = if brings_back { self.doc.named_before(step.start.time, kept, made) } else { Vec::new() };
        let mut actions = step.actions.iter().rev();
        let mut result = actions.try_for_each(|action| self.reverse_action(action, &named, step.start));
        if brings_back {
            result = result.and_then(|()| self.renew_marks(&step.actions));
        }
        result
    }

    /// Takes back what an action did; `named` is what constants named before its step, which began at `since`.
    fn reverse_action(
        &mut self,
        action: &Action,
        named: &[Named],
        since: Timestamp,
    ) -> Result<(), EditError> {
        let Some(undo) = &self.undo else { return Ok(()) };
        match action {
            Action::Inserted { node, ids } => {
                let node = undo.ids.now(*node);
                let mut spans: Vec<Timespan> = Vec::new();
                for span in undo.ids.spans_now(*ids) {
                    for piece in self.doc.pieces(node, span).iter().filter(|piece| piece.live) {
                        match spans.last_mut() {
                            Some(last) if piece.goes_on && last.start.tick(last.span) == piece.id => {
                                last.span += u64::from(piece.units);
                            }
                            _ => spans.push(Timespan { start: piece.id, span: piece.units.into() }),
                        }
                    }
                }
                if spans.is_empty() { Ok(()) } else { self.write(|patch| _ = patch.del(node, &spans)) }
            }
            Action::Deleted { node, ids: all, stood, removed } => {
                let node = undo.ids.now(*node);
                if self.doc.node(node).is_none() {
                    return Ok(());
                }
                let mut stood = Stood {
                    left: stood.left.map(|left| undo.ids.now(left)),
                    right: stood.right.map(|right| undo.ids.now(right)),
                    ..*stood
                };
                let mut tombstone = None;
                let parts = parts(&self.doc, &undo.ids, named, node, *all);
                for (at, &part) in parts.iter().enumerate() {
                    if part.left == Left::Visible {
                        (stood.left, tombstone) = (Some(part.last()), None);
                        continue;
                    }
                    let Some(undo) = &self.undo else { return Ok(()) };
                    let places = Places { doc: &self.doc, ids: &undo.ids, node, named, since };
                    let next = parts.get(at + 1).filter(|next| next.left == Left::Tombstone);
                    let after = places.after(part, stood, tombstone, next.map(|next| next.ids.start));
                    tombstone = places.ends_mark(part);
                    stood.left = Some(self.bring_back(node, after, part, removed)?);
                }
                Ok(())
            }
            Action::Held { container, place, was, now } => {
                let (container, now) = (undo.ids.now(*container), undo.ids.now(*now));
                let place = match place {
                    Place::Slot(slot) => Place::Slot(undo.ids.now(*slot)),
                    place => place.clone(),
                };
                if self.doc.held(container, &place) != Some(now) {
                    // Someone else has set another, or the container is gone.
                    return Ok(());
                }
                self.put_back(container, &place, was.as_ref())
            }
        }
    }

    /// Inserts deleted elements again, behind one. Tells the id of the last.
    fn bring_back(
        &mut self,
        node: Timestamp,
        after: Timestamp,
        part: Part,
        removed: &Removed,
    ) -> Result<Timestamp, EditError> {
        let from = part.from as usize;
        let range = from..from + part.ids.span as usize;
        let start = match removed {
            Removed::Text(text) => {
                let units = text.as_wtf8().utf16().skip(range.start).take(range.len());
                let text = crate::Text::from_utf16(units);
                self.write(|patch| patch.ins_str(node, after, text.as_wtf8()))?
            }
            Removed::Bytes(bytes) => {
                self.write(|patch| patch.ins_bin(node, after, bytes.get(range).unwrap_or_default()))?
            }
            Removed::Nodes(nodes) => {
                let nodes = nodes.get(range).unwrap_or_default();
                self.make_again(nodes, |patch, made| patch.ins_arr(node, after, made))?
            }
        };
        if let Some(undo) = &mut self.undo {
            Arc::make_mut(&mut undo.ids).put(part.ids, start, part.left == Left::Tombstone);
        }
        Ok(start.tick(part.ids.span - 1))
    }

    /// Puts what was there into a place again.
    fn put_back(
        &mut self,
        container: Timestamp,
        place: &Place,
        was: Option<&Subtree>,
    ) -> Result<(), EditError> {
        let nothing = Subtree::default();
        self.make_again(std::slice::from_ref(was.unwrap_or(&nothing)), |patch, made| {
            for &node in made {
                match place {
                    Place::Root | Place::Register => patch.ins_val(container, node),
                    Place::Key(key) => patch.ins_obj(container, [(key.as_wtf8(), node)]),
                    Place::Index(index) => patch.ins_vec(container, [(*index, node)]),
                    Place::Slot(slot) => patch.upd_arr(container, *slot, node),
                };
            }
        })
    }

    /// Makes nodes that were removed again, does something with the new ones, and notes what was which.
    fn make_again<T>(
        &mut self,
        nodes: &[Subtree],
        put: impl FnOnce(&mut PatchBuilder, &[Timestamp]) -> T,
    ) -> Result<T, EditError> {
        let ids = self.undo.as_ref().map(|undo| Arc::clone(&undo.ids)).unwrap_or_default();
        let named = match &self.undo {
            Some(undo) if nodes.iter().any(Subtree::has_tombstones) => undo.named(),
            _ => Vec::new(),
        };
        let now = Now { id: &|id| ids.now(id), named: &named };
        let mut all = Vec::new();
        let done = self.write(|patch| {
            let mut rename = |renamed| all.push(renamed);
            let made: Vec<_> = nodes.iter().map(|node| node.write(patch, &now, &mut rename)).collect();
            put(patch, &made)
        })?;
        drop(ids);
        if let Some(undo) = &mut self.undo {
            let ids = Arc::make_mut(&mut undo.ids);
            for Renamed { old, new, deleted, is_kept } in all {
                match deleted {
                    None => ids.put(old, new, false),
                    Some(_) => ids.put_deleted(old, new),
                }
                if let Some(deleted) = deleted.filter(|_| is_kept) {
                    ids.keep(Timespan { start: new, span: old.span }, deleted);
                }
            }
            for node in nodes {
                node.for_each_tombstone(|span, after| ids.leave_out(span, after));
            }
        }
        Ok(done)
    }
}
