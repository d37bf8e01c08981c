//! Undo and redo of one session's own edits, among those of others.
//!
//! What a step did is kept as the changes it made, by id. To undo it, the elements it inserted are deleted, those it
//! deleted come back beside where they were, and a value that it set gives way to the one before, unless someone else has
//! set another since. All of that is done by new edits, which others take in like any. What comes back has new ids; they
//! are kept in step with the old ones, so that earlier steps find what they were about.
//!
//! This is selective undo of local operations as in Yjs and Loro; the literature is from Prakash and Knister ("A framework
//! for undoing actions in collaborative systems", TOCHI 1994) to Yu, Elvinger and Ignat ("A generic undo support for
//! state-based CRDTs", OPODIS 2019).

mod ids;
mod marks;
mod places;
mod revert;
mod step;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ids::IdMap;
use places::{Left, Part, Places, parts};
use step::{Action, Step, Stood};

use super::{EditError, Model, Origin, RelativePosition, Selection};
use crate::{
    PatchBuilder, Timespan, Timestamp,
    document::{Document, Effect, Named, Now, Place, Removed, Renamed, Subtree},
};

/// How undo behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UndoOptions {
    /// The most steps that can be undone. Above it the oldest is forgotten.
    pub steps_max: usize,
    /// The most bytes that removed content takes in all steps together, roughly. Above it steps are forgotten, the furthest
    /// of those that can be undone or of those that can be redone, whichever take more.
    pub bytes_max: usize,
    /// Edits with a pause of at most this between them are one step, if the model is told the time
    /// ([`Model::set_now`]). Without time a step ends at each flush.
    pub pause_max: Duration,
}

impl UndoOptions {
    /// A hundred steps, 16 MiB, half a second.
    pub const STANDARD: Self =
        Self { steps_max: 100, bytes_max: 16 << 20, pause_max: Duration::from_millis(500) };

    /// The most ids of things made again that are kept in step. Above it all steps are forgotten.
    pub const IDS_MAX: usize = 1 << 16;
}

/// A step that was undone or redone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undone {
    /// What was selected when the step began, as [noted](Model::note_selection): to be selected again.
    pub selections: Vec<Selection>,
}

/// What can be undone and redone. Copies share the steps, so that a transaction can go back to one.
#[derive(Debug, Clone)]
pub(super) struct Undo {
    options: UndoOptions,
    done: VecDeque<Arc<Step>>,
    undone: VecDeque<Arc<Step>>,
    open: Option<Step>,
    ids: Arc<IdMap>,
    /// The step that is being reversed.
    reversed: Option<Arc<Step>>,
    bytes: usize,
    now: Option<Duration>,
    selections: Vec<Selection>,
    /// The first operation of the edit that is being made.
    edit: Timestamp,
    /// How many transactions we are within.
    depth: usize,
    /// Whether what is edited belongs to no step.
    is_aside: bool,
}

impl Undo {
    fn new(options: UndoOptions) -> Self {
        Self {
            options,
            done: VecDeque::new(),
            undone: VecDeque::new(),
            open: None,
            ids: Arc::default(),
            reversed: None,
            bytes: 0,
            now: None,
            selections: Vec::new(),
            edit: Timestamp::ORIGIN,
            depth: 0,
            is_aside: false,
        }
    }

    fn step(&self) -> Step {
        let selections = self.selections.clone();
        Step { start: self.edit, actions: Vec::new(), bytes: 0, selections, last_at: self.now, sealed: false }
    }

    /// Whether an edit now goes on with a step.
    fn goes_on(&self, step: &Step, flushed: bool) -> bool {
        match (step.last_at, self.now) {
            _ if step.sealed => false,
            _ if self.depth > 0 => !flushed,
            (Some(last), Some(now)) => now.saturating_sub(last) <= self.options.pause_max,
            _ => !flushed,
        }
    }

    /// An edit begins with an operation.
    pub(super) const fn begin(&mut self, edit: Timestamp) {
        self.edit = edit;
    }

    /// Notes what an operation of this session did.
    pub(super) fn record(&mut self, origin: Origin, document: &Document, effect: Effect) {
        if self.is_aside {
            return;
        }
        if origin == Origin::Local {
            self.forget_undone();
            if self.open.as_ref().is_some_and(|open| !self.goes_on(open, false)) {
                self.end_step(false);
            }
            if self.open.is_none() {
                let last = self.done.back().is_some_and(|last| self.goes_on(last, true));
                self.open = if last { self.done.pop_back().map(Arc::unwrap_or_clone) } else { None };
            }
        }
        let mut open = self.open.take().unwrap_or_else(|| self.step());
        open.last_at = self.now;
        let before = open.bytes;
        open.record(document, effect);
        self.bytes += open.bytes - before;
        self.open = Some(open);
    }

    fn forget_undone(&mut self) {
        self.bytes -= self.undone.drain(..).map(|step| step.bytes).sum::<usize>();
    }

    /// Ends the open step.
    pub(super) fn end_step(&mut self, sealed: bool) {
        if let Some(mut step) = self.open.take() {
            step.sealed = sealed;
            self.done.push_back(Arc::new(step));
        } else if sealed && let Some(last) = self.done.back_mut().filter(|last| !last.sealed) {
            Arc::make_mut(last).sealed = true;
        }
        self.trim();
    }

    /// The edits so far were flushed: without time that ends the step.
    pub(super) fn flushed(&mut self) {
        if self.depth == 0 {
            self.end_step(false);
        }
    }

    fn trim(&mut self) {
        while self.done.len() > self.options.steps_max {
            self.forget(false);
        }
        while self.bytes > self.options.bytes_max && !(self.done.is_empty() && self.undone.is_empty()) {
            // The side that takes more gives way, so that one big step on one side does not take all of the other with it.
            let sum = |steps: &VecDeque<Arc<Step>>| steps.iter().map(|step| step.bytes).sum::<usize>();
            self.forget(sum(&self.undone) > sum(&self.done));
        }
        if self.ids.len() > UndoOptions::IDS_MAX {
            self.done.clear();
            self.undone.clear();
            self.bytes = 0;
        }
        if self.done.is_empty() && self.undone.is_empty() && self.open.is_none() {
            self.ids = Arc::default();
        }
    }

    /// Forgets the step of a side that is furthest away.
    fn forget(&mut self, undone: bool) {
        let side = if undone { &mut self.undone } else { &mut self.done };
        if let Some(step) = side.pop_front() {
            self.bytes -= step.bytes;
        }
    }

    pub(super) fn enter(&mut self) {
        if self.depth == 0 {
            self.end_step(true);
        }
        self.depth += 1;
    }

    pub(super) fn leave(&mut self) {
        // Undo can have been enabled within the transaction.
        self.depth = self.depth.saturating_sub(1);
        if self.depth == 0 {
            self.end_step(true);
        }
    }

    /// What constants name that steps can bring back, as it is called now; sorted.
    fn named(&self) -> Vec<Timestamp> {
        let steps = self.done.iter().chain(&self.undone).chain(&self.reversed);
        let steps = steps.map(|step| &**step).chain(&self.open);
        let removed = steps.flat_map(|step| &step.actions).flat_map(|action| match action {
            Action::Held { was: Some(was), .. } => std::slice::from_ref(was),
            Action::Deleted { removed: Removed::Nodes(nodes), .. } => &nodes[..],
            _ => &[],
        });
        let mut named: Vec<_> = removed.flat_map(Subtree::named).map(|id| self.ids.now(id)).collect();
        named.sort_unstable_by_key(|id| (id.sid, id.time));
        named.dedup();
        named
    }

    /// What steps have deleted of texts, by first id: how many, and when the step began. Constants that this session had seen
    /// by then are part of any version that all have reached and in which that is deleted.
    fn deleted(&self) -> BTreeMap<ids::Key, (u64, u64)> {
        let mut deleted = BTreeMap::new();
        for step in self.done.iter().chain(&self.undone).chain(&self.reversed) {
            for action in &step.actions {
                if let Action::Deleted { ids, removed: Removed::Text(_), .. } = action {
                    deleted.insert((ids.start.sid, ids.start.time), (ids.span, step.start.time));
                }
            }
        }
        deleted
    }

    fn selection_now(&self, selection: &Selection) -> Selection {
        let position = |at: RelativePosition| RelativePosition {
            node: self.ids.now(at.node),
            anchor: self.ids.now(at.anchor),
            ..at
        };
        Selection { anchor: position(selection.anchor), focus: position(selection.focus) }
    }
}

impl Model {
    /// Begins to keep what this session edits, so that it can be undone.
    ///
    /// ```
    /// use crdt_core::{Model, SessionId, model::UndoOptions};
    ///
    /// let mut alice = Model::new(SessionId::new(70_001).unwrap());
    /// alice.api().root("warp")?;
    /// let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    /// alice.enable_undo(UndoOptions::STANDARD);
    ///
    /// alice.api().str("")?.ins(4, " and weft")?;
    /// bob.api().str("")?.ins(0, "the ")?;
    /// alice.apply(&bob.flush().unwrap())?;
    ///
    /// // Only what Alice did is undone.
    /// alice.undo()?.unwrap();
    /// assert_eq!(alice.view(), "the warp".into());
    /// alice.redo()?.unwrap();
    /// assert_eq!(alice.view(), "the warp and weft".into());
    /// # Ok::<_, crdt_core::model::EditError>(())
    /// ```
    pub fn enable_undo(&mut self, options: UndoOptions) {
        self.undo = Some(Box::new(Undo::new(options)));
        if let Some(now) = self.now {
            self.set_undo_now(now);
        }
    }

    /// Whether steps are kept.
    pub fn keeps_undo(&self) -> bool {
        self.undo.is_some()
    }

    /// Forgets all steps and keeps no more.
    pub fn disable_undo(&mut self) {
        self.undo = None;
    }

    /// Undoes the last step of this session that still has something to be undone. `None` if there is none.
    ///
    /// The edits that undo it are in the open patch, like any. What was deleted comes back where it stood, also if others have
    /// [compacted](Document::compact) the document since.
    ///
    /// # Errors
    /// [`EditError`] if there is no room for an edit; those before it have been made.
    pub fn undo(&mut self) -> Result<Option<Undone>, EditError> {
        self.reverse(Origin::Undo)
    }

    /// Does the step again that was undone last. `None` if there is none: a new edit ends what can be redone.
    ///
    /// # Errors
    /// [`EditError`] if there is no room for an edit; those before it have been made.
    pub fn redo(&mut self) -> Result<Option<Undone>, EditError> {
        self.reverse(Origin::Redo)
    }

    /// Whether there is a step to be undone. It can turn out that others have left nothing of it.
    pub fn can_undo(&self) -> bool {
        self.undo.as_ref().is_some_and(|undo| undo.open.is_some() || !undo.done.is_empty())
    }

    /// Whether there is a step to be redone.
    pub fn can_redo(&self) -> bool {
        self.undo.as_ref().is_some_and(|undo| !undo.undone.is_empty())
    }

    /// Ends the step: what is edited next is another one. A [`transaction`](Self::transaction) is a step of its own.
    pub fn end_undo_step(&mut self) {
        if let Some(undo) = &mut self.undo {
            undo.end_step(true);
        }
    }

    /// Notes what is selected: it is selected again when what is edited next is undone.
    pub fn note_selection(&mut self, selections: impl IntoIterator<Item = Selection>) {
        if let Some(undo) = &mut self.undo {
            undo.selections = selections.into_iter().collect();
        }
    }

    pub(super) fn set_undo_now(&mut self, now: Duration) {
        if let Some(undo) = &mut self.undo {
            undo.now = Some(now);
        }
    }

    fn reverse(&mut self, origin: Origin) -> Result<Option<Undone>, EditError> {
        loop {
            let Some(undo) = &mut self.undo else { return Ok(None) };
            undo.end_step(true);
            let step = if origin == Origin::Undo { undo.done.pop_back() } else { undo.undone.pop_back() };
            let Some(step) = step else { return Ok(None) };
            undo.bytes -= step.bytes;
            self.origin = origin;
            let result = self.reverse_step(&step);
            self.origin = Origin::Local;
            let Some(undo) = &mut self.undo else { return Ok(None) };
            undo.reversed = None;
            let Some(mut reverse) = undo.open.take() else {
                // Others have left nothing of it.
                result?;
                continue;
            };
            reverse.sealed = true;
            let selections = step.selections.iter().map(|selection| undo.selection_now(selection)).collect();
            if origin == Origin::Undo {
                undo.undone.push_back(Arc::new(reverse));
            } else {
                undo.done.push_back(Arc::new(reverse));
            }
            undo.trim();
            result?;
            return Ok(Some(Undone { selections }));
        }
    }

    /// Takes back what a step did, and notes it as the step that is being reversed.
    fn reverse_step(&mut self, step: &Arc<Step>) -> Result<(), EditError> {
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
