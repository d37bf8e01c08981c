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
mod reverse;
mod revert;
mod step;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ids::IdMap;
use step::{Action, Step};

use super::{EditError, Model, Origin, RelativePosition, Selection};
use crate::{
    Timestamp,
    document::{Document, Effect, Removed, Subtree},
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
}
