//! Back to a state of the past, by new edits.
//!
//! All that was done since, by whomever, is replayed and noted as if it were one step, and that step is undone. So it is as
//! with undo: what was deleted comes back where it stood and under its marks, and others take it in like any edit.

use std::{collections::HashMap, sync::Arc};

use super::{
    UndoOptions,
    step::{Action, Step},
};
use crate::{
    Document, SessionId, Timestamp,
    document::{Effect, Observer, Place},
    model::{EditError, Model},
};

impl Model {
    /// Brings back the state of a version of the [history](Self::keep_history), by new edits: they are in the open patch, and
    /// where others edit at the same time both are merged. What has been done since, by this session and by others, is taken
    /// back; it stays in the history. In a model that keeps [undo](Self::enable_undo) it is a step of its own.
    ///
    /// ```
    /// use crdt_core::{Model, SessionId};
    ///
    /// let mut model = Model::new(SessionId::new(70_001).unwrap());
    /// model.keep_history()?;
    /// model.api().root("warp")?;
    /// let first = model.flush().unwrap().id();
    /// model.api().str("")?.update("cloth")?;
    /// model.flush();
    ///
    /// model.revert_to(first)?;
    /// assert_eq!(model.view(), "warp".into());
    /// # Ok::<_, crdt_core::model::EditError>(())
    /// ```
    ///
    /// # Errors
    /// [`EditError::NoHistory`], [`EditError::Unflushed`] if there are open edits, and [`EditError::Refused`] or
    /// [`EditError::Clock`] if there is no room. Then nothing has changed.
    pub fn revert_to(&mut self, version: Timestamp) -> Result<(), EditError> {
        if self.has_edits() {
            return Err(EditError::Unflushed);
        }
        let history = self.history.as_mut().ok_or(EditError::NoHistory)?;
        let past = history.at(version)?;
        // Of the live session: what came back since then is told by its ids.
        let start = Timestamp::new(self.doc.session(), past.time());
        let mut now = past.clone();
        let mut since = Since::new(&past);
        for patch in history.log().patches().filter(|patch| patch.id() > version) {
            let _ = now.apply_observed(patch.as_ref(), &mut since)?;
        }
        let step = Arc::new(Step { start, ..since.step });
        self.transaction(|model| {
            let keeps_undo = model.keeps_undo();
            if !keeps_undo {
                model.enable_undo(UndoOptions { bytes_max: usize::MAX, ..UndoOptions::STANDARD });
            }
            let done = model.reverse_step(&step);
            if let Some(undo) = &mut model.undo {
                undo.reversed = None;
            }
            if !keeps_undo {
                model.disable_undo();
            }
            done
        })
    }
}

/// What has been done to the nodes of a document since.
struct Since<'d> {
    past: &'d Document,
    step: Step,
    /// Which action was the first to set a place. What was set there in between need not come back to go again.
    places: HashMap<(Timestamp, Place), usize>,
}

impl<'d> Since<'d> {
    fn new(past: &'d Document) -> Self {
        // None of its own nodes: what is new is told by the document.
        let start = Timestamp::new(SessionId::SYSTEM, u64::MAX);
        let step = Step {
            start,
            actions: Vec::new(),
            bytes: 0,
            selections: Vec::new(),
            last_at: None,
            sealed: true,
        };
        Self { past, step, places: HashMap::new() }
    }
}

impl Observer for Since<'_> {
    fn effect(&mut self, document: &Document, _: Timestamp, effect: Effect) {
        let (Effect::Held { container: node, .. }
        | Effect::Inserted { node, .. }
        | Effect::Deleted { node, .. }) = &effect;
        let is_root = matches!(&effect, Effect::Held { place: Place::Root, .. });
        if !is_root && self.past.node(*node).is_none() {
            // It goes with what is inside of it.
            return;
        }
        if let Effect::Held { container, place, now, .. } = &effect {
            let first = *self.places.entry((*container, place.clone())).or_insert(self.step.actions.len());
            if let Some(Action::Held { now: last, .. }) = self.step.actions.get_mut(first) {
                *last = *now;
                return;
            }
        }
        self.step.record(document, effect);
    }
}
